package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

const testLease = 3 * time.Second

// A site is a database that nodes share.
type site struct {
	t   *testing.T
	log *sharedLog
}

// A siteNode is a process: a journal, a standby, and then a broker.
type siteNode struct {
	t       *testing.T
	j       *sharedJournal
	standby *Standby
	b       *Broker
	err     error
	done    chan struct{} // closed: Await has returned
	cancel  context.CancelFunc
}

// inSite runs a test with a clock of its own.
func inSite(t *testing.T, test func(t *testing.T, s *site)) {
	synctest.Test(t, func(t *testing.T) { test(t, &site{t, newSharedLog()}) })
}

// node starts a process. Its broker is there once up has returned.
func (s *site) node(name string, change ...func(*Config)) *siteNode {
	n := &siteNode{t: s.t, j: s.log.open(), done: make(chan struct{})}
	cfg := Config{Journal: n.j, Node: name, Lease: testLease, Alarms: AlarmConfig{Every: time.Minute}, CleanEvery: time.Minute}
	for _, f := range change {
		f(&cfg)
	}
	n.standby = NewStandby(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() {
		defer close(n.done)
		n.b, n.err = n.standby.Await(ctx)
	}()
	s.t.Cleanup(n.kill)
	return n
}

// up waits until the node is the owner, for some time at most, and tells how long
// it took.
func (n *siteNode) up(most time.Duration) time.Duration {
	n.t.Helper()
	began := time.Now()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-n.done:
		if n.err != nil {
			n.t.Fatalf("await: %v", n.err)
		}
	case <-timer.C:
		n.t.Fatalf("not the owner after %v: %+v", most, n.standby.Status())
	}
	return time.Since(began)
}

func (n *siteNode) follows() bool {
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// kill ends the process: nothing that it has not sent is sent any more.
func (n *siteNode) kill() {
	n.cancel()
	<-n.done
	if n.b != nil {
		n.b.fail(errors.New("killed"))
		_ = n.b.Close(context.Background())
	}
	_ = n.j.Close()
}

// stop is a planned end.
func (n *siteNode) stop() {
	n.t.Helper()
	if err := n.b.Close(context.Background()); err != nil {
		n.t.Errorf("close: %v: %v", err, n.b.Cause())
	}
	_ = n.j.Close()
}

func (n *siteNode) client() *client {
	n.t.Helper()
	s, err := n.b.OpenSession(SessionConfig{VHost: "/", User: "guest"})
	if err != nil {
		n.t.Fatalf("open a session: %v", err)
	}
	return &client{t: n.t, Session: s, ch: s.OpenChannel(1)}
}

// ended fails unless all that a session still tells is that it is forced to end.
func (c *client) ended() {
	c.t.Helper()
	synctest.Wait() // whoever found out tells the sessions
	events := c.Take(nil)
	if len(events) != 1 || events[0].Kind != EventClosed || events[0].Err.Kind != Forced {
		c.t.Fatalf("told %+v, want the end of the connection alone", events)
	}
	if events := c.Take(nil); len(events) != 0 {
		c.t.Fatalf("told %+v behind the end", events)
	}
}

func TestFirstNodeOwnsAnEmptyJournalAtOnce(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		if d := a.up(time.Second); d > 100*time.Millisecond {
			t.Errorf("took %v", d)
		}
		if st := a.b.Status(); st.Node != "a" || st.Epoch != 1 || st.Position == 0 {
			t.Errorf("status %+v", st)
		}
		var owner string
		err := a.j.Replay(t.Context(), 0, 0, false, func(b journal.Batch) error {
			return DescribeHead(b.Head, func(r RecordInfo) { owner += r.Node })
		})
		if err != nil || owner != "a" {
			t.Errorf("the journal's owner is %q, %v", owner, err)
		}
	})
}

