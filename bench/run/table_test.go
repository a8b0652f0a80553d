package main

import (
	"strings"
	"testing"
)

func TestVerdicts(t *testing.T) {
	s := shape{name: "s", mode: transient, targets: []target{
		{delivered, timesAtLeast, 10},
		{confirmP99, timesAtMost, 0.7},
		{cpu, atMost, 1.2},
		{deliveredPart, atLeast, 85},
		{peak, shown, 0},
		{drained, atLeast, 1},
	}}
	rabbit := []figures{{delivered: 90, confirmP99: 2}, {delivered: 110, confirmP99: 2}, {delivered: 100, confirmP99: 9}}
	for name, c := range map[string]struct {
		ferry []figures
		want  string
	}{
		"reached": {[]figures{{delivered: 1000, confirmP99: 1.4, cpu: 1.2, deliveredPart: 85, peak: 1, drained: 1}}, "ok ok ok ok - ok"},
		"missed":  {[]figures{{delivered: 999, confirmP99: 1.41, cpu: 1.21, deliveredPart: 84.9, peak: 1, drained: 0}}, "MISSED MISSED MISSED MISSED - MISSED"},
		"the middle counts": {[]figures{
			{delivered: 1, confirmP99: 9, cpu: 9}, {delivered: 1000, confirmP99: 1, cpu: 1}, {delivered: 2000, confirmP99: 1, cpu: 1},
		}, "ok ok ok no figure - no figure"},
		"not measured": {nil, "no figure no figure no figure no figure - no figure"},
	} {
		var got []string
		for _, r := range judge(s, rabbit, c.ferry) {
			got = append(got, r.Verdict)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
	for _, r := range judge(s, nil, []figures{{delivered: 1000}})[:1] {
		if r.Verdict != unknown {
			t.Errorf("a ratio without RabbitMQ: %s", r.Verdict)
		}
	}
}

func TestEveryFigureOfATargetHasAUnit(t *testing.T) {
	for _, s := range shapes(fullSizes) {
		for _, target := range s.targets {
			if _, ok := units[target.figure]; !ok {
				t.Errorf("%s: %s has no unit", s.name, target.figure)
			}
		}
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{1234567.4, "/s", "1,234,567/s"},
		{600000, "/s", "600,000/s"},
		{999, "/s", "999/s"},
		{0.2945, "ms", "0.294 ms"},
		{1.2, "µs", "1.20 µs"},
		{24, "KiB", "24 KiB"},
		{99.44, "%", "99.4 %"},
		{0, "MB", "0 MB"},
	} {
		if got := format(c.v, c.unit); got != c.want {
			t.Errorf("%g: %q, want %q", c.v, got, c.want)
		}
	}
}
