package gmqserver

import (
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// Limits of what waits to be answered.
const (
	// heldMost is how much of messages that were taken may wait to be written, bytes.
	heldMost = 256 << 10
	// listMost is how many answers may wait.
	listMost = 1024
	// confirmPatience is how long confirms are waited for when the connection is to
	// end.
	confirmPatience = 2 * time.Second
)

// An answer is a reply that is not written yet.
type answer struct {
	reply    gmqwire.Reply
	line     bool   // the reply ends with a newline, as the requests do
	settle   uint64 // the delivery that is settled when the reply was written; 0: none
	returned []byte // the message, which no queue took
	repeated bool   // and was published once more
}

// replies are the answers of a connection to the requests that it has read, in
// their order.
type replies struct {
	list    []answer
	held    int       // bytes of messages in list
	tag     uint64    // of the last publish
	waitFor []publish // of list, in the order of their tags
	waiting int       // of waitFor
	settles []uint64  // deliveries whose replies are in the output buffer
}

// publish is one whose confirm has not come, or has.
type publish struct {
	tag  uint64
	at   int // in replies.list
	done bool
}

// add queues an answer that waits for nothing.
func (q *replies) add(a answer) {
	q.list = append(q.list, a)
	q.held += len(a.reply.Body)
}

// expect makes the answer at a place wait for the confirm of the publish that was
// just made.
func (q *replies) expect(at int) {
	q.tag++
	q.waitFor = append(q.waitFor, publish{tag: q.tag, at: at})
	q.waiting++
}

// full tells whether what is queued should be written before more is.
func (q *replies) full() bool { return q.held >= heldMost || len(q.list) >= listMost }

// confirm notes that a publish is settled, or (multiple) all up to it.
func (q *replies) confirm(tag uint64, multiple, refused bool) {
	i, found := slices.BinarySearchFunc(q.waitFor, tag, func(p publish, tag uint64) int {
		switch {
		case p.tag < tag:
			return -1
		case p.tag > tag:
			return 1
		}
		return 0
	})
	if !multiple {
		if found {
			q.done(&q.waitFor[i], refused)
		}
		return
	}
	if found {
		i++
	}
	for j := range q.waitFor[:i] {
		q.done(&q.waitFor[j], refused)
	}
}

func (q *replies) done(p *publish, refused bool) {
	if p.done {
		return
	}
	p.done = true
	q.waiting--
	if refused {
		q.list[p.at].fail(faultf(nacked, "a queue refused the message"))
	}
}

func (a *answer) fail(f *fault) { a.reply.Confirmed, a.reply.ErrorText = false, f.Error() }

// find is the answer to the publish with a tag, nil if none waits for it.
func (q *replies) find(tag uint64) *answer {
	for i := range q.waitFor {
		if q.waitFor[i].tag == tag {
			return &q.list[q.waitFor[i].at]
		}
	}
	return nil
}

// failAll gives up what is not confirmed.
func (q *replies) failAll(f *fault) {
	for i := range q.waitFor {
		if p := &q.waitFor[i]; !p.done {
			q.done(p, false)
			q.list[p.at].fail(f)
		}
	}
}

// take takes the broker's events. What was taken from a queue is returned.
func (c *conn) take() (got *broker.Event) {
	c.events = c.session.Take(c.events)
	for i := range c.events {
		switch e := &c.events[i]; e.Kind {
		case broker.EventConfirm:
			c.confirm(e.Tag, e.Multiple, e.Nack)
		case broker.EventReturn:
			if a := c.find(e.Tag); a != nil {
				a.returned = e.Data
			}
		case broker.EventGot, broker.EventDelivery:
			got = &broker.Event{Kind: e.Kind, Tag: e.Tag, Redelivered: e.Redelivered, Data: e.Data}
		case broker.EventCancelled:
			c.cancelled = true
		case broker.EventClosed:
			c.ending = kindFault(e.Err.Kind, e.Err.Text)
		}
	}
	c.session.Flushed(c.events)
	return got
}

// awaitConfirms waits until all publishes are settled, or nothing is to be known
// of them any more. An error is that of the connection.
func (c *conn) awaitConfirms() error {
	for {
		if c.waiting > 0 {
			c.session.Flush()
			if err := c.awaitSettled(); err != nil {
				return err
			}
		}
		settled := c.waitFor
		c.waitFor = nil
		for i := range settled {
			if err := c.repeat(settled[i].at); err != nil {
				return err
			}
		}
		if c.waiting == 0 {
			c.waitFor = settled[:0]
			return nil
		}
	}
}

// repeat publishes once more what was returned of the publish whose answer is at
// this place; mostly nothing was.
func (c *conn) repeat(at int) error {
	block := c.list[at].returned
	if block == nil {
		return nil
	}
	c.list[at].returned = nil
	err := c.again(&c.list[at], block)
	if err == nil {
		c.expect(at)
		return nil
	}
	f, ok := asFault(err)
	if !ok {
		return err
	}
	c.list[at].fail(f)
	return nil
}

func (c *conn) awaitSettled() error {
	forced, broken := c.forced, c.srv.cfg.Broker.Failed()
	var over <-chan time.Time
	for {
		c.take()
		if c.waiting == 0 {
			return nil
		}
		if over == nil && c.ending != nil {
			over, forced = time.After(confirmPatience), nil
		}
		select {
		case <-c.session.Wake():
		case <-forced:
			over, forced = time.After(confirmPatience), nil
		case <-broken:
			c.take()
			c.failAll(unknown(lost(c.srv.cfg.Broker)))
			return nil
		case <-over:
			c.failAll(unknown(kindFault(broker.Forced, "the broker stops")))
			return nil
		case <-c.nc.Context().Done():
			return c.nc.Context().Err()
		}
	}
}

// lost is the fault of a broker that has failed, or is not the owner of its
// messages any more.
func lost(b *broker.Broker) *fault {
	if f, ok := asFault(b.Err()); ok {
		return f
	}
	return kindFault(broker.Internal, "the broker has failed")
}

// unknown is the fault of a publish that is neither confirmed nor refused, because
// of why.
func unknown(why *fault) *fault {
	f := *why
	f.text += "; it is not known whether the message is stored"
	return &f
}

// answer writes the answers that are queued, each when it is known, and settles
// what was taken with them.
func (c *conn) answer() error {
	if len(c.list) == 0 {
		return nil
	}
	if err := c.awaitConfirms(); err != nil {
		return err
	}
	for i := range c.list {
		a := &c.list[i]
		if err := c.write(&a.reply, a.line); err != nil {
			return err
		}
		if a.settle != 0 {
			c.settles = append(c.settles, a.settle)
		}
		if c.nc.Out.Waiting() >= netserve.FlushSize {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	clear(c.list)
	c.list, c.waitFor, c.held = c.list[:0], c.waitFor[:0], 0
	return c.flush()
}

// flush writes the output buffer, and settles what was taken with it.
func (c *conn) flush() error {
	if err := c.nc.Out.Flush(); err != nil {
		return err
	}
	for _, tag := range c.settles {
		_ = c.ch.Ack(tag, false) // it may have been settled by A, with a guessed id
	}
	c.settles = c.settles[:0]
	return nil
}
