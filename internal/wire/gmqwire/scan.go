package gmqwire

import "encoding/binary"

// MaxNesting is how deep the objects and arrays of a request may nest. Those that
// mean anything nest three deep.
const MaxNesting = 32

// Blank is how many bytes of white space (RFC 8259 §2) b begins with.
func Blank(b []byte) int {
	for i, c := range b {
		if !isSpace(c) {
			return i
		}
	}
	return len(b)
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// A Scanner finds the end of a JSON object in a buffer that grows, and looks at
// each byte once. It checks the grammar (RFC 8259), so that what can never become
// an object is found where it stops being one, and not at the end of a long wait.
// The zero Scanner is ready, and has no limit.
type Scanner struct {
	Max int // bytes that an object may have; 0: any number

	at     int    // bytes that were looked at
	state  state  // what comes next
	depth  int    // of open objects and arrays
	arrays uint64 // bit i: the one at depth i+1 is an array
	key    bool   // the string at hand is a key
	rest   string // of the literal at hand
}

type state uint8

const (
	atStart      state = iota // of the object
	atKeyOrEnd                // behind {
	atKey                     // behind , in an object
	atColon                   // behind a key
	atValue                   // behind : or ,
	atValueOrEnd              // behind [
	atNext                    // behind a value
	inString                  //
	inEscape                  // behind \
	inHex4                    // behind \u; inHex4-i are those with 4-i digits to come
	inHex3                    //
	inHex2                    //
	inHex1                    //
	inLiteral                 // true, false, null
	inMinus                   // behind -
	inZero                    // behind a leading 0
	inInteger                 // behind a digit
	inPoint                   // behind .
	inFraction                // behind a digit of a fraction
	inExponent                // behind e
	inSign                    // behind the sign of an exponent
	inPower                   // behind a digit of an exponent
)

// Reset makes the scanner ready for the next object.
func (s *Scanner) Reset() { *s = Scanner{Max: s.Max} }

// Scan looks at what b has more than at the last call, and returns the size of
// the object that b begins with when all of it is there, else 0. b begins with
// {, whatever else was before was taken off.
//
// After an error the scanner is of no use before Reset.
func (s *Scanner) Scan(b []byte) (int, error) {
	for s.at < len(b) {
		if s.state == inString {
			if s.at = plain(b, s.at); s.at == len(b) {
				break
			}
		}
		c := b[s.at]
		done, err := s.step(c)
		if err != nil {
			return 0, err
		}
		s.at++
		if done {
			if s.Max > 0 && s.at > s.Max {
				return 0, s.tooLarge()
			}
			return s.at, nil
		}
	}
	if s.Max > 0 && s.at >= s.Max {
		return 0, s.tooLarge()
	}
	return 0, nil
}

func (s *Scanner) tooLarge() *Error {
	e := fault("the request has more than %d bytes", s.Max)
	e.TooLarge = true
	return e
}

// plain is where the first byte from i on stands that means something in a
// string, len(b) if there is none. It looks at eight at a time, because most of a
// large request is one string.
func plain(b []byte, i int) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x80 * ones
	)
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, escape := x^'"'*ones, x^'\\'*ones
		// The high bit of a byte is set in the first where it is below a space, in the
		// others where it is what they look for; a borrow may set more behind it.
		if ((x-' '*ones)&^x|(quote-ones)&^quote|(escape-ones)&^escape)&highs != 0 {
			break
		}
	}
	for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
		i++
	}
	return i
}

// step goes over one byte. done says that it was the object's last.
func (s *Scanner) step(c byte) (done bool, err error) {
	switch s.state {
	case inString:
		switch {
		case c == '"':
			s.state = atNext
			if s.key {
				s.key, s.state = false, atColon
			}
		case c == '\\':
			s.state = inEscape
		case c < ' ':
			return false, s.unexpected(c, "in a text, where it must be written \\u%04x", c)
		}
		return false, nil
	case inEscape, inHex4, inHex3, inHex2, inHex1:
		return false, s.escape(c)
	case inLiteral:
		if c != s.rest[0] {
			return false, s.unexpected(c, "where %q goes on", s.rest)
		}
		if s.rest = s.rest[1:]; s.rest == "" {
			s.state = atNext
		}
		return false, nil
	case inMinus, inZero, inInteger, inPoint, inFraction, inExponent, inSign, inPower:
		if more, err := s.number(c); more || err != nil {
			return false, err
		}
		s.state = atNext
	}
	if isSpace(c) && s.state != atStart {
		return false, nil
	}
	return s.structure(c)
}

