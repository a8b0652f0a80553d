// Package verify sends numbered messages through a broker and counts what
// becomes of each: an instrument that finds what a broker loses, repeats,
// reorders or damages while it is being broken.
//
// It knows only what it sent, what was confirmed and what arrived; a broker's
// word is taken for nothing else.
package verify

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ferrymq/ferry"
)

// Defaults of the options.
const (
	DefaultSize          = 100
	DefaultWindow        = 1000
	DefaultPrefetch      = 100
	DefaultSettleTimeout = 30 * time.Second
	DefaultReportEvery   = 5 * time.Second
)

const (
	// quiet is for how long no message must have come when all that were
	// confirmed have: repeats would be on their way still.
	quiet = 300 * time.Millisecond
	// goodbye bounds how long is taken to delete the queue and to close.
	goodbye = 5 * time.Second
	// minRate is a message in a little less than 12 days.
	minRate = 1e-6
)

// Options say what a run does. Without Count and Duration it lasts until its
// context ends.
type Options struct {
	URL        string // of the brokers that are published to
	ConsumeURL string // of those that are consumed from, if they are others

	Queue          string
	QueueArguments map[string]any // for its declaration
	NoDeclare      bool           // the queue is there, and stays
	Keep           bool           // the queue is not deleted even if it was made for this run

	Producers int     // 0: 1
	Consumers int     // 0: 1
	Rate      float64 // messages a second of all producers together; 0: as fast as they are confirmed
	Count     uint64  // messages of all producers together; 0: no limit
	Duration  time.Duration
	Size      int  // bytes of a body; 0: DefaultSize
	Window    int  // unconfirmed messages of a producer; 0: DefaultWindow
	Prefetch  int  // unacknowledged messages of a consumer; 0: DefaultPrefetch
	Dedup     int  // how many ids a consumer remembers to drop repeats; 0: it does not
	Transient bool // the messages need not survive a restart of the broker

	// SettleTimeout is for how long, after the last message was sent, nothing
	// new may come before what is missing counts as lost. 0: DefaultSettleTimeout.
	SettleTimeout time.Duration

	// ConnectTimeout is for how long a first connection is tried for. 0: each
	// broker is tried once.
	ConnectTimeout time.Duration

	Client      func() []ferry.Option // of one client; called once for each; may be nil
	Progress    func(Progress)        // called each ReportEvery, from one goroutine; may be nil
	ReportEvery time.Duration         // 0: DefaultReportEvery
	Phase       func(what string)     // called when it goes on to something else; may be nil
}

// Progress is how far a run is.
type Progress struct {
	At      time.Time
	Elapsed time.Duration // since the first message
	Counts
}

// Check fills in defaults and says what is wrong with the options, as Run does.
func (o *Options) Check() error {
	for _, d := range []struct {
		value     *int
		otherwise int
		name      string
	}{
		{&o.Producers, 1, "producers"},
		{&o.Consumers, 1, "consumers"},
		{&o.Size, DefaultSize, "size"},
		{&o.Window, DefaultWindow, "window"},
		{&o.Prefetch, DefaultPrefetch, "prefetch"},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s: %d is less than none", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.otherwise
		}
	}
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
	}{{&o.SettleTimeout, DefaultSettleTimeout}, {&o.ReportEvery, DefaultReportEvery}} {
		if *d.value <= 0 {
			*d.value = d.otherwise
		}
	}
	switch {
	case o.Queue == "":
		return errors.New("a queue is needed")
	case o.Size < MinSize:
		return fmt.Errorf("size: a body that can be checked has at least %d bytes, not %d", MinSize, o.Size)
	case o.Rate != 0 && !(o.Rate >= minRate && o.Rate <= math.MaxFloat64):
		return fmt.Errorf("rate: %g is no number of messages a second", o.Rate)
	case o.Count > 0 && o.Count < uint64(o.Producers):
		return fmt.Errorf("count: %d messages are too few for %d producers", o.Count, o.Producers)
	}
	return nil
}

// share is how many messages one of the producers sends of all.
func (o *Options) share(producer int) uint64 {
	n := o.Count / uint64(o.Producers)
	if uint64(producer) < o.Count%uint64(o.Producers) {
		n++
	}
	return n
}
