package metrics

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// sample is one that was parsed.
type sample struct{ name, series, value string }

var (
	aboutLine  = regexp.MustCompile(`^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$`)
)

// parse checks a text against the format (Prometheus's "text-based format", 0.0.4),
// and returns its samples: a family stands together, behind one help and one type;
// no series comes twice; the buckets of a histogram grow and end with +Inf, which is
// its count.
func parse(t testing.TB, text string) (samples []sample) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Fatal("not UTF-8")
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		t.Fatal("the last line has no end")
	}
	var family, kind string
	families, seen := map[string]bool{}, map[string]bool{}
	bucket, last := 0.0, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := aboutLine.FindStringSubmatch(line); m != nil {
			switch m[1] {
			case "HELP":
				if families[m[2]] {
					t.Errorf("family %s comes twice", m[2])
				}
				families[m[2]] = true
				family, kind = m[2], ""
			case "TYPE":
				if family != m[2] || kind != "" {
					t.Errorf("type of %s behind help of %s", m[2], family)
				}
				kind = m[3]
				if !slices.Contains([]string{gauge, counter, histogram}, kind) {
					t.Errorf("%s has type %q", family, kind)
				}
			}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("not a line of the format: %q", line)
			continue
		}
		name, value := m[1], m[3]
		suffix, ok := strings.CutPrefix(name, family)
		if want := kind == histogram; !ok || (suffix != "") != want || want && !slices.Contains([]string{"_bucket", "_count", "_sum"}, suffix) {
			t.Errorf("%s stands in family %s of type %s", name, family, kind)
		}
		if kind == counter && !strings.HasSuffix(name, "_total") && name != "ferry_journal_position" {
			t.Errorf("counter %s has no _total", name)
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		series := strings.TrimSuffix(line, " "+value)
		if seen[series] {
			t.Errorf("%s comes twice", series)
		}
		seen[series] = true
		switch suffix {
		case "_bucket":
			if last == "" {
				bucket = 0
			}
			if v < bucket {
				t.Errorf("%s is less than the bucket before", line)
			}
			bucket, last = v, series
		case "_count":
			if !strings.Contains(last, `le="+Inf"`) || v != bucket {
				t.Errorf("%s, but the last bucket is %s with %v", line, last, bucket)
			}
			last = ""
		}
		samples = append(samples, sample{name, series, value})
	}
	return samples
}
