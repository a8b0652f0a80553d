package journal

import (
	"context"
	"sync"
)

// A Tail is the position of a log's last durable batch, and those who wait for
// it to move. It may be used by several goroutines. The zero value is at 0.
type Tail struct {
	mu    sync.Mutex
	head  uint64
	err   error
	moved chan struct{} // nil while nobody waits
}

// Head is the position the tail was last moved to.
func (t *Tail) Head() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head
}

// Move says that everything up to head is durable, and wakes who waits.
func (t *Tail) Move(head uint64) {
	t.mu.Lock()
	t.head = head
	t.wakeLocked()
	t.mu.Unlock()
}

// Fail says that the tail will not move again. Only the first error counts.
func (t *Tail) Fail(err error) {
	t.mu.Lock()
	if t.err == nil {
		t.err = err
	}
	t.wakeLocked()
	t.mu.Unlock()
}

func (t *Tail) wakeLocked() {
	if t.moved != nil {
		close(t.moved)
		t.moved = nil
	}
}

// Wait returns nil once the tail is after position after, Fail's error once
// that was called, or ctx's cause.
func (t *Tail) Wait(ctx context.Context, after uint64) error {
	for {
		t.mu.Lock()
		if t.head > after {
			t.mu.Unlock()
			return nil
		}
		if t.err != nil {
			defer t.mu.Unlock()
			return t.err
		}
		if t.moved == nil {
			t.moved = make(chan struct{})
		}
		moved := t.moved
		t.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
