package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// stateOf describes all that a replay makes of a log.
func stateOf(b *Broker) string {
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	say("next queue %d", b.nextQueue.Load())
	for _, vhost := range slices.Sorted(maps.Keys(b.vhosts)) {
		v := b.vhosts[vhost]
		var lines []string
		for _, x := range v.exchanges {
			lines = append(lines, fmt.Sprintf("%+v", x.spec))
			for key, bind := range x.bindings {
				to := ""
				switch d := key.to.(type) {
				case *Queue:
					to = fmt.Sprint("queue ", d.num)
				case *exchange:
					to = "exchange " + d.spec.Name
				}
				lines = append(lines, fmt.Sprintf("%s to %s by %q, durable %v", x.spec.Name, to, key.key, bind.durable))
			}
		}
		for _, p := range v.producers.list() {
			lines = append(lines, fmt.Sprintf("producer %s: %v %v", p.name, p.all.top, p.all.rest))
		}
		for _, w := range v.windows.list() {
			lines = append(lines, fmt.Sprintf("window %v: %x", w.address, w.newestLocked(w.n)))
		}
		for _, w := range v.seenWindows() {
			lines = append(lines, fmt.Sprintf("seen %s: %x", w.exchange, w.newestLocked(w.n)))
		}
		for _, q := range v.queues {
			lines = append(lines, fmt.Sprintf("queue %d %s: %d messages, %d bindings", q.num, q.name, q.ready+q.waiting, len(q.bindings)))
			q.lanes(func(ln *lane) {
				if ln.tail<<8 != 0 {
					lines = append(lines, fmt.Sprintf("queue %d: tail %x", q.num, ln.tail))
				}
			})
			q.eachChunk(func(k *chunk) {
				k = k.peek()
				for i, e := range k.entries {
					if m := e.msg; m != nil {
						parts := []journal.Ref(nil)
						if m.parts != nil {
							parts = m.parts.refs
						}
						lines = append(lines, fmt.Sprintf("message %d/%d: %d bytes at %v %v, segment %d, head %d, in %d, counted %v, again %v, %s", q.num, k.first+uint64(i), m.size, m.ref, parts, m.segment, m.head, m.logged, m.accounted, e.redelivered, known(q, k.attrs(i))))
					}
				}
			})
		}
		slices.Sort(lines)
		say("vhost %s\n%s", vhost, strings.Join(lines, "\n"))
	}
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(b.log.segs)) {
		s := b.log.segs[n]
		say("segment %d: from %d to %d, %d bytes, %d live", s.number, s.first, s.last, s.bytes, s.live)
	}
	say("%d large", len(b.log.large))
	return out.String()
}

