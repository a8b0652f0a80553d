package model

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

// The machine's clock is that of a test/synctest bubble. What is done is done within
// the first part of each period, and takes no time but that of the journal; what
// comes about by itself is due in its other part: all times are an odd multiple of
// 700 ms, so to say.
const (
	period   = 10 * time.Second
	busyPart = 200 * time.Millisecond
	syncTime = time.Millisecond
)

var features = []string{"a", "b", "c", "d"}

// sentinel is a queue that is only there to know that all before is durable.
const sentinel = "sentinel"

// An outlet is a connection of the machine with one channel.
type outlet struct {
	n         int
	s         *broker.Session
	ch        *broker.Channel
	tags      int
	published int
	number    map[uint64]*sending // by tag
	buf       []broker.Event
}

type sending struct {
	n      int // in the world's count
	id     int
	queues []string
}

// A holding is a delivery that is not settled.
type holding struct {
	from  *outlet
	queue string
	key   string // of the holder
	tag   uint64
}

// An arrived is what a consumer was sent.
type arrived struct {
	face string
	tag  uint64
	from *outlet
}

// A featureMachine is a broker beside the worlds that it may be.
type featureMachine struct {
	t        *rapid.T
	disk     *vfs.Mem
	faulty   *vfs.Faulty
	journal  journal.Journal
	scratch  journal.Journal
	b        *broker.Broker
	conf     *config
	args     map[string]rules
	policies map[string]*rules
	worlds   []*world
	past     past
	outlets  []*outlet
	held     []holding
	subs     []holding // consumers: tag is of no meaning
	ids      int
	sure     int // the highest publish that was confirmed, and whose message is in its queue
	lost     bool
	over     bool // the run is not looked at any more

	arrivals map[string][]arrived
	got      *arrived
	answers  map[int]bool // to publishes: whether they were refused
}

func (m *featureMachine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("%v; %v", err, m.b.Cause())
	}
}

func (m *featureMachine) open() {
	m.faulty = vfs.NewFaulty(m.disk)
	m.faulty.SetHook(func(c vfs.Call) error {
		if c.Op == vfs.OpSync {
			time.Sleep(syncTime)
		}
		return nil
	})
	var err error
	m.journal, err = file.Open(m.faulty, "journal", file.Options{Logger: quiet})
	if err != nil {
		m.t.Fatal(err)
	}
	if m.scratch, err = file.Open(vfs.NewMem(), "scratch", file.Options{Logger: quiet, NoSync: true}); err != nil {
		m.t.Fatal(err)
	}
	if m.b, err = broker.Open(context.Background(), broker.Config{
		Journal: m.journal, Scratch: m.scratch, Logger: quiet,
		HotBytes: 300, SegmentBytes: 2 << 10, CleanEvery: 700 * time.Millisecond,
	}); err != nil {
		m.t.Fatal(err)
	}
	m.outlets = []*outlet{m.connect(0), m.connect(1)}
	m.held, m.subs, m.arrivals, m.answers, m.sure = nil, nil, map[string][]arrived{}, map[int]bool{}, 0
}

func (m *featureMachine) connect(n int) *outlet {
	s, err := m.b.OpenSession(broker.SessionConfig{VHost: "/", User: "guest"})
	m.must(err)
	o := &outlet{n: n, s: s, ch: s.OpenChannel(1), number: map[uint64]*sending{}}
	m.must(o.ch.ConfirmSelect())
	return o
}

func (m *featureMachine) close() {
	if m.b == nil {
		return
	}
	for _, o := range m.outlets {
		o.s.Close()
	}
	if err := m.b.Close(context.Background()); err != nil && !m.lost {
		m.lost = true
		defer m.t.Fatalf("close: %v: %v", err, m.b.Cause())
	}
	_ = m.journal.Close()
	_ = m.scratch.Close()
	m.b = nil
}

