package journaltest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
	"github.com/ferrymq/ferry/internal/journal/memory"
)

// TestASharedLogOfTheSimplestKind shows that the suite asks for no more than a
// shared journal can do: one in memory, that does one thing at a time.
func TestASharedLogOfTheSimplestKind(t *testing.T) {
	journaltest.Run(t, journaltest.Harness{
		Shared: true,
		New: func(t *testing.T) func() (journal.Journal, error) {
			l := &log{Journal: memory.New(memory.Options{})}
			t.Cleanup(func() {
				if err := l.Journal.Close(); err != nil {
					t.Error(err)
				}
			})
			return func() (journal.Journal, error) { return l.open(), nil }
		},
	})
}

func TestARosterOfTheSimplestKind(t *testing.T) {
	journaltest.RunRoster(t, func(*testing.T) func() journal.Roster {
		r := &roster{nodes: map[string]announced{}}
		return func() journal.Roster { return r }
	})
}

// A log is what several handles share.
type log struct {
	*memory.Journal

	mu   sync.Mutex // one append at a time
	last journal.Batch
}

// A handle is the log as one process has it open. What it is asked to append, a
// goroutine of its own appends, one after the other.
type handle struct {
	*log
	info    journal.Info
	ctx     context.Context // until it is closed
	shut    context.CancelCauseFunc
	writing sync.WaitGroup
	wake    chan struct{} // there is something in queue, or it is closed

	mu     sync.Mutex
	queue  []pending
	closed bool
}

type pending struct {
	batch journal.Batch
	done  func(error)
}

func (l *log) open() *handle {
	l.mu.Lock()
	defer l.mu.Unlock()
	info := l.Journal.Info()
	info.Head, info.Epoch, info.Segment, info.Checkpoint = l.last.Position, l.last.Epoch, l.last.Segment, l.last.Checkpoint
	info.Shared, info.Durability = true, "memory"
	h := &handle{log: l, info: info, wake: make(chan struct{}, 1)}
	h.ctx, h.shut = context.WithCancelCause(context.Background())
	h.writing.Go(h.write)
	return h
}

// append is the compare-and-append. What is refused changes nothing.
func (l *log) append(b journal.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.Position != l.last.Position+1 || b.Epoch < l.last.Epoch {
		return &journal.ConflictError{Position: b.Position, Head: l.last.Position}
	}
	done := make(chan error, 1)
	l.Journal.Append(b, func(err error) { done <- err })
	err := <-done
	if err == nil {
		l.last = journal.Batch{Position: b.Position, Epoch: b.Epoch, Segment: b.Segment, Checkpoint: b.Checkpoint}
	}
	return err
}

func (h *handle) write() {
	var wrote journal.Batch // the last one
	var final error
	for range h.wake {
		for {
			h.mu.Lock()
			queue, closed := h.queue, h.closed
			h.queue = nil
			h.mu.Unlock()
			if len(queue) == 0 && closed {
				return
			}
			if len(queue) == 0 {
				break
			}
			for _, p := range queue {
				err := final
				if err == nil {
					err = h.append(p.batch)
				}
				if conflict := (*journal.ConflictError)(nil); errors.As(err, &conflict) && wrote.Position > 0 && conflict.Head != wrote.Position {
					final = fmt.Errorf("append at position %d: %w", p.batch.Position, journal.ErrFenced)
					err = final
				}
				if err == nil {
					wrote = p.batch
				}
				p.done(err)
			}
		}
	}
}

func (h *handle) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *handle) Info() journal.Info { return h.info }

func (h *handle) Append(b journal.Batch, done func(error)) {
	h.mu.Lock()
	closed := h.closed
	if !closed {
		h.queue = append(h.queue, pending{b, done})
	}
	h.mu.Unlock()
	if closed {
		done(journal.ErrClosed)
		return
	}
	h.signal()
}

func (h *handle) Follow(ctx context.Context, after uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.ctx, func() { cancel(context.Cause(h.ctx)) })()
	return h.Journal.Follow(ctx, after)
}

func (h *handle) Replay(ctx context.Context, from, to uint64, bodies bool, visit func(journal.Batch) error) error {
	if h.ctx.Err() != nil {
		return context.Cause(h.ctx)
	}
	return h.Journal.Replay(ctx, from, to, bodies, visit)
}

func (h *handle) ReadRefs(ctx context.Context, refs []journal.Ref) ([][]byte, error) {
	if h.ctx.Err() != nil {
		return nil, context.Cause(h.ctx)
	}
	return h.Journal.ReadRefs(ctx, refs)
}

func (h *handle) Drop(segment uint64) error {
	if h.ctx.Err() != nil {
		return context.Cause(h.ctx)
	}
	return h.Journal.Drop(segment)
}

func (h *handle) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.signal()
	h.writing.Wait()
	h.shut(journal.ErrClosed)
	return nil
}

type announced struct {
	journal.Node
	at time.Time
}

type roster struct {
	mu    sync.Mutex
	nodes map[string]announced
}

func (r *roster) Announce(_ context.Context, n journal.Node) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[n.Name] = announced{n, time.Now()}
	return nil
}

func (r *roster) Leave(_ context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nodes, name)
	return nil
}

func (r *roster) Nodes(context.Context) ([]journal.Node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []journal.Node
	for _, name := range slices.Sorted(maps.Keys(r.nodes)) {
		n := r.nodes[name]
		n.Silent = time.Since(n.at)
		list = append(list, n.Node)
	}
	return list, nil
}
