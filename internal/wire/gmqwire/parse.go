package gmqwire

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// cursor goes over an object that a Scanner has found to be JSON. On anything
// else it stops with an error, somewhere.
type cursor struct {
	b []byte
	i int

	// wrong is the first value that is not what its key is for. It is passed over,
	// as encoding/json does, so that the rest is known.
	wrong *Error
}

var errNotJSON = fault("this is not JSON")

// next is the byte that the next value or mark begins with, 0 at the end.
func (c *cursor) next() byte {
	for c.i < len(c.b) && isSpace(c.b[c.i]) {
		c.i++
	}
	if c.i == len(c.b) {
		return 0
	}
	return c.b[c.i]
}

// is takes a mark, if it is the next.
func (c *cursor) is(mark byte) bool {
	if c.next() != mark {
		return false
	}
	c.i++
	return true
}

// object calls member with each key of the object that is next, whose value
// member takes. Where there is another value it is passed over, and wrong unless
// it is null. name is that of the object, for people.
func (c *cursor) object(name string, member func(key []byte) error) error {
	if c.next() != '{' {
		return c.mistyped(name, "an object")
	}
	c.i++
	if c.is('}') {
		return nil
	}
	for {
		if c.next() != '"' {
			return errNotJSON
		}
		key, err := c.string()
		if err != nil {
			return err
		}
		if !c.is(':') {
			return errNotJSON
		}
		if err := member(key); err != nil {
			return err
		}
		if c.is('}') {
			return nil
		}
		if !c.is(',') {
			return errNotJSON
		}
	}
}

// mistyped passes over a value that is not what its key is for: null is nothing
// said, and all else is wrong.
func (c *cursor) mistyped(name, want string) error {
	first := c.next()
	if err := c.skip(); err != nil {
		return err
	}
	if first != 'n' {
		c.complain("%q must be %s, not %s", name, want, kinds[first])
	}
	return nil
}

func (c *cursor) complain(format string, args ...any) {
	if c.wrong == nil {
		c.wrong = fault(format, args...)
		c.wrong.Mistyped = true
	}
}

// kinds names values by their first bytes.
var kinds = func() (names [256]string) {
	for i := range names {
		names[i] = "a number"
	}
	names['"'], names['{'], names['['] = "a text", "an object", "an array"
	names['t'], names['f'], names['n'] = "true", "false", "null"
	return names
}()

// text takes a string. What it returns points into the object where that is
// possible; ok is false where there was no string.
func (c *cursor) text(name string) (text []byte, ok bool, err error) {
	if c.next() != '"' {
		return nil, false, c.mistyped(name, "a text")
	}
	text, err = c.string()
	return text, err == nil, err
}

// texts takes a string into dst. It makes no copy of what dst is already.
func (c *cursor) texts(name string, dst *string) error {
	text, ok, err := c.text(name)
	if ok && string(text) != *dst {
		*dst = string(text)
	}
	return err
}

// label takes a string or a whole number, as it is written, into dst.
func (c *cursor) label(name string, dst *string) error {
	if first := c.next(); first != '-' && !isDigit(first) {
		return c.texts(name, dst)
	}
	n, ok, err := c.integer(name)
	if ok {
		*dst = strconv.FormatInt(n, 10)
	}
	return err
}

// integer takes a whole number.
func (c *cursor) integer(name string) (n int64, ok bool, err error) {
	const want = "a whole number"
	if first := c.next(); first != '-' && !isDigit(first) {
		return 0, false, c.mistyped(name, want)
	}
	from := c.i
	if err := c.skip(); err != nil {
		return 0, false, err
	}
	n, e := strconv.ParseInt(string(c.b[from:c.i]), 10, 64)
	if e != nil {
		c.complain("%q must be %s, not %.32s", name, want, c.b[from:c.i])
		return 0, false, nil
	}
	return n, true, nil
}

// number takes a whole number from least to most into dst.
func number[T int64 | uint64 | uint8](c *cursor, name string, dst *T, least, most int64) error {
	n, ok, err := c.integer(name)
	switch {
	case !ok:
	case n < least || n > most:
		c.complain("%q must be from %d to %d, not %d", name, least, most, n)
	default:
		*dst = T(n)
	}
	return err
}

