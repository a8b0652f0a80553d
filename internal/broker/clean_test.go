package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// A checkpoint is not taken for the sake of the room that the last one takes: not
// even when the disk is low does cleaning go on for ever.
func TestCheckpointsEnd(t *testing.T) {
	for _, size := range []int64{DefaultSegmentBytes, 64 << 10} { // one checkpoint in a segment, and in several
		w := newWorld(t, func(c *Config) {
			c.CleanEvery = time.Hour
			c.SegmentBytes = size
			c.batchBytes = 16 << 10
			c.Alarms.Disk = func() (int64, int64) { return 0, 100 }
		})
		c := w.client()
		for i := range 500 {
			c.queue(fmt.Sprintf("%0200d", i), true)
		}
		w.b.alarms.disk.Store(true)
		for rounds := 0; ; rounds++ {
			did, err := w.b.cleanOnce()
			if err != nil {
				t.Fatal(err)
			}
			if !did {
				break
			}
			if rounds == 100 {
				t.Fatalf("segments of %d bytes: still cleaning", size)
			}
		}
		c.Close()
	}
}

// A virtual host may be added while the cleaner reads a segment.
func TestVirtualHostIsAddedWhileCleaning(t *testing.T) {
	w, c := idWorld(t, func(c *Config) { c.CleanEvery = time.Hour })
	defer c.Close()
	c.publish("", "a", "m", true)
	c.dup("a", "1")
	c.publishWith("", "a", named("p-1"), "m", true)
	c.confirmed()
	segs, _, _, _, _ := w.b.log.room()
	added := make(chan error, 1)
	go func() {
		var err error
		for i := range 50 {
			err = errors.Join(err, w.b.AddVHost(fmt.Sprint("v", i)))
		}
		added <- err
	}()
	for range 20 {
		for _, s := range segs {
			c.must(w.b.moveLive(s))
		}
	}
	c.must(<-added)
	c.ready("a", 3)
}
