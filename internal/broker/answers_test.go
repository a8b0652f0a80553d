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

// One that asks for messages and does not read them is held with the first that
// is too many, not when all it asked for at once has been carried out.
func TestGetWaitsForThePeerToRead(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", false)
	c.publish("", "q", "x", false)
	c.Flush()
	c.Reply(make([]byte, answersLimit))
	got := make(chan bool)
	go func() {
		found, _ := c.ch.Get("q", true)
		got <- found
	}()
	eventually(t, func() bool { return c.Throttled() })
	c.Flushed(c.Take(nil))
	if !<-got {
		t.Error("the message was not found")
	}
}
