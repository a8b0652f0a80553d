package amqplink

import (
	"fmt"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// pulseParts is how often in a heartbeat the pulse looks.
const pulseParts = 8

// pulse sends a heartbeat when nothing was written for half of one, and ends the
// connection when nothing was read for two (AMQP 0-9-1 §4.2.7), or up to an eighth
// less: a dead peer is noticed within two. It depends on neither sinks nor sources:
// a reader that waits for a sink is no dead peer.
func (c *conn) pulse() {
	ticker := time.NewTicker(c.heartbeat / pulseParts)
	defer ticker.Stop()
	reads, writes := c.reads.Load(), c.writes.Load()
	unread, unwritten := 0, 0
	for {
		select {
		case <-c.ending:
			return
		case <-ticker.C:
		}
		if now := c.writes.Load(); now != writes {
			writes, unwritten = now, 0
		} else if unwritten++; unwritten >= pulseParts/2 {
			unwritten = 0
			c.beat()
		}
		if now := c.reads.Load(); now != reads || c.held.Load() {
			reads, unread = now, 0
		} else if unread++; unread >= 2*pulseParts-1 { // counted from up to a part after the last read
			c.fail(&link.Error{
				Kind: link.Dead,
				Text: fmt.Sprintf("nothing came for %v, which is two heartbeats", 2*c.heartbeat),
			}, false)
			return
		}
	}
}

// beat queues a heartbeat, unless there is one.
func (c *conn) beat() {
	c.mu.Lock()
	if !c.beating {
		c.beating = true
		c.control = amqpwire.AppendHeartbeat(c.control)
	}
	c.mu.Unlock()
	c.signal()
}
