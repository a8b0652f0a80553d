package broker

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

const (
	carriers    = 2       // at work at once
	moveMost    = 512     // messages that are moved at once
	moveBytes   = 1 << 20 // of such messages; one may be larger
	movePending = 8 << 20 // instead of logPending, while memory is short
	moveRoutes  = 1024    // routes that a carrier remembers

	obituaryRoom = 1 << 10 // bytes that dead-lettering adds to a message, most of the time
)

// moves carries messages from queue to queue: dead letters, and what else leaves a
// queue without being settled. What is moved is appended to the queues that it goes
// to and settled in its own in one transaction of the log, so that a crash finds it
// either here or there. Of one queue messages are moved in the order in which they
// left, by one carrier at a time.
type moves struct {
	b    *Broker
	wake chan struct{} // a slot

	mu     sync.Mutex // guards queues; innermost
	queues []*Queue   // that have messages to be moved, and no carrier, in their turns
}

func newMoves(b *Broker) *moves { return &moves{b: b, wake: make(chan struct{}, 1)} }

// add puts a queue on the list.
func (m *moves) add(q *Queue) {
	m.mu.Lock()
	m.queues = append(m.queues, q)
	m.mu.Unlock()
	m.poke()
}

func (m *moves) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// next takes the first queue off the list, nil if there is none.
func (m *moves) next() *Queue {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queues) == 0 {
		m.queues = nil
		return nil
	}
	q := m.queues[0]
	m.queues[0] = nil
	if m.queues = m.queues[1:]; len(m.queues) > 0 {
		m.poke() // for the other carriers
	}
	return q
}

// run is one carrier: it ends with the broker. What it has not moved by then is where
// it was.
func (m *moves) run() {
	w := carrier{b: m.b}
	for {
		select {
		case <-m.wake:
		case <-m.b.quit:
			return
		case <-m.b.failed:
			return
		}
		for q := m.next(); q != nil && !m.b.ending(); q = m.next() {
			if err := w.move(q); err != nil {
				if !errors.Is(err, errClosing) {
					m.b.fail(err)
				}
				return
			}
		}
		w.v, w.kept, w.routes = nil, nil, nil // what is deleted is to be forgotten
	}
}

// moving is a message that is on its way.
type moving struct {
	seq   uint64
	why   reason
	rules *rules  // of its queue when it left
	count uint32  // deliveries in vain, by a queue that counts
	from  *stored // as it was when it was taken; the cleaner may have copied it since
	block []byte  // its own

	letter     []byte // what it will be
	body       int64  // bytes of its body
	r          *path  // where it goes; nil: no queue takes it
	persistent bool
	priority   uint8
	ttl        int64      // arrival.ttl where it goes; 0 of dead letters, which have none
	delay      int64      // of a dead letter that goes to an exchange that delays it, ms; 0
	ext        *recordExt // the windows on its way, and its id there; nil: there are none
}

// A carrier moves messages. It keeps what it needs for that, and no message.
type carrier struct {
	b     *Broker
	items []moving
	cold  []*stored

	writer  obituary
	key     []byte
	scratch []byte
	slab    []byte
	pool    []stored

	// Routes that are remembered: of one exchange, as long as it does not change.
	v       *VHost
	to      string
	kept    *exchange // instead: of what this one has kept
	version uint64
	routes  map[string]*path

	queues []*Queue // that are locked
	into   []*Queue // that one message enters
	pubs   []movedTo
}

// movedTo is a message that enters queues that the log knows.
type movedTo struct {
	m    *stored
	one  target     // in one queue
	with attrs      // its attributes there
	many []target   // or in several
	all  []attrs    // its attributes in these, nil if it has none
	ext  *recordExt // the windows that it has gone through, and its id there; nil
}

// move moves some messages of a queue.
func (w *carrier) move(q *Queue) error {
	q.mu.Lock()
	if q.deleted {
		q.mu.Unlock()
		return nil
	}
	x := q.exit
	w.items = x.takeLocked(q, w.items[:0], moveMost, moveBytes)
	q.mu.Unlock()
	defer w.forget()

	ready, err := w.read()
	if err != nil {
		return err
	}
	if err := w.waitLog(); err != nil {
		return err
	}
	w.writer.now = time.Now().Unix()
	for i := range w.items[:ready] {
		if err := w.prepare(q, &w.items[i]); err != nil {
			return err
		}
	}
	w.carryOut(q, ready)
	if w.b.evict.over() {
		w.b.evict.poke()
	}
	return nil
}

