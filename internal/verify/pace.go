package verify

import (
	"context"
	"time"
)

// catchUp is how far behind its rate a producer may make up for: timers are
// late by as much, but what an outage held up is not sent in one burst.
const catchUp = 100 * time.Millisecond

// A pace is when a producer's next message is due. That of rate 0 is always now.
type pace struct {
	between time.Duration
	next    time.Time
}

func newPace(rate float64, start time.Time) pace {
	p := pace{next: start}
	if rate > 0 {
		p.between = time.Duration(float64(time.Second) / rate)
	}
	return p
}

// wait waits until the next message is due. It says whether ctx still lasts.
func (p *pace) wait(ctx context.Context) bool {
	if p.between == 0 {
		return ctx.Err() == nil
	}
	now := time.Now()
	if early := p.next.Sub(now); early > 0 {
		timer := time.NewTimer(early)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	} else if -early > catchUp {
		p.next = now.Add(-catchUp)
	}
	p.next = p.next.Add(p.between)
	return ctx.Err() == nil
}
