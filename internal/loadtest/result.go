package loadtest

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Result is what a load has shown. Rates are from the first message to the
// last, of its kind.
type Result struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Broker  string    `json:"broker"` // host and port
	Shape   string    `json:"shape"`  // the load in a few words
	Options Options   `json:"options"`

	Sent      uint64 `json:"sent"`
	Confirmed uint64 `json:"confirmed"`
	Refused   uint64 `json:"refused"`
	Unknown   uint64 `json:"unknown"` // without an outcome
	Received  uint64 `json:"received"`

	SentRate      float64 `json:"sent_per_s"`
	ConfirmedRate float64 `json:"confirmed_per_s"`
	ReceivedRate  float64 `json:"received_per_s"`

	Confirm  *Percentiles `json:"confirm_us,omitempty"`    // nil if not measured
	EndToEnd *Percentiles `json:"end_to_end_us,omitempty"` // nil if not measured
	Samples  []Sample     `json:"samples"`

	// Stopped is why it ended before its time, empty if it did not, and Err the
	// same.
	Stopped string `json:"stopped,omitempty"`
	Err     error  `json:"-"`

	// Refusal is why the first message was refused, nil if none was.
	Refusal error `json:"-"`

	confirm, endToEnd *hdrhistogram.Histogram // for the plot
}

func (b *board) result(o Options) *Result {
	t := b.last
	r := &Result{
		Started: b.start, Seconds: b.lastTime.Sub(b.start).Seconds(), Shape: o.shape(), Options: o,
		Sent: t.sent.n, Confirmed: t.confirmed.n, Refused: t.refused, Unknown: t.unknown, Received: t.received.n,
		SentRate: t.sent.perSecond(), ConfirmedRate: t.confirmed.perSecond(), ReceivedRate: t.received.perSecond(),
		Confirm: percentiles(b.confirm), EndToEnd: percentiles(b.endToEnd), Samples: b.samples,
		confirm: b.confirm, endToEnd: b.endToEnd,
	}
	if o.Confirm > 0 {
		r.Unknown = t.sent.n - min(t.sent.n, t.confirmed.n+t.refused)
	}
	return r
}

// Line is the result in one line, to compare with others.
func (r *Result) Line() string {
	var s strings.Builder
	s.WriteString("bench: ")
	if r.Options.ID != "" {
		s.WriteString(r.Options.ID + " ")
	}
	s.WriteString(r.Shape + " " + r.Broker + ":")
	if r.Options.Producers > 0 {
		s.WriteString(" " + grouped(r.SentRate) + " sent/s")
	}
	if r.Options.Consumers > 0 {
		s.WriteString(" " + grouped(r.ReceivedRate) + " received/s")
	}
	for _, l := range []struct {
		name string
		p    *Percentiles
	}{{"confirm", r.Confirm}, {"end-to-end", r.EndToEnd}} {
		if l.p != nil {
			fmt.Fprintf(&s, " %s p50 %s p99 %s", l.name, latencyText(l.p.P50), latencyText(l.p.P99))
		}
	}
	return s.String()
}

// WriteText writes counts, rates and percentiles for people, and Line.
func (r *Result) WriteText(w io.Writer) error {
	var s strings.Builder
	fmt.Fprintf(&s, "\n%-11s%14s%14s\n", "", "messages", "a second")
	row := func(name string, n uint64, rate float64) {
		fmt.Fprintf(&s, "%-11s%14s%14s\n", name, grouped(float64(n)), grouped(rate))
	}
	if r.Options.Producers > 0 {
		row("sent", r.Sent, r.SentRate)
		if r.Options.Confirm > 0 {
			row("confirmed", r.Confirmed, r.ConfirmedRate)
		}
	}
	if r.Options.Consumers > 0 {
		row("received", r.Received, r.ReceivedRate)
	}
	for _, c := range []struct {
		name string
		n    uint64
	}{{"refused", r.Refused}, {"unknown", r.Unknown}} {
		if c.n > 0 {
			fmt.Fprintf(&s, "%-11s%14s\n", c.name, grouped(float64(c.n)))
		}
	}
	if r.Confirm != nil || r.EndToEnd != nil {
		fmt.Fprintf(&s, "\n%-11s%10s%10s%10s%10s%10s%10s\n", "latency", "min", "p50", "p95", "p99", "p99.9", "max")
		for _, l := range []struct {
			name string
			p    *Percentiles
		}{{"confirm", r.Confirm}, {"end to end", r.EndToEnd}} {
			if p := l.p; p != nil {
				fmt.Fprintf(&s, "%-11s", l.name)
				for _, v := range []float64{p.Min, p.P50, p.P95, p.P99, p.P999, p.Max} {
					fmt.Fprintf(&s, "%10s", latencyText(v))
				}
				s.WriteByte('\n')
			}
		}
	}
	fmt.Fprintf(&s, "\n%s\n", r.Line())
	_, err := io.WriteString(w, s.String())
	return err
}

// WriteJSON writes the result as one object.
func (r *Result) WriteJSON(w io.Writer) error {
	return json.NewEncoder(w).Encode(r)
}

// SampleHead is the head of the lines of samples.
func SampleHead() string {
	return fmt.Sprintf("%8s%12s%14s%12s%22s%22s", "time", "sent/s", "confirmed/s", "received/s", "confirm p50/p99", "end to end p50/p99")
}

// String is a line under SampleHead.
func (s Sample) String() string {
	pair := func(p *Percentiles) string {
		if p == nil {
			return "-"
		}
		return latencyText(p.P50) + " / " + latencyText(p.P99)
	}
	return fmt.Sprintf("%7.1fs%12s%14s%12s%22s%22s", s.Elapsed,
		grouped(s.Sent), grouped(s.Confirmed), grouped(s.Received), pair(s.Confirm), pair(s.EndToEnd))
}

// grouped writes a number without decimals, its thousands apart.
func grouped(v float64) string {
	digits := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// latencyText writes microseconds with a unit and two or three digits.
func latencyText(us float64) string {
	unit, v := "µs", us
	switch {
	case us >= 1e6:
		unit, v = "s", us/1e6
	case us >= 1e3:
		unit, v = "ms", us/1e3
	}
	switch {
	case v >= 100 || unit == "µs":
		return fmt.Sprintf("%.0f%s", v, unit)
	case v >= 10:
		return fmt.Sprintf("%.1f%s", v, unit)
	}
	return fmt.Sprintf("%.2f%s", v, unit)
}
