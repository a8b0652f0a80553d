package ferry

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is full jitter: each wait is random between 0 and a bound that doubles
// up to a maximum. The zero number of failures waits not at all.
type backoff struct {
	initial, max time.Duration
	failures     int
}

// next counts a failure and gives the wait after it.
func (b *backoff) next() time.Duration {
	bound := b.max
	if b.initial <= b.max>>min(b.failures, 62) { // then it does not overflow
		bound = b.initial << b.failures
	}
	b.failures++
	if bound <= 0 {
		return 0
	}
	return rand.N(bound)
}

func (b *backoff) reset() { b.failures = 0 }

// pause waits for d, or until ctx ends: then it gives its cause.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
