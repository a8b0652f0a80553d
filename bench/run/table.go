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
	Shape   string   `json:"shape"`
	Mode    string   `json:"durability"`
	Figure  string   `json:"figure"`
	Unit    string   `json:"unit"`
	Theirs  *figure  `json:"theirs,omitempty"`
	Mine    *figure  `json:"mine,omitempty"`
	Ratio   *float64 `json:"ratio,omitempty"`
	Target  string   `json:"target"`
	Verdict string   `json:"verdict"`

	versus versus
}

// figure is what one of the two reached.
type figure struct {
	Of     string    `json:"of"`
	Median float64   `json:"median"`
	Runs   []float64 `json:"runs"`
}

const (
	met      = "ok"
	missed   = "MISSED"
	unknown  = "no figure"
	noTarget = "-"
)

// judge makes a shape's rows of what its runs yielded.
func judge(s shape, theirs, mine []figures) []row {
	v := s.versus
	if v == (versus{}) {
		v = brokers
	}
	var rows []row
	for _, t := range s.targets {
		r := row{
			Shape: s.name, Mode: s.mode, Figure: t.figure, Unit: units[t.figure], Target: t.String(),
			Theirs: pick(v.theirs, theirs, t.figure), Mine: pick(v.mine, mine, t.figure), versus: v,
		}
		if r.Theirs != nil && r.Mine != nil && r.Theirs.Median > 0 {
			ratio := r.Mine.Median / r.Theirs.Median
			r.Ratio = &ratio
		}
		switch {
		case t.kind == shown:
			r.Verdict = noTarget
		case r.Mine == nil, t.ratio() && r.Ratio == nil:
			r.Verdict = unknown
		case t.ratio() && t.met(0, *r.Ratio), !t.ratio() && t.met(r.Mine.Median, 0):
			r.Verdict = met
		default:
			r.Verdict = missed
		}
		rows = append(rows, r)
	}
	return rows
}

// pick is one figure of all runs, nil if there was none.
func pick(of string, runs []figures, name string) *figure {
	var values []float64
	for _, f := range runs {
		if v, ok := f[name]; ok {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return nil
	}
	return &figure{of, median(values), values}
}

// printTables writes a table for each two that are compared.
func printTables(w io.Writer, rows []row) error {
	for len(rows) > 0 {
		v := rows[0].versus
		var table, others []row
		for _, r := range rows {
			if r.versus == v {
				table = append(table, r)
			} else {
				others = append(others, r)
			}
		}
		if err := printTable(w, table, v); err != nil {
			return err
		}
		if rows = others; len(rows) > 0 {
			fmt.Fprintln(w)
		}
	}
	return nil
}

// printTable writes the rows in aligned columns, a shape's name only once.
func printTable(w io.Writer, rows []row, v versus) error {
	lines := [][]string{{"shape", "durability", "figure", v.theirs, v.mine, "×", "target", ""}}
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
		lines = append(lines, []string{shape, mode, r.Figure, show(r.Theirs, r.Unit), show(r.Mine, r.Unit), ratio, r.Target, r.Verdict})
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

func show(f *figure, unit string) string {
	if f == nil {
		return "-"
	}
	return format(f.Median, unit)
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
