package verify

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// An outcome is what became of a message that was sent.
type outcome int

const (
	confirmed outcome = iota
	refused
	unknown
)

// A ledger holds for each message of a run whether it was confirmed and whether
// it arrived. Its methods may be called at once from anywhere.
type ledger struct {
	accounts []*account // by producer
	foreign  atomic.Uint64
	damaged  atomic.Uint64

	confirms   gap
	deliveries gap
}

// An account is what is known of one producer's messages.
type account struct {
	mu          sync.Mutex // guards all below
	sent        uint64     // the highest sequence
	settled     uint64     // that have an outcome
	refused     uint64
	confirmed   set
	received    set
	both        uint64   // confirmed and received
	highest     []uint64 // by consumer: the highest sequence that arrived first there
	duplicated  uint64
	resent      uint64 // of these, with the sender's mark
	redelivered uint64
	reordered   uint64
}

func newLedger(producers, consumers int, start time.Time) *ledger {
	l := &ledger{accounts: make([]*account, producers), confirms: gap{start: start}, deliveries: gap{start: start}}
	for i := range l.accounts {
		l.accounts[i] = &account{highest: make([]uint64, consumers)}
	}
	return l
}

// submit takes down that a producer is about to send its next message, and
// returns the message's sequence, from 1 on.
func (l *ledger) submit(producer int, now time.Time) uint64 {
	l.confirms.begin(now)
	l.deliveries.begin(now)
	a := l.accounts[producer]
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent++
	return a.sent
}

// withdraw takes the latest submit of a producer back: the message was not
// accepted for sending.
func (l *ledger) withdraw(producer int) {
	a := l.accounts[producer]
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent--
}

// settle takes down a message's one outcome.
func (l *ledger) settle(producer int, sequence uint64, o outcome, now time.Time) {
	if o == confirmed {
		l.confirms.mark(now)
	}
	a := l.accounts[producer]
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settled++
	switch o {
	case refused:
		a.refused++
	case confirmed:
		if a.confirmed.add(sequence-1) && a.received.has(sequence-1) {
			a.both++
		}
	}
}

// marks are what a delivery says of itself.
type marks struct {
	redelivered bool // by the broker: it was delivered before
	resent      bool // by the sender: it was sent before
}

// arrive takes down a delivery to a consumer. It says whether the message is
// there for the first time.
func (l *ledger) arrive(consumer int, s stamp, m marks, now time.Time) bool {
	if s.producer >= uint32(len(l.accounts)) {
		l.damaged.Add(1)
		return false
	}
	l.deliveries.mark(now)
	a := l.accounts[s.producer]
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.sequence == 0 || s.sequence > a.sent {
		l.damaged.Add(1)
		return false
	}
	if m.redelivered {
		a.redelivered++
	}
	if !a.received.add(s.sequence - 1) {
		if !m.redelivered {
			a.duplicated++
			if m.resent {
				a.resent++
			}
		}
		return false
	}
	if a.confirmed.has(s.sequence - 1) {
		a.both++
	}
	if s.sequence < a.highest[consumer] {
		a.reordered++
	}
	a.highest[consumer] = max(a.highest[consumer], s.sequence)
	return true
}

// Counts is what became of messages so far.
type Counts struct {
	Sent        uint64 `json:"sent"`        // given to the client
	Confirmed   uint64 `json:"confirmed"`   // by the broker
	Received    uint64 `json:"received"`    // different ones
	Lost        uint64 `json:"lost"`        // confirmed, and not received
	Duplicated  uint64 `json:"duplicated"`  // received again, without the broker's mark that says so
	Resent      uint64 `json:"resent"`      // of these, with the sender's mark that it had to send again
	Redelivered uint64 `json:"redelivered"` // deliveries that are marked so
	Reordered   uint64 `json:"reordered"`   // that came to a consumer after a later one of their producer
	Refused     uint64 `json:"refused"`     // nacked or unroutable
	Unknown     uint64 `json:"unknown"`     // neither confirmed nor refused
	Damaged     uint64 `json:"damaged"`     // deliveries of this run that are not what was sent
	Foreign     uint64 `json:"foreign"`     // deliveries that are not of this run
}

// counts adds all producers up. What is counted as lost and unknown may be under
// way until nothing moves any more.
func (l *ledger) counts() Counts {
	c := Counts{Damaged: l.damaged.Load(), Foreign: l.foreign.Load()}
	for _, a := range l.accounts {
		a.mu.Lock()
		c.Sent += a.sent
		c.Confirmed += a.confirmed.count
		c.Received += a.received.count
		c.Lost += a.confirmed.count - a.both
		c.Duplicated += a.duplicated
		c.Resent += a.resent
		c.Redelivered += a.redelivered
		c.Reordered += a.reordered
		c.Refused += a.refused
		c.Unknown += a.sent - a.confirmed.count - a.refused
		a.mu.Unlock()
	}
	return c
}

// pending says how many messages have no outcome, and how many that were
// confirmed did not arrive.
func (l *ledger) pending() (unsettled, missing uint64) {
	for _, a := range l.accounts {
		a.mu.Lock()
		unsettled += a.sent - a.settled
		missing += a.confirmed.count - a.both
		a.mu.Unlock()
	}
	return unsettled, missing
}

// A Range is messages of one producer with sequences without a break.
type Range struct {
	Producer int    `json:"producer"` // from 1 on
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
}

func (r Range) String() string {
	if r.First == r.Last {
		return fmt.Sprintf("producer %d: %d", r.Producer, r.First)
	}
	return fmt.Sprintf("producer %d: %d to %d", r.Producer, r.First, r.Last)
}

// missing lists the first messages that were confirmed and did not arrive, at
// most limit ranges of them.
func (l *ledger) missing(limit int) []Range {
	var ranges []Range
	for i, a := range l.accounts {
		a.mu.Lock()
		a.confirmed.without(&a.received, func(n uint64) bool {
			sequence := n + 1
			if k := len(ranges) - 1; k >= 0 && ranges[k].Producer == i+1 && ranges[k].Last == sequence-1 {
				ranges[k].Last = sequence
				return true
			}
			if len(ranges) == limit {
				return false
			}
			ranges = append(ranges, Range{Producer: i + 1, First: sequence, Last: sequence})
			return true
		})
		a.mu.Unlock()
	}
	return ranges
}

// A gap measures the longest time without an event. Its methods may be called at
// once from anywhere.
type gap struct {
	start   time.Time    // what times are counted from
	last    atomic.Int64 // ns since start and 1, or 0 before the beginning
	longest atomic.Int64 // ns
}

// begin is when the first event is waited for from. Later calls do nothing.
func (g *gap) begin(now time.Time) {
	if g.last.Load() == 0 {
		g.last.CompareAndSwap(0, int64(now.Sub(g.start))+1)
	}
}

// mark takes an event down.
func (g *gap) mark(now time.Time) {
	at := int64(now.Sub(g.start)) + 1
	last := g.last.Load()
	for last < at && !g.last.CompareAndSwap(last, at) {
		last = g.last.Load()
	}
	if last == 0 {
		return
	}
	for longest := g.longest.Load(); at-last > longest; longest = g.longest.Load() {
		if g.longest.CompareAndSwap(longest, at-last) {
			return
		}
	}
}

func (g *gap) max() time.Duration { return time.Duration(g.longest.Load()) }