func (w *carrier) forget() {
	clear(w.items)
	clear(w.cold)
	clear(w.pubs)
	clear(w.queues)
	clear(w.into)
	w.cold, w.pubs, w.queues = w.cold[:0], w.pubs[:0], w.queues[:0]
	if cap(w.scratch) > slabMax {
		w.scratch = nil
	}
}

// read makes sure that the bodies of a first part of the messages are in memory, and
// returns how many these are.
func (w *carrier) read() (int, error) {
	for i := range w.items {
		if it := &w.items[i]; it.from.data.Load() == nil {
			w.cold = append(w.cold, it.from)
		}
	}
	if len(w.cold) > 0 {
		w.b.loading <- struct{}{}
		err := w.b.readBack(w.cold)
		<-w.b.loading
		if err != nil {
			return 0, err
		}
	}
	for i := range w.items {
		it := &w.items[i]
		// Evicted again, forgotten with its queue, or copied by the cleaner.
		if it.block = it.from.block(); it.block == nil {
			return i, nil
		}
	}
	return len(w.items), nil
}

// waitLog waits while too much waits for the journal: less is too much when there is
// too much in memory.
func (w *carrier) waitLog() error {
	l := w.b.log
	for {
		most := logPending
		if w.b.evict.over() {
			most = movePending
		}
		l.mu.Lock()
		if l.bytes < most {
			l.mu.Unlock()
			return nil
		}
		next := l.waiterLocked()
		l.unlockAndWake()
		select {
		case <-next.done:
		case <-w.b.failed:
			return errClosing
		case <-w.b.quit:
			return errClosing
		}
	}
}

// prepare makes the block of what a message becomes, and finds where it goes. A
// message that was delivered in vain too often is never dropped: what no dead-letter
// exchange takes is parked.
func (w *carrier) prepare(q *Queue, it *moving) error {
	view, err := message.Parse(it.block)
	if err != nil {
		return err
	}
	it.persistent = view.Persistent
	if it.why == released {
		return w.release(q, it)
	}
	if it.rules.deadTo != nil {
		if err := w.address(q, it, &view, *it.rules.deadTo, it.rules.deadKey); err != nil || it.r != nil {
			return err
		}
	}
	if it.why != deliveryLimit {
		return nil
	}
	name := q.v.parking(q.name)
	return w.address(q, it, &view, "", &name)
}

// address makes a dead letter of a message, to an exchange, and with a key instead of
// its own if there is one. If no queue takes it, it.r is nil.
func (w *carrier) address(q *Queue, it *moving, view *message.View, to string, key *string) error {
	o := &w.writer
	o.count = it.count
	o.why, o.from, o.to, o.key = it.why, append(o.from[:0], q.name...), append(o.to[:0], to...), nil
	if key != nil {
		w.key = append(w.key[:0], *key...)
		o.key = w.key[:len(w.key):len(w.key)]
	}
	if len(to) > message.MaxName || len(o.key) > message.MaxName {
		return nil // no exchange has such a name, and no message such a key
	}
	block := w.write(view, len(it.block))
	dead, err := message.Parse(block)
	if err != nil {
		return err
	}
	r := w.route(q.v, to, &Publish{Exchange: dead.Exchange, Key: dead.Key, Properties: dead.Properties})
	if it.why != rejected && slices.ContainsFunc(r.queues, w.cycles) {
		cut := *r
		cut.queues = slices.DeleteFunc(slices.Clone(r.queues), w.cycles)
		r = &cut
	}
	if len(r.queues) > 0 {
		it.letter, it.body, it.r = block, int64(len(dead.Body)), r
		_, it.priority = lifeOf(dead.Properties)
		if r.delays {
			it.delay = propertiesDelay(dead.Properties)
		}
		if it.why != deliveryLimit { // of which nothing is dropped
			it.filter(dead.Properties)
		}
	}
	return nil
}

