package amqplink

import (
	"fmt"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// dead ends the connection when nothing was read for two heartbeats (AMQP 0-9-1
// §4.2.7).
func (c *conn) dead() {
	c.fail(&link.Error{
		Kind: link.Dead,
		Text: fmt.Sprintf("nothing came for %v, which is two heartbeats", 2*c.heartbeat),
	}, false)
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
