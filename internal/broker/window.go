package broker

import (
	"cmp"
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// duplicateHeader is the header, a text or bytes, by which clients of ActiveMQ
// Artemis name a message so that it is stored once however often it is sent. Any
// value that is not empty will do: unlike idHeader it does not say who made it up,
// nor what came before it. So the ids themselves are remembered, of each address
// the last ones, as Artemis does.
//
// An address is an exchange and a routing key as they were published: one id at
// two addresses is two messages. Its window holds the ids of messages that a
// queue took. What has an id of the window is a repeat, whoever brings it: it is
// dropped, and confirmed when all that the log has pending is durable, and so the
// original. When the window is full, the oldest id is forgotten. A message that
// has an identity (idHeader) too goes by that alone.
//
// In a transaction only the repeat itself is dropped. Artemis drops the whole of
// it, which loses the rest where that was not a repeat.
//
// Durable are the ids of messages that are in the log. They are written with the
// messages (recIDs) in one batch, within their transaction, so that a crash
// forgets both or none. The others are forgotten by a restart, as their messages
// are.
const duplicateHeader = "_AMQ_DUPL_ID"

// A window's ids take some 60 bytes each in memory, so that a virtual host needs
// 64 MiB for them at most, and as much again for the names of addresses at worst.
const (
	windowIDs   = 20000   // ids of an address: Artemis's default id-cache-size
	windowsIDs  = 1 << 20 // of all addresses of a virtual host
	windowsMost = 65536   // addresses of a virtual host

	trimLook = 1024 // windows that are looked at for one that has a share of all ids
)

// dupID stands for an id: half of its SHA-256. Nobody can make up a second id for
// that of another publisher's message (2^128 attempts), and whoever makes up two
// that are alike (2^64) loses a message of his own.
type dupID [16]byte

func hashID(id []byte) dupID {
	sum := sha256.Sum256(id)
	return dupID(sum[:len(dupID{})])
}

// idState is what is known of an id in a window.
type idState uint8

const (
	idEntering idState = iota // its message is being given to queues
	idInMemory                // a queue took it that a restart forgets
	idInLog
)

// An idSlot is the state of an id, and behind it its number in the window, which
// counts modulo slotNumbers; one that is entering has none.
type idSlot uint32

const slotNumbers = 1 << 30

func (s idSlot) state() idState { return idState(s & 3) }

type address struct{ exchange, key string }

// A window is what is remembered of an address, or of an exchange that drops what it
// has seen (dedup.go). Messages with ids enter queues under its mutex, so that of two
// connections that bring the same message one finds that the other brought it.
type window struct {
	of *windows
	address
	place  *list.Element // in of.order, if it is of an address
	x      *exchange     // whose it is; nil: it is of an address
	number uint64        // of the window of an exchange, in the order in which they are locked; 0
	most   int           // ids
	age    int64         // ms that ids are remembered, if their messages do not say; 0: for ever
	ended  atomic.Bool   // the exchange was deleted

	mu    sync.Mutex // guards what follows
	gone  bool       // forgotten: another may stand for the address
	ids   map[dupID]idSlot
	ring  []dupID // those that are not entering: n from head on, the oldest first
	until []int64 // until when each of the ring is remembered, ms since 1970, 0: for ever; nil: all are
	head  int
	n     int
	first uint32 // the number of the oldest

	// Of the committer: the ids that the open batch has of it.
	batch   []byte
	batched int
}

// at is where in the ring the i'th oldest id is.
func (w *window) at(i int) int { return (w.head + i) % len(w.ring) }

// addLocked notes that the message of an id, which is new, entering or too old, was
// taken, and is to be remembered until a time, 0: for ever.
func (w *window) addLocked(id dupID, state idState, until int64) {
	// What is not remembered any more makes room for two that come.
	for range 2 {
		if w.n == w.most || w.n > 0 && w.until != nil && tooOld(w.until[w.head], wallClock()) {
			w.forgetOldestLocked()
		}
	}
	if w.n == len(w.ring) {
		w.growLocked()
	}
	if until != 0 && w.until == nil {
		w.until = make([]int64, len(w.ring))
	}
	at := w.at(w.n)
	w.ring[at] = id
	if w.until != nil {
		w.until[at] = until
	}
	if w.ids == nil {
		w.ids = map[dupID]idSlot{}
	}
	w.ids[id] = idSlot((w.first+uint32(w.n))%slotNumbers)<<2 | idSlot(state)
	w.n++
	w.countLocked(1)
}

func (w *window) forgetOldestLocked() {
	id := w.ring[w.head]
	// The id may have come again since it was too old, and have another number.
	if s, ok := w.ids[id]; ok && s.state() != idEntering && uint32(s>>2) == w.first {
		delete(w.ids, id)
	}
	w.head = (w.head + 1) % len(w.ring)
	w.first = (w.first + 1) % slotNumbers
	w.n--
	w.countLocked(-1)
}

func (w *window) growLocked() {
	size := min(max(4, 2*len(w.ring)), w.most)
	ring := make([]dupID, size)
	until := w.until
	if until != nil {
		until = make([]int64, size)
	}
	for i := range w.n {
		ring[i] = w.ring[w.at(i)]
		if until != nil {
			until[i] = w.until[w.at(i)]
		}
	}
	w.ring, w.until, w.head = ring, until, 0
}

// countLocked counts ids of all addresses. Those of an exchange, which was declared
// with their number, are its own.
func (w *window) countLocked(n int) {
	if w.x == nil {
		w.of.count.Add(int64(n))
	}
}

// tooOld tells whether what is remembered until a time is not so any more.
func tooOld(until, now int64) bool { return until != 0 && until <= now }

func wallClock() int64 { return time.Now().UnixMilli() }

func (w *window) hasLocked(id dupID) bool {
	s, known := w.ids[id]
	return known && (s.state() == idEntering || w.until == nil || !tooOld(w.until[w.slotAt(s)], wallClock()))
}

// slotAt is where in the ring the id of a slot is.
func (w *window) slotAt(s idSlot) int { return w.at(int((uint32(s>>2) - w.first) % slotNumbers)) }

// clearLocked forgets all ids.
func (w *window) clearLocked() {
	w.countLocked(-w.n)
	w.ids, w.ring, w.until, w.head, w.n, w.first = nil, nil, nil, 0, 0, 0
}

// halveLocked forgets the older half of the ids, and gives their memory back.
func (w *window) halveLocked() {
	for range w.n - w.n/2 {
		w.forgetOldestLocked()
	}
	ids := make(map[dupID]idSlot, len(w.ids))
	for id, s := range w.ids {
		ids[id] = s
	}
	ring := w.newestLocked(w.n)
	if w.until != nil {
		until := make([]int64, w.n)
		for i := range until {
			until[i] = w.until[w.at(i)]
		}
		w.until = until
	}
	w.ids, w.ring, w.head = ids, ring, 0
}

// newestLocked lists the last n ids, the oldest of them first.
func (w *window) newestLocked(n int) []dupID {
	list := make([]dupID, 0, n)
	for i := w.n - n; i < w.n; i++ {
		list = append(list, w.ring[w.at(i)])
	}
	return list
}

// windows are those of a virtual host. To forget ids is safe: a message whose id is
// not known is stored. Where there are too many addresses, the least recently used
// is forgotten; where there are too many ids, see trim.
type windows struct {
	vhost string
	most  windowLimits
	count atomic.Int64 // ids of all

	numbers atomic.Uint64 // of the windows of exchanges

	mu    sync.Mutex // guards what follows; a window's own is only tried under it
	by    map[address]*window
	order list.List // of *window, the least recently used first
}

// windowLimits are windowIDs, windowsIDs and windowsMost, but in tests.
type windowLimits struct{ each, all, addresses int }

func (m windowLimits) orDefault() windowLimits {
	return windowLimits{cmp.Or(m.each, windowIDs), cmp.Or(m.all, windowsIDs), cmp.Or(m.addresses, windowsMost)}
}

// find returns the window of an address, a new one if need be.
func (ws *windows) find(exchange, key []byte) *window {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.by[address{string(exchange), string(key)}]
	if w != nil {
		ws.order.MoveToBack(w.place)
		return w
	}
	if len(ws.by) >= ws.most.addresses {
		ws.forgetLocked()
	}
	w = &window{of: ws, address: address{string(exchange), string(key)}, most: ws.most.each}
	w.place = ws.order.PushBack(w)
	if ws.by == nil {
		ws.by = map[address]*window{}
	}
	ws.by[w.address] = w
	return w
}

// have tells whether an address has a window.
func (ws *windows) have(exchange, key []byte) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.by[address{string(exchange), string(key)}] != nil
}