func (w *carrier) cycles(q *Queue) bool { return w.writer.cycles(q.name) }

// write makes a dead letter of a message whose block has so many bytes.
func (w *carrier) write(view *message.View, size int) []byte {
	if size >= ownBlock {
		return w.writer.write(make([]byte, 0, size+obituaryRoom), view)
	}
	w.scratch = w.writer.write(w.scratch[:0], view)
	n := len(w.scratch)
	if n > ownBlock {
		return slices.Clone(w.scratch)
	}
	if len(w.slab) < n {
		w.slab = make([]byte, slabMax)
	}
	block := append(w.slab[:0:n], w.scratch...)
	w.slab = w.slab[n:]
	return block
}

func (w *carrier) message() *stored {
	if len(w.pool) == 0 {
		w.pool = make([]stored, min(64, max(1, len(w.items))))
	}
	m := &w.pool[0]
	w.pool = w.pool[1:]
	return m
}

// route finds where a dead letter, that was written last, goes. No exchange of that
// name is the same as one without bindings.
func (w *carrier) route(v *VHost, to string, m *Publish) *path {
	if version := v.version.Load(); w.kept != nil || w.v != v || w.to != to || w.version != version || w.routes == nil {
		w.v, w.to, w.version, w.kept = v, to, version, nil
		w.routes = map[string]*path{}
	}
	if !w.writer.copied {
		if r := w.routes[string(m.Key)]; r != nil {
			return r
		}
	}
	r, keep := v.deadRoute(to, m)
	if keep {
		if len(w.routes) >= moveRoutes {
			clear(w.routes)
		}
		w.routes[string(m.Key)] = r
	}
	return r
}

// carryOut moves the first n messages: all queues that have to do with it are locked,
// in the order of their numbers, so that its records stand together in the log.
func (w *carrier) carryOut(q *Queue, n int) {
	b := w.b
	w.queues = append(w.queues[:0], q)
	for i := range w.items[:n] {
		if r := w.items[i].r; r != nil {
			w.queues = append(w.queues, r.queues...)
		}
	}
	slices.SortFunc(w.queues, byNumber)
	w.queues = slices.Compact(w.queues)
	windows := w.lockWindows(q.v, n)
	for _, x := range w.queues {
		x.mu.Lock()
	}
	hot, taken := 0, 0
	for i := range w.items[:n] {
		it := &w.items[i]
		if e := q.entryLocked(it.seq); q.deleted || e == nil || e.state != leaving {
			continue
		}
		if i > 0 && it.waitsLocked() || it.strandedLocked() {
			n = i
			break
		}
		it.seenLocked()
		size := w.insertLocked(q, it)
		hot += size
		q.removeLocked(it.seq)
		if size > 0 {
			taken++
		}
	}
	w.recordLocked(q)
	q.forgetLocked()
	if q.delay != nil {
		for i := range w.items[:n] {
			q.repackLocked(w.items[i].seq)
		}
	} else if taken > 0 {
		q.count(DeadLettered, taken)
	}
	b.evict.hot.Add(int64(hot))
	if !q.deleted {
		x := q.exit
		x.done += uint64(n)
		x.returnLocked(w.items[n:])
		if x.busy = len(x.list) > 0; x.busy {
			b.moves.add(q)
		}
		x.tellLocked()
	}
	for _, x := range w.queues {
		if !x.deleted {
			x.dispatchLocked()
		}
		x.mu.Unlock()
	}
	for _, x := range windows {
		x.mu.Unlock()
	}
}