// declare makes what is not there.
func (m *featureMachine) declare() {
	s := m.outlets[0].s
	for _, n := range features {
		r := m.args[n]
		_, err := s.DeclareQueue(broker.QueueSpec{Name: n, Durable: !r.transient, Args: r.args()})
		m.must(err)
		for _, w := range m.worlds {
			if w.boxes[n] == nil {
				w.nums++
				w.boxes[n] = &box{name: n, num: w.nums, args: r, policy: m.policies[n]}
			}
		}
	}
	_, err := s.DeclareQueue(broker.QueueSpec{Name: sentinel, Durable: true, Args: header(nil, "x-max-length", int64(1))})
	m.must(err)
	for name, typ := range map[string]string{"fan": "fanout", "dir": "direct", "once": "x-message-deduplication", "later": "x-delayed-message"} {
		var args []byte
		switch name {
		case "dir":
			args = header(nil, "alternate-exchange", "fan")
		case "later":
			args = header(nil, "x-delayed-type", "direct")
		case "once":
			args = header(nil, "x-cache-size", int64(m.conf.seenMost))
			if m.conf.seenAge > 0 {
				args = header(args, "x-cache-ttl", m.conf.seenAge)
			}
		}
		m.must(s.DeclareExchange(broker.ExchangeSpec{Name: name, Type: typ, Durable: true, Args: args}))
	}
	for _, q := range m.conf.fan {
		m.must(s.BindQueue(q, "fan", "", nil))
	}
	for _, q := range m.conf.once {
		m.must(s.BindQueue(q, "once", "", nil))
	}
	for key, q := range m.conf.dir {
		m.must(s.BindQueue(q, "dir", key, nil))
	}
	for key, q := range m.conf.later {
		m.must(s.BindQueue(q, "later", key, nil))
	}
}

// flush sees to it that all that was done is durable.
func (m *featureMachine) flush() {
	o := m.connect(9)
	m.must(o.ch.Publish(&broker.Publish{Key: []byte(sentinel), Persistent: true, Body: []byte("s")}))
	o.s.Flush()
	for confirmed := false; !confirmed; {
		<-o.s.Wake()
		for _, e := range o.s.Take(nil) {
			confirmed = confirmed || e.Kind == broker.EventConfirm
		}
	}
	o.s.Close()
	m.present()
	m.observe()
}

// present makes what is now what a crash leaves.
func (m *featureMachine) present() {
	clear(m.past)
	for _, w := range m.worlds {
		w.remember()
	}
}

func nowMillis() int64 { return time.Now().UnixMilli() }

// step has each world do something, which the broker has done or does.
func (m *featureMachine) step(do func(w *world) []*world) {
	var next []*world
	known := map[string]bool{}
	for _, w := range m.worlds {
		w.now = nowMillis()
		for _, v := range do(w.clone()) {
			list := v.explore(v.now, false)
			if list == nil || len(next) > mostWorlds {
				m.over = true // and the run: there are too many ways
				return
			}
			for _, x := range list {
				if k := x.key(); !known[k] {
					known[k] = true
					next = append(next, x)
				}
			}
		}
	}
	m.worlds = next
}

func one(do func(w *world)) func(w *world) []*world {
	return func(w *world) []*world { do(w); return []*world{w} }
}

// observe compares what the broker tells with the worlds.
func (m *featureMachine) observe() {
	synctest.Wait()
	if m.over {
		return
	}
	select {
	case <-m.b.Failed():
		m.t.Fatalf("the broker failed: %v", m.b.Cause())
	default:
	}
	for _, o := range m.outlets {
		m.take(o)
	}
	before := m.worlds
	var left []*world
	var wrong []string
	for _, w := range m.worlds {
		if s := m.differs(w); s == "" {
			left = append(left, w)
		} else {
			wrong = append(wrong, s)
		}
	}
	if len(left) == 0 {
		text := ""
		for i, w := range before {
			text += fmt.Sprintf("--- world %d: %s\n%s", i, wrong[i], w.key())
			if i == 4 {
				break
			}
		}
		m.t.Fatalf("none of %d worlds\n%s", len(before), text)
	}
	m.worlds = left
	for key, list := range m.arrivals {
		for i, x := range list {
			m.held = append(m.held, holding{from: x.from, key: key, tag: x.tag, queue: m.queueOf(key)})
			for _, w := range m.worlds {
				w.out[key][i].tag = x.tag
			}
		}
	}
	clear(m.arrivals)
	for _, w := range m.worlds {
		clear(w.out)
	}
	for n, refused := range m.answers {
		if !refused {
			m.confirmed(n)
		}
	}
	for _, o := range m.outlets {
		maps.DeleteFunc(o.number, func(_ uint64, s *sending) bool { _, ok := m.answers[s.n]; return ok })
	}
	clear(m.answers)
}

