package broker

import "errors"

// Bulk calls f, and returns when all that f declared, bound and deleted on the
// session is durable: until then none of these calls waits for the journal, so that
// tens of thousands of them take no longer than writing them. What f returns is
// returned, with the broker's failure if it failed. f runs on the caller's
// goroutine, which is the session's reader.
func (s *Session) Bulk(f func() error) error {
	if s.bulk {
		return f() // the outer one waits
	}
	s.bulk = true
	defer func() { s.bulk = false }()
	err := f()
	s.bulk = false
	return errors.Join(err, s.b.await(s.b.log.caughtUp()))
}

// await waits until a change of the session's is durable, unless Bulk does.
func (s *Session) await(w *waiter) error {
	if s.bulk {
		return nil
	}
	return s.b.await(w)
}