func TestStandbyTakesOverFromASilentOwner(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		for i := range 10 {
			c.publish("", "q", fmt.Sprint(i), true)
		}
		c.confirmed()
		b := s.node("b")
		time.Sleep(10 * testLease)
		synctest.Wait()
		if st := b.standby.Status(); !b.follows() || st.Owner != "a" || st.Epoch != 1 || st.Queues != 1 || st.Messages != 10 || st.Position != st.Head {
			t.Fatalf("status %+v", st)
		}
		a.kill()
		if d := b.up(time.Minute); d < testLease/2 || d > testLease+200*time.Millisecond {
			t.Errorf("took over after %v of silence, want the lease of %v", d, testLease)
		}
		if st := b.b.Status(); st.Epoch != 2 || st.Node != "b" {
			t.Errorf("status %+v", st)
		}
		d := b.client()
		d.consume("q", "t", true)
		for i := range 10 {
			d.expect(fmt.Sprint(i), true)
		}
		d.Close()
		b.stop()
	})
}

func TestStandbyWaitsForTheLeaseOfTheOwner(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		const long = 10 * testLease
		a := s.node("a", func(c *Config) { c.Lease = long })
		a.up(time.Second)
		b := s.node("b")
		time.Sleep(3 * long)
		synctest.Wait()
		if !b.follows() || b.standby.Status().Owner != "a" {
			t.Fatalf("an owner that keeps to its own lease was superseded: %+v", b.standby.Status())
		}
		a.kill()
		if d := b.up(time.Hour); d < long/2 || d > long+200*time.Millisecond {
			t.Errorf("took over after %v of silence, want the owner's lease of %v", d, long)
		}
		b.stop()
	})
}

func TestOwnerHandsOverAtOnce(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		c.publish("", "q", "m", true)
		c.confirmed()
		if err := c.OpenChannel(2).TxSelect(); err != nil {
			t.Fatal(err)
		}
		tx := c.OpenChannel(3)
		c.must(tx.TxSelect())
		c.must(tx.Publish(&Publish{Key: []byte("q"), Persistent: true, Body: []byte("never committed")}))
		b := s.node("b")
		time.Sleep(testLease)
		a.stop() // with a session that is open
		if d := b.up(time.Second); d > 150*time.Millisecond {
			t.Errorf("took %v", d)
		}
		c.ended()
		d := b.client()
		d.ready("q", 1)
		d.Close()
		b.stop()

		// What was handed over is taken up at once by who starts later, too.
		e := s.node("e")
		if d := e.up(time.Second); d > 150*time.Millisecond {
			t.Errorf("a new node took %v", d)
		}
		e.stop()
	})
}

func TestOneOfSeveralStandbysTakesOver(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		nodes := []*siteNode{s.node("0")}
		nodes[0].up(time.Second)
		for i := range 3 {
			nodes = append(nodes, s.node(fmt.Sprint(i+1)))
		}
		time.Sleep(testLease / 2)
		owner := nodes[0]
		for round := range 12 {
			if round%2 == 0 {
				owner.kill()
			} else {
				owner.stop()
			}
			time.Sleep(2 * testLease)
			synctest.Wait()
			was := owner
			owner = nil
			for _, n := range nodes {
				if n.follows() || n.b.Err() != nil || n.standby == was.standby || n.j.shut {
					continue
				}
				if owner != nil {
					t.Fatalf("round %d: %+v and %+v", round, n.b.Status(), owner.b.Status())
				}
				owner = n
			}
			if owner == nil {
				t.Fatalf("round %d: nobody took over", round)
			}
			st := owner.b.Status()
			if st.Epoch != uint64(round+2) {
				t.Errorf("round %d: epoch %d", round, st.Epoch)
			}
			nodes = append(nodes, s.node(fmt.Sprint(round+4)))
			time.Sleep(testLease / 2)
			synctest.Wait()
			for _, n := range nodes {
				if n.follows() && (n.standby.Status().Owner != st.Node || n.standby.Status().Epoch != st.Epoch) {
					t.Errorf("round %d: %q is told %+v", round, st.Node, n.standby.Status())
				}
			}
		}
	})
}

