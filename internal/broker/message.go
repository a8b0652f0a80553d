package broker

import (
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/message"
)

// stored is a message that one or more queues hold. Its block is shared by all
// of them and may leave memory when the message is also on disk.
type stored struct {
	data    atomic.Pointer[byte] // first byte of the block, nil while it is cold
	size    uint32               // of the block, bytes
	holders atomic.Int32         // queues that have not settled it, for the memory count

	ref    journal.Ref   // where the block is on disk; valid once placed is set
	parts  *parts        // of a message that was written in parts
	placed atomic.Uint32 // notPlaced, inJournal or inScratch; stored after ref

	// Guarded by the log's mutex.
	pend    uint32 // index in log.recs, if it is there
	logged  int32  // logged queues that have not settled it
	segment uint32

	persistent bool
	shared     bool   // it was published to several queues; known during a replay only
	journaled  bool   // it has been, or will be, written to the journal
	priority   uint8  // that its publisher gave it
	head       uint16 // bytes that its record takes, if it has one of its own
	sealed     bool   // its block has its checksum; of whoever writes it out
	accounted  bool   // its bytes are in its segment's live count; guarded by the log's mutex
}

// parts are where the block of a large message is, and who has it.
type parts struct {
	refs    []journal.Ref
	targets []target // all that it was published to
}

const (
	notPlaced uint32 = iota
	inJournal
	inScratch
)

// block returns the message's block, nil if it is not in memory.
func (m *stored) block() []byte {
	p := m.data.Load()
	if p == nil {
		return nil
	}
	return unsafe.Slice(p, m.size)
}

// seal writes the checksum into the block, once: the block may be shared, and
// be on its way to the journal.
func (m *stored) seal() {
	if !m.sealed {
		m.sealed = true
		message.Seal(m.block())
	}
}

func (m *stored) setHead(bytes int) { m.head = uint16(min(bytes, math.MaxUint16)) }

// split gives a message its holders, so many of queues that are logged and of
// others, and returns what the others hold: with both it is a message of its
// own, that has the same block, because the journal lets go of a message that
// its logged queues have settled.
func (m *stored) split(b *Broker, logged, others int) *stored {
	if logged == 0 || others == 0 || !m.persistent {
		m.holders.Store(int32(logged + others))
		return m
	}
	m.holders.Store(int32(logged))
	m.seal()
	o := &stored{size: m.size, persistent: true, sealed: true, priority: m.priority}
	o.data.Store(m.data.Load())
	o.holders.Store(int32(others))
	b.evict.hot.Add(int64(o.size))
	return o
}

// unlogged returns a message with the same block that the log does not know of, for so
// many holders; nil for none.
func (m *stored) unlogged(b *Broker, holders int) *stored {
	if holders == 0 {
		return nil
	}
	m.seal()
	o := &stored{size: m.size, sealed: true, priority: m.priority}
	o.data.Store(m.data.Load())
	o.holders.Store(int32(holders))
	b.evict.hot.Add(int64(o.size))
	return o
}

// hold makes sure that a message is not forgotten until release. It fails when
// nobody holds it any more.
func (m *stored) hold() bool {
	for {
		n := m.holders.Load()
		if n <= 0 {
			return false
		}
		if m.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release lets go of a message, and returns how much memory that gives back.
func (m *stored) release(b *Broker) (freed int) {
	if m.holders.Add(-1) > 0 {
		return 0
	}
	if m.data.Load() != nil {
		freed = int(m.size)
	}
	if m.placed.Load() == inScratch {
		b.scratch.release(m)
	}
	return freed
}

func (m *stored) setBlock(b []byte) {
	m.size = uint32(len(b))
	m.data.Store(unsafe.SliceData(b))
}
