package broker

import (
	"sync/atomic"
	"unsafe"

	"github.com/ferrymq/ferry/internal/journal"
)

// stored is a message that one or more queues hold. Its block is shared by all
// of them and may leave memory when the message is also on disk.
type stored struct {
	data    atomic.Pointer[byte] // first byte of the block, nil while it is cold
	size    uint32               // of the block, bytes
	holders atomic.Int32         // queues that have not settled it, for the memory count

	ref    journal.Ref // where the block is on disk; valid once placed is set
	parts  *[]journal.Ref
	placed atomic.Uint32 // notPlaced, inJournal or inScratch; stored after ref

	// Guarded by the log's mutex.
	pend    uint32 // index in log.recs, if it is there
	logged  int32  // logged queues that have not settled it
	segment uint32

	persistent bool
	journaled  bool // it has been, or will be, written to the journal
	accounted  bool // its bytes are in its segment's live count; guarded by the log's mutex
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

func (m *stored) setBlock(b []byte) {
	m.size = uint32(len(b))
	m.data.Store(unsafe.SliceData(b))
}
