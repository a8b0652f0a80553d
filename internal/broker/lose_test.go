package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// A busyJournal is a follower's, to whose log much happens while it is used.
type busyJournal struct {
	*sharedJournal
	appending func()       // before an append
	visiting  func() error // before each batch of a replay
}

func (j *busyJournal) Append(b journal.Batch, done func(error)) {
	if j.appending != nil {
		j.appending()
	}
	j.sharedJournal.Append(b, done)
}

func (j *busyJournal) Replay(ctx context.Context, from, to uint64, bodies bool, visit func(journal.Batch) error) error {
	return j.sharedJournal.Replay(ctx, from, to, bodies, func(b journal.Batch) error {
		if j.visiting != nil {
			if err := j.visiting(); err != nil {
				return err
			}
		}
		return visit(b)
	})
}

// A busyFollower takes its steps when it is told to, and never takes over by itself.
type busyFollower struct {
	*follower
	site *site
	j    *busyJournal
}

func (s *site) follow() *busyFollower {
	j := &busyJournal{sharedJournal: s.log.open()}
	s.t.Cleanup(func() { _ = j.Close() })
	cfg := Config{Journal: j, Lease: 1000 * time.Hour, Node: "f"}
	small(&cfg)
	return &busyFollower{&follower{s: NewStandby(cfg), j: j}, s, j}
}

// catchUp reads all there is, and compares what that makes with what somebody finds
// who reads it now.
func (f *busyFollower) catchUp() {
	t := f.site.t
	t.Helper()
	for range 20 {
		time.Sleep(200 * time.Millisecond)
		if _, err := f.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if head, _ := f.j.Head(t.Context()); f.r != nil && f.r.last == head {
			segments, err := f.j.Segments(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f.r.finish(segments)
			f.site.same(stateOf(f.b), f.site.replayed(small))
			return
		}
	}
	t.Fatal("the follower never reads all there is")
}

// busy does things, and gives cleaning its time. Now and then it makes segments of
// messages alone, which go without a checkpoint.
func (l *life) busy(n int) {
	if l.rnd.IntN(4) == 0 {
		l.queue("q1", true)
		for range 4 {
			for range 40 {
				l.count++
				l.publish("", "q1", noteText(l.count, 1500), true)
			}
			time.Sleep(20 * time.Millisecond)
		}
		l.confirmed()
		_, _ = l.PurgeQueue("q1")
		time.Sleep(400 * time.Millisecond)
	}
	for i := range n {
		l.live()
		if i%10 == 0 {
			time.Sleep(60 * time.Millisecond)
		}
	}
}

// Nothing that a candidate does before it finds out that it has lost is in the way of
// what it reads from then on.
func TestCandidateThatLostGoesOn(t *testing.T) {
	for seed := range uint64(2) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.node("a", small)
			a.up(time.Second)
			l := newLife(a, seed+100)
			f := s.follow()
			for range 80 {
				l.busy(l.rnd.IntN(25))
				f.catchUp()
				f.j.appending = func() {
					l.busy(l.rnd.IntN(25))
					l.queue("q1", true)
					l.publish("", "q1", l.text(), true)
					l.confirmed()
				}
				b, err := f.takeOver(t.Context(), "a test")
				f.j.appending = nil
				if b != nil || err != nil {
					t.Fatalf("a broker %v, %v", b != nil, err)
				}
			}
			f.catchUp()
			l.Close()
			a.stop()
		})
	}
}

var errTorn = errors.New("the connection is lost")

// Segments go, and the connection is lost, in the middle of what a standby reads.
func TestFollowingWhatIsDroppedMeanwhile(t *testing.T) {
	anew, torn := 0, 0
	for seed := range uint64(2) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.node("a", small)
			a.up(time.Second)
			l := newLife(a, seed+300)
			f := s.follow()
			for range 60 {
				l.busy(l.rnd.IntN(60))
				left, tear := 1+l.rnd.IntN(10), l.rnd.IntN(2) == 0
				f.j.visiting = func() error {
					if left--; left > 0 {
						return nil
					}
					left = 1 + l.rnd.IntN(60)
					if tear {
						return errTorn
					}
					l.busy(l.rnd.IntN(40))
					return nil
				}
				for range l.rnd.IntN(4) {
					was := f.r
					switch _, err := f.step(t.Context()); {
					case errors.Is(err, errTorn):
						torn++
					case err != nil:
						t.Fatal(err)
					}
					if was != nil && f.r != was {
						anew++
					}
				}
				f.j.visiting = nil
				f.catchUp()
			}
			l.Close()
			a.stop()
		})
	}
	if anew == 0 || torn == 0 {
		t.Errorf("it began anew %d times, and lost its connection %d times", anew, torn)
	}
}
