// Package journal is the seam between Ferry's broker and whatever keeps its
// durable state. A journal is one append-only log of batches with one writer
// at a time. It knows nothing of what the batches mean.
//
// # What a journal promises
//
// Positions are consecutive: the first batch is at position 1, each further
// one at the last plus one. A batch that was acknowledged (its done function
// was called with nil) survives what Info.Durability states. Batches complete
// in the order of their positions: when one is acknowledged, all before it are.
//
// An append is a compare-and-append: it succeeds only at the position after
// the last one, so of two writers that believe to be the owner at most one
// succeeds at any position, also after batches were dropped.
//
// A failed append is final for the process: the journal fails every append
// behind it with the same error, and the caller must neither confirm nor
// refuse what was in them. Its outcome is decided by the next Open. Lack of
// space is not such a failure: the append waits and the journal says so in
// Status.
//
// # Epochs
//
// Every batch carries its writer's epoch. A reader skips batches whose epoch
// is lower than the highest it has seen, because with appends in flight a
// superseded writer's batches may land between newer ones. Replay does so for
// every implementation.
//
// # Sharing
//
// A journal whose Info says Shared may be open in several processes at once.
// Each may read it; who appends is settled by the appends alone. A new owner
// appends a batch of a higher epoch than any before. Where that succeeded, no
// batch of a lower epoch is acknowledged any more, whatever was in flight: its
// append ends with ErrFenced. Two owners' batches are never taken for each
// other, even if their bytes are the same.
//
// A connection that is lost does not fail an append of a shared journal: the
// same batch is sent again to the same position and compared with what is there,
// until its outcome is known or the journal is closed. Its caller decides how
// long it believes to be the owner meanwhile.
//
// # Segments
//
// A segment is a run of consecutive positions, named by a number that the
// writer puts into each batch and that never decreases. It is the unit in
// which a journal forgets: Drop. Segments may be dropped in any order.
package journal

import (
	"context"
	"errors"
	"fmt"
)

// A Batch is the unit of commit: all of it survives or none.
type Batch struct {
	Position uint64 // 1 is the first
	Epoch    uint64 // of the writer; never decreases
	Segment  uint64 // never decreases; the unit of Drop

	// Checkpoint is the position at which the newest complete checkpoint
	// known to the writer begins, 0 if there is none. The journal hands back
	// that of the newest batch in Info.
	Checkpoint uint64

	// Head is what a replay needs. Body is what only ReadRefs reads: it is one
	// run of bytes, given in pieces so that large ones need no copy. A replay
	// that does not ask for bodies need not read them from the medium.
	Head []byte
	Body [][]byte
}

// BodySize is the sum of the lengths of the body's pieces, in bytes.
func (b *Batch) BodySize() int {
	n := 0
	for _, p := range b.Body {
		n += len(p)
	}
	return n
}

// A Ref names a run of bytes in the body of a batch.
type Ref struct {
	Position uint64
	Offset   uint32 // from the first byte of the batch's body
	Length   uint32
}

// Info describes a journal as it was opened.
type Info struct {
	Head       uint64 // position of the last batch, 0 if there is none
	Epoch      uint64 // highest epoch in the journal, 0 if it is empty
	Segment    uint64 // segment of the last batch
	Checkpoint uint64 // Checkpoint of the last batch that is not superseded

	MaxBatch   int    // largest len(Head)+BodySize() that Append takes, bytes
	InFlight   int    // appends in flight beyond which more gain nothing, >= 1
	Durability string // what an acknowledged batch survives: "fsync", "none", or the name of the database that decides

	// Shared says that other processes may have the journal open, and write to
	// it. Info is then as it was at Open.
	Shared bool

	// Cut is the number of bytes of a torn tail that Open removed.
	Cut int64
}

// SegmentInfo describes one segment that has not been dropped.
type SegmentInfo struct {
	Segment     uint64
	First, Last uint64 // positions
	Bytes       int64  // on the medium
}

// Status is how a journal does now.
type Status struct {
	// Waiting is why an append has to wait (no space), nil if it does not.
	Waiting error

	// Low is why space is about to run out, nil if it is not. Appends do not
	// wait yet, but the writer should send only what leads to space being
	// freed.
	Low error
}

// A Journal is an open log. All methods may be called concurrently, except
// that Append's callers take turns.
type Journal interface {
	// Info tells what was found when the journal was opened.
	Info() Info

	// Append starts to make b durable and returns; it may wait while Info's
	// InFlight appends are under way. b.Position must be the last position
	// plus one. done is called exactly once, in the order of the positions,
	// from a goroutine of the journal's: with nil when b is durable, with an
	// error when that is not known. done must not block and must not call the
	// journal. Head and Body belong to the journal until then.
	Append(b Batch, done func(error))

	// Replay calls visit with the batches from position from (0: the first
	// there is) to position to inclusive (0: the last durable one), in order,
	// leaving out dropped and superseded ones. Unless bodies is set, Body is
	// nil. What visit gets is valid until it returns. Visit's error ends the
	// replay and is returned.
	Replay(ctx context.Context, from, to uint64, bodies bool, visit func(Batch) error) error

	// ReadRefs returns, for each ref, its bytes, which then belong to the
	// caller. It does well on many refs at once, in any order. The batches
	// must be durable; a ref into a dropped segment is ErrDropped.
	ReadRefs(ctx context.Context, refs []Ref) ([][]byte, error)

	// Drop forgets a segment, which must not be the newest. When it returns nil
	// the segment stays dropped if the process dies. Dropping twice is no error.
	Drop(segment uint64) error

	// Segments lists what has not been dropped, oldest first.
	Segments(ctx context.Context) ([]SegmentInfo, error)

	// Status may be asked at any time and never waits.
	Status() Status

	// Head is the position of the last durable batch, whoever wrote it. That of
	// a shared journal is read from the medium: nil means that the medium was
	// reached after the call began.
	Head(ctx context.Context) (uint64, error)

	// Follow returns when a batch after position after is durable, or ctx ends.
	// Of a shared journal it may be another process's.
	Follow(ctx context.Context, after uint64) error

	// Close lets appends under way finish, then releases what the journal
	// holds. Later appends fail with ErrClosed. A shared journal whose medium
	// cannot be reached gives up appends under way after a short while: their
	// outcome is unknown.
	Close() error
}

// Errors that journals return, wrapped with what was being done.
var (
	ErrClosed   = errors.New("journal is closed")
	ErrDropped  = errors.New("segment was dropped")
	ErrTooLarge = errors.New("batch is larger than the journal takes")
	ErrLocked   = errors.New("journal is in use by another process")
	ErrFenced   = errors.New("journal has a newer owner")

	// ErrLost: the medium of a shared journal was set back behind what it had
	// acknowledged.
	ErrLost = errors.New("the medium has lost what it confirmed")
)

// A ConflictError is the answer to an append at a position that is not the
// next one.
type ConflictError struct{ Position, Head uint64 }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("append at position %d, but the last position is %d", e.Position, e.Head)
}

// A CorruptError says where damage was found that no crash explains. Nothing
// behind it is read, and nothing is repaired.
type CorruptError struct {
	File   string // or what the medium has instead
	Offset int64
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: damaged at offset %d: %s", e.File, e.Offset, e.Reason)
}
