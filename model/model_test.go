package model

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

// An entry is a message in one queue, as the model has it.
type entry struct {
	text        string
	place       int // in the order of publishing
	persistent  bool
	redelivered bool
	holder      *peer // nil: it is ready
	fresh       bool  // it became ready by what is being done now

	sure    bool // it survives a crash
	settled bool // it may still come back with a crash
}

// A queue is a list of entries. Those that are settled stay in it until that
// is known to survive a crash.
type queue struct {
	name    string
	durable bool
	entries []*entry
}

func (q *queue) ready() (list []*entry) {
	for _, e := range q.entries {
		if e.holder == nil && !e.settled {
			list = append(list, e)
		}
	}
	return list
}

// A held is a delivery that awaits settlement.
type held struct {
	q *queue
	e *entry
	c *consumer // nil: it was got
}

type consumer struct {
	q        *queue
	noAck    bool
	prefetch int
	holds    int
	k        *broker.Consumer
}

func (c *consumer) room() bool { return c.noAck || c.prefetch == 0 || c.holds < c.prefetch }

// A peer is a connection with one channel.
type peer struct {
	s         *broker.Session
	ch        *broker.Channel
	prefetch  int
	consumers map[string]*consumer
	held      map[uint64]held
	lastTag   uint64
	published uint64
	waiting   map[uint64][]*entry // by tag of the publish that is not confirmed
	buf       []broker.Event
	tags      int
}

// A machine is a broker beside its model.
type machine struct {
	t       *rapid.T
	disk    *vfs.Mem
	journal journal.Journal
	scratch journal.Journal
	b       *broker.Broker
	queues  map[string]*queue
	peers   []*peer
	places  int
	got     *broker.Event // the answer to a Get
}

var names = []string{"d1", "d2", "t1"}

var quiet = slog.New(slog.DiscardHandler)

func (m *machine) must(err error) {
	m.t.Helper()
	switch {
	case err != nil && m.b != nil:
		m.t.Fatalf("%v; %v", err, m.b.Cause())
	case err != nil:
		m.t.Fatal(err)
	}
}

func (m *machine) start() {
	var err error
	m.journal, err = file.Open(m.disk, "journal", file.Options{Logger: quiet})
	m.must(err)
	m.scratch, err = file.Open(vfs.NewMem(), "scratch", file.Options{Logger: quiet, NoSync: true})
	m.must(err)
	m.b, err = broker.Open(context.Background(), broker.Config{
		Journal: m.journal, Scratch: m.scratch,
		HotBytes: 300, SegmentBytes: 2 << 10, CleanEvery: time.Millisecond,
	})
	m.must(err)
	m.peers = []*peer{m.connect(), m.connect()}
}

func (m *machine) stop() {
	for _, p := range m.peers {
		p.s.Close()
	}
	if err := m.b.Close(context.Background()); err != nil {
		m.t.Fatalf("close: %v: %v", err, m.b.Cause())
	}
	m.must(m.journal.Close())
	m.must(m.scratch.Close())
}

// end stops what is left behind by a failure.
func (m *machine) end() {
	if m.b != nil {
		_ = m.b.Close(context.Background())
		_ = m.journal.Close()
		_ = m.scratch.Close()
	}
}

func (m *machine) connect() *peer {
	s, err := m.b.OpenSession(broker.SessionConfig{VHost: "/", User: "guest"})
	m.must(err)
	p := &peer{s: s}
	m.openChannel(p)
	return p
}

func (m *machine) openChannel(p *peer) {
	p.ch = p.s.OpenChannel(1)
	m.must(p.ch.ConfirmSelect())
	p.consumers, p.held, p.waiting = map[string]*consumer{}, map[uint64]held{}, map[uint64][]*entry{}
	p.lastTag, p.published, p.prefetch = 0, 0, 0
}

func (m *machine) declare(name string) {
	durable := name[0] == 'd'
	_, err := m.peers[0].s.DeclareQueue(broker.QueueSpec{Name: name, Durable: durable})
	m.must(err)
	m.must(m.peers[0].s.BindQueue(name, "amq.fanout", "", nil))
	if m.queues[name] == nil {
		m.queues[name] = &queue{name: name, durable: durable}
	}
	if durable {
		m.flushed()
	}
}

// flushed notes that all that was done before is in the journal.
func (m *machine) flushed() {
	for _, q := range m.queues {
		q.entries = slices.DeleteFunc(q.entries, func(e *entry) bool { return e.settled })
		for _, e := range q.entries {
			e.sure = q.durable && e.persistent
		}
	}
}

