package loadtest

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The picture's measures, in its own units.
const (
	pictureWidth = 960.0
	plotLeft     = 84.0
	plotRight    = 936.0
	plotHeight   = 280.0
	headHeight   = 84.0 // title and what was measured
	plotHead     = 66.0 // above a plot: its title and legend
	plotFoot     = 62.0 // below it: labels and the axis's name
	maxPoints    = 1200 // of a line; more are averaged
)

// style colours the picture for light and dark surroundings alike; the lines'
// colours are told apart by people who are colour-blind, and so are the dashes.
const style = `
svg { background: #ffffff; color-scheme: light dark; }
.paper { fill: #ffffff; }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #3a4048; }
.title { font-size: 20px; font-weight: 600; fill: #14171a; }
.plot { font-size: 15px; font-weight: 600; fill: #14171a; }
.small { font-size: 12px; fill: #5c646d; }
.number { font-size: 12px; fill: #3a4048; }
.grid { stroke: #e3e6ea; stroke-width: 1; }
.axis { stroke: #8b939c; stroke-width: 1; }
.line { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round; }
.a { stroke: #0063b2; } .b { stroke: #d1500f; } .c { stroke: #00805a; }
.dot.a { fill: #0063b2; stroke: none; } .dot.b { fill: #d1500f; stroke: none; } .dot.c { fill: #00805a; stroke: none; }
.wide { stroke-width: 6; stroke-opacity: 0.4; }
.b.line { stroke-dasharray: 7 4; } .c.line { stroke-dasharray: 2 4.5; }
@media (prefers-color-scheme: dark) {
  svg { background: #16191d; }
  .paper { fill: #16191d; }
  text, .number { fill: #c3c9d1; }
  .title, .plot { fill: #f1f3f5; }
  .small { fill: #9aa3ad; }
  .grid { stroke: #2b3138; }
  .axis { stroke: #6c757e; }
  .a { stroke: #5db0f5; } .b { stroke: #ff9a52; } .c { stroke: #3ecf9a; }
  .dot.a { fill: #5db0f5; } .dot.b { fill: #ff9a52; } .dot.c { fill: #3ecf9a; }
}
`

// A curve is one line of a plot.
type curve struct {
	class string // a, b or c; "a wide" is one that others may cover
	name  string
	note  string // a figure, in the legend
	x, y  []float64
}

// A plot is one of the picture's.
type plot struct {
	title  string // which is the name of the upright axis, too
	xName  string
	x, y   axis
	curves []curve
}

// WriteSVG draws the distribution of latencies, if any were measured, and the
// rates over time. The picture needs nothing but itself.
func (r *Result) WriteSVG(w io.Writer) error {
	var plots []plot
	if r.Confirm != nil || r.EndToEnd != nil {
		plots = append(plots, r.latencyPlot())
	}
	plots = append(plots, r.ratePlot())
	height := headHeight + float64(len(plots))*(plotHead+plotHeight+plotFoot)

	d := &drawing{}
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img">`, pictureWidth, height, pictureWidth, height)
	title := "ferry bench"
	if r.Options.ID != "" {
		title += ": " + r.Options.ID
	}
	d.printf("<title>%s</title>", escaped(title+" "+r.Shape))
	d.printf("<style>%s</style>", style)
	d.printf(`<rect class="paper" width="%g" height="%g"/>`, pictureWidth, height)
	d.text(24, 38, "title", "", title)
	d.text(24, 62, "", "", r.Shape+"   "+r.Broker)
	d.text(plotRight, 62, "small", "end", fmt.Sprintf("%s, %s s", r.Started.UTC().Format("2006-01-02 15:04 UTC"), strings.TrimSuffix(fmt.Sprintf("%.1f", r.Seconds), ".0")))
	top := headHeight
	for i := range plots {
		d.plot(&plots[i], top)
		top += plotHead + plotHeight + plotFoot
	}
	d.printf("</svg>")
	_, err := io.WriteString(w, d.String())
	return err
}

// latencyPlot shows which share of messages took at most how long.
func (r *Result) latencyPlot() plot {
	p := plot{title: "Latency by percentile, log scale", xName: "percentile of messages"}
	lowest, highest, most := math.Inf(1), 0.0, int64(0)
	for _, l := range []struct {
		class, name string
		of          *Percentiles
		h           *hdrhistogram.Histogram
	}{
		{"a", "published to confirmed", r.Confirm, r.confirm},
		{"b", "published to received", r.EndToEnd, r.endToEnd},
	} {
		if l.of == nil {
			continue
		}
		c := curve{class: l.class, name: l.name, note: "p50 " + latencyText(l.of.P50) + ", p99 " + latencyText(l.of.P99) + ", max " + latencyText(l.of.Max)}
		c.x, c.y = distribution(l.h)
		lowest, highest, most = min(lowest, c.y[0]), max(highest, c.y[len(c.y)-1]), max(most, l.of.Count)
		p.curves = append(p.curves, c)
	}
	p.x = nines(most)
	p.y = logarithmic(max(lowest, 0.1), highest, microsecondsLabel)
	return p
}

// perNine is how many points of a distribution are drawn for each nine.
const perNine = 100

// distribution is the quantiles of a histogram that is not empty: 1/(1-q), and
// the microseconds at q.
func distribution(h *hdrhistogram.Histogram) (x, y []float64) {
	count := float64(h.TotalCount())
	for i := 0; ; i++ {
		v := math.Pow(10, float64(i)/perNine)
		if v >= count {
			break
		}
		x = append(x, v)
		y = append(y, float64(h.ValueAtQuantile(100*(1-1/v)))/1e3)
	}
	return append(x, count), append(y, float64(h.Max())/1e3)
}

