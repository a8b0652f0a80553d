package history

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Rule is what a fault breaks.
type Rule string

// The rules.
const (
	// Malformed: the history or the log is none that can be judged: a position is
	// missing or comes twice, a message was sent twice under one id, a connection
	// says things after its end.
	Malformed Rule = "malformed"

	// Order: a batch stands behind one of a higher epoch.
	Order Rule = "order"

	// Writers: two wrote batches of one epoch.
	Writers Rule = "writers"

	// Identity: a connection was told of an epoch that is not in the log, or that is
	// another node's there.
	Identity Rule = "identity"

	// Unwritten: a message was confirmed, is not in the log, and nobody acknowledged
	// it before.
	Unwritten Rule = "unwritten"

	// Foreign: a message is in the log under other epochs only than that of the
	// broker that confirmed it.
	Foreign Rule = "foreign epoch"

	// Superseded: a message was confirmed under an epoch though it stands behind the
	// beginning of a higher one, or though it was sent after that epoch's broker was
	// seen to serve.
	Superseded Rule = "superseded"

	// Lost: a message was confirmed and never delivered.
	Lost Rule = "lost"

	// Holders: a message was given to a second holder of an epoch while it had one.
	Holders Rule = "two holders"

	// Stale: a broker served after that of a higher epoch was seen to serve. This is
	// told by what can only be an effect of something later: it delivers a message
	// that was sent later, or more messages than the connection's prefetch and the
	// acknowledgements sent before allow.
	Stale Rule = "stale"

	// Unsent: a message was delivered or is in the log that nobody sent.
	Unsent Rule = "unsent"
)

// A Fault is a rule that was broken.
type Fault struct {
	Rule Rule
	Text string
}

func (f Fault) String() string { return string(f.Rule) + ": " + f.Text }

// Options are what a judge must know beside the history and the log.
type Options struct {
	// Drained says that receivers took all that there was: what was confirmed and
	// not delivered is lost.
	Drained bool

	// Grace is within what a superseded broker closes a connection on which it was
	// found to serve, as long as it confirms nothing wrong: a process that was
	// stopped needs a moment to find out how late it is. Such deliveries are counted
	// as Late.
	Grace time.Duration
}

// A Report is what Check finds.
type Report struct {
	Connections, Epochs      int
	Sent, Confirmed, Refused int
	Delivered, Acknowledged  int
	Stored                   int // confirmed, and in the log under the epoch of their broker
	Elided                   int // confirmed, and settled before they were written
	Batches                  int
	Repeats, Marked          int // deliveries of what had been delivered before; of these, with the mark
	Late                     int // deliveries and confirms of superseded brokers within the grace
	Faults                   []Fault
	More                     int // faults beyond those
}

const maxFaults = 50

// Clean says that no rule was broken, and that there was something to judge.
func (r *Report) Clean() bool { return len(r.Faults) == 0 && r.Confirmed > 0 && r.Stored > 0 }

func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d connections to brokers of %d epochs; %d sent, %d confirmed (%d stored, %d settled before), %d refused; "+
		"%d delivered (%d again, %d of these marked; %d late), %d acknowledged; %d batches; %d faults",
		r.Connections, r.Epochs, r.Sent, r.Confirmed, r.Stored, r.Elided, r.Refused,
		r.Delivered, r.Repeats, r.Marked, r.Late, r.Acknowledged, r.Batches, len(r.Faults)+r.More)
	for _, f := range r.Faults {
		b.WriteString("\n  ")
		b.WriteString(f.String())
	}
	return b.String()
}

// Check judges a history by the log.
func Check(h History, log Log, o Options) *Report {
	c := &checker{
		Report: &Report{Batches: len(log)}, o: o,
		conns: map[int]*conn{}, attempts: map[string]*attempt{}, begins: map[uint64]int{},
		stored: map[string][]place{}, first: map[uint64]uint64{}, owners: map[uint64]string{},
	}
	c.readLog(log)
	c.readHistory(h)
	c.judge(h)
	slices.SortStableFunc(c.Faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text))
	})
	return c.Report
}

// A conn is one connection of the history.
type conn struct {
	Event                // that connected it
	ended            int // the event that ended it, len(history) if none did
	delivered, acked int
	late             []Fault // what it was found to do after it was superseded
	lateSince        time.Duration
}

// An attempt is one message.
type attempt struct {
	sent      int // the event, -1 if there is none
	conn      *conn
	confirmed int            // the event, -1 if there is none
	delivered int            // how often
	acked     map[uint64]int // by epoch: the event of the first acknowledgement
	holders   []*conn        // who has it and has not acknowledged it
}

