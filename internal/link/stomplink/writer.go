package stomplink

import (
	"net"
	"strconv"
)

const (
	flushBytes  = 256 << 10 // that are gathered for one write
	copyMost    = 64 << 10  // of a body that is copied to the others of that write
	takeMost    = 256       // messages that a source is asked for at once
	sizeAtLeast = 128       // of a message, to guess how many fit
)

// writer is the state of the goroutine that writes.
type writer struct {
	*session
	out     []byte
	control []byte // spare, for what session.control is swapped with
	encoder encoder
	pieces  net.Buffers
}

// Write implements transport.Dialogue.
func (s *session) Write() { s.Session.Write((&writer{session: s}).turn) }

func (w *writer) turn() (wrote, over bool, err error) {
	over, publish := w.collect()
	if publish {
		err = w.publish()
	}
	if err != nil || len(w.out) == 0 {
		return false, over, err
	}
	return true, over, w.flush()
}

// collect puts what goes before messages into out, settlements first: what leaves
// the session is behind them. It tells whether messages may follow.
func (w *writer) collect() (over, publish bool) {
	w.Mu.Lock()
	control, dirty := w.session.control, w.dirty
	w.session.control, w.dirty = w.control[:0], false
	w.beating = false
	over = w.Over
	publish = w.sender != nil && w.Opened && !over && !w.Leaving
	if over && !w.Farewell {
		control, dirty = control[:0], false
	}
	w.Mu.Unlock()
	if dirty {
		w.out = w.receiver.appendSettled(w.out)
		w.receiver.giveAgain()
	}
	w.out = append(w.out, control...)
	w.control = control
	return over, publish
}

// publish fills out with messages.
func (w *writer) publish() error {
	s := w.sender
	if !s.woken.Load() {
		return nil
	}
	for len(w.out) < flushBytes {
		more, err := w.take(s)
		if !more || err != nil {
			return err
		}
	}
	s.woken.Store(true) // what was written is flushed, then there may be more
	return nil
}

// take takes messages, and tells whether there may be more.
func (w *writer) take(s *sender) (more bool, err error) {
	s.woken.Store(false) // before Next: who wakes it from here on is heard
	if s.shut.Load() || !s.gate.Enter() {
		return false, nil
	}
	defer s.gate.Leave()
	fit := (flushBytes-len(w.out))/max(s.size, sizeAtLeast) + 1
	batch := s.src.Next(min(fit, takeMost))
	for i := range batch {
		start := len(w.out)
		o := &batch[i]
		tag := s.sent.Load() + 1
		out, err := w.encoder.appendHead(w.out, s, o, tag)
		if err != nil {
			s.unsendable(tag, err)
			return false, nil
		}
		w.out = out
		body := o.Message.Body // from here on a broker that answers too early may have it let go
		s.sent.Store(tag)
		if !s.confirm {
			s.told = true
		}
		if len(body) > copyMost {
			s.size = len(body)
			if err := w.writeLarge(body); err != nil {
				return false, err
			}
			continue
		}
		w.out = append(append(w.out, body...), 0)
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
	_, err := w.Line.Write(w.out)
	w.moved()
	if err != nil {
		return err
	}
	w.flushed()
	return nil
}

func (w *writer) flushed() {
	w.Pulse.Writes.Add(1)
	w.out = w.out[:0]
	if s := w.sender; s != nil && s.told {
		s.told = false
		if s.gate.Enter() {
			s.src.Written(s.sent.Load())
			s.gate.Leave()
		}
	}
}

var frameEnd = []byte{0}

// writeLarge writes out and a body behind it, which is not copied unless it has
// to be encrypted: TLS does that in pieces of its own.
func (w *writer) writeLarge(body []byte) error {
	if w.Line.Secure {
		if _, err := w.Line.Write(w.out); err != nil {
			return err
		}
		for len(body) > 0 {
			n := min(len(body), flushBytes)
			if _, err := w.Line.Write(body[:n]); err != nil {
				return err
			}
			w.Pulse.Writes.Add(1)
			body = body[n:]
		}
		w.out = append(w.out[:0], 0)
		return w.flush()
	}
	w.pieces = append(w.pieces[:0], w.out, body, frameEnd)
	left := w.pieces // what was written is taken off it
	err := w.Line.Stream.WriteAll(&left)
	w.moved()
	clear(w.pieces)
	if err != nil {
		return err
	}
	w.flushed()
	return nil
}

func appendCallID(dst []byte, id uint64) []byte {
	return strconv.AppendUint(append(dst, callPrefix), id, 10)
}