// lock locks a window that was found before, or the one that its address has now.
func (ws *windows) lock(w *window) *window {
	w.mu.Lock()
	if w.x != nil {
		return w
	}
	for w.gone {
		w.mu.Unlock()
		w = ws.find([]byte(w.exchange), []byte(w.key))
		w.mu.Lock()
	}
	ws.mu.Lock()
	ws.order.MoveToBack(w.place)
	ws.mu.Unlock()
	return w
}

// forgetLocked forgets the least recently used window, but none that is being
// used now. It tells whether there was one.
func (ws *windows) forgetLocked() bool {
	for e := ws.order.Front(); e != nil; e = e.Next() {
		w := e.Value.(*window)
		if !w.mu.TryLock() {
			continue
		}
		w.gone = true
		w.clearLocked()
		w.mu.Unlock()
		ws.order.Remove(e)
		delete(ws.by, w.address)
		return true
	}
	return false
}

// trim forgets ids until not too many are left. No window is locked by the caller,
// who might wait for it.
func (ws *windows) trim() {
	if ws.count.Load() <= int64(ws.most.all) {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for ws.count.Load() > int64(ws.most.all) && (ws.halveLocked() || ws.forgetLocked()) {
	}
}

// halveLocked halves the least recently used window that has its share of all ids
// or more, and tells whether it found one. To forget the least recently used as a
// whole would, where more addresses are in steady use than there are ids for, take
// from each in turn even its last ids, whose messages may yet be sent again.
func (ws *windows) halveLocked() bool {
	share := max(int(ws.count.Load())/len(ws.by), 1)
	e := ws.order.Front()
	for range trimLook {
		if e == nil {
			break
		}
		w := e.Value.(*window)
		e = e.Next()
		if !w.mu.TryLock() {
			continue
		}
		large := w.n >= share
		if large {
			w.halveLocked()
		}
		w.mu.Unlock()
		if large {
			return true
		}
	}
	return false
}

// list returns all, the least recently used first.
func (ws *windows) list() []*window {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	all := make([]*window, 0, ws.order.Len())
	for e := ws.order.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*window))
	}
	return all
}

