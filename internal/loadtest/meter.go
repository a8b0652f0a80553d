package loadtest

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// What latencies are told apart: from 100 ns to an hour, to three digits.
const (
	shortest = 100 * time.Nanosecond
	longest  = time.Hour
	digits   = 3
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(shortest), int64(longest), digits)
}

// A count is how many messages there were, and when the first and the last.
type count struct {
	n           uint64
	first, last time.Time
}

func (c *count) add(now time.Time) {
	if c.n == 0 {
		c.first = now
	}
	c.n++
	c.last = now
}

func (c *count) merge(other count) {
	if other.n == 0 {
		return
	}
	if c.n == 0 || other.first.Before(c.first) {
		c.first = other.first
	}
	if other.last.After(c.last) {
		c.last = other.last
	}
	c.n += other.n
}

// perSecond is the mean rate between the first and the last.
func (c *count) perSecond() float64 {
	d := c.last.Sub(c.first).Seconds()
	if c.n < 2 || d <= 0 {
		return 0
	}
	return float64(c.n-1) / d
}

// totals are what producers and consumers count.
type totals struct {
	sent, confirmed, received count
	refused, unknown          uint64
}

func (t *totals) merge(o *totals) {
	t.sent.merge(o.sent)
	t.confirmed.merge(o.confirmed)
	t.received.merge(o.received)
	t.refused += o.refused
	t.unknown += o.unknown
}

// A meter is what one producer or consumer writes down.
type meter struct {
	mu       sync.Mutex // guards all below
	totals   totals
	latency  *hdrhistogram.Histogram // since it was taken; nil until there is one
	consumer bool
}

// An outcome is what became of a message that was sent.
type outcome int

const (
	confirmed outcome = iota
	refused
	unknown
)

func (m *meter) sent(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.totals.sent.add(now)
}

// settled writes an outcome down, of a message that was due some time before.
func (m *meter) settled(o outcome, due, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch o {
	case refused:
		m.totals.refused++
	case unknown:
		m.totals.unknown++
	case confirmed:
		m.totals.confirmed.add(now)
		m.recordLocked(now.Sub(due))
	}
}

// received writes a delivery down. took is below 0 if it is not known.
func (m *meter) received(took time.Duration, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.totals.received.add(now)
	if took >= 0 {
		m.recordLocked(took)
	}
}

func (m *meter) recordLocked(d time.Duration) {
	if m.latency == nil {
		m.latency = newHistogram()
	}
	// It is in range, the only thing that could be wrong.
	_ = m.latency.RecordValue(int64(min(max(d, shortest), longest)))
}

// take adds what was written down: counts since the beginning, latencies since
// the last time.
func (m *meter) take(t *totals, latency *hdrhistogram.Histogram) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t.merge(&m.totals)
	if m.latency != nil {
		latency.Merge(m.latency)
		m.latency.Reset()
	}
}

// A board gathers from all meters. It is for one goroutine.
type board struct {
	start     time.Time
	meters    []*meter
	confirm   *hdrhistogram.Histogram // all of them
	endToEnd  *hdrhistogram.Histogram
	samples   []Sample
	last      totals
	lastTime  time.Time
	intervalC *hdrhistogram.Histogram
	intervalE *hdrhistogram.Histogram
}

func newBoard(start time.Time, meters []*meter) *board {
	return &board{
		start: start, lastTime: start, meters: meters,
		confirm: newHistogram(), endToEnd: newHistogram(),
		intervalC: newHistogram(), intervalE: newHistogram(),
	}
}

// A Sample is what happened in one interval.
type Sample struct {
	Elapsed   float64      `json:"t_s"` // at its end, since the start
	Seconds   float64      `json:"seconds"`
	Sent      float64      `json:"sent_per_s"`
	Confirmed float64      `json:"confirmed_per_s"`
	Received  float64      `json:"received_per_s"`
	Confirm   *Percentiles `json:"confirm_us,omitempty"` // nil if there was none
	EndToEnd  *Percentiles `json:"end_to_end_us,omitempty"`
}

// sample ends an interval.
func (b *board) sample(now time.Time) Sample {
	b.intervalC.Reset()
	b.intervalE.Reset()
	var t totals
	for _, m := range b.meters {
		if m.consumer {
			m.take(&t, b.intervalE)
		} else {
			m.take(&t, b.intervalC)
		}
	}
	b.confirm.Merge(b.intervalC)
	b.endToEnd.Merge(b.intervalE)
	d := now.Sub(b.lastTime).Seconds()
	s := Sample{
		Elapsed: now.Sub(b.start).Seconds(), Seconds: d,
		Sent:      rate(t.sent.n-b.last.sent.n, d),
		Confirmed: rate(t.confirmed.n-b.last.confirmed.n, d),
		Received:  rate(t.received.n-b.last.received.n, d),
		Confirm:   percentiles(b.intervalC), EndToEnd: percentiles(b.intervalE),
	}
	b.last, b.lastTime = t, now
	b.samples = append(b.samples, s)
	return s
}

func rate(n uint64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

// Percentiles are of latencies, in microseconds.
type Percentiles struct {
	Count int64   `json:"count"`
	Min   float64 `json:"min"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
	Mean  float64 `json:"mean"`
}

// percentiles are nil if nothing was measured.
func percentiles(h *hdrhistogram.Histogram) *Percentiles {
	if h.TotalCount() == 0 {
		return nil
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e3 }
	return &Percentiles{
		Count: h.TotalCount(),
		Min:   float64(h.Min()) / 1e3, P50: at(50), P95: at(95), P99: at(99), P999: at(99.9),
		Max: float64(h.Max()) / 1e3, Mean: h.Mean() / 1e3,
	}
}
