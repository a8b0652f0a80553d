package broker

import (
	"testing"
	"testing/synctest"
	"time"
)

// The segment in which an owner began may hold nothing but messages beside. It goes only
// when a checkpoint says whose the log is: somebody who reads it then must know whom to
// wait for, and how long.
func TestOwnerIsKnownWhenItsFirstSegmentIsGone(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.node("a", small)
		a.up(time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		c.must(a.b.takeCheckpoint())
		fill := func() {
			for i := range 60 {
				c.publish("", "q", noteText(i, 2000), true)
				c.confirmed()
			}
		}
		fill()
		c.Close()
		a.stop()
		b := s.node("b", small, func(c *Config) { c.Lease = 2 * testLease })
		b.up(time.Second)
		c = b.client().confirming()
		first := b.b.log.seg
		fill()
		_, err := c.PurgeQueue("q")
		c.must(err)
		time.Sleep(testLease)
		synctest.Wait()
		if n := s.log.from(1)[0].Segment; n <= first {
			t.Errorf("the log begins with segment %d, the owner with %d", n, first)
		}
		d := s.node("d", small)
		time.Sleep(testLease)
		synctest.Wait()
		if st := d.standby.Status(); st.Owner != "b" || st.Epoch != 2 || d.standby.follower.r.lease != 2*testLease {
			t.Errorf("status %+v, lease %v", st, d.standby.follower.r.lease)
		}
		c.Close()
		b.stop()
		d.up(time.Second)
		d.stop()
	})
}
