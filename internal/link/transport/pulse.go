package transport

import (
	"sync/atomic"
	"time"
)

// pulseParts is how often in an interval the pulse looks.
const pulseParts = 8

// A Pulse has heartbeats sent in time, and notices a peer from which nothing
// comes. It depends on neither sinks nor sources: a reader that waits for a sink
// is no dead peer.
type Pulse struct {
	Reads, Writes atomic.Uint32 // calls of the transport that moved something
	Held          atomic.Bool   // the reader waits for a sink
}

// Run calls beat when nothing was written for half of send, and dead, once, when
// nothing was read for two of receive, or up to an eighth less of one: a dead peer is
// noticed within two. 0 is an interval that was not agreed on. It returns after
// dead, and when ending is closed.
func (p *Pulse) Run(ending <-chan struct{}, send, receive time.Duration, beat, dead func()) {
	sends, stopSends := ticks(send)
	defer stopSends()
	receives, stopReceives := ticks(receive)
	defer stopReceives()
	reads, writes := p.Reads.Load(), p.Writes.Load()
	unread, unwritten := 0, 0
	for {
		select {
		case <-ending:
			return
		case <-sends:
			if now := p.Writes.Load(); now != writes {
				writes, unwritten = now, 0
			} else if unwritten++; unwritten >= pulseParts/2 {
				unwritten = 0
				beat()
			}
		case <-receives:
			if now := p.Reads.Load(); now != reads || p.Held.Load() {
				reads, unread = now, 0
			} else if unread++; unread >= 2*pulseParts-1 { // counted from up to a part after the last read
				dead()
				return
			}
		}
	}
}

// ticks come pulseParts times in an interval, and never where there is none.
func ticks(interval time.Duration) (<-chan time.Time, func()) {
	if interval <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(max(interval/pulseParts, 1))
	return t.C, t.Stop
}