// confirmed notes that a crash finds what was published up to this, if its message is
// still where it went first.
func (m *featureMachine) confirmed(n int) {
	for _, o := range m.outlets {
		for _, s := range o.number {
			if s.n != n {
				continue
			}
			for _, w := range m.worlds {
				there := slices.ContainsFunc(s.queues, func(name string) bool {
					q := w.boxes[name]
					return q != nil && !q.args.transient && slices.ContainsFunc(q.letters, func(l *letter) bool {
						return l.id == s.id && l.persistent && len(l.deaths) == 0
					})
				})
				if !there {
					return
				}
			}
			m.sure = max(m.sure, n)
		}
	}
}

func (m *featureMachine) queueOf(key string) string {
	for _, s := range m.subs {
		if s.key == key {
			return s.queue
		}
	}
	return ""
}

func (m *featureMachine) take(o *outlet) {
	o.buf = o.s.Take(o.buf)
	for _, e := range o.buf {
		switch e.Kind {
		case broker.EventDelivery:
			key := e.Consumer.Tag()
			m.arrivals[key] = append(m.arrivals[key], arrived{m.face(e), e.Tag, o})
		case broker.EventGot:
			m.got = &arrived{m.face(e), e.Tag, o}
		case broker.EventConfirm:
			for tag, s := range o.number {
				if tag == e.Tag || e.Multiple && tag < e.Tag {
					if _, twice := m.answers[s.n]; twice && tag == e.Tag {
						m.t.Fatalf("publish %d was answered twice", s.n)
					} else if !twice {
						m.answers[s.n] = e.Nack
					}
				}
			}
		default:
			m.t.Fatalf("event %+v", e)
		}
	}
	o.s.Flushed(o.buf)
}

// face is what a delivery shows, as letter.face has it.
func (m *featureMachine) face(e broker.Event) string {
	v, err := message.ParseVisible(e.Data)
	m.must(err)
	id, err := strconv.Atoi(string(v.Body[:6]))
	m.must(err)
	x := mail{id: id, exchange: string(v.Exchange), key: string(v.Key), expiration: unlimited, failed: -1}
	if text := message.Field(v.Properties, message.Expiration); len(text) > 0 {
		x.expiration, err = strconv.ParseInt(string(text), 10, 64)
		m.must(err)
	}
	h, ok := message.DecodeHeaders(message.Field(v.Properties, message.Headers))
	if !ok {
		m.t.Fatal("damaged headers")
	}
	text := func(from map[string]any, name string) string { s, _ := from[name].(string); return s }
	when := func(which string) string {
		return text(h, "x-"+which+"-death-queue") + " " + text(h, "x-"+which+"-death-reason") + " " + text(h, "x-"+which+"-death-exchange")
	}
	x.first, x.last = when("first"), when("last")
	list, _ := h["x-death"].([]any)
	for _, d := range list {
		d := d.(map[string]any)
		y := death{queue: text(d, "queue"), reason: text(d, "reason"), exchange: text(d, "exchange"), expiration: unlimited}
		y.count = int(d["count"].(int64))
		keys, _ := d["routing-keys"].([]any)
		y.key = keys[0].(string)
		if s := text(d, "original-expiration"); s != "" {
			y.expiration, err = strconv.ParseInt(s, 10, 64)
			m.must(err)
		}
		x.deaths = append(x.deaths, y)
	}
	if n, ok := h["x-delivery-count"].(int64); ok {
		x.failed, x.offers = int(n), int(h["x-acquired-count"].(int64))
	}
	return (&letter{mail: &x, redelivered: e.Redelivered}).face()
}

// shown is what a client sees of a letter in a queue, or asks for.
func (q *box) shown(l *letter, asked bool) string {
	r := q.rules()
	x, y := *l, *l.mail
	x.mail = &y
	if n := l.failures + l.given; r.counts() && (n > 0 || asked) {
		y.failed, y.offers = l.failures, n
	}
	return x.face()
}