// insertLocked puts a message of q into the queues that it goes to, and returns how
// many bytes of memory it takes; 0: no queue took it.
func (w *carrier) insertLocked(q *Queue, it *moving) int {
	if it.r == nil {
		return 0
	}
	m := w.message()
	m.setBlock(it.letter)
	m.persistent, m.priority = it.persistent, it.priority
	as := pubItem{m: m, over: headBytes(len(it.letter) - int(it.body)), ttl: it.ttl, delay: it.delay}
	logged, others := 0, 0
	w.into = w.into[:0]
	for _, t := range it.r.queues {
		if !it.entersLocked(t) || it.why != deliveryLimit && t.repeatsLocked(&as) && (t != q || q.values[*as.value] != it.seq) {
			continue
		}
		if w.into = append(w.into, t); t.logged {
			logged++
		} else {
			others++
		}
	}
	if logged+others == 0 {
		return 0
	}
	other := m.split(w.b, logged, others)
	to := movedTo{m: m}
	if logged > 1 {
		to.many = make([]target, 0, logged)
	}
	for _, t := range w.into {
		full := t.refusesLocked(it.body)
		enters := other
		if t.logged {
			enters = m
		}
		seq := t.appendLocked(enters, as.arrival(t))
		if t.logged {
			to.one, to.with = target{t.num, seq}, t.publishAttrsLocked(&as, seq)
			if logged > 1 {
				to.many = append(to.many, to.one)
				to.all = addAttrs(to.all, len(to.many), to.with)
			}
		}
		if full && it.why != deliveryLimit {
			t.expelLocked(seq, maxlen) // to that one's own dead-letter exchange
		}
	}
	if logged > 0 && m.persistent {
		m.logged, m.journaled = int32(logged), true
		w.pubs = append(w.pubs, to)
		it.rememberLocked(&w.pubs[len(w.pubs)-1])
	} else {
		it.rememberLocked(nil)
	}
	return int(m.size)
}

// entersLocked tells whether a queue takes the message. One that is full may refuse
// it, or take it to dead-letter it in turn; but what was delivered in vain too often
// is dropped nowhere.
func (it *moving) entersLocked(t *Queue) bool {
	if t.deleted {
		return false
	}
	return it.why == deliveryLimit || !t.refusesLocked(it.body) ||
		t.rules.overflow == rejectPublishDLX && t.rules.deadTo != nil
}

// waitsLocked tells whether the message would be refused by a queue whose consumers
// may make room, if they are first given what has entered before.
func (it *moving) waitsLocked() bool {
	return it.r != nil && slices.ContainsFunc(it.r.queues, func(t *Queue) bool {
		return len(t.consumers) > 0 && t.refusesLocked(it.body)
	})
}

// strandedLocked tells whether the message is dropped nowhere, and has to look for
// another way: the queues that were found for it have been deleted since.
func (it *moving) strandedLocked() bool {
	return it.why == deliveryLimit && it.r != nil && !slices.ContainsFunc(it.r.queues, func(t *Queue) bool { return !t.deleted })
}

// recordLocked tells the log what was moved out of a queue. If a message is both
// settled here and published there, in its eyes, it is a transaction: before its end
// none of it has happened.
func (w *carrier) recordLocked(q *Queue) {
	if len(w.pubs) == 0 && (!q.logged || len(q.settled) == 0) {
		return
	}
	whole := q.logged && len(w.pubs) > 0 && slices.ContainsFunc(q.settled, func(s settledItem) bool { return s.msg.persistent })
	l := w.b.log
	l.mu.Lock()
	if whole {
		l.markLocked(recTxBegin)
	}
	for i := range w.pubs {
		p := &w.pubs[i]
		it := pubItem{m: p.m, ext: p.ext}
		if p.many != nil {
			l.publishManyLocked(&it, p.many, p.all)
		} else {
			l.publishLocked(&it, p.one.queue, p.one.seq, p.with)
		}
	}
	if q.logged {
		q.logLocked(whole)
	}
	if whole {
		l.markLocked(recTxEnd)
	}
	l.unlockAndWake()
}

// parkedSuffix ends the name of the queue where messages are parked.
const parkedSuffix = ".parked"

// parking returns the name of the queue where the messages of a queue are parked that
// were delivered in vain too often. It is durable, and is made if it is not there.
func (v *VHost) parking(of string) string {
	name := of[:min(len(of), message.MaxName-len(parkedSuffix))] + parkedSuffix
	v.mu.RLock()
	q := v.queues[name]
	v.mu.RUnlock()
	if q != nil {
		return name
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.queues[name] == nil && !v.gone.Load() {
		q := v.addQueue(v.b.nextQueue.Add(1), QueueSpec{Name: name, Durable: true})
		v.changed()
		v.b.log.write(recQueue, q.record())
		v.b.logger.Warn("messages that were delivered in vain too often are parked", "queue", of, "parked", name)
	}
	return name
}