// structure goes over a byte between texts, numbers and literals.
func (s *Scanner) structure(c byte) (done bool, err error) {
	switch s.state {
	case atStart:
		if c != '{' {
			return false, s.unexpected(c, "where a JSON object begins with {")
		}
		return false, s.open(c)
	case atKeyOrEnd, atKey:
		switch {
		case c == '"':
			s.key, s.state = true, inString
		case c == '}' && s.state == atKeyOrEnd:
			return s.close(), nil
		default:
			return false, s.unexpected(c, "where a key is expected")
		}
	case atColon:
		if c != ':' {
			return false, s.unexpected(c, "where a : is expected")
		}
		s.state = atValue
	case atValue, atValueOrEnd:
		if c == ']' && s.state == atValueOrEnd {
			return s.close(), nil
		}
		return false, s.value(c)
	case atNext:
		array := s.arrays>>(s.depth-1)&1 == 1
		switch {
		case c == ',' && array:
			s.state = atValue
		case c == ',':
			s.state = atKey
		case c == ']' && array, c == '}' && !array:
			return s.close(), nil
		case array:
			return false, s.unexpected(c, "where a , or ] is expected")
		default:
			return false, s.unexpected(c, "where a , or } is expected")
		}
	}
	return false, nil
}

func (s *Scanner) value(c byte) error {
	switch {
	case c == '"':
		s.state = inString
	case c == '{', c == '[':
		return s.open(c)
	case c == 't':
		s.state, s.rest = inLiteral, "true"[1:]
	case c == 'f':
		s.state, s.rest = inLiteral, "false"[1:]
	case c == 'n':
		s.state, s.rest = inLiteral, "null"[1:]
	case c == '-':
		s.state = inMinus
	case c == '0':
		s.state = inZero
	case isDigit(c):
		s.state = inInteger
	default:
		return s.unexpected(c, "where a value is expected")
	}
	return nil
}

func (s *Scanner) open(c byte) error {
	if s.depth == MaxNesting {
		e := fault("objects and arrays nest more than %d deep at byte %d", MaxNesting, s.at+1)
		e.TooLarge = true
		return e
	}
	bit := uint64(1) << s.depth
	s.depth++
	if c == '[' {
		s.arrays, s.state = s.arrays|bit, atValueOrEnd
	} else {
		s.arrays, s.state = s.arrays&^bit, atKeyOrEnd
	}
	return nil
}

// close tells whether it was the outermost.
func (s *Scanner) close() bool {
	s.depth--
	s.state = atNext
	return s.depth == 0
}

func (s *Scanner) escape(c byte) error {
	switch {
	case s.state != inEscape && !isHex(c):
		return s.unexpected(c, "where four hexadecimal digits follow \\u")
	case s.state == inHex1:
		s.state = inString
	case s.state != inEscape:
		s.state++
	case c == 'u':
		s.state = inHex4
	case unescaped(c) != 0:
		s.state = inString
	default:
		return s.unexpected(c, "behind a \\")
	}
	return nil
}

// unescaped is what a letter behind a \ stands for, 0 if nothing.
func unescaped(c byte) byte {
	switch c {
	case '"', '\\', '/':
		return c
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return 0
}

// number goes over a byte that may belong to the number at hand. more is false
// when the number has ended before it.
func (s *Scanner) number(c byte) (more bool, err error) {
	switch {
	case isDigit(c):
		switch s.state {
		case inZero:
			return false, s.unexpected(c, "behind a leading 0")
		case inMinus:
			if s.state = inInteger; c == '0' {
				s.state = inZero
			}
		case inPoint:
			s.state = inFraction
		case inExponent, inSign:
			s.state = inPower
		}
		return true, nil
	case c == '.' && (s.state == inZero || s.state == inInteger):
		s.state = inPoint
		return true, nil
	case (c == 'e' || c == 'E') && (s.state == inZero || s.state == inInteger || s.state == inFraction):
		s.state = inExponent
		return true, nil
	case (c == '+' || c == '-') && s.state == inExponent:
		s.state = inSign
		return true, nil
	case s.state == inMinus || s.state == inPoint || s.state == inExponent || s.state == inSign:
		return false, s.unexpected(c, "where a digit is expected")
	}
	return false, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

func (s *Scanner) unexpected(c byte, where string, args ...any) *Error {
	return fault("this is not JSON: found %q at byte %d, "+where, append([]any{string(rune(c)), s.at + 1}, args...)...)
}
