package loadtest

import (
	"context"
	"time"
)

// A schedule is when the messages of a producer are due: evenly spaced from its
// start on, whatever becomes of them, or, at rate 0, now.
//
// What is measured begins when a message was due, also if the producer could not
// send it by then because those before it were held up: else a broker that stops
// for a second would be charged with one late message and not with all that were
// to be sent in that second. A timer that wakes the producer late is not the
// broker's fault, so that nothing is due before that.
type schedule struct {
	start   time.Time
	between float64 // ns; 0: no rate
	count   uint64
	woken   time.Time
}

func newSchedule(rate float64, start time.Time) *schedule {
	s := &schedule{start: start}
	if rate > 0 {
		s.between = float64(time.Second) / rate
	}
	return s
}

// next waits until the next message is due, and returns when that is. It says
// whether ctx still lasts.
func (s *schedule) next(ctx context.Context) (time.Time, bool) {
	now := time.Now()
	if s.between == 0 {
		return now, ctx.Err() == nil
	}
	due := s.start.Add(time.Duration(float64(s.count) * s.between))
	s.count++
	if early := due.Sub(now); early > 0 {
		timer := time.NewTimer(early)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return time.Time{}, false
		}
		s.woken = time.Now()
	}
	if due.Before(s.woken) {
		due = s.woken
	}
	return due, ctx.Err() == nil
}
