package broker

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// idHeader is the header, a long text, that names a message for good:
// PRODUCER-SEQ, where PRODUCER is 1 to 32 characters of [a-z0-9] that its
// publisher made up, and SEQ counts its messages from 1, in decimal without
// leading zeros. A virtual host stores a message of one identity once: what its
// publisher sends again, marked by attemptHeader, is dropped, and confirmed when
// the original is safe. Any other value means nothing.
const idHeader = "x-ferry-id"

const (
	producerNameMax = 32    // characters
	producersMax    = 65536 // that a virtual host remembers
)

// parseID takes an identity apart. ok is false where it is none.
func parseID(id []byte) (name []byte, seq uint64, ok bool) {
	n := 0
	for n < len(id) && n <= producerNameMax && isProducerByte(id[n]) {
		n++
	}
	if n == 0 || n > producerNameMax || n == len(id) || id[n] != '-' {
		return nil, 0, false
	}
	seq = parseSeq(id[n+1:])
	return id[:n], seq, seq > 0
}

func isID(id []byte) bool {
	_, _, ok := parseID(id)
	return ok
}

func isProducerByte(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' }

func isProducerName(name []byte) bool {
	for _, c := range name {
		if !isProducerByte(c) {
			return false
		}
	}
	return len(name) > 0 && len(name) <= producerNameMax
}

// parseSeq reads a decimal number without leading zeros that fits 64 bits; 0:
// it is none.
func parseSeq(digits []byte) (n uint64) {
	const safe = 19 // digits that always fit
	if len(digits) == 0 || len(digits) > safe+1 || digits[0] == '0' {
		return 0
	}
	for i, c := range digits {
		d := uint64(c - '0')
		if d > 9 || i == safe && (n > (1<<64-1)/10 || n*10 > 1<<64-1-d) {
			return 0
		}
		n = n*10 + d
	}
	return n
}

// A producer is whoever made up a name for the identities of its messages. Its
// messages enter queues under its mutex, so that of two connections that bring
// the same message one finds that the other brought it.
type producer struct {
	of   *producers
	name string
	ext  *recordExt    // of the records of its messages: it names the producer
	used atomic.Uint64 // when it was last, by the clock of all

	mu   sync.Mutex // guards what follows
	gone bool       // forgotten: another may stand for the name
	all  accepted
	// logged is what all has but for messages that a crash forgets, which must
	// then be taken again; nil: there were none such.
	logged *accepted
	// resent is what of all came as marked resends since the start: their
	// originals may yet arrive.
	resent accepted

	batch span // of the committer: what the open batch has of it, zero: nothing
}

// acceptLocked notes that a message was stored: in a queue and the log, or
// only in a queue.
func (p *producer) acceptLocked(it *pubItem, logged bool) {
	seq := it.id
	if !logged && p.logged == nil {
		p.logged = &accepted{p.all.top, slices.Clone(p.all.rest)}
	}
	p.all.add(span{seq, seq})
	if logged && p.logged != nil {
		p.logged.add(span{seq, seq})
	}
	if it.marked {
		p.resent.add(span{seq, seq})
	}
	it.ch.brings(it, !it.marked)
}

// producers are those that a virtual host remembers. To forget one is safe: a
// message that is not known to have been accepted is accepted.
type producers struct {
	vhost string
	most  int
	clock atomic.Uint64

	mu sync.Mutex // guards by; a producer's own is only tried under it
	by map[string]*producer
}

// find returns a producer, a new one if need be.
func (ps *producers) find(name []byte) *producer {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.by[string(name)]
	if p == nil {
		if len(ps.by) >= ps.most {
			ps.forgetLocked()
		}
		p = &producer{of: ps, name: string(name)}
		p.ext = &recordExt{from: p}
		if ps.by == nil {
			ps.by = map[string]*producer{}
		}
		ps.by[p.name] = p
	}
	p.touch()
	return p
}

func (p *producer) touch() { p.used.Store(p.of.clock.Add(1)) }

// lock locks a producer that was found before, or who has its name now.
func (ps *producers) lock(p *producer) *producer {
	p.mu.Lock()
	for p.gone {
		p.mu.Unlock()
		p = ps.find([]byte(p.name))
		p.mu.Lock()
	}
	p.touch()
	return p
}

// byUseLocked lists all, the least recently used first.
func (ps *producers) byUseLocked() []*producer {
	type entry struct {
		p    *producer
		used uint64
	}
	list := make([]entry, 0, len(ps.by))
	for _, p := range ps.by {
		list = append(list, entry{p, p.used.Load()})
	}
	slices.SortFunc(list, func(x, y entry) int { return cmp.Compare(x.used, y.used) })
	out := make([]*producer, len(list))
	for i := range list {
		out[i] = list[i].p
	}
	return out
}

// forgetLocked makes room: a sixteenth goes at once, so that it is seldom
// called. Who is being used now stays.
func (ps *producers) forgetLocked() {
	left := max(len(ps.by)/16, 1)
	for _, p := range ps.byUseLocked() {
		if left == 0 {
			return
		}
		if p.mu.TryLock() {
			p.gone = true
			p.mu.Unlock()
			delete(ps.by, p.name)
			left--
		}
	}
}

// list returns all, the least recently used first.
func (ps *producers) list() []*producer {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.byUseLocked()
}

// lockMany locks the producers of a transaction's messages, in the order of
// their names, and returns them. A message whose producer was forgotten just
// now has none any more.
func (ps *producers) lockMany(items []pubItem) []*producer {
	var by map[string]*producer
	for i := range items {
		p := items[i].from
		if p == nil {
			continue
		}
		now := by[p.name]
		if now == nil {
			if by == nil {
				by = map[string]*producer{}
			}
			now = ps.find([]byte(p.name))
			by[p.name] = now
		}
		items[i].from = now
	}
	if by == nil {
		return nil
	}
	list := slices.SortedFunc(maps.Values(by), func(x, y *producer) int { return cmp.Compare(x.name, y.name) })
	for _, p := range list {
		p.mu.Lock()
	}
	for i := range items {
		if p := items[i].from; p != nil && p.gone {
			items[i].from = nil
		}
	}
	return list
}

// identify finds the producer and the number that an identity means; nil: the
// message has none.
func (ch *Channel) identify(id []byte) (*producer, uint64) {
	if len(id) == 0 {
		return nil, 0
	}
	if p := ch.producer; p != nil {
		if n := len(p.name); len(id) > n && id[n] == '-' && string(id[:n]) == p.name {
			if seq := parseSeq(id[n+1:]); seq > 0 {
				return p, seq
			}
			return nil, 0
		}
	}
	name, seq, ok := parseID(id)
	if !ok {
		return nil, 0
	}
	ch.producer, ch.brought = ch.s.v.producers.find(name), brought{}
	return ch.producer, seq
}

// insertOnce puts messages of one producer, in ascending order of their
// numbers, into their queues, but those that repeat what was accepted. The mutex
// is held for all of it: a message counts as accepted only when a queue has
// it, and nobody who brings it again may be told so sooner.
func (s *Session) insertOnce(p *producer, r *path, run []pubItem) {
	now := s.v.producers.lock(p)
	defer now.mu.Unlock()
	if now != p {
		for i := range run {
			run[i].from = now
			if ch := run[i].ch; ch.producer == p {
				ch.producer = now
			}
		}
		p = now
	}
	if run[0].id <= p.all.top.last {
		if run = s.dropRepeats(p, run); len(run) == 0 {
			return
		}
	}
	if run[0].ext != nil {
		s.insertWindowed(r, run)
		return
	}
	s.took(run, s.insertRun(r, run))
}

// took notes that messages with identities were accepted, if they were. Their
// producer is locked.
func (s *Session) took(run []pubItem, where place) {
	if where == nowhere {
		return
	}
	for i := range run {
		if it := &run[i]; it.from != nil && !it.refused {
			it.from.acceptLocked(it, where == inLog && it.m.persistent)
		}
	}
}

// dropRepeats takes what repeats what was accepted out of a run, and returns the
// rest. The producer is locked.
func (s *Session) dropRepeats(p *producer, run []pubItem) (rest []pubItem) {
	repeats := s.pub.repeats[:0]
	rest = run[:0]
	for i := range run {
		if p.repeatsLocked(&run[i]) {
			repeats = append(repeats, run[i])
		} else {
			rest = append(rest, run[i])
		}
	}
	s.dropped(repeats)
	return rest
}

// dropped lets go of repeats, which are in the session's scratch, and confirms
// them.
func (s *Session) dropped(repeats []pubItem) {
	if len(repeats) == 0 {
		return
	}
	freed := 0
	for i := range repeats {
		freed += int(repeats[i].m.size)
	}
	s.b.evict.hot.Add(int64(-freed))
	s.confirmRepeats(repeats)
	clear(repeats)
	if s.pub.repeats = repeats[:0]; cap(repeats) > 64 {
		s.pub.repeats = nil
	}
}

// confirmRepeats confirms messages whose originals are in the log, or have
// gone through it, when these are durable: behind all that the log has.
func (s *Session) confirmRepeats(run []pubItem) {
	if !s.anyTag(run) {
		return
	}
	l := s.b.log
	l.mu.Lock()
	if l.idleLocked() {
		l.mu.Unlock()
		s.accepted(run)
		return
	}
	for i := range run {
		if run[i].tag == 0 {
			continue
		}
		if i > 0 && run[i].ch == run[i-1].ch && run[i].tag == run[i-1].tag+1 {
			l.recs[len(l.recs)-1].n++
			continue
		}
		l.recs = append(l.recs, record{ch: run[i].ch, tag: run[i].tag})
	}
	l.unlockAndWake()
}