func (m *machine) peer() *peer { return m.peers[rapid.IntRange(0, 1).Draw(m.t, "peer")] }

// queue picks a queue that is there.
func (m *machine) queue() *queue {
	q := m.queues[rapid.SampledFrom(names).Draw(m.t, "queue")]
	if q == nil {
		m.t.Skip("no such queue")
	}
	return q
}

// settle takes an entry out of its queue.
func (m *machine) settle(q *queue, e *entry) {
	e.settled, e.holder = true, nil
	if !q.durable || !e.persistent {
		q.entries = slices.DeleteFunc(q.entries, func(x *entry) bool { return x == e })
	}
}

func (m *machine) requeue(h held) {
	h.e.holder, h.e.redelivered, h.e.fresh = nil, true, true
}

// release takes a delivery off its peer.
func (p *peer) release(tag uint64) held {
	h := p.held[tag]
	delete(p.held, tag)
	if h.c != nil {
		h.c.holds--
	}
	return h
}

// add puts a message into the model's queues.
func (m *machine) add(p publish) (added []*entry) {
	for _, n := range names {
		to := m.queues[n]
		if to == nil || p.q != nil && to != p.q {
			continue
		}
		e := &entry{text: string(p.p.Body), place: p.place, persistent: p.p.Persistent, fresh: true}
		to.entries = append(to.entries, e)
		added = append(added, e)
	}
	return added
}

// A publish is a message to one queue, or to all.
type publish struct {
	q     *queue
	place int
	p     broker.Publish
}

func (m *machine) drawPublishes(from, to int) (list []publish) {
	n := rapid.IntRange(from, to).Draw(m.t, "publishes")
	for range n {
		x := publish{q: m.queue()}
		x.p.Key = []byte(x.q.name)
		if rapid.IntRange(0, 3).Draw(m.t, "fanout") == 0 {
			x.q, x.p.Exchange = nil, []byte("amq.fanout")
		}
		size := rapid.SampledFrom([]int{0, 20, 100, 700}).Draw(m.t, "size")
		x.p.Persistent = rapid.IntRange(0, 3).Draw(m.t, "persistent") > 0
		m.places++
		x.place = m.places
		x.p.Body = append(fmt.Appendf(nil, "%06d", x.place), make([]byte, size)...)
		list = append(list, x)
	}
	return list
}

// events takes what the broker has to say, and compares it with the model.
func (m *machine) events() {
	delivered := map[*queue][]*entry{}
	for again := true; again; {
		again = false
		for _, p := range m.peers {
			p.buf = p.s.Take(p.buf)
			for _, e := range p.buf {
				again = true
				m.event(p, e, delivered)
			}
			p.s.Flushed(p.buf)
		}
	}
	for q, list := range delivered {
		last := slices.MaxFunc(list, func(a, b *entry) int { return a.place - b.place })
		for _, e := range q.ready() {
			if !e.fresh && e.place < last.place {
				m.t.Fatalf("%s: %.6s was delivered before %.6s", q.name, last.text, e.text)
			}
		}
	}
}

func (m *machine) event(p *peer, e broker.Event, delivered map[*queue][]*entry) {
	switch e.Kind {
	case broker.EventConfirm:
		if e.Tag > p.published || e.Nack {
			m.t.Fatalf("confirm %+v, published %d", e, p.published)
		}
		for tag, list := range p.waiting {
			if tag == e.Tag || e.Multiple && tag < e.Tag {
				delete(p.waiting, tag)
				for _, x := range list {
					x.sure = true // of no meaning where it is not durable
				}
			}
		}
	case broker.EventGot:
		m.got = &e
	case broker.EventDelivery:
		c := p.consumers[e.Consumer.Tag()]
		if c == nil || c.k != e.Consumer {
			m.t.Fatalf("delivery to a consumer that is not there: %s", e.Consumer.Tag())
		}
		x := m.take(p, c.q, e)
		delivered[c.q] = append(delivered[c.q], x)
		if c.noAck {
			m.settle(c.q, x)
			return
		}
		if !c.room() {
			m.t.Fatalf("delivery over the prefetch of %d", c.prefetch)
		}
		c.holds++
		p.held[e.Tag] = held{c.q, x, c}
	default:
		m.t.Fatalf("event %+v", e)
	}
}

