package metrics

import (
	"encoding/base64"
	"hash/fnv"
	"io"
	"math"
	"strconv"
	"unicode/utf8"
)

// exposition writes the text format: for each family its help and its type, then its
// samples. The first error ends it in silence: the peer has gone.
type exposition struct {
	w      io.Writer
	prefix string // of RabbitMQ's names: "rabbitmq_"
	buf    []byte
	name   string // of the family
	err    error
}

// writeSize is from how many bytes on what was gathered is written.
const writeSize = 32 << 10

func newExposition(w io.Writer, prefix string) *exposition {
	return &exposition{w: w, prefix: prefix, buf: make([]byte, 0, writeSize+4<<10)}
}

func (e *exposition) flush() {
	if e.err == nil && len(e.buf) > 0 {
		_, e.err = e.w.Write(e.buf)
	}
	e.buf = e.buf[:0]
}

// The types of families.
const (
	gauge     = "gauge"
	counter   = "counter"
	histogram = "histogram"
)

// rabbit begins a family that RabbitMQ has under this name, behind its prefix.
func (e *exposition) rabbit(name, kind, help string) { e.family(e.prefix+name, kind, help) }

// family begins a family.
func (e *exposition) family(name, kind, help string) {
	e.name = name
	b := append(e.buf, "# HELP "...)
	b = append(b, name...)
	b = append(b, ' ')
	b = append(b, help...)
	b = append(b, "\n# TYPE "...)
	b = append(b, name...)
	b = append(b, ' ')
	b = append(b, kind...)
	e.buf = append(b, '\n')
}

// count writes a sample that is a number of things.
func (e *exposition) count(n uint64, labels ...string) {
	e.begin("", labels)
	e.buf = strconv.AppendUint(e.buf, n, 10)
	e.end()
}

// number writes a sample.
func (e *exposition) number(v float64, labels ...string) {
	e.begin("", labels)
	e.buf = appendFloat(e.buf, v)
	e.end()
}

func appendFloat(b []byte, v float64) []byte {
	switch {
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case math.IsInf(v, -1):
		return append(b, "-Inf"...)
	case math.IsNaN(v):
		return append(b, "NaN"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (e *exposition) begin(suffix string, labels []string) {
	b := append(append(e.buf, e.name...), suffix...)
	if len(labels) > 0 {
		b = append(b, '{')
		b = appendLabels(b, labels)
		b = append(b, '}')
	}
	e.buf = append(b, ' ')
}

func (e *exposition) end() {
	if e.buf = append(e.buf, '\n'); len(e.buf) >= writeSize {
		e.flush()
	}
}

// classes writes a histogram: counts of each class, whose upper bounds are bounds;
// the last has none.
func (e *exposition) classes(bounds []string, counts []uint64, sum float64, labels ...string) {
	n := uint64(0)
	with := append(append([]string(nil), labels...), "le", "+Inf")
	for i, c := range counts {
		n += c
		if with[len(with)-1] = "+Inf"; i < len(bounds) {
			with[len(with)-1] = bounds[i]
		}
		e.begin("_bucket", with)
		e.buf = strconv.AppendUint(e.buf, n, 10)
		e.end()
	}
	e.begin("_count", labels)
	e.buf = strconv.AppendUint(e.buf, n, 10)
	e.end()
	e.begin("_sum", labels)
	e.buf = appendFloat(e.buf, sum)
	e.end()
}

// encoded is labels as they are written: those of an object that has many samples.
type encoded string

func encode(labels ...string) encoded { return encoded(appendLabels(nil, labels)) }

// of writes a sample of an object.
func (e *exposition) of(labels encoded, v float64) {
	b := append(append(e.buf, e.name...), '{')
	b = append(append(b, labels...), "} "...)
	e.buf = appendFloat(b, v)
	e.end()
}

// appendLabels appends labels, which are names and values in turn.
func appendLabels(b []byte, labels []string) []byte {
	for i := 0; i+1 < len(labels); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, labels[i]...), '=', '"')
		b = append(appendValue(b, labels[i+1]), '"')
	}
	return b
}

// valueMost is the longest value of a label, bytes: no name in AMQP is longer (§4.2.5.3).
const valueMost = 255

// appendValue appends the value of a label, escaped. One that is too long is cut,
// and told apart from others by a hash; bytes that are not UTF-8 are spelled out.
func appendValue(b []byte, v string) []byte {
	cut := ""
	if len(v) > valueMost {
		h := fnv.New64a()
		_, _ = io.WriteString(h, v) // cannot fail
		cut = "~" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
		end := valueMost - len(cut)
		for end > 0 && !utf8.RuneStart(v[end]) {
			end--
		}
		v = v[:end]
	}
	const hex = "0123456789abcdef"
	for i := 0; i < len(v); {
		c := v[i]
		switch {
		case c == '\\' || c == '"':
			b = append(b, '\\', c)
			i++
		case c == '\n':
			b = append(b, '\\', 'n')
			i++
		case c < utf8.RuneSelf:
			b = append(b, c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(v[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, '\\', '\\', 'x', hex[c>>4], hex[c&15])
			} else {
				b = append(b, v[i:i+n]...)
			}
			i += n
		}
	}
	return append(b, cut...)
}
