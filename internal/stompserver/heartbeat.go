package stompserver

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

const (
	// deadAfter is how many intervals without a byte make a peer dead: a receiver
	// "should take into account an error margin" (STOMP 1.2, Heart-beating), and this
	// is RabbitMQ's and Artemis's.
	deadAfter = 2

	// maxHeartbeat is the longest interval that is kept or watched: a longer one
	// protects from nothing.
	maxHeartbeat = time.Hour
)

var heartbeat = []byte{'\n'}

// beats are the intervals agreed on, 0 for none.
type beats struct {
	send    time.Duration // of ours
	receive time.Duration // of the peer's
}

// negotiate agrees to what a client can and wants (STOMP 1.2, Heart-beating): the
// larger of its value and ours in each direction, and ours is what it asks for,
// as in RabbitMQ, within the limits here. More of ours than were asked for do no
// harm; a client that keeps to longer intervals than are watched must not be cut.
func negotiate(header []byte, least time.Duration) (beats, error) {
	sends, wants, err := stompwire.ParseHeartBeat(header)
	if err != nil {
		return beats{}, err
	}
	longest := max(maxHeartbeat, least)
	var b beats
	if wants > 0 {
		b.send = min(max(wants, least), longest)
	}
	if sends > 0 && sends <= longest {
		b.receive = max(sends, least)
	}
	return b, nil
}

// heart sends heart-beats, with a timer and no goroutine: where nothing was
// written for half an interval. The peer's are netserve's to miss. nil is a
// connection without ours.
type heart struct {
	c       *conn
	half    time.Duration
	timer   *time.Timer
	stopped atomic.Bool
	beatAt  time.Time // when something was written last, as of the last beat
}

// startHeart sets what the agreed heart-beats demand of both sides.
func (c *conn) startHeart() *heart {
	if c.beats.receive > 0 {
		// What the peer said it can do may be less often than we agreed to.
		dead := deadAfter * c.beats.receive
		in := &c.nc.In
		in.SetIdleTimeout(dead)
		c.nc.Out.SetAlive(func() bool {
			// Whom we do not read at the moment, for back-pressure, is not silent: but
			// who is not read until it takes its receipts, and takes nothing, is.
			since := in.WaitingSince()
			if held := c.heldSince.Load(); since.IsZero() && held != nil {
				since = *held
			}
			return since.IsZero() || time.Since(since) < dead
		})
	}
	if c.beats.send == 0 {
		return nil
	}
	h := &heart{c: c, half: c.beats.send / 2}
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
		h.c.session.Reply(heartbeat)
	}
	h.timer.Reset(next)
	if h.stopped.Load() {
		h.timer.Stop()
	}
}

// appendBeats appends a heart-beat header's value: what we send, and want.
func appendBeats(dst []byte, b beats) []byte {
	dst = strconv.AppendInt(dst, b.send.Milliseconds(), 10)
	return strconv.AppendInt(append(dst, ','), b.receive.Milliseconds(), 10)
}