// take finds the entry that an event delivers.
func (m *machine) take(p *peer, q *queue, e broker.Event) *entry {
	v, err := message.Parse(e.Data)
	m.must(err)
	if e.Tag != p.lastTag+1 {
		m.t.Fatalf("delivery tag %d behind %d", e.Tag, p.lastTag)
	}
	p.lastTag = e.Tag
	for _, x := range q.entries {
		if x.text != string(v.Body) {
			continue
		}
		if x.settled || x.holder != nil {
			m.t.Fatalf("%s: %.6s was delivered, but is settled %v, held %v", q.name, x.text, x.settled, x.holder != nil)
		}
		if x.redelivered != e.Redelivered {
			m.t.Fatalf("%s: %.6s redelivered %v, want %v", q.name, x.text, e.Redelivered, x.redelivered)
		}
		x.holder = p
		return x
	}
	m.t.Fatalf("%s: %.6q was delivered, and is not there", q.name, v.Body)
	return nil
}

// check runs after everything that is done.
func (m *machine) check() {
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for m.events(); m.due(); m.events() {
		select {
		case <-m.peers[0].s.Wake():
		case <-m.peers[1].s.Wake():
		case <-m.b.Failed():
			m.t.Fatalf("the broker failed: %v", m.b.Cause())
		case <-deadline.C:
			m.t.Fatal("there are messages, and consumers with room, and nothing is delivered")
		}
	}
	for _, q := range m.queues {
		ready := q.ready()
		info, err := m.peers[0].s.CheckQueue(q.name)
		m.must(err)
		if info.Messages != len(ready) {
			m.t.Fatalf("%s has %d ready messages, want %d", q.name, info.Messages, len(ready))
		}
		for _, e := range q.entries {
			e.fresh = false
		}
	}
}

// due tells whether a delivery has to come.
func (m *machine) due() bool {
	for _, p := range m.peers {
		for _, c := range p.consumers {
			if c.room() && len(c.q.ready()) > 0 {
				return true
			}
		}
	}
	return false
}

func (m *machine) publish() {
	p := m.peer()
	for _, x := range m.drawPublishes(1, 6) {
		m.must(p.ch.Publish(&x.p))
		p.published++
		p.waiting[p.published] = m.add(x)
	}
	p.s.Flush()
}

func (m *machine) confirm() {
	for m.events(); ; m.events() {
		i := slices.IndexFunc(m.peers, func(p *peer) bool { return len(p.waiting) > 0 })
		if i < 0 {
			return
		}
		select {
		case <-m.peers[i].s.Wake():
		case <-time.After(20 * time.Second):
			m.t.Fatalf("publishes are not confirmed: %d", len(m.peers[i].waiting))
		}
	}
}

func (m *machine) get() {
	p, q := m.peer(), m.queue()
	noAck := rapid.Bool().Draw(m.t, "noAck")
	var want *entry
	if ready := q.ready(); len(ready) > 0 {
		want = slices.MinFunc(ready, func(a, b *entry) int { return a.place - b.place })
	}
	found, err := p.ch.Get(q.name, noAck)
	m.must(err)
	if found != (want != nil) {
		m.t.Fatalf("get from %s: %v, want %v", q.name, found, want != nil)
	}
	if !found {
		return
	}
	m.got = nil
	for m.events(); m.got == nil; m.events() {
		<-p.s.Wake()
	}
	x := m.take(p, q, *m.got)
	if x != want {
		m.t.Fatalf("got %.6s from %s, want %.6s", x.text, q.name, want.text)
	}
	if noAck {
		m.settle(q, x)
	} else {
		p.held[m.got.Tag] = held{q, x, nil}
	}
}

func (m *machine) consume() {
	p, q := m.peer(), m.queue()
	p.tags++
	c := &consumer{q: q, noAck: rapid.IntRange(0, 4).Draw(m.t, "noAck") == 0, prefetch: p.prefetch}
	tag := fmt.Sprint("c", p.tags)
	k, err := p.ch.Consume(broker.ConsumeSpec{Queue: q.name, Tag: tag, NoAck: c.noAck})
	m.must(err)
	c.k = k
	p.consumers[tag] = c
	k.Start()
}

func (m *machine) cancel() {
	p := m.peer()
	tags := make([]string, 0, len(p.consumers))
	for tag := range p.consumers {
		tags = append(tags, tag)
	}
	if len(tags) == 0 {
		m.t.Skip("no consumer")
	}
	slices.Sort(tags)
	tag := rapid.SampledFrom(tags).Draw(m.t, "tag")
	p.ch.Cancel(tag)
	m.events()
	delete(p.consumers, tag)
}

