package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/link"
)

// An intake is what was put and has no number yet, and who waits to put more.
type intake struct {
	puts    []*put
	bytes   int   // of memory, for what was put and not yet reported
	cost    int64 // on disk, of puts
	waiters int
	starved bool          // somebody waits for a segment to be dropped
	room    chan struct{} // closed, and another one made, when there may be room
	low     error         // why nothing but settlements is written

	settled []seqRun // to be written
	refused []uint64
}

// A put is a message on its way.
type put struct {
	bytes     []byte // length and block; nil once it was written, or withdrawn
	size      int
	withdrawn bool
	done      func(seq uint64, err error)
}

// memory is what a put takes in memory, about, in bytes.
func (p *put) memory() int { return p.size + 192 }

// costOf is what a message takes on disk at most, beside its share of a batch's
// head, in bytes: checksums are 4 bytes for 4096.
func costOf(size int) int64 { return int64(size) + int64(size)/1024 + 16 }

// Put stores a message and returns its number when it survives a power cut.
// Callers who wait share one sync. Numbers are in the order in which messages
// are stored, consecutive, the first is 1.
//
// While there is no room (MaxBytes, a full disk) it waits until ctx ends, and
// fails with ErrFull: the message is not stored. If ctx ends, or the journal
// fails, while the message is being written, the error is ErrUnknown: it may be
// stored, and sent. Other errors are ErrTooLarge, ErrClosed, a header that cannot
// be encoded, and, for ever, that of Err.
//
// The message is not used after Put has returned.
func (o *Outbox) Put(ctx context.Context, m *link.Message) (seq uint64, err error) {
	type outcome struct {
		seq uint64
		err error
	}
	done := make(chan outcome, 1)
	p, err := o.submit(ctx, m, func(seq uint64, err error) { done <- outcome{seq, err} })
	if err != nil {
		return 0, err
	}
	select {
	case out := <-done:
		return out.seq, out.err
	case <-ctx.Done():
	}
	if o.withdraw(p) {
		return 0, fmt.Errorf("put: %w: %w", ErrFull, context.Cause(ctx))
	}
	select {
	case out := <-done:
		return out.seq, out.err
	default:
		return 0, fmt.Errorf("put: %w: %w", ErrUnknown, context.Cause(ctx))
	}
}

// PutAsync is Put without waiting for the disk; it waits for room only. If it
// returns nil, done is called once, with what Put would have returned. One
// goroutine calls all done functions, in the order of the numbers: they must
// return soon, and must not call Put, PutAsync or Close.
func (o *Outbox) PutAsync(ctx context.Context, m *link.Message, done func(seq uint64, err error)) error {
	_, err := o.submit(ctx, m, done)
	return err
}

func (o *Outbox) submit(ctx context.Context, m *link.Message, done func(uint64, error)) (*put, error) {
	b, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("put: %w", err)
	}
	if cost := costOf(len(b)); cost > o.options.MaxBytes/2 {
		return nil, fmt.Errorf("put: %w: it takes %d bytes, the outbox %d", ErrTooLarge, cost, o.options.MaxBytes)
	}
	p := &put{bytes: b, size: len(b), done: done}
	if err := o.wait(ctx, p); err != nil {
		return nil, fmt.Errorf("put: %w", err)
	}
	signal(o.work)
	return p, nil
}

// wait puts p into the intake as soon as there is room.
func (o *Outbox) wait(ctx context.Context, p *put) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		room, full, err := o.admit(p)
		if err != nil || full == nil {
			return err
		}
		signal(o.work) // it may be able to make room
		select {
		case <-room:
			o.leave()
		case <-ctx.Done():
			o.leave()
			return fmt.Errorf("%w: %w: %w", ErrFull, full, context.Cause(ctx))
		}
	}
}

func (o *Outbox) leave() {
	o.mu.Lock()
	o.intake.waiters--
	o.mu.Unlock()
}

var (
	errDiskSlow = errors.New("the disk does not keep up")
	errMaxBytes = errors.New("it holds as much as it may")
)

// admit takes p in, or says why it has to wait, and for what.
func (o *Outbox) admit(p *put) (room <-chan struct{}, full, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	in := &o.intake
	switch cost := costOf(p.size); {
	case o.closed:
		return nil, nil, ErrClosed
	case o.errLocked() != nil:
		return nil, nil, o.errLocked()
	case in.low != nil:
		full = in.low
	case in.bytes > 0 && in.bytes+p.memory() > maxPending:
		full = errDiskSlow
	case o.book.bytes+in.cost+cost > o.options.MaxBytes:
		full = errMaxBytes
		in.starved = true
	default:
		in.starved = false
		in.puts = append(in.puts, p)
		in.bytes += p.memory()
		in.cost += cost
		return nil, nil, nil
	}
	in.waiters++
	return in.room, full, nil
}

// withdraw takes a put back. It returns false if that is too late.
func (o *Outbox) withdraw(p *put) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p.bytes == nil {
		return false
	}
	p.bytes, p.withdrawn = nil, true
	o.intake.bytes -= p.memory()
	o.intake.cost -= costOf(p.size)
	o.intake.wakeLocked()
	return true
}

// wakeLocked makes those who wait for room look again.
func (in *intake) wakeLocked() {
	if in.waiters > 0 {
		close(in.room)
		in.room = make(chan struct{})
	}
}
