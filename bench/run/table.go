package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// row is one figure of one shape.
type row struct {
	Shape    string   `json:"shape"`
	Mode     string   `json:"durability"`
	Figure   string   `json:"figure"`
	Unit     string   `json:"unit"`
	RabbitMQ *float64 `json:"rabbitmq,omitempty"` // the median
	Ferry    *float64 `json:"ferry,omitempty"`
	Ratio    *float64 `json:"ratio,omitempty"`
	Target   string   `json:"target"`
	Verdict  string   `json:"verdict"`
	Runs     rowRuns  `json:"runs"`
	Clients  bool     `json:"clients,omitempty"` // RabbitMQ is amqp091-go, Ferry is Ferry's client
}

type rowRuns struct {
	RabbitMQ []float64 `json:"rabbitmq,omitempty"`
	Ferry    []float64 `json:"ferry,omitempty"`
}

const (
	met      = "ok"
	missed   = "MISSED"
	unknown  = "no figure"
	noTarget = "-"
)

// judge makes a shape's rows of what its runs yielded.
func judge(s shape, rabbit, ferry []figures) []row {
	var rows []row
	for _, t := range s.targets {
		r := row{
			Shape: s.name, Mode: s.mode, Figure: t.figure, Unit: units[t.figure], Target: t.String(),
			Runs:    rowRuns{pick(rabbit, t.figure), pick(ferry, t.figure)},
			Clients: s.clients,
		}
		r.RabbitMQ, r.Ferry = middle(r.Runs.RabbitMQ), middle(r.Runs.Ferry)
		if r.RabbitMQ != nil && r.Ferry != nil && *r.RabbitMQ > 0 {
			ratio := *r.Ferry / *r.RabbitMQ
			r.Ratio = &ratio
		}
		switch {
		case t.kind == shown:
			r.Verdict = noTarget
		case r.Ferry == nil, t.ratio() && r.Ratio == nil:
			r.Verdict = unknown
		case t.ratio() && t.met(0, *r.Ratio), !t.ratio() && t.met(*r.Ferry, 0):
			r.Verdict = met
		default:
			r.Verdict = missed
		}
		rows = append(rows, r)
	}
	return rows
}

func pick(runs []figures, name string) (values []float64) {
	for _, f := range runs {
		if v, ok := f[name]; ok {
			values = append(values, v)
		}
	}
	return values
}

func middle(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	m := median(values)
	return &m
}

// printTables writes a table of the brokers and one of the clients.
func printTables(w io.Writer, rows []row) error {
	var brokers, clients []row
	for _, r := range rows {
		if r.Clients {
			clients = append(clients, r)
		} else {
			brokers = append(brokers, r)
		}
	}
	if len(brokers) > 0 {
		if err := printTable(w, brokers, "RabbitMQ", "Ferry"); err != nil {
			return err
		}
	}
	if len(clients) == 0 {
		return nil
	}
	if len(brokers) > 0 {
		fmt.Fprintln(w)
	}
	return printTable(w, clients, official, ours)
}

// printTable writes the rows in aligned columns, a shape's name only once. What is
// compared has the names theirs and mine.
func printTable(w io.Writer, rows []row, theirs, mine string) error {
	lines := [][]string{{"shape", "durability", "figure", theirs, mine, "×", "target", ""}}
	last := ""
	for _, r := range rows {
		shape, mode := r.Shape, r.Mode
		if shape+mode == last {
			shape = ""
		}
		last = r.Shape + mode
		ratio := "-"
		if r.Ratio != nil {
			ratio = strconv.FormatFloat(*r.Ratio, 'f', 2, 64)
			if *r.Ratio >= 10 {
				ratio = strconv.FormatFloat(*r.Ratio, 'f', 1, 64)
			}
		}
		lines = append(lines, []string{shape, mode, r.Figure, show(r.RabbitMQ, r.Unit), show(r.Ferry, r.Unit), ratio, r.Target, r.Verdict})
	}
	right := []bool{false, false, false, true, true, true, false, false}
	widths := make([]int, len(right))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range lines {
		var out strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if right[i] {
				out.WriteString(pad + cell)
			} else {
				out.WriteString(cell + pad)
			}
			out.WriteString("  ")
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(out.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

func show(v *float64, unit string) string {
	if v == nil {
		return "-"
	}
	return format(*v, unit)
}

// format writes three digits that matter, and rates in full.
func format(v float64, unit string) string {
	var s string
	switch {
	case math.Abs(v) >= 1000:
		s = count(int(math.Round(v)))
	case math.Abs(v) >= 100 || v == math.Trunc(v):
		s = strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 10:
		s = strconv.FormatFloat(v, 'f', 1, 64)
	case math.Abs(v) >= 1:
		s = strconv.FormatFloat(v, 'f', 2, 64)
	default:
		s = strconv.FormatFloat(v, 'f', 3, 64)
	}
	if unit == "/s" || unit == "" {
		return s + unit
	}
	return s + " " + unit
}

// count writes a number with commas between its thousands.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