// differs tells what of a world the broker has not.
func (m *featureMachine) differs(w *world) string {
	for _, key := range slices.Sorted(maps.Keys(m.arrivals)) {
		if len(w.out[key]) == 0 {
			return fmt.Sprintf("%s was sent %v, which it should not be", key, m.arrivals[key])
		}
	}
	for key, want := range w.out {
		got := m.arrivals[key]
		if len(got) != len(want) {
			return fmt.Sprintf("%s was sent %v, want %v", key, got, want)
		}
		for i, l := range want {
			if s := w.boxes[m.queueOf(key)].shown(l, false); s != got[i].face {
				return fmt.Sprintf("%s was sent\n%v, want\n%v", key, got[i].face, s)
			}
		}
	}
	for _, n := range features {
		if _, ok := m.b.Queue("/", n+parked); ok && w.boxes[n+parked] == nil {
			return n + parked + " is there"
		}
	}
	for n, refused := range m.answers {
		if refused != w.refused[n] {
			return fmt.Sprintf("publish %d is refused: %v, want %v", n, refused, w.refused[n])
		}
	}
	for _, n := range slices.Sorted(maps.Keys(w.boxes)) {
		// Bytes are known exactly where there is a limit.
		v, ok := m.b.Queue("/", n)
		if !ok {
			return n + " is not there"
		}
		ready, unacked, waiting, bytes := 0, 0, 0, int64(0)
		for _, l := range w.boxes[n].letters {
			switch {
			case l.holder != "":
				unacked++
			case l.wake != 0:
				waiting++
			default:
				ready++
				bytes += l.size
			}
		}
		d := v.Depth
		if d.Ready != ready || d.Unacked != unacked || d.Waiting != waiting || d.Leaving != 0 ||
			w.boxes[n].args.bytes != unlimited && d.ReadyBytes != bytes {
			return fmt.Sprintf("%s has %d ready of %d bytes, %d unsettled, %d waiting, %d leaving, want %d of %d, %d, %d",
				n, d.Ready, d.ReadyBytes, d.Unacked, d.Waiting, d.Leaving, ready, bytes, unacked, waiting)
		}
		if a := w.boxes[n].active; a != nil && !a.gone && v.ActiveTag != a.key {
			return fmt.Sprintf("%s: %s is active, want %s", n, v.ActiveTag, a.key)
		}
	}
	return ""
}

// TestFeaturesAreLikeTheirModel does random things with queues that have random
// arguments and policies. What is done is in acts_test.go, what should become of it in
// world_test.go, queue_test.go and mover_test.go.
func TestFeaturesAreLikeTheirModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		synctest.Test(t, func(*testing.T) {
			m := &featureMachine{t: rt, disk: vfs.NewMem(), past: past{}}
			defer func() {
				failure = recover()
				m.lost = m.lost || failure != nil
				m.close()
			}()
			m.begin()
			act := func(do func()) func(*rapid.T) {
				return func(t *rapid.T) {
					if m.over {
						return
					}
					m.t = t
					m.inTime()
					do()
					m.observe()
				}
			}
			rt.Repeat(map[string]func(*rapid.T){
				"publish":  act(m.publish),
				"publish2": act(m.publish),
				"publish3": act(m.publish),
				"get":      act(m.get),
				"get2":     act(m.get),
				"settle":   act(m.settle),
				"settle2":  act(m.settle),
				"consume":  act(m.consume),
				"cancel":   act(m.cancel),
				"close":    act(m.closeChannel),
				"wait":     act(m.wait),
				"wait2":    act(m.wait),
				"flush":    act(m.flush),
				"policy":   act(m.policy),
				"purge":    act(m.purge),
				"crash":    act(m.crash),
				"restart":  act(m.restart),
			})
		})
		again(failure)
	})
}

// again panics once more, outside of the bubble. To rapid failures are the same that
// come from the same line, and the end of its data is none.
func again(failure any) {
	switch fmt.Sprintf("%T", failure) {
	case "<nil>":
	case "rapid.invalidData":
		panic(failure)
	default:
		panic(failure)
	}
}
