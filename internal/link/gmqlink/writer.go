package gmqlink

import (
	"errors"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
)

const (
	flushBytes  = 256 << 10 // that are gathered for one write
	takeMost    = 256       // messages that a source is asked for at once
	sizeAtLeast = 128       // of a message, to guess how many fit
	outMost     = 1 << 20   // how large the memory for what is written may stay
)

// writer is the state of the goroutine that writes.
type writer struct {
	*session
	out     []byte
	encoder encoder
}

// run writes until the session is over.
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

// collect puts what goes before messages into out, settlements first: what leaves
// the session is behind them. It tells whether messages may follow.
func (w *writer) collect() (over, publish bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over && !w.farewell {
		w.out = w.out[:0]
		return true, false
	}
	if w.over {
		return true, false
	}
	publish = w.sender != nil && w.opened && w.leaving == nil
	if w.receiver != nil {
		w.out = w.receiver.appendSettledLocked(w.out)
	}
	for _, k := range w.asked {
		w.out = append(w.out, k.line...)
		w.waiting.push(ofCall, 1, k)
	}
	w.asked = w.asked[:0]
	if w.receiver != nil && w.leaving == nil {
		w.out = w.receiver.appendFetchesLocked(w.out)
	}
	return false, publish
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
		tag := s.sent.Load() + 1
		out, err := w.encoder.appendPublish(w.out, &batch[i])
		if err != nil {
			s.unsendable(tag, err)
			return false, nil
		}
		w.out = out
		s.sent.Store(tag)
		if !s.confirm {
			s.told = true
		}
		s.size = len(w.out) - start
		w.expect()
		if len(w.out) >= flushBytes && i < len(batch)-1 {
			if err := w.flush(); err != nil {
				return false, err
			}
		}
	}
	return len(batch) > 0, nil
}

// expect notes that a publish will be answered.
func (w *writer) expect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting.push(ofPublish, 1, nil)
	w.unproven++
	w.pulse.Held.Store(true)
}

// flush writes out.
func (w *writer) flush() error {
	for from := 0; from < len(w.out); { // TLS tells what moved only of what it has written
		n, err := w.line.Write(w.out[from:min(len(w.out), from+flushBytes)])
		if err != nil {
			return err
		}
		from += n
		w.pulse.Writes.Add(1)
	}
	if w.out = w.out[:0]; cap(w.out) > outMost {
		w.out = nil
	}
	if s := w.sender; s != nil && s.told {
		s.told = false
		if s.gate.Enter() {
			s.src.Written(s.sent.Load())
			s.gate.Leave()
		}
	}
	return nil
}

// broken ends the connection when it cannot be written to. What the server had
// said before may be why, and is read first.
func (w *writer) broken(err error) {
	if errors.Is(err, transport.ErrStalled) {
		w.lost(&link.Error{Kind: link.Dead, Text: "the broker does not read", Err: err})
		return
	}
	e := transport.Lost("writing", err)
	w.mu.Lock()
	w.writeErr = e
	w.mu.Unlock()
	if err := w.line.SetReadDeadline(time.Now().Add(transport.FarewellTime)); err != nil {
		w.lost(e)
	}
}
