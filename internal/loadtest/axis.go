package loadtest

import (
	"fmt"
	"math"
	"strconv"
)

// An axis maps values to a line of the picture.
type axis struct {
	low, high float64 // of the values
	from, to  float64 // where they are drawn
	log       bool
	ticks     []tick
}

// A tick is a line across the plot. One without a label is a faint one.
type tick struct {
	at    float64
	label string
}

func (a *axis) place(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(v)
	}
	return a.from + (v-low)/(high-low)*(a.to-a.from)
}

// linear is an axis from 0 to a round number above highest, with about n ticks.
func linear(highest float64, n int, label func(float64) string) axis {
	step := roundStep(highest / float64(n))
	a := axis{high: math.Max(1, math.Ceil(highest/step-1e-9)) * step}
	for i := 0; float64(i)*step <= a.high*(1+1e-9); i++ {
		a.ticks = append(a.ticks, tick{float64(i) * step, label(float64(i) * step)})
	}
	return a
}

// roundStep is 1, 2 or 5 times a power of ten, at least v.
func roundStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if v <= m*power*(1+1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// logarithmic is an axis that holds lowest and highest, both above 0, with ticks
// at 1, 2 and 5 times the powers of ten, or at these alone if there are many.
func logarithmic(lowest, highest float64, label func(float64) string) axis {
	highest = math.Max(highest, lowest*1.01)
	multiples := []float64{1, 2, 5}
	below := func(v float64) float64 { // the nearest of the ticks
		power := math.Pow(10, math.Floor(math.Log10(v)+1e-9))
		best := power
		for _, m := range multiples {
			if m*power <= v*(1+1e-9) {
				best = m * power
			}
		}
		return best
	}
	a := axis{log: true, low: below(lowest)}
	for power := math.Pow(10, math.Floor(math.Log10(a.low)+1e-9)); ; power *= 10 {
		for _, m := range multiples {
			v := m * power
			if v < a.low*(1-1e-9) {
				continue
			}
			a.ticks = append(a.ticks, tick{v, label(v)})
			if v >= highest*(1-1e-9) {
				a.high = v
				a.thin()
				return a
			}
		}
	}
}

// maxTicks is how many labels are told apart at a glance.
const maxTicks = 16

// thin takes the labels of all ticks but powers of ten away if there are many.
func (a *axis) thin() {
	if len(a.ticks) <= maxTicks {
		return
	}
	for i := range a.ticks {
		if l := math.Log10(a.ticks[i].at); math.Abs(l-math.Round(l)) > 1e-9 {
			a.ticks[i].label = ""
		}
	}
}

// nines is an axis of percentiles: as far as measured values reach, each
// further nine takes as much room as the one before. Values are 1/(1-q).
func nines(count int64) axis {
	a := axis{log: true, low: 1, high: math.Max(100, float64(count))}
	a.ticks = []tick{{1, "0"}, {2, "50%"}}
	for v, label := 10.0, "90%"; v <= a.high; v *= 10 {
		a.ticks = append(a.ticks, tick{v, label})
		switch label {
		case "90%":
			label = "99%"
		case "99%":
			label = "99.9%"
		default:
			label = label[:len(label)-1] + "9%"
		}
	}
	return a
}

// countLabel writes a number of messages in a few letters.
func countLabel(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', -1, 64) + " M"
	case v >= 1e3:
		return strconv.FormatFloat(v/1e3, 'f', -1, 64) + " k"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// secondsLabel writes a time since the start.
func secondsLabel(v float64) string {
	if v >= 600 && math.Mod(v, 60) == 0 {
		return fmt.Sprintf("%.0f min", v/60)
	}
	return strconv.FormatFloat(v, 'f', -1, 64) + " s"
}

// microsecondsLabel writes a latency, a round one.
func microsecondsLabel(v float64) string {
	text := func(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }
	switch {
	case v >= 1e6*(1-1e-9):
		return strconv.FormatFloat(v/1e6, 'f', 0, 64) + " s"
	case v >= 1e3*(1-1e-9):
		return text(v/1e3) + " ms"
	}
	return text(v) + " µs"
}