// A place is where the log has a message.
type place struct{ epoch, position uint64 }

type checker struct {
	*Report
	o        Options
	conns    map[int]*conn
	attempts map[string]*attempt
	begins   map[uint64]int // by epoch: the event in which it was first seen to serve

	stored map[string][]place
	first  map[uint64]uint64 // by epoch: its first position
	owners map[uint64]string
}

func (c *checker) fault(rule Rule, format string, args ...any) {
	c.report(Fault{rule, fmt.Sprintf(format, args...)})
}

func (c *checker) report(f Fault) {
	if len(c.Faults) == maxFaults {
		c.More++
		return
	}
	c.Faults = append(c.Faults, f)
}

func (c *checker) readLog(log Log) {
	var last, highest uint64
	writers := map[uint64]string{}
	for i := range log {
		b := &log[i]
		if b.Position != last+1 {
			c.fault(Malformed, "the log has position %d behind %d: it is not complete, or has one twice", b.Position, last)
		}
		last = b.Position
		if b.Epoch < highest {
			c.fault(Order, "position %d is of epoch %d, behind epoch %d", b.Position, b.Epoch, highest)
		}
		highest = max(highest, b.Epoch)
		if _, ok := c.first[b.Epoch]; !ok {
			c.first[b.Epoch] = b.Position
		}
		if w, ok := writers[b.Epoch]; !ok {
			writers[b.Epoch] = b.Writer
		} else if w != b.Writer {
			c.fault(Writers, "position %d of epoch %d is written by %q; others of that epoch by %q", b.Position, b.Epoch, b.Writer, w)
		}
		if b.Owner != "" {
			if o := c.owners[b.Epoch]; o != "" && o != b.Owner {
				c.fault(Identity, "position %d says that epoch %d is of %s, which is of %s", b.Position, b.Epoch, b.Owner, o)
			}
			c.owners[b.Epoch] = b.Owner
		}
		for _, id := range b.IDs {
			c.stored[id] = append(c.stored[id], place{b.Epoch, b.Position})
		}
	}
	c.Epochs = len(c.first)
}

func (c *checker) readHistory(h History) {
	for i := range h {
		e := &h[i]
		if e.Kind == Connected {
			if c.conns[e.Conn] != nil {
				c.fault(Malformed, "connection %d is made twice", e.Conn)
				continue
			}
			c.Connections++
			c.conns[e.Conn] = &conn{Event: *e, ended: len(h)}
			if _, ok := c.begins[e.Epoch]; !ok {
				c.begins[e.Epoch] = i
			}
			c.identify(e)
			continue
		}
		k := c.conns[e.Conn]
		if k == nil || k.ended < i {
			c.fault(Malformed, "event %d: connection %d is not there, and %s %s", i, e.Conn, e.Kind, e.ID)
			continue
		}
		switch e.Kind {
		case Disconnected:
			k.ended = i
		case Sent:
			c.Sent++
			if c.attempts[e.ID] != nil {
				c.fault(Malformed, "message %s is sent twice under its id", e.ID)
				continue
			}
			c.attempts[e.ID] = &attempt{sent: i, conn: k, confirmed: -1, acked: map[uint64]int{}}
		}
	}
}

func (c *checker) identify(e *Event) {
	switch owner, ok := c.owners[e.Epoch]; {
	case c.first[e.Epoch] == 0:
		c.fault(Identity, "connection %d is told that %s owns the log in epoch %d, of which there is no batch", e.Conn, e.Node, e.Epoch)
	case ok && owner != e.Node:
		c.fault(Identity, "connection %d is told that epoch %d is of %s; the log says of %s", e.Conn, e.Epoch, e.Node, owner)
	}
}

// successor is the event in which a broker of a higher epoch was first seen to
// serve.
func (c *checker) successor(epoch uint64) (at int, ok bool) {
	for e, i := range c.begins {
		if e > epoch && (!ok || i < at) {
			at, ok = i, true
		}
	}
	return at, ok
}

