package broker

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// cold makes a node whose queue q has n messages that are in the journal only.
func (s *site) cold(n int, change ...func(*Config)) (*siteNode, *client) {
	s.t.Helper()
	a := s.node("a", append(change, func(c *Config) { c.HotBytes = 1 })...)
	a.up(time.Second)
	c := a.client().confirming()
	c.queue("q", true)
	for i := range n {
		c.publish("", "q", noteText(i, 1000), true)
		c.confirmed()
	}
	a.b.evict.poke()
	synctest.Wait()
	if hot := a.b.evict.hot.Load(); hot > 0 {
		s.t.Fatalf("%d bytes are in memory", hot)
	}
	return a, c
}

// A medium that is out of reach for less than the lease is not a fault.
func TestMessagesAreReadBackWhenTheMediumIsBack(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, c := s.cold(300)
		a.j.cut(false)
		c.consume("q", "t", true)
		time.Sleep(testLease / 2)
		c.none(EventDelivery)
		a.j.mend()
		for i := range 300 {
			c.expect(noteText(i, 1000), false)
		}
		if err := a.b.Cause(); err != nil {
			t.Fatal(err)
		}
		c.Close()
		a.stop()
	})
}

// The owner that has lost the journal, and does not know it, finds messages gone
// that the new one has settled: they are not damaged.
func TestMessagesThatAnotherOwnerDroppedAreNotDamaged(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, c := s.cold(50, func(c *Config) { c.SegmentBytes = 8 << 10 })
		head, _ := a.j.Head(t.Context())
		other := s.log.open()
		defer other.Close()
		done := make(chan error, 1)
		other.Append(journal.Batch{Position: head + 1, Epoch: 2, Segment: 1000, Head: ownerRecord(&Config{Node: "b"})}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		segments, _ := other.Segments(t.Context())
		for _, seg := range segments[:len(segments)-1] {
			if err := other.Drop(seg.Segment); err != nil {
				t.Fatal(err)
			}
		}
		c.consume("q", "t", true)
		<-a.b.Failed()
		if !errors.Is(a.b.Cause(), ErrOwnership) {
			t.Errorf("cause %v", a.b.Cause())
		}
		c.ended()
	})
}

// One that is still the owner, and finds messages gone, must not go on.
func TestMessagesThatAreGoneAreDamage(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, c := s.cold(50, func(c *Config) { c.SegmentBytes = 8 << 10 })
		segments, _ := a.j.Segments(t.Context())
		for _, seg := range segments[:len(segments)-1] {
			if err := a.j.Drop(seg.Segment); err != nil {
				t.Fatal(err)
			}
		}
		c.consume("q", "t", true)
		<-a.b.Failed()
		if cause := a.b.Cause(); errors.Is(cause, ErrOwnership) || !errors.Is(cause, journal.ErrDropped) {
			t.Errorf("cause %v", cause)
		}
	})
}

// Cleaning waits for the medium, and goes on.
func TestCleaningGoesOnWhenTheMediumIsBack(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a", func(c *Config) { c.SegmentBytes, c.CleanEvery = 16<<10, 20*time.Millisecond })
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		churn := func() {
			for i := range 100 {
				c.publish("", "q", noteText(i, 1000), true)
				if i%10 == 9 {
					c.confirmed() // so that it takes more than one batch, and segment
				}
			}
			if _, err := c.PurgeQueue("q"); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			churn()
			a.j.cut(false)
			time.Sleep(testLease / 2)
			a.j.mend()
			time.Sleep(testLease / 2)
			synctest.Wait()
		}
		if err := a.b.Cause(); err != nil {
			t.Fatal(err)
		}
		s.log.mu.Lock()
		n := len(s.log.drops)
		s.log.mu.Unlock()
		if n < 5 {
			t.Errorf("%d segments were dropped", n)
		}
		c.Close()
		a.stop()
	})
}

// A segment goes when what settled its messages is durable, not sooner: the next
// owner may be one that has read no further than that.
func TestSegmentIsDroppedWhenWhatSettledItIsDurable(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a", func(c *Config) { c.SegmentBytes, c.CleanEvery = 16<<10, 20*time.Millisecond })
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		for i := range 60 {
			c.publish("", "q", noteText(i, 1000), true)
			c.confirmed()
		}
		dropped := func() int {
			synctest.Wait()
			s.log.mu.Lock()
			defer s.log.mu.Unlock()
			return len(s.log.drops)
		}
		before := dropped()
		a.j.latency = testLease / 6
		purged := make(chan error, 1)
		go func() {
			_, err := c.PurgeQueue("q")
			purged <- err
		}()
		time.Sleep(testLease / 7) // the cleaner looks, again and again
		during := dropped()
		c.must(<-purged)
		time.Sleep(testLease)
		after := dropped()
		if during > before || after == before {
			t.Errorf("%d segments were dropped before, %d while nothing was durable, %d at the end", before, during, after)
		}
		c.Close()
		a.stop()
	})
}

// What an append waits for is told as it is: no disk of this machine is full.
func TestPublishersAreBlockedWhileTheMediumIsAway(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a")
		a.up(time.Second)
		a.j.waiting.Store(true)
		a.b.checkAlarms()
		if why := a.b.Blocked(); why != "waiting for the message store" || a.b.alarms.disk.Load() {
			t.Errorf("blocked: %q, disk alarm %v", why, a.b.alarms.disk.Load())
		}
		a.j.waiting.Store(false)
		a.b.checkAlarms()
		if why := a.b.Blocked(); why != "" {
			t.Errorf("blocked: %q", why)
		}
		a.stop()
	})
}
