package journal

import "time"

// DurationBounds are the upper bounds of the classes that Durations counts in. The
// last class has none.
var DurationBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Durations counts how long something took.
type Durations struct {
	Counts [len(DurationBounds) + 1]uint64 // of each class
	Sum    time.Duration
}

// Count counts one duration.
func (d *Durations) Count(took time.Duration) {
	i := 0
	for i < len(DurationBounds) && took > DurationBounds[i] {
		i++
	}
	d.Counts[i]++
	d.Sum += took
}

// Total is how many were counted.
func (d *Durations) Total() uint64 {
	n := uint64(0)
	for _, c := range d.Counts {
		n += c
	}
	return n
}

// Measures are what a journal has done since it was opened.
type Measures struct {
	Syncs   Durations // making what was written durable: an fsync, or a commit
	Written int64     // bytes that were given to the medium by appends
}

// A Meter is a journal that measures what it does. It may be asked at any time, and
// never waits.
type Meter interface {
	Measures() Measures
}