// judge goes through the events, then through the messages.
func (c *checker) judge(h History) {
	successors := map[uint64]int{}
	for epoch := range c.begins {
		if at, ok := c.successor(epoch); ok {
			successors[epoch] = at
		}
	}
	for i := range h {
		e := &h[i]
		k := c.conns[e.Conn]
		if k == nil || k.ended < i || e.ID == "" {
			continue
		}
		a := c.attempts[e.ID]
		if a == nil {
			c.fault(Unsent, "connection %d: message %s is %s, and nobody sent it", e.Conn, e.ID, e.Kind)
			continue
		}
		next, superseded := successors[k.Epoch]
		superseded = superseded && next < i
		switch e.Kind {
		case Confirmed:
			c.Confirmed++
			if a.conn != k || a.confirmed >= 0 {
				c.fault(Malformed, "message %s is confirmed twice, or on another connection", e.ID)
				continue
			}
			a.confirmed = i
		case Refused:
			c.Refused++
		case Delivered:
			c.deliver(i, e, k, a, superseded, next)
		case Acknowledged:
			c.Acknowledged++
			if !superseded {
				k.acked++
			}
			if _, ok := a.acked[k.Epoch]; !ok {
				a.acked[k.Epoch] = i
			}
			if at := slices.Index(a.holders, k); at >= 0 {
				a.holders = slices.Delete(a.holders, at, at+1)
			}
		}
	}
	for id, a := range c.attempts {
		if a.confirmed >= 0 {
			c.confirmed(h, id, a, successors)
		}
	}
	for id := range c.stored {
		if c.attempts[id] == nil {
			c.fault(Unsent, "message %s is in the log, and nobody sent it", id)
		}
	}
	for _, k := range c.conns {
		if len(k.late) == 0 {
			continue
		}
		if k.ended < len(h) && h[k.ended].At-k.lateSince <= c.o.Grace {
			c.Late += len(k.late)
			continue
		}
		for _, f := range k.late {
			c.report(f)
		}
	}
}

func (c *checker) deliver(i int, e *Event, k *conn, a *attempt, superseded bool, next int) {
	c.Delivered++
	a.delivered++
	if a.delivered > 1 {
		c.Repeats++
		if e.Redelivered {
			c.Marked++
		}
	}
	k.delivered++
	switch {
	case !superseded:
	case a.sent > next:
		k.lateBy(e, "it was sent after a higher epoch was seen to serve")
	case k.Prefetch > 0 && k.delivered > k.acked+k.Prefetch:
		k.lateBy(e, fmt.Sprintf("it is delivery %d; %d were acknowledged before a higher epoch was seen to serve, and %d may be unacknowledged", k.delivered, k.acked, k.Prefetch))
	}
	for _, other := range a.holders {
		if other.Epoch == k.Epoch && other.ended > i {
			c.fault(Holders, "message %s is delivered on connection %d while connection %d has it, both in epoch %d", e.ID, e.Conn, other.Conn, k.Epoch)
		}
	}
	a.holders = append(a.holders, k)
}

func (k *conn) lateBy(e *Event, why string) {
	if len(k.late) == 0 {
		k.lateSince = e.At
	}
	k.late = append(k.late, Fault{Stale, fmt.Sprintf("connection %d of epoch %d: message %s is %s: %s", k.Conn, k.Epoch, e.ID, e.Kind, why)})
}

// confirmed judges a message that was confirmed.
func (c *checker) confirmed(h History, id string, a *attempt, successors map[uint64]int) {
	epoch := a.conn.Epoch
	if c.o.Drained && a.delivered == 0 {
		c.fault(Lost, "message %s was confirmed in epoch %d by %s and never delivered", id, epoch, a.conn.Node)
	}
	places := c.stored[id]
	at := slices.IndexFunc(places, func(p place) bool { return p.epoch == epoch })
	acked, settled := a.acked[epoch]
	settled = settled && acked < a.confirmed
	switch {
	case at >= 0:
		c.Stored++
		for e, first := range c.first {
			if e > epoch && first < places[at].position {
				c.fault(Superseded, "message %s is confirmed in epoch %d at position %d, behind the beginning of epoch %d at %d", id, epoch, places[at].position, e, first)
			}
		}
		if next, ok := successors[epoch]; ok && a.sent > next {
			c.fault(Superseded, "message %s is confirmed in epoch %d, and was sent %v after a higher epoch was seen to serve", id, epoch, h[a.sent].At-h[next].At)
		}
	case settled:
		c.Elided++
		if next, ok := successors[epoch]; ok && a.sent > next {
			a.conn.lateBy(&h[a.confirmed], "it was sent after a higher epoch was seen to serve")
		}
	case len(places) > 0:
		c.fault(Foreign, "message %s is confirmed in epoch %d by %s; the log has it in epoch %d at position %d", id, epoch, a.conn.Node, places[0].epoch, places[0].position)
	default:
		c.fault(Unwritten, "message %s is confirmed in epoch %d by %s, is not in the log, and nobody acknowledged it there before", id, epoch, a.conn.Node)
	}
}
