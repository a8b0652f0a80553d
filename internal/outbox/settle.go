package outbox

import (
	"errors"

	"github.com/ferrymq/ferry/internal/journal"
)

// Settle forgets a message that a broker has confirmed. It never waits: what
// was settled is written soon, together. Messages may be settled in any order;
// one that is not there, or was not stored yet, is none of its business.
func (o *Outbox) Settle(seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.settleLocked(seq) {
		return
	}
	in := &o.intake
	n := len(in.settled)
	if n > 0 && in.settled[n-1].end == seq {
		in.settled[n-1].end++
		return
	}
	in.settled = append(in.settled, seqRun{seq, seq + 1})
	if n == 0 || n == settleMany {
		signal(o.work)
	}
}

func (o *Outbox) settleLocked(seq uint64) bool {
	ok, emptied := o.book.settle(seq)
	if !ok {
		return false
	}
	if seq < o.outlet.cursor {
		o.outlet.taken--
		if o.outlet.taken == maxTaken-1 {
			signal(o.outlet.arrived)
		}
	}
	if emptied != nil {
		if emptied.number < o.book.segment {
			signal(o.clean)
		} else if o.intake.starved {
			signal(o.work)
		}
	}
	return true
}

// cleanUp is the goroutine that drops segments. It does so beside the one that
// writes, which may be waiting for the space. A segment is dropped although the
// settlements may not be written: that it is gone says the same.
func (o *Outbox) cleanUp() {
	for range o.clean {
		for o.dropOne() {
		}
		o.mu.Lock()
		ended := o.ended
		o.mu.Unlock()
		if ended {
			return
		}
	}
}

// dropOne drops a segment that nobody needs. It returns false if there is none,
// or it failed; then it is tried again with the next one.
func (o *Outbox) dropOne() bool {
	o.mu.Lock()
	s := o.book.droppable()
	ended := o.ended
	o.mu.Unlock()
	if s == nil || ended {
		return false
	}
	err := o.journal.Drop(s.number)
	if errors.Is(err, journal.ErrClosed) {
		return false
	}
	if err != nil {
		o.options.Logger.Warn("outbox: a segment whose messages are all settled could not be removed", "dir", o.dir, "err", err)
		return false
	}
	o.mu.Lock()
	o.book.drop(s)
	o.intake.wakeLocked()
	o.mu.Unlock()
	return true
}
