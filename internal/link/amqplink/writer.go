package amqplink

import (
	"errors"
	"net"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

const (
	flushBytes  = 256 << 10 // that are gathered for one write
	copyMost    = 64 << 10  // of a body that is copied to the others of that write
	takeMost    = 256       // messages that a source is asked for at once
	sizeAtLeast = 64        // of a message, to guess how many fit
)

// writer is the state of the goroutine that writes.
type writer struct {
	*conn
	out     []byte
	control []byte      // spare, for what conn.control is swapped with
	dirty   []*receiver // spare

	queue  []*sender // that have messages
	turn   int       // whose turn it is among them
	untold []*sender // that want to be told what was written
	pieces net.Buffers
	frames []byte
}

// run writes until the connection is over.
func (w *writer) run() {
	for {
		over, publish := w.collect()
		if publish {
			if err := w.publish(); err != nil {
				w.broken(err)
				return
			}
		}
		if len(w.out) > 0 {
			if err := w.flush(); err != nil {
				w.broken(err)
				return
			}
			if !over {
				continue
			}
		}
		if over {
			return
		}
		select {
		case <-w.wake:
		case <-w.ending:
		}
	}
}

// collect puts what goes before messages into out, settlements first: close
// says that they are before what closes their channel. It tells whether messages
// may follow.
func (w *writer) collect() (over, publish bool) {
	w.mu.Lock()
	dirty, control := w.conn.dirty, w.conn.control
	w.conn.dirty, w.conn.control = w.dirty[:0], w.control[:0]
	w.beating = false
	for _, s := range w.ready {
		if !s.queued {
			s.queued = true
			w.queue = append(w.queue, s)
		}
	}
	w.ready = w.ready[:0]
	over = w.over
	publish = !over && !w.closing && !w.blocked.Load()
	if over && !w.farewell {
		dirty, control = dirty[:0], control[:0]
	}
	w.mu.Unlock()
	for _, r := range dirty {
		w.out = r.ledger.appendFrames(w.out, r.ch.id)
	}
	w.out = append(w.out, control...)
	clear(dirty)
	w.dirty, w.control = dirty, control
	return over, publish
}

// publish fills out with messages, from one sender after the other.
func (w *writer) publish() error {
	for len(w.queue) > 0 && len(w.out) < flushBytes {
		if w.turn >= len(w.queue) {
			w.turn = 0
		}
		s := w.queue[w.turn]
		more, err := w.take(s)
		if err != nil {
			return err
		}
		if more {
			w.turn++
			continue
		}
		s.queued = false
		w.queue = slices.Delete(w.queue, w.turn, w.turn+1)
	}
	return nil
}

// take takes messages from one sender, and tells whether it may have more.
func (w *writer) take(s *sender) (more bool, err error) {
	s.woken.Store(false) // before Next: who wakes it from here on is heard
	if s.shut.Load() || s.paused.Load() || !s.gate.Enter() {
		return false, nil
	}
	defer s.gate.Leave()
	fit := (flushBytes-len(w.out))/max(s.size, sizeAtLeast) + 1
	batch := s.src.Next(min(fit, takeMost))
	for i := range batch {
		start := len(w.out)
		o := &batch[i]
		out, err := appendHead(w.out, s.ch.id, o, w.frameMax)
		if err != nil {
			s.unsendable(s.sent.Load()+1, err)
			return false, nil
		}
		w.out = out
		body := o.Message.Body // from here on a broker that answers too early may have it let go
		s.sent.Add(1)
		if !s.confirm && !s.told {
			s.told = true
			w.untold = append(w.untold, s)
		}
		if len(body) > copyMost {
			s.size = len(body)
			if err := w.writeLarge(s.ch.id, body); err != nil {
				return false, err
			}
			continue
		}
		w.out = amqpwire.AppendBody(w.out, s.ch.id, body, w.frameMax)
		s.size = len(w.out) - start
		if len(w.out) >= flushBytes && i < len(batch)-1 {
			if err := w.flush(); err != nil {
				return false, err
			}
		}
	}
	return len(batch) > 0, nil
}

// flush writes out.
func (w *writer) flush() error {
	if _, err := w.line.Write(w.out); err != nil {
		return err
	}
	w.flushed()
	return nil
}

func (w *writer) flushed() {
	w.pulse.Writes.Add(1)
	w.out = w.out[:0]
	for _, s := range w.untold {
		s.told = false
		if s.gate.Enter() {
			s.src.Written(s.sent.Load())
			s.gate.Leave()
		}
	}
	clear(w.untold)
	w.untold = w.untold[:0]
}

// writeLarge writes out and a body behind it, which is not copied unless it has
// to be encrypted.
func (w *writer) writeLarge(channel uint16, body []byte) error {
	most := int(w.frameMax) - amqpwire.FrameOverhead
	if w.line.Secure {
		for len(body) > 0 {
			n := min(most, len(body))
			w.out = amqpwire.AppendBody(w.out, channel, body[:n], w.frameMax)
			if body = body[n:]; len(body) > 0 && len(w.out) < flushBytes {
				continue
			}
			if len(body) == 0 {
				return w.flush()
			}
			if _, err := w.line.Write(w.out); err != nil { // not all of it yet: nobody is told
				return err
			}
			w.pulse.Writes.Add(1)
			w.out = w.out[:0]
		}
		return nil
	}
	// The pieces between those of the body, each the end of a frame and the
	// beginning of the next, stand in frames.
	const between = amqpwire.FrameOverhead
	w.frames = slices.Grow(w.frames[:0], (len(body)/most+2)*between)
	w.pieces = append(w.pieces[:0], w.out)
	for len(body) > 0 {
		n := min(most, len(body))
		start := len(w.frames)
		if start > 0 {
			w.frames = append(w.frames, amqpwire.FrameEnd)
		}
		w.frames = amqpwire.AppendFrameHeader(w.frames, amqpwire.FrameBody, channel, uint32(n))
		w.pieces = append(w.pieces, w.frames[start:], body[:n])
		body = body[n:]
	}
	w.frames = append(w.frames, amqpwire.FrameEnd)
	w.pieces = append(w.pieces, w.frames[len(w.frames)-1:])
	left := w.pieces // what was written is taken off it
	err := w.line.Stream.WriteAll(&left)
	clear(w.pieces)
	if err != nil {
		return err
	}
	w.flushed()
	return nil
}

// broken ends the connection when it cannot be written to. What the broker had
// said before may be why, and is read first.
func (w *writer) broken(err error) {
	if errors.Is(err, transport.ErrStalled) {
		w.fail(&link.Error{Kind: link.Dead, Text: "the broker does not read", Err: err}, false)
		return
	}
	e := transport.Lost("writing", err)
	w.mu.Lock()
	w.writeErr = e
	w.mu.Unlock()
	if err := w.line.SetReadDeadline(time.Now().Add(transport.FarewellTime)); err != nil {
		w.fail(e, false)
	}
}
