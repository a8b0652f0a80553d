// Package loadtest puts load on a broker and measures rates and latencies.
package loadtest

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ferrymq/ferry"
)

// Defaults of the options.
const (
	DefaultSize        = 100
	DefaultConfirm     = 1000
	DefaultPrefetch    = 1000
	DefaultReportEvery = time.Second
	DefaultKey         = "bench"
)

const (
	// flushTimeout bounds how long outcomes are waited for after the last message.
	flushTimeout = 10 * time.Second
	// idle is for how long consumers that are to take all messages wait for more.
	idle = 2 * time.Second
	// drainEvery is how often it is seen whether they have all.
	drainEvery = 20 * time.Millisecond
	// goodbye bounds how long is taken to delete queues and to close.
	goodbye = 5 * time.Second
	// minRate is a message in a little less than 12 days.
	minRate = 1e-6
)

// Options say what a load is. Without a count and a duration it lasts until its
// context ends.
type Options struct {
	URL        string `json:"-"` // of the brokers
	ConsumeURL string `json:"-"` // what consumers connect to, by another protocol for example; empty: URL
	ID         string `json:"id,omitempty"`

	Producers int     `json:"producers"`
	Consumers int     `json:"consumers"`
	Size      int     `json:"size"`     // bytes of a body
	Rate      float64 `json:"rate"`     // messages a second of each producer; 0: as fast as it goes
	Confirm   int     `json:"confirm"`  // unconfirmed messages of a producer; 0: no confirms
	Prefetch  int     `json:"prefetch"` // unacknowledged messages of a consumer; 0: DefaultPrefetch
	AutoAck   bool    `json:"auto_ack"`
	Transient bool    `json:"transient"` // messages need not survive a restart of the broker

	Duration     time.Duration `json:"duration_ns"`
	PublishCount uint64        `json:"pmessages"` // of each producer; 0: no limit
	ConsumeCount uint64        `json:"cmessages"` // of each consumer; 0: no limit

	Queue          string         `json:"queue"`  // with %d if there are several
	Queues         int            `json:"queues"` // 0: 1
	QueueArguments map[string]any `json:"queue_arguments,omitempty"`
	Exchange       string         `json:"exchange,omitempty"` // empty: the default one
	Kind           string         `json:"type,omitempty"`     // of the exchange; empty: it is there
	Key            string         `json:"key,omitempty"`      // with an exchange; empty: DefaultKey
	NoDeclare      bool           `json:"no_declare,omitempty"`
	Keep           bool           `json:"keep,omitempty"` // what was made for the load is not deleted

	// ConnectTimeout is for how long the first connection is tried for. 0: each
	// broker is tried once.
	ConnectTimeout time.Duration `json:"-"`

	// Client gives the options of the client of a producer or consumer, which are
	// numbered from 1 on. It may be nil.
	Client func(consumer bool, number int) []ferry.Option `json:"-"`

	Progress    func(Sample)  `json:"-"` // called each ReportEvery, from one goroutine; may be nil
	ReportEvery time.Duration `json:"-"`
}

// Check fills in defaults and says what is wrong with the options, as Run does.
func (o *Options) Check() error {
	for _, d := range []struct {
		value *int
		name  string
	}{
		{&o.Producers, "producers"},
		{&o.Consumers, "consumers"},
		{&o.Size, "size"},
		{&o.Confirm, "confirm"},
		{&o.Prefetch, "prefetch"},
		{&o.Queues, "queues"},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s: %d is less than none", d.name, *d.value)
		}
	}
	switch {
	case o.Producers == 0 && o.Consumers == 0:
		return errors.New("without producers and consumers there is nothing to do")
	case o.Queue == "":
		return errors.New("a queue is needed")
	case o.Rate != 0 && !(o.Rate >= minRate && o.Rate <= math.MaxFloat64):
		return fmt.Errorf("rate: %g is no number of messages a second", o.Rate)
	case o.Exchange == "" && o.Kind != "":
		return errors.New("a type is of an exchange, and none is given")
	}
	o.Queues = max(o.Queues, 1)
	if o.Prefetch == 0 {
		o.Prefetch = DefaultPrefetch
	}
	if o.ReportEvery <= 0 {
		o.ReportEvery = DefaultReportEvery
	}
	if o.Queues > 1 && !strings.Contains(o.Queue, "%d") {
		o.Queue += "-%d"
	}
	if o.Exchange != "" && o.Key == "" {
		o.Key = DefaultKey
	}
	return nil
}

// queue is the name of the queue with number i, of which there are o.Queues.
func (o *Options) queue(i int) string {
	return strings.ReplaceAll(o.Queue, "%d", strconv.Itoa(i%o.Queues+1))
}

// shape is the load in a few words.
func (o *Options) shape() string {
	parts := []string{fmt.Sprintf("%dx%d %s", o.Producers, o.Consumers, bytesText(o.Size))}
	if o.Transient {
		parts = append(parts, "transient")
	} else {
		parts = append(parts, "persistent")
	}
	if o.Producers > 0 {
		if o.Confirm > 0 {
			parts = append(parts, fmt.Sprintf("confirm=%d", o.Confirm))
		} else {
			parts = append(parts, "no-confirm")
		}
		if o.Rate > 0 {
			parts = append(parts, fmt.Sprintf("rate=%g", o.Rate))
		}
	}
	if o.Consumers > 0 && o.AutoAck {
		parts = append(parts, "auto-ack")
	}
	if o.Queues > 1 {
		parts = append(parts, fmt.Sprintf("queues=%d", o.Queues))
	}
	if kind, ok := o.QueueArguments["x-queue-type"].(string); ok {
		parts = append(parts, kind)
	}
	if o.Exchange != "" {
		parts = append(parts, "exchange="+o.Exchange)
	}
	return strings.Join(parts, " ")
}

func bytesText(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}
