package verify

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// A Report is the result of a run.
type Report struct {
	Run   string `json:"run"` // its id
	Queue string `json:"queue"`
	Counts
	LongestGap     int64   `json:"longest_gap_ms"` // the greater of the two below
	LongestConfirm int64   `json:"longest_confirm_gap_ms"`
	LongestDeliver int64   `json:"longest_delivery_gap_ms"`
	Failovers      uint64  `json:"failovers"` // how often publishing was connected anew
	Dropped        uint64  `json:"dropped"`   // repeats that the client's own window held back
	Seconds        float64 `json:"seconds"`
	Missing        []Range `json:"missing,omitempty"` // the first ranges of what was lost

	// Stopped is why the run ended before its time, empty if it did not, and Err
	// the same.
	Stopped string `json:"stopped,omitempty"`
	Err     error  `json:"-"`

	// Refusal is why the first message was refused, nil if none was.
	Refusal error `json:"-"`

	// Deaf says that receiving ended before its time: what counts as lost may
	// still be in the queue.
	Deaf bool `json:"deaf,omitempty"`
}

// Broken says whether a promise was broken: something that was confirmed did
// not arrive, or not as it was sent.
func (r *Report) Broken() bool { return r.Lost > 0 && !r.Deaf || r.Damaged > 0 }

// A column is a count and its label.
type column struct {
	label string
	value uint64
}

func (r *Report) columns() []column {
	return []column{
		{"sent", r.Sent},
		{"confirmed", r.Confirmed},
		{"received", r.Received},
		{"lost", r.Lost},
		{"duplicated", r.Duplicated},
		{"redelivered", r.Redelivered},
		{"reordered", r.Reordered},
		{"longest_gap_ms", uint64(r.LongestGap)},
		{"failovers", r.Failovers},
	}
}

// WriteText writes the line of labels, the values below them, and what is not
// zero of the other counts in the same way.
func (r *Report) WriteText(w io.Writer) error {
	if err := writeColumns(w, r.columns()); err != nil {
		return err
	}
	var others []column
	for _, c := range []column{
		{"refused", r.Refused}, {"unknown", r.Unknown}, {"damaged", r.Damaged}, {"foreign", r.Foreign}, {"resent", r.Resent}, {"dropped", r.Dropped},
	} {
		if c.value > 0 {
			others = append(others, c)
		}
	}
	if len(others) == 0 {
		return nil
	}
	return writeColumns(w, others)
}

func writeColumns(w io.Writer, columns []column) error {
	var labels, values []string
	for _, c := range columns {
		value := strconv.FormatUint(c.value, 10)
		width := max(len(c.label), len(value))
		labels = append(labels, fmt.Sprintf("%*s", width, c.label))
		values = append(values, fmt.Sprintf("%*s", width, value))
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n", strings.Join(labels, " "), strings.Join(values, " "))
	return err
}

// Remarks are what a person should know beside the counts.
func (r *Report) Remarks(o Options) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if r.Stopped != "" {
		add("it ended before its time: %s", r.Stopped)
	}
	add("longest time without a confirm %s, without a delivery %s", milliseconds(r.LongestConfirm), milliseconds(r.LongestDeliver))
	if o.Rate > 0 {
		between := time.Duration(float64(time.Second) / o.Rate)
		if between >= time.Millisecond {
			add("at %g messages a second there are %v between two of them when all is well", o.Rate, between.Round(time.Millisecond))
		}
	}
	if r.Deaf {
		add("receiving ended before its time: what counts as lost may be in the queue")
	}
	if r.Unknown > 0 {
		add("%d messages were neither confirmed nor refused: the broker may have them or not", r.Unknown)
	}
	if r.Resent > 0 {
		add("%d of the duplicated had to be sent again, because a connection was lost before their confirm", r.Resent)
	}
	if r.Foreign > 0 {
		add("%d messages in the queue were not of this run; they were taken out of it", r.Foreign)
	}
	for i, m := range r.Missing {
		if i == 0 {
			add("lost, though they were confirmed:")
		}
		add("  %s", m)
	}
	if len(r.Missing) == maxMissing {
		add("  and so on")
	}
	return lines
}

func milliseconds(ms int64) string {
	if ms < 1000 {
		return fmt.Sprintf("%d ms", ms)
	}
	return fmt.Sprintf("%.2f s", float64(ms)/1000)
}

// maxMissing is how many ranges of lost messages a report names.
const maxMissing = 10