// cutOff is what happens to an owner that cannot reach the medium, or is not
// reached by it, while a message is on its way.
func cutOff(t *testing.T, replies bool) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		b := s.node("b")
		c := a.client().confirming()
		c.queue("q", true)
		c.publish("", "q", "before", true)
		c.confirmed()
		time.Sleep(2 * testLease)
		synctest.Wait()
		a.j.cut(replies)
		cut := time.Now()
		c.publish("", "q", "after", true)
		<-a.b.Failed()
		if d := time.Since(cut); d > testLease*3/4 {
			t.Errorf("went on for %v", d)
		}
		if !errors.Is(a.b.Cause(), ErrOwnership) {
			t.Errorf("cause %v", a.b.Cause())
		}
		if !b.follows() {
			t.Fatal("the standby has begun before the owner ended")
		}
		c.ended()
		b.up(2 * testLease)
		if d := time.Since(cut); d < testLease*3/4 || d > 2*testLease {
			t.Errorf("taken over after %v", d)
		}
		want := 1
		if replies {
			want = 2 // it landed, and nobody was told
		}
		d := b.client()
		d.ready("q", want)
		a.j.mend()
		synctest.Wait()
		if events := c.Take(nil); len(events) != 0 {
			t.Errorf("told %+v after it was superseded", events)
		}
		time.Sleep(testLease)
		synctest.Wait()
		d.ready("q", want)
		d.Close()
		b.stop()
	})
}

func TestOwnerThatIsCutOffEndsBeforeAnotherBegins(t *testing.T) { cutOff(t, false) }
func TestOwnerThatIsNotAnsweredEndsBeforeAnotherBegins(t *testing.T) {
	cutOff(t, true)
}

// A process that was stopped for longer than the lease tells nobody anything when it
// goes on: no timer of its has run yet.
func TestOwnerThatWasStoppedTellsNothing(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		c.publish("", "q", "m", true)
		synctest.Wait() // it is durable: its confirm is in the outbox
		c.consume("q", "t", false)
		if c.b.Err() != nil {
			t.Fatal(c.b.Err())
		}
		a.b.lease.came.Store(a.b.lease.now() - int64(testLease*2/3)) // as if that time had passed
		c.ended()
		if !errors.Is(a.b.Cause(), ErrOwnership) {
			t.Errorf("cause %v", a.b.Cause())
		}
		if _, err := a.b.OpenSession(SessionConfig{VHost: "/"}); err == nil || !strings.Contains(err.Error(), "does not own") {
			t.Errorf("a session opens: %v", err)
		}
	})
}

// One that goes on writing when another has begun is refused, and confirms nothing
// of what was in flight.
func TestSupersededOwnerConfirmsNothing(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		synctest.Wait()
		other := s.log.open()
		defer other.Close()
		a.j.latency = 10 * time.Millisecond
		for i := range 5 {
			c.publish("", "q", fmt.Sprint(i), true)
			synctest.Wait()
		}
		head, _ := other.Head(t.Context())
		done := make(chan error, 1)
		other.Append(journal.Batch{Position: head + 1, Epoch: 2, Segment: 1, Head: ownerRecord(&Config{Node: "b"})}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		<-a.b.Failed()
		if !errors.Is(a.b.Cause(), ErrOwnership) || !errors.Is(a.b.Cause(), journal.ErrFenced) {
			t.Errorf("cause %v", a.b.Cause())
		}
		c.ended()
	})
}

// A medium that was set back has a log that others go on with: its owner becomes one of
// those that read it anew, and says that messages are gone, whenever it finds out.
func TestOwnerWhoseMediumWasSetBackIsNone(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		var out strings.Builder
		a := s.node("a", func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&out, nil)) })
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		synctest.Wait()
		a.j.work <- func() { a.j.failed = fmt.Errorf("append: %w", journal.ErrLost) }
		c.publish("", "q", "m", true)
		<-a.b.Failed()
		if !errors.Is(a.b.Cause(), ErrOwnership) || !errors.Is(a.b.Cause(), journal.ErrLost) {
			t.Errorf("cause %v", a.b.Cause())
		}
		c.ended()
		if !strings.Contains(out.String(), "level=ERROR") {
			t.Errorf("logged %s", &out)
		}
	})
}

