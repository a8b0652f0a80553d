package amqpserver

import (
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// deadAfter is how many heartbeat intervals without a byte make a peer dead (AMQP
// 0-9-1 §4.2.7).
const deadAfter = 2

var heartbeatFrame = amqpwire.AppendHeartbeat(nil)

// heart sends heartbeats, with a timer and no goroutine: where nothing was
// written for half an interval, as RabbitMQ does. The peer's are netserve's to
// miss. nil is a connection without heartbeats.
type heart struct {
	c       *conn
	half    time.Duration
	timer   *time.Timer
	stopped atomic.Bool
	beatAt  time.Time // when something was written last, as of the last beat
}

// startHeart sets what the negotiated heartbeat demands of both sides.
func (c *conn) startHeart() *heart {
	interval := c.peer.heartbeat
	if interval == 0 {
		return nil
	}
	dead := deadAfter * interval
	in := &c.nc.In
	in.SetIdleTimeout(dead)
	c.nc.Out.SetAlive(func() bool {
		// Whom we do not read at the moment, for back-pressure, is not silent.
		since := in.WaitingSince()
		return since.IsZero() || time.Since(since) < dead
	})
	h := &heart{c: c, half: interval / 2}
	// Set anew because the timer must be in its place when it fires.
	h.timer = time.AfterFunc(time.Hour, h.tick)
	h.timer.Reset(h.half)
	return h
}

func (h *heart) stop() {
	if h != nil {
		h.stopped.Store(true)
		h.timer.Stop()
	}
}

func (h *heart) tick() {
	if h.stopped.Load() {
		return
	}
	next, wrote := h.half, h.c.nc.Out.LastWrite()
	switch idle := time.Since(wrote); {
	case idle < h.half:
		next -= idle
	case !wrote.Equal(h.beatAt): // else the last one has not been written yet
		h.beatAt = wrote
		h.c.session.Reply(heartbeatFrame)
	}
	h.timer.Reset(next)
	if h.stopped.Load() {
		h.timer.Stop()
	}
}