// lockMany locks the windows of messages, in one order, and returns them. Each address
// is found once, for it may be forgotten and found again meanwhile: that would be two
// windows, whose order is not defined. A message whose window was forgotten just now
// has no id there any more.
func (ws *windows) lockMany(items []pubItem) []*window {
	var by map[address]*window
	var list []*window
	for i := range items {
		for ext := items[i].ext; ext != nil; ext = ext.also {
			if ext.window.x != nil {
				list = append(list, ext.window)
				continue
			}
			now := by[ext.window.address]
			if now == nil {
				if by == nil {
					by = map[address]*window{}
				}
				now = ws.find([]byte(ext.window.exchange), []byte(ext.window.key))
				by[now.address] = now
				list = append(list, now)
			}
			ext.window = now
		}
	}
	slices.SortFunc(list, func(x, y *window) int {
		return cmp.Or(cmp.Compare(x.number, y.number), strings.Compare(x.exchange, y.exchange), strings.Compare(x.key, y.key))
	})
	list = slices.Compact(list)
	for _, w := range list {
		w.mu.Lock()
	}
	for i := range items {
		for at := &items[i].ext; *at != nil; {
			if (*at).window.gone {
				*at = (*at).also
			} else {
				at = &(*at).also
			}
		}
	}
	return list
}

// remember is what is to be remembered of a message with an id; nil: nothing,
// because no queue takes it, nor did one take what it repeats.
func (p *publisher) remember(id []byte, r *path, m *Publish) *recordExt {
	w := p.window
	if w == nil || w.exchange != string(m.Exchange) || w.key != string(m.Key) {
		if len(r.queues) == 0 && !p.s.v.windows.have(m.Exchange, m.Key) {
			return nil
		}
		w = p.s.v.windows.find(m.Exchange, m.Key)
		p.window = w
	}
	ext := p.ext()
	ext.window, ext.id = w, hashID(id)
	return ext
}

func (p *publisher) ext() *recordExt {
	if len(p.exts) == 0 {
		p.exts = make([]recordExt, min(64, max(1, len(p.items))))
	}
	ext := &p.exts[0]
	p.exts = p.exts[1:]
	return ext
}

// insertWindowed puts messages of one window into their queues, but those that
// repeat what was taken. The mutex is held for all of it: an id counts only when
// a queue has its message, and nobody who brings it again may be told so sooner.
func (s *Session) insertWindowed(r *path, run []pubItem) {
	if run[0].ext.also != nil || r.ways != nil {
		s.insertFiltered(run)
		return
	}
	found := run[0].ext.window
	w := s.v.windows.lock(found)
	if w != found {
		for i := range run {
			run[i].ext.window = w
		}
		if s.pub.window == found {
			s.pub.window = w
		}
	}
	for len(run) > 0 {
		run = s.insertNewLocked(w, r, run)
	}
	w.mu.Unlock()
	s.v.windows.trim()
}