// replayed is the state that somebody arrives at who reads the log now.
func (s *site) replayed(change func(*Config)) string {
	j := s.log.open()
	defer j.Close()
	cfg := Config{Journal: j, Lease: testLease}
	change(&cfg)
	b := newBroker(cfg)
	f := &follower{s: NewStandby(cfg), j: j}
	checkpoint, err := f.newest(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	r := b.replayer(checkpoint)
	if err := j.Replay(s.t.Context(), 0, 0, false, r.batch); err != nil {
		s.t.Fatal(err)
	}
	segments, err := j.Segments(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	r.finish(segments)
	return stateOf(b)
}

// known are the attributes of a message that whoever reads the journal must know. That
// a message's wait is over is not written, nor is how large its body is where no limit
// asks for it.
func known(q *Queue, a attrs) string {
	if a.wake <= nowMillis() {
		a.wake = 0
	}
	if q.rules.maxBytes == none {
		a.over = 0
	}
	return fmt.Sprintf("%+v", a)
}

// state is that of a standby that has read all there is.
func (n *siteNode) state() (string, bool) {
	f := n.standby.follower
	head, _ := n.j.Head(n.t.Context())
	if f == nil || f.r == nil || f.r.last != head {
		return "", false
	}
	segments, err := n.j.Segments(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	f.r.finish(segments)
	return stateOf(f.b), true
}

// A life is what clients do to a broker, at random.
type life struct {
	*client
	rnd   *rand.Rand
	tx    *Channel
	count int
	held  []uint64 // tags that are not settled
}

func newLife(n *siteNode, seed uint64) *life {
	c := n.client().confirming()
	l := &life{client: c, rnd: rand.New(rand.NewPCG(seed, 1)), tx: c.OpenChannel(9)}
	c.must(l.tx.TxSelect())
	return l
}

func (l *life) name() string { return fmt.Sprint("q", l.rnd.IntN(5)) }

func (l *life) text() string {
	l.count++
	return noteText(l.count, 10+l.rnd.IntN(60)*l.rnd.IntN(60)+20000/(1+l.rnd.IntN(400)))
}

func (l *life) there(queue string) bool {
	_, err := l.CheckQueue(queue)
	return err == nil
}

// lifeQueues are the arguments of some queues: the others have none.
var lifeQueues = map[string][]byte{
	"q2": args{"x-message-ttl": 3600_000, "x-max-length-bytes": 1 << 30}.list(),
	"q3": args{"x-max-priority": 3}.list(),
}

// lasts are properties of a message that expires soon, or late, or not.
func (l *life) lasts() []byte {
	return lastingProps(byte(l.rnd.IntN(5)), []string{"", "", "100", "3600000", fmt.Sprint(l.rnd.IntN(2000))}[l.rnd.IntN(5)])
}

// live does one thing. What it asks for in vain counts as done.
func (l *life) live() {
	q := l.name()
	switch l.rnd.IntN(24) {
	case 0:
		l.queueWith(q, true, lifeQueues[q])
	case 1:
		if l.rnd.IntN(3) == 0 {
			_, _ = l.DeleteQueue(q, false, false)
		}
	case 2:
		_, _ = l.PurgeQueue(q)
	case 3:
		_ = l.BindQueue(q, "amq.fanout", "", nil)
		_ = l.DeclareExchange(ExchangeSpec{Name: "x" + q, Type: "topic", Durable: true})
		_ = l.BindQueue(q, "x"+q, "k.*", nil)
	case 4:
		_ = l.UnbindQueue(q, "amq.fanout", "", nil)
		_ = l.DeleteExchange("x"+q, false)
	case 5, 6, 7:
		for range l.rnd.IntN(8) {
			l.publishWith("", q, l.lasts(), l.text(), l.rnd.IntN(8) > 0)
		}
	case 8, 9:
		l.publishWith("amq.fanout", "", l.lasts(), l.text(), true)
	case 10, 11:
		l.bring("", q, fmt.Sprint("p", l.rnd.IntN(2), "-", l.count+1), l.text(), true)
	case 12:
		if l.rnd.IntN(2) == 0 {
			l.put("", q, fmt.Sprint("d", l.rnd.IntN(40)), l.text(), true)
			return
		}
		l.must(l.DeclareExchange(ExchangeSpec{Name: "once", Type: "x-message-deduplication", Durable: true, Args: number("x-cache-size", 16)}))
		_ = l.BindQueue(q, "once", "", nil)
		l.seenWith("once", true, l.text(), longText(dedupHeader, fmt.Sprint(l.rnd.IntN(40))))
	case 13, 14, 15, 16, 17, 18, 19:
		for range l.rnd.IntN(10) {
			if !l.there(q) {
				return
			}
			if found, err := l.ch.Get(q, l.rnd.IntN(2) == 0); found && err == nil {
				if e := l.next(EventGot); l.ch.unacked.find(e.Tag) != nil {
					l.held = append(l.held, e.Tag)
				}
			}
		}
	case 20, 21:
		for len(l.held) > 0 {
			tag := l.held[0]
			l.held = l.held[1:]
			if l.rnd.IntN(4) == 0 {
				l.must(l.ch.Nack(tag, false, true))
				l.change(q)
			} else {
				l.must(l.ch.Ack(tag, false))
			}
		}
	case 22, 23:
		for range 1 + l.rnd.IntN(6) {
			l.must(l.tx.Publish(&Publish{Key: []byte(q), Persistent: true, Body: []byte(l.text())}))
		}
		for len(l.held) > 0 && l.rnd.IntN(3) > 0 {
			l.must(l.tx.TxAck(l.ch, l.held[0], false))
			l.held = l.held[1:]
		}
		if l.rnd.IntN(4) == 0 {
			l.must(l.tx.TxRollback())
			l.held = l.held[:0]
			l.must(l.ch.Nack(0, true, true))
		} else {
			l.must(l.tx.TxCommit())
		}
	}
}

// change gives messages of a queue other attributes.
func (l *life) change(name string) {
	q := l.v.queues[name]
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eachChunk(func(k *chunk) {
		for i := range k.peek().entries {
			switch seq := k.first + uint64(i); l.rnd.IntN(20) {
			case 0:
				q.countLocked(seq, l.rnd.Uint32N(1000))
			case 1:
				q.delayLocked(seq, nowMillis()+l.rnd.Int64N(5000))
			}
		}
	})
	q.dispatchLocked()
}

func small(c *Config) {
	c.SegmentBytes, c.CleanEvery, c.HotBytes = 64<<10, 50*time.Millisecond, 4<<10
	c.batchBytes, c.partBytes = 8<<10, 9<<10
	c.windows = windowLimits{each: 16}
}

// A standby that follows for long knows what one does that reads the log at the
// end, and what it serves is that.
func TestFollowingIsReplaying(t *testing.T) {
	for seed := range uint64(4) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.node("a", small)
			a.up(time.Second)
			b := s.node("b", small)
			l := newLife(a, seed)
			compared := 0
			for i := range 3000 {
				l.live()
				if i%20 == 0 {
					time.Sleep(100 * time.Millisecond)
				}
				if i%500 == 499 {
					time.Sleep(300 * time.Millisecond)
					synctest.Wait()
					if got, ok := b.state(); ok {
						s.same(got, s.replayed(small))
						compared++
					}
				}
			}
			if compared == 0 {
				t.Error("the standby was never found to have read all")
			}
			l.queue("q1", true)
			for range 30 {
				l.publish("", "q1", l.text(), true)
			}
			l.confirmed()
			l.Close()
			want := s.replayed(small)
			a.stop()
			s.log.mu.Lock()
			drops, landed := len(s.log.drops), s.log.landed
			s.log.mu.Unlock()
			if drops < 10 || !strings.Contains(want, "message") {
				t.Errorf("seed %d: %d segments were dropped, state of %d bytes", seed, drops, len(want))
			}
			b.up(time.Second)
			bodies := 0
			c := b.client()
			for i := range 5 {
				q := fmt.Sprint("q", i)
				if !slices.ContainsFunc(slices.Collect(maps.Values(b.b.vhosts["/"].queues)), func(x *Queue) bool { return x.name == q }) {
					continue
				}
				info, err := c.CheckQueue(q)
				c.must(err)
				for _, text := range c.drain(q) {
					var n, size int
					if _, err := fmt.Sscanf(text, "%d %d", &n, &size); err != nil || text != noteText(n, size) {
						t.Errorf("a body is %.40q", text)
					}
					bodies++
					info.Messages--
				}
				if info.Messages != 0 {
					t.Errorf("%d messages of %s were counted and not delivered", info.Messages, q)
				}
			}
			t.Logf("seed %d: %d batches, %d segments dropped, %d messages left", seed, landed, drops, bodies)
			c.Close()
			b.stop()
		})
	}
}

