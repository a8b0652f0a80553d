package broker

import (
	"errors"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// dropDead drops the segments that no live message and no settlement behind
// the checkpoint needs. One that holds nothing but messages need not wait for a
// checkpoint, which may not find room. What a transaction has settled stays until that
// is durable.
//
// In a journal that is shared, what settled the messages must be durable before.
// Otherwise, if this owner ends here, the next one has messages whose bodies are
// gone; and so it would if this one has been superseded and does not know it yet.
// As it is, whoever has read the log up to this owner's last durable batch knows
// them as settled, and misses nothing, whenever the segment goes.
func (b *Broker) dropDead() error {
	l := b.log
	checkpoint := l.named.Load()
	var dead []uint64
	var settled *waiter
	l.mu.Lock()
	newest := uint64(0)
	for n := range l.segs {
		newest = max(newest, n)
	}
	for n, s := range l.segs {
		if n != newest && s.live <= 0 && (s.last < checkpoint || !s.mixed) && s.last < l.durable.Load() && s.settled.over() {
			dead = append(dead, n)
		}
	}
	if len(dead) > 0 && b.lease != nil && !l.idleLocked() {
		settled = l.waiterLocked()
	}
	l.unlockAndWake()
	if settled != nil {
		select {
		case <-settled.done:
		case <-b.failed:
			return b.Err()
		case <-b.quit:
			return errClosing
		}
	}
	slices.Sort(dead)
	for _, n := range dead {
		if err := l.j.Drop(n); err != nil {
			return err
		}
		l.mu.Lock()
		l.dropSegmentLocked(n)
		l.mu.Unlock()
	}
	return nil
}

// passing tells whether an error of a shared journal may go away while the lease
// lasts: its medium is somewhere else, and may be out of reach for a while.
func (b *Broker) passing(err error) bool {
	var corrupt *journal.CorruptError
	return b.lease != nil && !b.lost(err) && !errors.As(err, &corrupt) && !incurable(err) &&
		!errors.Is(err, journal.ErrDropped) && !errors.Is(err, journal.ErrClosed) && !errors.Is(err, errRecord)
}

// flushLog returns when all that was appended is durable, in a batch that was
// begun after the call.
func (b *Broker) flushLog() error {
	l := b.log
	l.mu.Lock()
	l.markLocked(recNone)
	w := l.waiterLocked()
	l.unlockAndWake()
	return b.wait(w)
}

// wait is the cleaner's way to wait for the log. When the medium is full that may
// depend on what can be dropped meanwhile.
func (b *Broker) wait(w *waiter) error {
	ticker := time.NewTicker(b.cfg.CleanEvery)
	defer ticker.Stop()
	for {
		select {
		case <-w.done:
			return nil
		case <-b.failed:
			return b.Err()
		case <-b.quit:
			return errClosing
		case <-ticker.C:
			if err := b.dropDead(); err != nil {
				return err
			}
		}
	}
}
