package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestRefusalsAreToldBesideConfirms: an acknowledgement of several never reaches
// over a refusal, and what was told is not told otherwise.
func TestRefusalsAreToldBesideConfirms(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	_ = c.ch.ConfirmSelect()
	told := func(want ...Event) {
		t.Helper()
		var got []Event
		for _, e := range c.Take(nil) {
			got = append(got, Event{Kind: e.Kind, Tag: e.Tag, Multiple: e.Multiple, Nack: e.Nack})
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("told %+v, want %+v", got, want)
		}
	}
	ack := func(tag uint64, multiple bool) Event {
		return Event{Kind: EventConfirm, Tag: tag, Multiple: multiple}
	}
	nack := func(tag uint64, multiple bool) Event {
		return Event{Kind: EventConfirm, Tag: tag, Multiple: multiple, Nack: true}
	}
	confirm := c.ch.confirmNow
	refuse := func(from, to uint64) {
		c.ch.s.mu.Lock()
		c.ch.rejectLocked(from, to)
		c.ch.s.mu.Unlock()
	}
	refuse(1, 1)
	told(nack(1, false))
	confirm(2, 4)
	refuse(5, 6)
	refuse(7, 9)
	confirm(10, 10)
	told(ack(4, true), nack(9, true), ack(10, true))
	refuse(13, 14) // early
	told(nack(13, false), nack(14, false))
	confirm(15, 15)
	told(ack(15, false))
	refuse(11, 11)
	confirm(12, 12)
	told(nack(11, false), ack(12, true), ack(15, true))
	told()
	if n := len(c.ch.conf.refused) + len(c.ch.conf.early); n > 0 {
		t.Errorf("%d are remembered of what is told", n)
	}
}

// TestEveryPublishIsToldOnce: whatever the order in which publishes are settled, a
// peer that reads an acknowledgement of several as all that it waits for, and one
// that reads it as all up to its tag, hear the same.
func TestEveryPublishIsToldOnce(t *testing.T) {
	w := newWorld(t)
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		c := w.client()
		const n = 100
		refused := map[uint64]bool{}
		told := map[uint64]bool{} // as refused
		look := func() {
			for _, e := range c.Take(nil) {
				from := e.Tag
				if e.Multiple {
					from = 1
				}
				for tag := from; tag <= e.Tag; tag++ {
					was, again := told[tag]
					if again && tag == e.Tag && !e.Multiple {
						t.Fatalf("seed %d: %d is told twice", seed, tag)
					}
					if !again {
						told[tag], was = e.Nack, e.Nack
					}
					if was != refused[tag] {
						t.Fatalf("seed %d: told of %d that it is refused: %v", seed, tag, was)
					}
				}
			}
		}
		order := make([]int, n) // not too much out of order
		for i := range order {
			j := max(0, i-rnd.IntN(8))
			order[i], order[j] = order[j], i
		}
		for _, i := range order {
			tag := uint64(i + 1)
			c.Session.mu.Lock()
			if rnd.IntN(3) == 0 {
				refused[tag] = true
				c.ch.rejectLocked(tag, tag)
			} else {
				c.ch.confirmLocked(tag, tag)
			}
			c.Session.mu.Unlock()
			if rnd.IntN(3) == 0 {
				look()
			}
		}
		look()
		if len(told) != n || len(c.ch.conf.refused) != 0 {
			t.Fatalf("seed %d: %d were told, %d are remembered", seed, len(told), len(c.ch.conf.refused))
		}
		c.Close()
	}
}