// same compares states line by line.
func (s *site) same(got, want string) {
	s.t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	n := 0
	for _, line := range g {
		if !slices.Contains(w, line) && n < 10 {
			n++
			s.t.Errorf("followed, not replayed: %s", line)
		}
	}
	for _, line := range w {
		if !slices.Contains(g, line) && n < 20 {
			n++
			s.t.Errorf("replayed, not followed: %s", line)
		}
	}
	s.t.FailNow()
}

// One that could not read for so long that what it has not read is gone begins anew.
func TestStandbyThatFellBehindBeginsAnew(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a", small)
		a.up(time.Second)
		b := s.node("b", small)
		l := newLife(a, 7)
		for range 6 {
			for range 50 {
				l.live()
			}
			time.Sleep(300 * time.Millisecond)
			synctest.Wait()
			b.j.cut(false)
			was, f := b.standby.follower.r.last, b.standby.follower.r
			for i := range 1500 {
				l.live()
				if i%20 == 0 {
					time.Sleep(100 * time.Millisecond)
				}
			}
			first := s.log.from(was + 1)[0].Position
			b.j.mend()
			time.Sleep(time.Second)
			synctest.Wait()
			got, ok := b.state()
			if !ok || b.standby.follower.r == f || first == was+1 {
				t.Fatalf("read up to date %v, anew %v, %d follows %d", ok, b.standby.follower.r != f, first, was)
			}
			s.same(got, s.replayed(small))
		}
		l.Close()
		a.stop()
		b.up(time.Second)
		b.stop()
	})
}