func (m *machine) qos() {
	p := m.peer()
	p.prefetch = rapid.IntRange(0, 3).Draw(m.t, "prefetch")
	p.ch.Qos(uint32(p.prefetch), false)
}

// tags picks one of a peer's deliveries, and whether all before it are meant.
func (m *machine) tags(p *peer) (tag uint64, multiple bool, list []uint64) {
	var all []uint64
	for tag := range p.held {
		all = append(all, tag)
	}
	if len(all) == 0 {
		m.t.Skip("nothing is held")
	}
	slices.Sort(all)
	i := rapid.IntRange(0, len(all)-1).Draw(m.t, "tag")
	if rapid.Bool().Draw(m.t, "multiple") {
		return all[i], true, all[:i+1]
	}
	return all[i], false, all[i : i+1]
}

func (m *machine) ack() {
	p := m.peer()
	tag, multiple, list := m.tags(p)
	for _, tag := range list {
		h := p.release(tag)
		m.settle(h.q, h.e)
	}
	m.must(p.ch.Ack(tag, multiple))
}

func (m *machine) nack() {
	p := m.peer()
	tag, multiple, list := m.tags(p)
	back := rapid.IntRange(0, 4).Draw(m.t, "back") > 0
	for _, tag := range list {
		h := p.release(tag)
		if back {
			m.requeue(h)
		} else {
			m.settle(h.q, h.e)
		}
	}
	m.must(p.ch.Nack(tag, multiple, back))
}

func (m *machine) closeChannel() {
	p := m.peer()
	p.ch.Close()
	m.abandon(p)
	m.openChannel(p)
}

// abandon takes what a peer is told still, and puts back what it held.
func (m *machine) abandon(p *peer) {
	p.buf = p.s.Take(p.buf)
	for _, e := range p.buf {
		// What needs no settlement is delivered also when the channel closes.
		if e.Kind == broker.EventDelivery {
			c := p.consumers[e.Consumer.Tag()]
			p.lastTag = e.Tag - 1
			m.settle(c.q, m.take(p, c.q, e))
		}
	}
	p.s.Flushed(p.buf)
	for _, h := range p.held {
		m.requeue(h)
	}
	// A delivery that was not written is requeued too: the broker cannot know
	// that the peer has not seen it.
	for _, c := range p.consumers {
		for _, e := range c.q.entries {
			e.redelivered = e.redelivered || e.holder == nil && e.fresh
		}
	}
}

func (m *machine) purge() {
	q := m.queue()
	ready := q.ready()
	n, err := m.peers[0].s.PurgeQueue(q.name)
	m.must(err)
	if n != len(ready) {
		m.t.Fatalf("purged %d of %s, want %d", n, q.name, len(ready))
	}
	for _, e := range ready {
		m.settle(q, e)
	}
}

func (m *machine) redeclare() {
	q := m.queue()
	_, err := m.peers[1].s.DeleteQueue(q.name, false, false)
	m.must(err)
	delete(m.queues, q.name)
	for _, p := range m.peers {
		for tag, c := range p.consumers {
			if c.q == q {
				p.ch.Cancel(tag)
				delete(p.consumers, tag)
			}
		}
	}
	if rapid.Bool().Draw(m.t, "again") {
		m.declare(q.name)
	}
}

func (m *machine) declareAll() {
	for _, n := range names {
		m.declare(n)
	}
}

// transaction publishes and settles on a channel of its own.
func (m *machine) transaction() {
	pubs := m.drawPublishes(0, 3)
	q := m.queue()
	settles := rapid.IntRange(0, 3).Draw(m.t, "settles")
	back := rapid.IntRange(0, 3).Draw(m.t, "rollback") == 0
	p := m.connect()
	defer p.s.Close()
	ch := p.s.OpenChannel(2)
	m.must(ch.TxSelect())
	for _, x := range pubs {
		m.must(ch.Publish(&x.p))
	}
	var taken []held
	for range settles {
		found, err := ch.Get(q.name, false)
		m.must(err)
		if !found {
			break
		}
		var events []broker.Event
		for len(events) == 0 {
			<-p.s.Wake()
			events = p.s.Take(nil)
		}
		p.s.Flushed(events)
		taken = append(taken, held{q: q, e: m.take(p, q, events[0])})
		m.must(ch.Ack(events[0].Tag, false))
	}
	if back {
		for _, h := range taken {
			m.requeue(h)
		}
		return
	}
	m.must(ch.TxCommit())
	for _, x := range pubs {
		m.add(x)
	}
	for _, h := range taken {
		m.settle(h.q, h.e)
	}
	if len(pubs)+len(taken) > 0 {
		m.flushed()
	}
}

