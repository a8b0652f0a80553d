package broker

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"github.com/ferrymq/ferry/internal/message"
)

// An exchange of type x-message-deduplication sends a message to all that is bound to
// it, unless the value of the message's header x-deduplication-header is one of the
// last x-cache-size that it has seen, or, with x-cache-ttl, of those within so many
// milliseconds; a message may say its own x-cache-ttl. Without that header a message
// always goes through. Names and arguments are those of the plugin of this name for
// RabbitMQ.
//
// The values are the ids of a window (window.go), and what is said there holds: what
// is remembered of a persistent message in a durable queue is in the log with it, in
// the same batch and transaction, so that it outlives what the message does. A value
// counts when a queue has taken its message. A repeat is dropped, which is no reason
// to return it or to send it to an alternate exchange, and confirmed when its original
// is durable. When the window is full the oldest value is forgotten.
//
// Such an exchange may also be bound to others. What has passed it before then does
// not reach the queues behind it; those that a message reaches otherwise get it.
const (
	dedupHeader    = "x-deduplication-header"
	dedupAgeHeader = "x-cache-ttl"
)

const (
	// windowMost is how many values an exchange may remember: more are not asked for
	// by anybody whose memory is to hold them.
	windowMost = 1 << 28
	// filtersMost is how many such exchanges a message is looked up at on its way. What
	// comes behind them lets all through.
	filtersMost = 6
	// seenRecordIDs is how many values one record of a checkpoint has.
	seenRecordIDs = 8 << 10
)

// checkDedupArgs checks the arguments of such an exchange.
func checkDedupArgs(spec *ExchangeSpec) *Error {
	if n, ok := intArg(spec.Args, "x-cache-size"); !ok || n <= 0 {
		return errorf(PreconditionFailed, "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0")
	}
	if _, there := findArg(spec.Args, "x-cache-ttl"); there {
		if n, ok := intArg(spec.Args, "x-cache-ttl"); !ok || n <= 0 {
			return errorf(PreconditionFailed, "Invalid argument, 'x-cache-ttl' must be an integer greater than 0")
		}
	}
	if a, there := findArg(spec.Args, "x-cache-persistence"); there && (a.kind != 'S' || a.String() != "disk" && a.String() != "memory") {
		return errorf(PreconditionFailed, "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'")
	}
	return nil
}

// intArg reads an argument that is an integer, or a text of one.
func intArg(args []byte, name string) (n int64, ok bool) {
	a, ok := findArg(args, name)
	if !ok {
		return 0, false
	}
	return a.integer()
}