// boolean takes true or false.
func (c *cursor) boolean(name string, dst *bool) error {
	first := c.next()
	if first != 't' && first != 'f' {
		return c.mistyped(name, "true or false")
	}
	*dst = first == 't'
	return c.skip()
}

// skip passes over a value.
func (c *cursor) skip() error {
	depth := 0
	for {
		switch c.next() {
		case 0:
			return errNotJSON
		case '{', '[':
			depth++
			c.i++
		case '}', ']':
			if depth--; depth < 0 {
				return errNotJSON
			}
			c.i++
		case ',', ':':
			if depth == 0 {
				return errNotJSON
			}
			c.i++
			continue
		case '"':
			if err := c.skipString(); err != nil {
				return err
			}
		default: // a number or a literal
			for c.i < len(c.b) && bytes.IndexByte([]byte(" \t\r\n,:{}[]\""), c.b[c.i]) < 0 {
				c.i++
			}
		}
		if depth == 0 {
			return nil
		}
	}
}

// skipString passes over a string, whose first quote is next.
func (c *cursor) skipString() error {
	for i := c.i + 1; ; i++ {
		if i = plain(c.b, i); i >= len(c.b) {
			return errNotJSON
		}
		switch c.b[i] {
		case '"':
			c.i = i + 1
			return nil
		case '\\':
			i++
		default:
			return errNotJSON
		}
	}
}

// string takes a string, whose first quote is next. What has neither escapes nor
// damaged UTF-8 is returned where it stands.
func (c *cursor) string() ([]byte, error) {
	from := c.i + 1
	if err := c.skipString(); err != nil {
		return nil, err
	}
	text := c.b[from : c.i-1]
	if bytes.IndexByte(text, '\\') < 0 && utf8.Valid(text) {
		return text, nil
	}
	return unescape(text)
}

// unescape undoes the escapes of a string (RFC 8259 §7). What is no UTF-8, and
// half a surrogate pair, becomes U+FFFD, as encoding/json has it.
func unescape(text []byte) ([]byte, error) {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		switch b := text[i]; {
		case b != '\\' && b < utf8.RuneSelf:
			n := 1
			for i+n < len(text) && text[i+n] != '\\' && text[i+n] < utf8.RuneSelf {
				n++
			}
			out = append(out, text[i:i+n]...)
			i += n
		case b != '\\':
			r, n := utf8.DecodeRune(text[i:])
			out = utf8.AppendRune(out, r)
			i += n
		case i+1 == len(text):
			return nil, errNotJSON
		case text[i+1] != 'u':
			b := unescaped(text[i+1])
			if b == 0 {
				return nil, errNotJSON
			}
			out = append(out, b)
			i += 2
		default:
			r, ok := hex4(text[i:])
			if !ok {
				return nil, errNotJSON
			}
			i += 6
			if utf16.IsSurrogate(r) {
				low, ok := hex4(text[i:])
				if r = utf16.DecodeRune(r, low); ok && r != utf8.RuneError {
					i += 6
				} else {
					r = utf8.RuneError
				}
			}
			out = utf8.AppendRune(out, r)
		}
	}
	return out, nil
}

// hex4 reads \uXXXX at the beginning of text.
func hex4(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range text[2:6] {
		switch {
		case !isHex(c):
			return 0, false
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		default:
			r = r<<4 | rune(c|0x20-'a'+10)
		}
	}
	return r, true
}

// appendString appends a JSON string as encoding/json writes it: also <, > and &
// are escaped, and what is no UTF-8 becomes U+FFFD.
func appendString[T string | []byte](dst []byte, text T) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
				i++
				continue
			}
			dst = append(dst, text[from:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\b':
				dst = append(dst, '\\', 'b')
			case '\f':
				dst = append(dst, '\\', 'f')
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRuneInString(string(text[i:min(len(text), i+utf8.UTFMax)]))
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(append(dst, text[from:i]...), `\ufffd`...)
			from = i + n
		case r == '\u2028' || r == '\u2029': // line ends for JavaScript
			dst = append(append(dst, text[from:i]...), `\u202`...)
			dst = append(dst, digits[r&15])
			from = i + n
		}
		i += n
	}
	return append(append(dst, text[from:]...), '"')
}