// ratePlot shows messages a second over time.
func (r *Result) ratePlot() plot {
	p := plot{title: "Messages a second", xName: "time since the start"}
	curves := []struct {
		class, name string
		mean        float64
		drawn       bool
		of          func(s *Sample) float64
	}{
		{"a wide", "sent", r.SentRate, r.Options.Producers > 0, func(s *Sample) float64 { return s.Sent }},
		{"b", "confirmed", r.ConfirmedRate, r.Options.Producers > 0 && r.Options.Confirm > 0, func(s *Sample) float64 { return s.Confirmed }},
		{"c", "received", r.ReceivedRate, r.Options.Consumers > 0, func(s *Sample) float64 { return s.Received }},
	}
	samples := wholeSamples(r.Samples)
	highest, end := 0.0, 1.0
	for _, l := range curves {
		if !l.drawn {
			continue
		}
		c := curve{class: l.class, name: l.name, note: "mean " + grouped(l.mean) + "/s"}
		group := (len(samples) + maxPoints - 1) / maxPoints
		for i := 0; i < len(samples); i += max(group, 1) {
			part := samples[i:min(len(samples), i+group)]
			sum := 0.0
			for k := range part {
				sum += l.of(&part[k])
			}
			// A rate is that of the whole interval: it stands in its middle.
			last := part[len(part)-1]
			x, y := (part[0].Elapsed-part[0].Seconds+last.Elapsed)/2, sum/float64(len(part))
			c.x, c.y = append(c.x, x), append(c.y, y)
			highest, end = max(highest, y), max(end, last.Elapsed)
		}
		p.curves = append(p.curves, c)
	}
	p.x = linear(end, 10, secondsLabel)
	p.x.high = end
	for len(p.x.ticks) > 0 && p.x.ticks[len(p.x.ticks)-1].at > end {
		p.x.ticks = p.x.ticks[:len(p.x.ticks)-1]
	}
	p.y = linear(highest, 5, countLabel)
	return p
}

// wholeSamples leaves the last one out if it is of a small part of an interval:
// what it counts says little of a rate.
func wholeSamples(samples []Sample) []Sample {
	if n := len(samples); n > 1 && samples[n-1].Seconds < samples[0].Seconds/2 {
		return samples[:n-1]
	}
	return samples
}

// A drawing is SVG text that grows.
type drawing struct{ strings.Builder }

func (d *drawing) printf(format string, args ...any) {
	fmt.Fprintf(d, format+"\n", args...)
}

func (d *drawing) text(x, y float64, class, anchor, text string) {
	attributes := ""
	if class != "" {
		attributes += fmt.Sprintf(` class="%s"`, class)
	}
	if anchor != "" {
		attributes += fmt.Sprintf(` text-anchor="%s"`, anchor)
	}
	d.printf(`<text x="%.1f" y="%.1f"%s>%s</text>`, x, y, attributes, escaped(text))
}

func (d *drawing) plot(p *plot, top float64) {
	upper, lower := top+plotHead, top+plotHead+plotHeight
	p.x.from, p.x.to = plotLeft, plotRight
	p.y.from, p.y.to = lower, upper
	d.text(24, top+18, "plot", "", p.title)
	d.legend(p.curves, top+42)
	for _, t := range p.y.ticks {
		y := p.y.place(t.at)
		d.printf(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, plotLeft, plotRight, y, y)
		d.text(plotLeft-8, y+4, "number", "end", t.label)
	}
	for _, t := range p.x.ticks {
		x := p.x.place(t.at)
		d.printf(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, upper, lower)
		if half := textWidth(t.label) / 2; x+half > pictureWidth-4 {
			d.text(pictureWidth-4, lower+19, "number", "end", t.label)
		} else {
			d.text(x, lower+19, "number", "middle", t.label)
		}
	}
	d.printf(`<line class="axis" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, plotLeft, plotRight, lower, lower)
	d.text(plotRight, lower+42, "small", "end", p.xName)
	for _, c := range p.curves {
		d.curve(p, &c)
	}
}

func (d *drawing) curve(p *plot, c *curve) {
	switch len(c.x) {
	case 0:
		return
	case 1:
		d.printf(`<circle class="dot %s" cx="%.1f" cy="%.1f" r="4"/>`, c.class, p.x.place(c.x[0]), p.y.place(c.y[0]))
		return
	}
	var path strings.Builder
	for i := range c.x {
		letter := 'L'
		if i == 0 {
			letter = 'M'
		}
		fmt.Fprintf(&path, "%c%.1f %.1f", letter, p.x.place(c.x[i]), p.y.place(max(c.y[i], p.y.low)))
	}
	d.printf(`<path class="line %s" d="%s"/>`, c.class, path.String())
}

// legend stands under a plot's title.
func (d *drawing) legend(curves []curve, y float64) {
	const stroke, gap = 28.0, 30.0
	x := 24.0
	for i := range curves {
		c := &curves[i]
		d.printf(`<line class="line %s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, c.class, x, x+stroke, y-4, y-4)
		d.printf(`<text class="number" x="%.1f" y="%.1f">%s <tspan class="small">%s</tspan></text>`, x+stroke+8, y, escaped(c.name), escaped(c.note))
		x += stroke + 8 + textWidth(c.name+" "+c.note) + gap
	}
}

// textWidth is how wide small text is at most, about.
func textWidth(s string) float64 { return 6.8 * float64(len([]rune(s))) }

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
