package broker

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// Where several brokers share a journal, one of them owns it: it began the
// highest epoch. What it must keep to is counted in parts of the lease, by its
// own monotonic clock, which runs on while the process is stopped.
//
// It appends something at least every third of the lease, busy or idle. A
// standby takes over after it has seen nothing new for a whole lease: so not
// before a lease has passed since the owner sent the newest batch that became
// durable. The owner counts from when it sent that one, and goes by less. When
// nothing that it sent within two thirds of the lease has come back, it stops
// delivering and confirming. By the time another may begin, it has told nobody
// anything for a third of the lease.
//
// Confirms would be true even without that. One is given when the batch is
// durable in the owner's own epoch, with all before it; so it is in the log that
// every later owner has read to its end before it begins. What is in flight when
// a new epoch begins is refused, and never confirmed. The clock is for what no
// log can refuse: deliveries, of which the new owner makes the same again, and
// the confirms of what was settled before it was written.
const (
	leaseParts  = 12 // of these, the lease is looked at once in each
	beatParts   = 3  // after so many the owner appends something: with one more to find out, a third
	ownedParts  = 8  // for so many it may go on without news
	beatsMax    = 256
	batchWeight = 1 << 10
)

// beatsMax is how many batches without content are in a segment, at most, before
// the next begins: an idle broker's heartbeats are to be dropped soon, and those
// who follow are not to read many.
//
// batchWeight is what a batch of a shared journal counts for when it is decided
// what to clean, beside its bytes: a row, its place in the indexes, and its share
// of the time of whoever replays it.

// maxLeaseMillis is the longest lease that is believed of another, a day: a sanity
// check.
const maxLeaseMillis = 24 * 60 * 60 * 1000

// ErrOwnership is why a broker fails, in Broker.Cause, when its messages have
// become, or may have become, another's. They are all there: whoever owns them
// now has them, and this process may become a standby.
var ErrOwnership = errors.New("the journal has another owner, or may have")

// lostText is what clients are told.
const lostText = "this node does not own the messages any more; connect to the one that does"

// lease is what the owner of a shared journal knows of its time.
type lease struct {
	length time.Duration
	zero   time.Time    // what the others count from
	sent   atomic.Int64 // when the newest batch was given to the journal
	came   atomic.Int64 // when the newest of the durable ones was
	ended  atomic.Bool  // another may have the messages: it is over, or was handed over
}

func newLease(length time.Duration) *lease { return &lease{length: length, zero: time.Now()} }

// now is the time since zero. time.Time's monotonic clock is that of the machine,
// not of the process.
func (l *lease) now() int64 { return int64(time.Since(l.zero)) }

func (l *lease) part(n int) time.Duration { return l.length * time.Duration(n) / leaseParts }

// late tells whether the owner has been without news for too long to tell anybody
// anything.
func (l *lease) late() bool { return l.now()-l.came.Load() >= int64(l.part(ownedParts)) }

// owns tells whether the broker owns its messages, and ends it if it may not.
// It is asked whenever something is about to be told to a client, so that a
// process that was stopped and woken tells nobody anything, whatever its timers do.
func (b *Broker) owns() bool {
	if b.lease.ended.Load() {
		return false
	}
	if !b.lease.late() {
		return true
	}
	b.fail(fmt.Errorf("%w: nothing that was sent to the journal within two thirds of the lease of %v has come back", ErrOwnership, b.lease.length))
	return false
}

// lost tells whether an error means that the broker's messages are, or may be,
// another's, rather than that they are damaged or cannot be stored. A medium that was
// set back has another log than the one that this broker knows: whoever reads it next
// owns what is left.
func (b *Broker) lost(err error) bool {
	if errors.Is(err, ErrOwnership) || errors.Is(err, journal.ErrFenced) {
		return true
	}
	if b.lease == nil {
		return false
	}
	if errors.Is(err, journal.ErrLost) {
		return true
	}
	var conflict *journal.ConflictError
	var corrupt *journal.CorruptError
	return errors.As(err, &conflict) || b.lease.late() && !errors.As(err, &corrupt)
}

// leaseLoop appends when nobody else does, and ends the broker when it does not
// hear of what was sent. It goes on while what is pending at the end is written.
func (b *Broker) leaseLoop() {
	ticker := time.NewTicker(b.lease.part(1))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-b.log.done:
			return
		case <-b.failed:
			return
		}
		if !b.owns() {
			return
		}
		if b.lease.now()-b.lease.sent.Load() >= int64(b.lease.part(beatParts)) {
			b.log.beat()
		}
	}
}

// beat sends a batch without content, unless there is something else to be sent.
func (l *log) beat() {
	l.mu.Lock()
	if len(l.recs) == 0 && !l.busy {
		l.markLocked(recNone)
	}
	l.unlockAndWake()
}

// OwnerStatus is how a broker stands in the log that it writes.
type OwnerStatus struct {
	Node     string // its own name
	Epoch    uint64 // that it writes in
	Position uint64 // up to which all is durable
}

// Status may be asked at any time, by any goroutine, and never waits.
func (b *Broker) Status() OwnerStatus {
	return OwnerStatus{Node: b.cfg.Node, Epoch: b.log.epoch, Position: b.log.durable.Load()}
}
