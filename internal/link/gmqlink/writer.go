package gmqlink

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

// Write implements transport.Dialogue.
func (s *session) Write() {
	if s.watched() {
		s.Go(s.watch)
	}
	s.Session.Write((&writer{session: s}).turn)
}

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
	defer w.Mu.Unlock()
	if w.Over && !w.Farewell {
		w.out = w.out[:0]
		return true, false
	}
	if w.Over {
		return true, false
	}
	publish = w.sender != nil && w.Opened && !w.Leaving
	if w.receiver != nil {
		w.out = w.receiver.appendSettledLocked(w.out)
	}
	for _, k := range w.asked {
		w.out = append(w.out, k.line...)
		w.waiting.push(ofCall, 1, k)
	}
	w.asked = w.asked[:0]
	if w.receiver != nil && !w.Leaving {
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
	w.Mu.Lock()
	defer w.Mu.Unlock()
	w.waiting.push(ofPublish, 1, nil)
	w.unproven++
	w.Pulse.Held.Store(true)
}

// flush writes out.
func (w *writer) flush() error {
	for from := 0; from < len(w.out); { // TLS tells what moved only of what it has written
		n, err := w.Line.Write(w.out[from:min(len(w.out), from+flushBytes)])
		if err != nil {
			return err
		}
		from += n
		w.Pulse.Writes.Add(1)
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
