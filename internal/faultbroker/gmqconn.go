package faultbroker

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strconv"
	"time"

	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// A gmqConn speaks GMQ on one connection. Its fields are guarded by the broker's
// mutex, but for those that never change.
type gmqConn struct {
	*socket
	b *GMQ

	held      []byte // replies that are kept back
	unsettled []gmqDelivery
	delivered int
	waiting   *gmqwire.Request // the request for a message that waits for one, or nil
	until     *time.Timer      // of it
}

type gmqDelivery struct {
	id, queue string
	message   *stored
}

// frame implements speaker.
func (c *gmqConn) frame(in []byte) (int, error) {
	end := bytes.IndexByte(in, '\n')
	if end < 0 {
		return 0, nil
	}
	r := new(gmqwire.Request) // it points into in, also while it waits
	if err := gmqwire.ParseRequest(in[:end], r); err != nil {
		return 0, err
	}
	c.handle(r)
	return end + 1, nil
}

// handle does what a request asks for.
func (c *gmqConn) handle(r *gmqwire.Request) {
	b := c.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.ended || c.last {
		return
	}
	if w := c.waiting; w != nil { // what is behind it ends its wait
		c.wokenLocked()
		c.replyLocked(&gmqwire.Reply{Operation: w.Operation, Queue: w.Queue, Confirmed: true})
	}
	if _, known := b.queues[r.Queue]; !known && r.Queue != "" && !r.Passive {
		b.queues[r.Queue] = nil
	}
	answer := &gmqwire.Reply{Operation: r.Operation, Queue: r.Queue, Confirmed: true}
	switch r.Operation {
	case gmqwire.Sync:
		if r.AskServer && !b.faults.Single {
			answer.Server = "Ferry/faulty"
		}
	case gmqwire.Publish:
		c.takeLocked(r)
		return
	case gmqwire.Subscribe:
		c.fetchLocked(r)
		return
	case gmqwire.Length:
		if _, known := b.queues[r.Queue]; known {
			answer.Payload = strconv.AppendInt(nil, int64(len(b.queues[r.Queue])), 10)
		} else {
			answer.Confirmed, answer.ErrorText = false, "NOT_FOUND - no queue '"+r.Queue+"' in vhost '/'"
		}
	case gmqwire.Ack, gmqwire.Return:
		answer.ID = r.ID
		if !c.settleLocked(r) {
			answer.Confirmed, answer.ErrorText = false, "PRECONDITION_FAILED - unknown id '"+r.ID+"'"
		}
	}
	c.replyLocked(answer)
	b.dispatchLocked()
}

// takeLocked takes a message.
func (c *gmqConn) takeLocked(r *gmqwire.Request) {
	b, f := c.b, &c.b.faults
	raw, err := base64.StdEncoding.DecodeString(string(r.Payload))
	if err != nil {
		c.replyLocked(&gmqwire.Reply{Operation: r.Operation, ErrorText: "SYNTAX_ERROR - the payload is no base64"})
		return
	}
	body := string(raw)
	b.publishes = append(b.publishes, GMQPublish{c.id, r.Queue, body, r.MessageID, r.Attempt})
	if f.Poison != "" && body == f.Poison {
		c.replyLocked(&gmqwire.Reply{Operation: r.Operation, Queue: r.Queue, ErrorText: f.Reason})
		return
	}
	b.queues[r.Queue] = append(b.queues[r.Queue], &stored{body: body, id: r.MessageID})
	switch answer := gmqwire.AppendReply(nil, &gmqwire.Reply{Operation: r.Operation, Queue: r.Queue, Confirmed: true}); {
	case f.Odd != "" && body == f.Odd:
		c.sendLocked([]byte(f.Answer))
		c.lastLocked(f.Ends)
	case f.HoldReplies:
		c.held = append(append(c.held, answer...), '\n')
	default:
		c.sendLocked(append(answer, '\n'))
	}
	b.dispatchLocked()
}

// fetchLocked answers a request for a message, now or when there is one.
func (c *gmqConn) fetchLocked(r *gmqwire.Request) {
	switch {
	case len(c.b.queues[r.Queue]) > 0:
		c.deliverLocked(r)
	case r.WaitMsec <= 0 || c.b.faults.NoWait:
		c.replyLocked(&gmqwire.Reply{Operation: r.Operation, Queue: r.Queue, Confirmed: true})
	default:
		c.waiting = r
		c.until = time.AfterFunc(time.Duration(r.WaitMsec)*time.Millisecond, func() { c.waited(r) })
	}
}

func (c *gmqConn) waited(r *gmqwire.Request) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.waiting == r {
		c.wokenLocked()
		c.replyLocked(&gmqwire.Reply{Operation: r.Operation, Queue: r.Queue, Confirmed: true})
	}
}

// wokenLocked ends a wait.
func (c *gmqConn) wokenLocked() {
	if c.waiting != nil {
		c.until.Stop()
		c.waiting, c.until = nil, nil
	}
}

func (c *gmqConn) deliverLocked(r *gmqwire.Request) {
	m := c.b.popLocked(r.Queue)
	answer := &gmqwire.Reply{
		Operation: r.Operation, Queue: r.Queue, Confirmed: true,
		Body: []byte(m.body), MessageID: m.id, Redelivered: m.redelivered,
	}
	if r.Ack != "" {
		c.delivered++
		answer.ID = strconv.Itoa(c.id) + "." + strconv.Itoa(c.delivered)
	}
	if r.Ack == gmqwire.AckManual {
		c.unsettled = append(c.unsettled, gmqDelivery{answer.ID, r.Queue, m})
	}
	c.replyLocked(answer)
}

// settleLocked ends a delivery, and tells whether there was one of that id.
func (c *gmqConn) settleLocked(r *gmqwire.Request) bool {
	i := slices.IndexFunc(c.unsettled, func(d gmqDelivery) bool { return d.id == r.ID })
	if i < 0 {
		return false
	}
	d := c.unsettled[i]
	c.unsettled = slices.Delete(c.unsettled, i, i+1)
	what := r.Operation + " " + d.message.body
	switch {
	case r.Operation != gmqwire.Return:
	case r.NoRequeue:
		what += " dropped"
	default:
		c.b.requeueLocked(d.queue, d.message)
	}
	c.b.settlements = append(c.b.settlements, what)
	return true
}

// giveBackLocked implements speaker.
func (c *gmqConn) giveBackLocked() {
	for _, d := range slices.Backward(c.unsettled) {
		c.b.requeueLocked(d.queue, d.message)
	}
	c.unsettled = nil
	c.wokenLocked()
}

// replyLocked queues a reply, and, of the original, the end.
func (c *gmqConn) replyLocked(r *gmqwire.Reply) {
	answer := gmqwire.AppendReply(nil, r)
	if c.b.faults.Single {
		c.sendLocked(answer)
		c.lastLocked(true)
		return
	}
	c.sendLocked(append(answer, '\n'))
}

// sendLocked appends to what is to be written, behind what is kept back.
func (c *gmqConn) sendLocked(raw []byte) {
	if len(c.held) > 0 {
		c.held = append(c.held, raw...)
		return
	}
	c.out = append(c.out, raw...)
	c.b.changed.Broadcast()
}

// lastLocked has nothing written behind what is there, if it is to.
func (c *gmqConn) lastLocked(is bool) {
	c.last = c.last || is
	c.b.changed.Broadcast()
}
