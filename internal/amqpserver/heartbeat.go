package amqpserver

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// deadAfter is how many heartbeat intervals without a byte make a peer dead (AMQP
// 0-9-1 §4.2.7).
const deadAfter = 2

var heartbeatFrame = amqpwire.AppendHeartbeat(nil)

var errDead = errors.New("the peer's heartbeats have stopped")

// heart sends heartbeats and listens for the peer's, with a timer and no
// goroutine. nil is a connection without heartbeats.
type heart struct {
	c        *conn
	interval time.Duration
	timer    *time.Timer
	stopped  atomic.Bool
	beatAt   int64 // when something was written last, as of the last beat
}

func (c *conn) startHeart() *heart {
	if c.peer.heartbeat == 0 {
		return nil
	}
	h := &heart{c: c, interval: c.peer.heartbeat}
	// Set anew because the timer must be in its place when it fires.
	h.timer = time.AfterFunc(time.Hour, h.tick)
	h.timer.Reset(h.interval / 2)
	return h
}

func (h *heart) stop() {
	if h != nil {
		h.stopped.Store(true)
		h.timer.Stop()
	}
}

// tick sends a heartbeat where nothing was written for half an interval, and cuts
// a peer of which nothing came for too long. Only the time that the reader waits
// for input counts: a peer that is held back by back-pressure is not silent.
func (h *heart) tick() {
	if h.stopped.Load() {
		return
	}
	now, half := clock(), int64(h.interval/2)
	if since := h.c.nc.waiting.Load(); since != 0 && now-since > deadAfter*int64(h.interval) {
		h.c.log.Warn("heartbeats missed", "interval", h.interval)
		h.c.cut(errDead)
		return
	}
	next := half
	wrote := h.c.nc.wrote.Load()
	switch idle := now - wrote; {
	case idle < half:
		next = half - idle
	case wrote != h.beatAt: // else the last one has not been written yet
		h.beatAt = wrote
		h.c.session.Reply(heartbeatFrame)
	}
	h.timer.Reset(time.Duration(next))
	if h.stopped.Load() {
		h.timer.Stop()
	}
}
