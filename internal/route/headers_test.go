package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// header appends one header; value is its encoding without the kind.
func header(list []byte, name string, kind byte, value ...byte) []byte {
	list = append(list, byte(len(name)))
	list = append(list, name...)
	return append(append(list, kind), value...)
}

func text(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
func u64(n uint64) []byte  { return binary.BigEndian.AppendUint64(nil, n) }

type args = map[string]any

func mustMatcher(t *testing.T, a args) HeadersMatcher {
	t.Helper()
	m, err := ParseHeadersArgs(a)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestHeadersMatchAsRabbitMQDoes(t *testing.T) {
	list := header(nil, "format", 'S', text("pdf")...)
	list = header(list, "type", 'S', text("report")...)
	list = header(list, "x-level", 'I', 0, 0, 0, 3)
	list = header(list, "void", 'V')
	list = header(list, "twice", 'b', 1)
	list = header(list, "twice", 'b', 2)
	for _, row := range []struct {
		name string
		args args
		want bool
	}{
		{"nothing asked", args{}, true},
		{"nothing asked, nil", nil, true},
		{"all of nothing", args{"x-match": "all"}, true},
		{"any of nothing", args{"x-match": "any"}, false},
		{"all is the default", args{"format": "pdf", "type": "log"}, false},
		{"all there", args{"x-match": "all", "format": "pdf", "type": "report"}, true},
		{"one wrong", args{"x-match": "all", "format": "pdf", "type": "log"}, false},
		{"one missing", args{"x-match": "all", "format": "pdf", "size": "a4"}, false},
		{"any there", args{"x-match": "any", "format": "pdf", "type": "log"}, true},
		{"any missing", args{"x-match": "any", "format": "zip", "size": "a4"}, false},
		{"all leaves x- out", args{"x-match": "all", "format": "pdf", "x-level": int64(4)}, true},
		{"any leaves x- out", args{"x-match": "any", "x-level": int64(3)}, false},
		{"all of only x-", args{"x-match": "all", "x-level": int64(4)}, true},
		{"all-with-x, right", args{"x-match": "all-with-x", "format": "pdf", "x-level": int64(3)}, true},
		{"all-with-x, wrong", args{"x-match": "all-with-x", "format": "pdf", "x-level": int64(4)}, false},
		{"any-with-x, right", args{"x-match": "any-with-x", "format": "zip", "x-level": int64(3)}, true},
		{"any-with-x, wrong", args{"x-match": "any-with-x", "format": "zip", "x-level": int64(4)}, false},
		{"presence", args{"format": nil}, true},
		{"presence of what is void", args{"void": nil}, true},
		{"absence", args{"size": nil}, false},
		{"any by presence", args{"x-match": "any", "format": nil, "size": "a4"}, true},
		{"a void header has no value", args{"void": ""}, false},
		{"the first of two", args{"twice": int64(1)}, true},
		{"not the second of two", args{"twice": int64(2)}, false},
		{"any, not the second of two", args{"x-match": "any", "twice": int64(2)}, false},
		{"names are exact", args{"Format": "pdf"}, false},
		{"values are exact", args{"format": "PDF"}, false},
	} {
		if got := mustMatcher(t, row.args).Match(list); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
		if got := HeadersMatch(row.args, list); got != row.want {
			t.Errorf("%s: HeadersMatch says %v", row.name, got)
		}
	}
	if mustMatcher(t, args{"a": nil}).Match(nil) || !mustMatcher(t, nil).Match(nil) {
		t.Error("a message without headers")
	}
}

func TestValuesCompareAsInErlang(t *testing.T) {
	be := binary.BigEndian
	table := header(nil, "b", 'S', text("x")...)
	table = header(table, "a", 'b', 1)
	array := append([]byte{'b', 1, 'S'}, text("x")...)
	for _, row := range []struct {
		want  any
		kind  byte
		value []byte
		equal bool
	}{
		{int64(1), 'b', []byte{1}, true},
		{int64(1), 'l', u64(1), true},
		{int64(-1), 's', []byte{255, 255}, true},
		{int64(65535), 's', []byte{255, 255}, false},
		{int64(65535), 'u', []byte{255, 255}, true},
		{int64(255), 'B', []byte{255}, true},
		{int64(math.MaxUint32), 'i', []byte{255, 255, 255, 255}, true},
		{int(7), 'I', []byte{0, 0, 0, 7}, true},
		{uint64(7), 'I', []byte{0, 0, 0, 7}, true},
		{uint64(math.MaxUint64), 'l', u64(math.MaxUint64), false},
		{int64(1), 'd', u64(math.Float64bits(1)), true},
		{int64(1), 'd', u64(math.Float64bits(1.5)), false},
		{1.0, 'b', []byte{1}, true},
		{0.5, 'f', be.AppendUint32(nil, math.Float32bits(0.5)), true},
		{0.1, 'f', be.AppendUint32(nil, math.Float32bits(0.1)), false}, // not the same number
		{float64(1 << 53), 'l', u64(1<<53 + 1), false},
		{uint64(1 << 63), 'd', u64(math.Float64bits(1 << 63)), true},
		{int64(math.MinInt64), 'd', u64(math.Float64bits(-1 << 63)), true},
		{int64(math.MaxInt64), 'd', u64(math.Float64bits(1 << 63)), false},
		{int64(0), 'd', u64(math.Float64bits(math.NaN())), false},
		{true, 't', []byte{1}, true},
		{true, 't', []byte{0}, false},
		{true, 'b', []byte{1}, false},
		{int64(1), 't', []byte{1}, false},
		{"1", 'b', []byte{1}, false},
		{"abc", 'S', text("abc"), true},
		{"abc", 'x', text("abc"), true},
		{[]byte("abc"), 'S', text("abc"), true},
		{"abc", 'S', text("abcd"), false},
		{"", 'S', text(""), true},
		{time.Unix(99, 0), 'T', u64(99), true},
		{int64(99), 'T', u64(99), true},
		{message.Decimal{Scale: 2, Value: 314}, 'D', []byte{2, 0, 0, 1, 58}, true},
		{message.Decimal{Scale: 1, Value: 314}, 'D', []byte{2, 0, 0, 1, 58}, false},
		{args{"a": int64(1), "b": "x"}, 'F', text(string(table)), true},
		{args{"a": int64(1), "b": "y"}, 'F', text(string(table)), false},
		{args{"a": int64(1)}, 'F', text(string(table)), false},
		{args{"a": int64(1), "c": "x"}, 'F', text(string(table)), false},
		{[]any{int64(1), "x"}, 'A', text(string(array)), true},
		{[]any{"x", int64(1)}, 'A', text(string(array)), false},
		{[]any{int64(1)}, 'A', text(string(array)), false},
		{[]any{}, 'A', text(""), true},
		{[]any{nil}, 'A', text("b\x01"), false}, // only at the top is void a wildcard
		{"x", 'F', text(string(table)), false},
	} {
		list := header(nil, "h", row.kind, row.value...)
		if got := mustMatcher(t, args{"h": row.want}).Match(list); got != row.equal {
			t.Errorf("%T %v against kind %c % x: %v", row.want, row.want, row.kind, row.value, got)
		}
	}
}

func TestBadArgumentsAreRefused(t *testing.T) {
	for _, row := range []struct {
		args args
		text string
	}{
		{args{"x-match": "foo"}, `Invalid x-match field value "foo"; expected all, any, all-with-x, or any-with-x`},
		{args{"x-match": "ALL"}, `"ALL"`},
		{args{"x-match": ""}, `""`},
		{args{"x-match": "a\nb" + strings.Repeat("z", 500)}, `"a\nb`},
		{args{"x-match": int64(1)}, `Invalid x-match field type`},
		{args{"x-match": nil}, `expected longstr`},
		{args{"h": struct{}{}}, `"h"`},
	} {
		_, err := ParseHeadersArgs(row.args)
		if !errors.Is(err, ErrBinding) || !strings.Contains(err.Error(), row.text) || len(err.Error()) > 300 {
			t.Errorf("%.20v: %v, want %q", row.args, err, row.text)
		}
		if HeadersMatch(row.args, header(nil, "h", 'b', 1)) {
			t.Errorf("%.20v matched", row.args)
		}
	}
}

// naiveHeaders is the rule, on decoded headers.
func naiveHeaders(a args, have map[string]any) bool {
	mode, _ := a["x-match"].(string)
	withX := strings.HasSuffix(mode, "-with-x")
	all, any := true, false
	for name, want := range a {
		if name == "x-match" || !withX && strings.HasPrefix(name, "x-") {
			continue
		}
		got, there := have[name]
		ok := there && (want == nil || want == got)
		all, any = all && ok, any || ok
	}
	if strings.HasPrefix(mode, "any") {
		return any
	}
	return all
}

func TestHeadersAgreeWithNaiveMatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	modes := []any{"all", "any", "all-with-x", "any-with-x", nil}
	const rounds = 4000
	matched := 0
	for range rounds {
		names := 1 + rng.IntN(90) // more than a match has bits for on its stack
		name := func() string {
			return []string{"", "x-"}[rng.IntN(2)] + fmt.Sprint("h", rng.IntN(names))
		}
		a, have := args{}, map[string]any{}
		if mode := modes[rng.IntN(len(modes))]; mode != nil {
			a["x-match"] = mode
		}
		var list []byte
		for range rng.IntN(2 * names) {
			n, v := name(), rng.IntN(2)
			if _, twice := have[n]; !twice {
				have[n] = int64(v)
			}
			list = header(list, n, 'b', byte(v))
		}
		for range rng.IntN(names) {
			n := name()
			switch got := have[n]; rng.IntN(8) {
			case 0:
				a[n] = nil
			case 1:
				a[n] = int64(rng.IntN(2))
			default:
				if got != nil {
					a[n] = got
				}
			}
		}
		want := naiveHeaders(a, have)
		if got := mustMatcher(t, a).Match(list); got != want {
			t.Fatalf("args %v, headers %v: %v, want %v", a, have, got, want)
		}
		if want {
			matched++
		}
	}
	if matched < rounds/20 || matched > rounds-rounds/20 {
		t.Errorf("only one answer is tested: %d of %d match", matched, rounds)
	}
}

func TestHeadersMatchDoesNotAllocate(t *testing.T) {
	m := mustMatcher(t, args{"a": "x", "b": int64(1), "c": 1.5, "d": true})
	list := header(nil, "a", 'S', text("x")...)
	list = header(list, "b", 'b', 1)
	list = header(list, "c", 'd', u64(math.Float64bits(1.5))...)
	list = header(list, "d", 't', 1)
	if n := testing.AllocsPerRun(100, func() {
		if !m.Match(list) {
			t.Error("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations a match", n)
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add(header(nil, "a", 'S', text("x")...))
	f.Add(header(nil, "a", 'F', text(string(header(nil, "b", 'A', text("b\x01")...)))...))
	f.Add([]byte{1, 'a', 'S', 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, list []byte) {
		have, ok := message.DecodeHeaders(list)
		if !ok {
			HeadersMatch(args{"a": args{}, "b": "x"}, list) // must end
			return
		}
		m, err := ParseHeadersArgs(args{"x-match": "any-with-x", "a": "x", "b": nil, "c": []any{int64(1)}})
		if err != nil {
			t.Fatal(err)
		}
		m.Match(list)
		// Presence of all that is there, and of one thing that is not.
		present := args{"x-match": "all-with-x"}
		for name := range have {
			if name != "x-match" {
				present[name] = nil
			}
		}
		if !HeadersMatch(present, list) {
			t.Errorf("headers %v are not there", have)
		}
		present["no header has this name"] = nil
		if HeadersMatch(present, list) {
			t.Error("something that is not there was found")
		}
	})
}

// FuzzHeadersArgs takes both the arguments of a binding and the headers of a
// message off the wire, and holds the answer against the definition.
func FuzzHeadersArgs(f *testing.F) {
	list := header(nil, "a", 'S', text("x")...)
	list = header(list, "b", 'I', 0, 0, 0, 3)
	list = header(list, "x-c", 'V')
	for _, mode := range []string{"all", "any", "all-with-x", "any-with-x", "none"} {
		f.Add(header(list, "x-match", 'S', text(mode)...), list)
	}
	f.Add(header(nil, "x-match", 't', 1), list)
	f.Add(header(nil, "b", 'd', u64(math.Float64bits(3))...), list)
	f.Add(list, list[:len(list)-1])
	f.Fuzz(func(t *testing.T, arguments, headers []byte) {
		a, ok := message.DecodeHeaders(arguments)
		if !ok {
			return
		}
		m, err := ParseHeadersArgs(a)
		if err != nil {
			if !errors.Is(err, ErrBinding) {
				t.Fatal(err)
			}
			return
		}
		mode, _ := a["x-match"].(string)
		mode, withX := strings.CutSuffix(mode, "-with-x")
		asked, equal := 0, 0
		for name, v := range a {
			if name == "x-match" || !withX && strings.HasPrefix(name, "x-") {
				continue
			}
			asked++
			want, err := valueOf(v)
			if err != nil {
				t.Fatalf("%T is taken in arguments and cannot be compared: %v", v, err)
			}
			for rest := headers; ; {
				n, kind, value, next, ok := message.NextHeader(rest)
				if !ok {
					break
				}
				if string(n) == name {
					if want.equal(kind, value) {
						equal++
					}
					break
				}
				rest = next
			}
		}
		want := equal == asked
		if mode == "any" {
			want = equal > 0
		}
		if got := m.Match(headers); got != want {
			t.Fatalf("arguments %v, headers %x: %t; %d asked, %d equal", a, headers, got, asked, equal)
		}
	})
}

func BenchmarkHeadersMatch(b *testing.B) {
	m, err := ParseHeadersArgs(args{"format": "pdf", "type": "report", "level": int64(3)})
	if err != nil {
		b.Fatal(err)
	}
	list := header(nil, "format", 'S', text("pdf")...)
	list = header(list, "type", 'S', text("report")...)
	list = header(list, "level", 'I', 0, 0, 0, 3)
	b.ReportAllocs()
	for b.Loop() {
		m.Match(list)
	}
}