func TestStandbyWaitsWhileTheJournalIsAway(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		c.Close()
		b := s.node("b")
		time.Sleep(testLease / 2)
		b.j.cut(false)
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := b.standby.Status(); !b.follows() || !errors.Is(st.Err, errAway) {
			t.Fatalf("status %+v", st)
		}
		a.kill()
		time.Sleep(10 * testLease)
		b.j.mend()
		mended := time.Now()
		b.up(time.Minute)
		if d := time.Since(mended); d < testLease {
			t.Errorf("took over %v after it could read again, want the lease", d)
		}
		b.stop()
	})
}

func TestStandbyEndsWithItsContextAndItsJournal(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		b := s.node("b")
		time.Sleep(testLease / 2)
		b.cancel()
		<-b.done
		if !errors.Is(b.err, context.Canceled) {
			t.Errorf("await: %v", b.err)
		}
		c := s.node("c")
		time.Sleep(testLease / 2)
		_ = c.j.Close()
		<-c.done
		if !errors.Is(c.err, journal.ErrClosed) {
			t.Errorf("await: %v", c.err)
		}
		a.stop()
	})
}

// What a standby has read and is gone from the medium is not to be served.
func TestStandbyEndsWhenTheMediumHasLostBatches(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		b := s.node("b")
		time.Sleep(testLease + testLease/7) // not when the owner writes: the newest batch has been read
		a.kill()
		synctest.Wait()
		s.log.mu.Lock()
		if st := b.standby.Status(); st.Position != s.log.head {
			t.Fatalf("the standby has not read all of %d batches: %+v", s.log.head, st)
		}
		s.log.head--
		s.log.batches = s.log.batches[:len(s.log.batches)-1]
		s.log.mu.Unlock()
		<-b.done
		if b.err == nil || !strings.Contains(b.err.Error(), "lost") {
			t.Errorf("await: %v", b.err)
		}
	})
}

type finalErr struct{ error }

func (finalErr) Final() bool { return true }

func TestStandbyEndsWithAnErrorThatIsFinal(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		b := s.node("b")
		time.Sleep(testLease)
		b.j.breakWith(fmt.Errorf("read: %w", finalErr{errors.New("the table is not what it was")}))
		<-b.done
		if !errors.As(b.err, new(finalErr)) {
			t.Errorf("await: %v", b.err)
		}
		a.stop()
	})
}

// An owner that has nothing to do keeps its lease for as long as it lives, and the
// journal does not grow by it.
func TestIdleOwnerKeepsTheLeaseAndTheJournalSmall(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		slow := func(c *Config) { c.Lease, c.CleanEvery = time.Minute, 10*time.Second }
		a := s.node("a", slow)
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		c.publish("", "q", "m", true)
		c.confirmed()
		c.Close()
		b := s.node("b", slow)
		time.Sleep(15 * time.Minute)
		if !b.follows() {
			t.Fatal("the standby took over")
		}
		b.kill()
		landed := 0
		for range 72 {
			time.Sleep(time.Hour)
			synctest.Wait()
			s.log.mu.Lock()
			n, all := len(s.log.batches), s.log.landed
			s.log.mu.Unlock()
			if beats := all - landed; beats < 3*60 || beats > 6*60 {
				t.Fatalf("%d batches in an hour with a lease of a minute", beats)
			}
			landed = all
			if n > 4*beatsMax {
				t.Fatalf("the journal holds %d batches", n)
			}
		}
		if a.b.Err() != nil {
			t.Fatal(a.b.Cause())
		}
		d := s.node("d", slow)
		a.stop()
		d.up(time.Second)
		e := d.client()
		e.ready("q", 1)
		e.Close()
		d.stop()
	})
}