// insertNewLocked does this for the messages in front of the first that repeats
// one of them, which may yet find no queue, and returns the others.
func (s *Session) insertNewLocked(w *window, r *path, run []pubItem) (rest []pubItem) {
	if w.ids == nil {
		w.ids = map[dupID]idSlot{}
	}
	repeats, fresh := s.pub.repeats[:0], run[:0]
	for ; len(run) > 0; run = run[1:] {
		ext := run[0].ext
		if slot, known := w.ids[ext.id]; known && slot.state() == idEntering {
			break
		}
		if w.hasLocked(ext.id) {
			repeats = append(repeats, run[0])
			continue
		}
		ext.until = w.untilOf(ext)
		w.ids[ext.id] = idSlot(idEntering)
		fresh = append(fresh, run[0])
	}
	s.dropSeen(repeats)
	if len(fresh) == 0 {
		return run
	}
	where := s.insertRun(r, fresh)
	for i := range fresh {
		if ext := fresh[i].ext; where == nowhere || fresh[i].refused {
			delete(w.ids, ext.id)
		} else {
			w.addLocked(ext.id, fresh[i].idState(where), ext.until)
		}
	}
	s.took(fresh, where)
	return run
}

// idState is that of a message's id when the message went to a place.
func (it *pubItem) idState(where place) idState {
	if where == inLog && it.m.persistent {
		return idInLog
	}
	return idInMemory
}

// idsOverhead is the most that a record of ids takes beside its names and the ids,
// bytes.
const idsOverhead = 1 + 3*2 + 1 + binary.MaxVarintLen32

// appendIDs encodes ids of a window, without the kind of the record. whole is
// whether they are all that it has.
func appendIDs(dst []byte, vhost string, of address, whole bool, ids []byte) []byte {
	dst = appendText(appendText(appendText(dst, vhost), of.exchange), of.key)
	if whole {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 0)
	}
	dst = binary.AppendUvarint(dst, uint64(len(ids)/len(dupID{})))
	return append(dst, ids...)
}

// ids reads the end of such a record.
func (r *reader) ids() (whole bool, ids []byte) {
	flag, n := r.byte(), r.count()
	if size := n * len(dupID{}); r.err == nil && flag <= 1 && size <= len(r.b) {
		ids, r.b = r.b[:size:size], r.b[size:]
		return flag == 1, ids
	}
	r.b, r.err = nil, errRecord
	return false, nil
}

// recordLocked describes the window for a checkpoint; nil: there is nothing to
// describe.
func (w *window) recordLocked() []byte {
	ids := make([]byte, 0, w.n*len(dupID{}))
	for _, id := range w.newestLocked(w.n) {
		if w.ids[id].state() == idInLog {
			ids = append(ids, id[:]...)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return appendIDs(nil, w.of.vhost, w.address, true, ids)
}

// noteIDs adds the ids of a record's message to those of this batch.
func (l *log) noteIDs(ext *recordExt) {
	for ; ext != nil; ext = ext.also {
		w := ext.window
		if w.x != nil && (w.ended.Load() || !w.x.spec.Durable) {
			continue
		}
		if w.batched == 0 {
			l.windows = append(l.windows, w)
			l.notedBytes += len(w.of.vhost) + len(w.exchange) + len(w.key) + idsOverhead
		}
		before := len(w.batch)
		w.batch = append(w.batch, ext.id[:]...)
		if w.x != nil {
			w.batch = binary.AppendUvarint(w.batch, uint64(ext.until))
		}
		w.batched++
		l.notedBytes += len(w.batch) - before
	}
}

// writeIDs writes what was noted.
func (l *log) writeIDs(bb *batchBuffers) {
	for _, w := range l.windows {
		if w.x != nil {
			bb.head = w.appendSeen(append(bb.head, recSeen), false, w.batched, w.batch)
		} else {
			bb.head = appendIDs(append(bb.head, recIDs), w.of.vhost, w.address, false, w.batch)
		}
		w.batch, w.batched = nil, 0
	}
	clear(l.windows)
	l.windows = l.windows[:0]
}

// ids takes in ids of an address: those of a batch, or in a checkpoint all. The
// records of batches behind its beginning are in it already: their ids are the
// last, and would be the first to be forgotten if they were left where they are.
func (r *replayer) ids(rd *reader, full bool) {
	vhost, exchange, key := rd.text(), rd.bytes(), rd.bytes()
	whole, ids := rd.ids()
	v := r.b.vhosts[vhost]
	if !full || v == nil || rd.err != nil {
		return
	}
	w := v.windows.find(exchange, key)
	if whole {
		w.clearLocked() // nobody else is there
	}
	for chunk := range slices.Chunk(ids, len(dupID{})) {
		if id := dupID(chunk); !w.hasLocked(id) {
			w.addLocked(id, idInLog, 0)
		}
	}
	v.windows.trim()
}