func (a arg) integer() (n int64, ok bool) {
	switch v := a.decoded().(type) {
	case int64:
		return v, true
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// newSeen makes the window of such an exchange.
func (v *VHost) newSeen(x *exchange) *window {
	w := &window{of: &v.windows, x: x, address: address{exchange: x.spec.Name}, number: v.windows.numbers.Add(1)}
	size, _ := intArg(x.spec.Args, "x-cache-size")
	w.most = int(min(max(size, 1), windowMost))
	age, _ := intArg(x.spec.Args, "x-cache-ttl")
	w.age = max(age, 0)
	return w
}

// hashDedup is the id that the value of a header stands for: one for an integer
// whatever its size on the wire, and one for a text and for the same bytes.
func hashDedup(kind byte, value []byte) dupID {
	switch kind {
	case 'S', 'x':
		kind, value = 'S', value[4:]
	default:
		if n, ok := (arg{kind, value}).decoded().(int64); ok {
			kind, value = 'l', binary.BigEndian.AppendUint64(nil, uint64(n))
		}
	}
	h := sha256.New()
	h.Write([]byte{kind})
	h.Write(value)
	var sum [sha256.Size]byte
	return dupID(h.Sum(sum[:0])[:len(dupID{})])
}

// ageOf reads the x-cache-ttl of a message: ms, and one; 0: it says nothing.
func ageOf(kind byte, value []byte) int64 {
	n, ok := arg{kind, value}.integer()
	if !ok {
		return 0
	}
	return min(max(n, 0), math.MaxInt64-1) + 1
}

// untilOf is until when an id that is seen now is remembered.
func (w *window) untilOf(ext *recordExt) int64 {
	if w.x == nil {
		return 0
	}
	age := w.age
	if ext.age != 0 {
		age = ext.age - 1
	} else if age == 0 {
		return 0
	}
	now := wallClock()
	return now + min(age, math.MaxInt64-now)
}

// filtered adds the windows that a path leads through to those of a message that has
// a value.
func (p *publisher) filtered(r *path, first *recordExt) *recordExt {
	return r.addFilters(first, hashDedup(p.value.kind, p.value.value), p.age, p.ext)
}

func (r *path) addFilters(first *recordExt, id dupID, age int64, room func() *recordExt) *recordExt {
	last := &first
	for *last != nil {
		last = &(*last).also
	}
	for _, w := range r.filters {
		ext := room()
		ext.window, ext.id, ext.age = w, id, age
		*last = ext
		last = &ext.also
	}
	return first
}

// filter notes the windows that a message which is moved goes through.
func (it *moving) filter(props []byte) {
	it.ext = nil
	if len(it.r.filters) == 0 {
		return
	}
	headers := message.Field(props, message.Headers)
	a, ok := findArg(headers, dedupHeader)
	if !ok {
		return
	}
	age := int64(0)
	if x, ok := findArg(headers, dedupAgeHeader); ok {
		age = ageOf(x.kind, x.value)
	}
	it.ext = it.r.addFilters(nil, hashDedup(a.kind, a.value), age, func() *recordExt { return &recordExt{} })
}

// lockWindows locks the windows that the first n messages go through.
func (w *carrier) lockWindows(v *VHost, n int) []*window {
	var list []pubItem
	for i := range w.items[:n] {
		if it := &w.items[i]; it.r != nil && it.ext != nil {
			list = append(list, pubItem{ext: it.ext})
		}
	}
	if list == nil {
		return nil
	}
	return v.windows.lockMany(list)
}

// seenLocked finds the way that is left to a message which is moved; none: it is a
// repeat.
func (it *moving) seenLocked() {
	if it.r == nil || it.ext == nil {
		return
	}
	as := pubItem{r: it.r, ext: it.ext}
	it.r = as.seenLocked()
	it.ext = as.ext
}

// rememberLocked notes that it was moved, to a queue that the log knows if p is what
// that is told; nil: to others.
func (it *moving) rememberLocked(p *movedTo) {
	state := idInMemory
	if p != nil {
		state, p.ext = idInLog, it.ext
	}
	for ext := it.ext; ext != nil; ext = ext.also {
		ext.window.addLocked(ext.id, state, ext.until)
	}
}

// seenLocked takes the windows out of a message's that have seen it, and finds the
// way that is left to it; nil: it is a repeat. All its windows are locked.
func (it *pubItem) seenLocked() *path {
	blocked := 0
	for at := &it.ext; *at != nil; {
		ext := *at
		if !ext.window.hasLocked(ext.id) {
			ext.until = ext.window.untilOf(ext)
			at = &ext.also
			continue
		}
		i := slices.Index(it.r.filters, ext.window)
		if i < 0 || it.r.ways == nil {
			return nil
		}
		blocked |= 1 << i
		*at = ext.also
	}
	if blocked == 0 {
		return it.r
	}
	if r := it.r.ways[blocked]; len(r.queues) > 0 {
		return r
	}
	return nil
}

// rememberLocked notes that a message went to a place, in its windows, all locked.
func (it *pubItem) rememberLocked(where place) {
	for ext := it.ext; ext != nil; ext = ext.also {
		ext.window.addLocked(ext.id, it.idState(where), ext.until)
	}
}

// insertFiltered puts messages into their queues one by one: each goes by several
// windows, or by some of its ways only.
func (s *Session) insertFiltered(run []pubItem) {
	for i := range run {
		one := run[i : i+1]
		locked := s.v.windows.lockMany(one)
		if r := one[0].seenLocked(); r != nil {
			one[0].r = r
			where := s.insertRun(r, one)
			if where != nowhere && !one[0].refused {
				one[0].rememberLocked(where)
			}
			s.took(one, where)
		} else {
			s.dropSeen(append(s.pub.repeats[:0], one[0]))
		}
		for _, w := range locked {
			w.mu.Unlock()
		}
	}
	s.v.windows.trim()
}

// dropSeen lets go of messages that a window has seen, which are in the session's
// scratch, and confirms them. Those of a producer, which is locked, are accepted by
// that: it does not send them again.
func (s *Session) dropSeen(repeats []pubItem) {
	if len(repeats) == 0 || repeats[0].from == nil {
		s.dropped(repeats)
		return
	}
	l := s.b.log
	l.mu.Lock()
	for i := range repeats {
		r := record{n: repeats[i].id, ext: repeats[i].from.ext, tag: repeats[i].tag}
		if r.tag != 0 {
			r.ch = repeats[i].ch
		}
		l.recs = append(l.recs, r)
	}
	l.unlockAndWake()
	for i := range repeats {
		repeats[i].from.acceptLocked(&repeats[i], true)
		repeats[i].tag = 0
	}
	s.dropped(repeats)
}

// appendSeen encodes ids of the window of an exchange, without the kind of the
// record.
func (w *window) appendSeen(dst []byte, whole bool, n int, ids []byte) []byte {
	dst = appendText(appendText(dst, w.of.vhost), w.exchange)
	if whole {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 0)
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	return append(dst, ids...)
}

// seenRecords describe the window of an exchange for a checkpoint.
func (w *window) seenRecordsLocked() (records [][]byte) {
	var ids []byte
	n := 0
	put := func() {
		if n > 0 {
			records = append(records, w.appendSeen(nil, len(records) == 0, n, ids))
			ids, n = ids[:0], 0
		}
	}
	now := wallClock()
	for i := range w.n {
		at := w.at(i)
		id, until := w.ring[at], int64(0)
		if w.until != nil {
			until = w.until[at]
		}
		if s := w.ids[id]; s.state() != idInLog || w.slotAt(s) != at || tooOld(until, now) {
			continue
		}
		ids = binary.AppendUvarint(append(ids, id[:]...), uint64(until))
		if n++; n == seenRecordIDs {
			put()
		}
	}
	put()
	return records
}

// seenWindows are those of the exchanges of a virtual host that drop repeats and
// outlive a restart, in the order in which they are locked.
func (v *VHost) seenWindows() (list []*window) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, x := range v.exchanges {
		if x.seen != nil && x.spec.Durable {
			list = append(list, x.seen)
		}
	}
	slices.SortFunc(list, func(a, b *window) int { return cmp.Compare(a.number, b.number) })
	return list
}

// A seenID is one of such a record.
type seenID struct {
	id    dupID
	until int64
}

// seenRecord reads such a record.
func (r *reader) seenRecord() (vhost, exchange string, whole bool, list []seenID) {
	vhost, exchange = r.text(), r.text()
	flag := r.byte()
	n := r.count()
	if flag > 1 || n*(len(dupID{})+1) > len(r.b) {
		r.b, r.err = nil, errRecord
		return vhost, exchange, false, nil
	}
	list = make([]seenID, 0, n)
	for range n {
		if len(r.b) < len(dupID{}) {
			r.b, r.err = nil, errRecord
			return vhost, exchange, false, nil
		}
		id := dupID(r.b[:len(dupID{})])
		r.b = r.b[len(dupID{}):]
		until := r.num()
		if until > math.MaxInt64 {
			r.b, r.err = nil, errRecord
			return vhost, exchange, false, nil
		}
		list = append(list, seenID{id, int64(until)})
	}
	return vhost, exchange, flag == 1, list
}

// seen takes in what an exchange has let through.
func (r *replayer) seen(rd *reader, full bool) {
	vhost, name, whole, list := rd.seenRecord()
	v := r.b.vhosts[vhost]
	if !full || v == nil || rd.err != nil {
		return
	}
	x := v.exchanges[name]
	if x == nil || x.seen == nil {
		return
	}
	if whole {
		x.seen.clearLocked() // nobody else is there
	}
	for _, s := range list {
		if !x.seen.hasLocked(s.id) {
			x.seen.addLocked(s.id, idInLog, s.until)
		}
	}
}

// header is the value of a header, as it was sent; kind 0: there is none.
type header struct {
	kind  byte
	value []byte
}

// findWays finds where messages go that some of the path's filters have seen: by the
// set of these, as bits.
func (x *exchange) findWays(as routing) {
	r := as.r
	r.ways = make([]*path, 1<<len(r.filters))
	r.ways[0] = r
	for blocked := 1; blocked < len(r.ways); blocked++ {
		way := &path{version: r.version, counts: r.counts, filters: slices.Clip(r.filters)}
		s := as
		s.r, s.blocked = way, blocked
		s.through(x)
		way.sort()
		// Chance may have chosen otherwise; what is not on the first way is not locked.
		way.queues = slices.DeleteFunc(way.queues, func(q *Queue) bool { return !slices.Contains(r.queues, q) })
		r.ways[blocked] = way
	}
}

// filter tells whether an exchange that drops repeats has seen the message, and notes
// that it is on its way.
func (s *routing) filter(x *exchange) (seen bool) {
	i := slices.Index(s.r.filters, x.seen)
	if i < 0 {
		if i = len(s.r.filters); i == filtersMost {
			return false
		}
		s.r.filters = append(s.r.filters, x.seen)
		s.partly = s.partly || x != s.first
	}
	return s.blocked&(1<<i) != 0
}