func (m *machine) restart() {
	// What one connection gives back would go to the other's consumers.
	for _, p := range m.peers {
		for tag := range p.consumers {
			p.ch.Cancel(tag)
		}
	}
	m.events()
	m.stop()
	m.flushed()
	m.reopen(true)
}

func (m *machine) crash() {
	m.events()
	percent := rapid.SampledFrom([]int{0, 50, 100}).Draw(m.t, "kept")
	left := m.disk.CrashClone(percent, rand.New(rand.NewPCG(rapid.Uint64().Draw(m.t, "seed"), 0)))
	m.stop()
	m.disk = left
	m.reopen(false)
}

// reopen starts a broker on what is on disk, compares that with what must and
// may be there, and goes on with it. all is whether everything must be.
func (m *machine) reopen(all bool) {
	m.start()
	for name, q := range m.queues {
		if !q.durable {
			delete(m.queues, name)
			continue
		}
		p := m.peers[0]
		var there []*entry
		for {
			found, err := p.ch.Get(name, false)
			m.must(err)
			if !found {
				break
			}
			p.buf = p.s.Take(p.buf)
			for _, e := range p.buf {
				there = append(there, m.recovered(q, e))
			}
			p.s.Flushed(p.buf)
		}
		for _, e := range q.entries {
			must := e.persistent && !e.settled && (e.sure || all)
			if must && !slices.Contains(there, e) {
				m.t.Fatalf("%s: %.6s is lost", name, e.text)
			}
			if all && e.settled && slices.Contains(there, e) {
				m.t.Fatalf("%s: %.6s is back", name, e.text)
			}
		}
		if !slices.IsSortedFunc(there, func(a, b *entry) int { return a.place - b.place }) {
			m.t.Fatalf("%s: not in order", name)
		}
		for i, e := range there {
			if i > 0 && there[i-1] == e {
				m.t.Fatalf("%s: %.6s is there twice", name, e.text)
			}
			e.holder, e.redelivered, e.settled, e.sure = nil, true, false, true
		}
		q.entries = there
	}
	m.peers[0].s.Close()
	m.peers[0] = m.connect()
	m.declareAll()
}

func (m *machine) recovered(q *queue, e broker.Event) *entry {
	v, err := message.Parse(e.Data)
	m.must(err)
	if !e.Redelivered {
		m.t.Fatalf("%s: %.6s is not redelivered", q.name, v.Body)
	}
	for _, x := range q.entries {
		if x.text == string(v.Body) && x.persistent {
			return x
		}
	}
	m.t.Fatalf("%s: %.6q came back from nowhere", q.name, v.Body)
	return nil
}

// TestBrokerIsLikeItsModel does random things.
func TestBrokerIsLikeItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{t: t, disk: vfs.NewMem(), queues: map[string]*queue{}}
		defer m.end()
		m.start()
		m.declareAll()
		t.Repeat(map[string]func(*rapid.T){
			"publish":     func(t *rapid.T) { m.t = t; m.publish() },
			"publish2":    func(t *rapid.T) { m.t = t; m.publish() },
			"confirm":     func(t *rapid.T) { m.t = t; m.confirm() },
			"get":         func(t *rapid.T) { m.t = t; m.get() },
			"consume":     func(t *rapid.T) { m.t = t; m.consume() },
			"cancel":      func(t *rapid.T) { m.t = t; m.cancel() },
			"qos":         func(t *rapid.T) { m.t = t; m.qos() },
			"ack":         func(t *rapid.T) { m.t = t; m.ack() },
			"ack2":        func(t *rapid.T) { m.t = t; m.ack() },
			"nack":        func(t *rapid.T) { m.t = t; m.nack() },
			"close":       func(t *rapid.T) { m.t = t; m.closeChannel() },
			"purge":       func(t *rapid.T) { m.t = t; m.purge() },
			"delete":      func(t *rapid.T) { m.t = t; m.redeclare() },
			"declare":     func(t *rapid.T) { m.t = t; m.declareAll() },
			"transaction": func(t *rapid.T) { m.t = t; m.transaction() },
			"restart":     func(t *rapid.T) { m.t = t; m.restart() },
			"crash":       func(t *rapid.T) { m.t = t; m.crash() },
			"":            func(t *rapid.T) { m.t = t; m.check() },
		})
		m.stop()
		m.b = nil
	})
}
