package broker

import (
	"testing"
)

// A peer that asks and does not read is not read either, until it does: what
// waits for it is bounded.
func TestWhatAPeerDoesNotReadIsBounded(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	body := make([]byte, 1<<20)
	held := make(chan struct{})
	for s := c.Session; ; {
		s.mu.Lock()
		full := s.answers > answersLimit
		s.mu.Unlock()
		if full {
			break
		}
		if err := c.ch.Publish(&Publish{Key: []byte("nowhere"), Mandatory: true, Body: body}); err != nil {
			t.Fatal(err)
		}
		c.Flush()
	}
	go func() {
		defer close(held)
		c.Throttle()
	}()
	eventually(t, func() bool { return c.Throttled() })
	events := c.Take(nil)
	c.Flushed(events)
	<-held
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers != 0 || c.outBytes != 0 {
		t.Errorf("%d and %d bytes are said to wait in an empty outbox", c.answers, c.outBytes)
	}
}
