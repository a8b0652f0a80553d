package broker

import (
	"sync/atomic"
	"time"
)

// AlarmConfig says when publishers are blocked. A nil function switches its
// alarm off. An alarm ends when there is a tenth more room than it asks for.
type AlarmConfig struct {
	Every  time.Duration              // between looks, at most; 0: 250 ms
	Memory func() (used, limit int64) // bytes
	Disk   func() (free, limit int64) // bytes
}

const (
	// fillRate is how fast a disk is taken to fill up at most, bytes a second.
	// The less room is left before the alarm, the sooner it is looked at again:
	// publishers must be blocked before nothing at all can be written.
	fillRate = 1 << 30
	// alarmEveryMin is the shortest time between looks.
	alarmEveryMin = 5 * time.Millisecond
)

type alarms struct {
	memory, disk                     atomic.Bool
	used, usedLimit, free, freeLimit atomic.Int64  // as they were looked at last
	cleared                          chan struct{} // closed when the alarm that is on ends; guarded by Broker.mu
}

// alarmLoop watches memory and disk.
func (b *Broker) alarmLoop() {
	every := b.cfg.Alarms.Every
	if every == 0 {
		every = 250 * time.Millisecond
	}
	for {
		b.clock.Store(time.Now().UnixMilli())
		next := every
		if room := b.checkAlarms(); room >= 0 && room < fillRate {
			next = min(every, max(time.Duration(room)*time.Second/fillRate, alarmEveryMin))
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-b.quit:
			timer.Stop()
			return
		case <-b.failed:
			timer.Stop()
			return
		}
	}
}

// checkAlarms begins and ends alarms. room is how much may still be written
// before the disk's begins, bytes; negative if that is not known, or it is on.
func (b *Broker) checkAlarms() (room int64) {
	room = -1
	a := &b.cfg.Alarms
	if a.Memory != nil {
		used, limit := a.Memory()
		b.alarms.used.Store(used)
		b.alarms.usedLimit.Store(limit)
		was := b.alarms.memory.Load()
		if !was && used > limit || was && used > limit-limit/10 {
			b.alarms.memory.Store(true)
		} else {
			b.alarms.memory.Store(false)
		}
	}
	disk := false
	if a.Disk != nil {
		free, limit := a.Disk()
		b.alarms.free.Store(free)
		b.alarms.freeLimit.Store(limit)
		was := b.alarms.disk.Load()
		disk = !was && free < limit || was && free < limit+limit/10
		if !disk && limit > 0 {
			room = free - limit
		}
	}
	st := b.log.j.Status()
	if st.Low != nil && st.Waiting == nil {
		// The journal looks for room when it appends, and nobody may publish.
		b.log.write(recNone, nil)
	}
	// Where the journal is shared, what appends wait for is not room here, and
	// nothing can be done about it.
	shared := b.cfg.Journal.Info().Shared
	b.alarms.disk.Store(disk || st.Waiting != nil && !shared || st.Low != nil)
	switch {
	case shared && st.Waiting != nil:
		b.setBlocked("waiting for the message store")
	case b.alarms.memory.Load() && b.alarms.disk.Load():
		b.setBlocked("low on memory & disk")
	case b.alarms.memory.Load():
		b.setBlocked("low on memory")
	case b.alarms.disk.Load():
		b.setBlocked("low on disk")
	default:
		b.setBlocked("")
	}
	return room
}

// setBlocked begins or ends the blocking of publishers.
func (b *Broker) setBlocked(reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.blocked.Load()
	switch {
	case reason == "" && was != nil:
		b.blocked.Store(nil)
		close(b.alarms.cleared)
		b.logger.Info("publishers may go on")
		for s := range b.sessions {
			s.tellUnblocked()
		}
	case reason != "" && was == nil:
		b.alarms.cleared = make(chan struct{})
		b.blocked.Store(&reason)
		b.logger.Warn("publishers are blocked", "reason", reason)
	case reason != "" && *was != reason:
		b.blocked.Store(&reason)
	}
}

// Blocked is why publishers are blocked, empty if they are not.
func (b *Broker) Blocked() string {
	if r := b.blocked.Load(); r != nil {
		return *r
	}
	return ""
}

// countBlocked counts what is published under an alarm, n bytes.
func (s *Session) countBlocked(n int) {
	if s.b.blocked.Load() == nil {
		return
	}
	if !s.isBlocked() {
		s.tellBlocked()
	}
	s.blockedBytes += n
}

// tellBlocked notes that the session published under an alarm.
func (s *Session) tellBlocked() {
	reason := s.b.blocked.Load()
	if reason == nil {
		return
	}
	s.blockedBytes = 0
	s.mu.Lock()
	s.toldBlocked = true
	if s.cfg.NotifyBlocked {
		s.pushLocked(Event{Kind: EventBlocked, Data: []byte(*reason)})
	}
	s.mu.Unlock()
	s.signal()
	if s.b.blocked.Load() == nil {
		s.tellUnblocked() // it ended before the session could be found to be told
	}
}

func (s *Session) isBlocked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.toldBlocked
}

func (s *Session) tellUnblocked() {
	s.mu.Lock()
	told := s.toldBlocked
	s.toldBlocked = false
	if told && s.cfg.NotifyBlocked {
		s.pushLocked(Event{Kind: EventUnblocked})
	}
	s.mu.Unlock()
	if told {
		s.signal()
	}
}

// waitUnblocked holds the reader of a blocked connection once it has used up
// what it may still publish.
func (s *Session) waitUnblocked() {
	if s.blockedBytes < blockedAllowance {
		return
	}
	s.b.mu.Lock()
	cleared := s.b.alarms.cleared
	on := s.b.blocked.Load() != nil
	s.b.mu.Unlock()
	if !on {
		return
	}
	s.throttled.Store(true)
	defer s.throttled.Store(false)
	select {
	case <-cleared:
	case <-s.stop:
	case <-s.b.failed:
	}
}
