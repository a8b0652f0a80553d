package stompwire

import (
	"bytes"
	"math"
)

// Limits of what a peer may send. A field that is zero has its default.
type Limits struct {
	Line    int   // bytes of a header's line, without its LF: DefaultLine
	Headers int   // headers of a frame, repeats included: DefaultHeaders
	Head    int   // bytes of a frame's command and headers: DefaultHead
	Body    int64 // bytes of a frame's body: DefaultBody
}

// The limits that a zero Limits has.
const (
	DefaultLine    = 16 << 10
	DefaultHeaders = 100
	DefaultHead    = 64 << 10
	DefaultBody    = 16 << 20
)

// maxIdleBody is the limit of a body that is read only to be dropped, because its
// frame may not have one: what a frame without a body can cost is bounded by
// DefaultHead, and this is as much again.
const maxIdleBody = DefaultHead

// maxKeptScratch is how many bytes of room for unescaped headers a Decoder keeps
// between frames: a connection that once had a large head does not hold on to it.
const maxKeptScratch = 4 << 10

// Header is one header of a frame, unescaped.
type Header struct {
	Name, Value []byte
}

// Decoder takes frames off a stream of bytes. The zero Decoder is ready. It does
// not read: its owner has the buffer, and calls Head and Body in turn with what is
// there.
//
// Command, Headers and Length are those of the frame whose Head was last parsed.
// A Decoder is for one stream, and not for more than one goroutine.
type Decoder struct {
	Version Version // how headers are escaped, set by the owner when it is negotiated
	Limits  Limits

	Command Command
	Headers []Header // in their order, repeats included; they point into src or into the Decoder, until the next Head
	Length  int64    // the content-length, -1 where there is none

	start   int    // where the command begins, behind the EOLs
	line    int    // where the line begins that was not yet seen to its end; zero is none
	seen    int    // up to where it was searched for its end
	spans   []span // of the headers in the lines before
	scratch []byte // unescaped headers
	body    int    // up to where a body was searched for its NUL
}

// span is where in a head a header is: offsets from the command's first byte.
type span struct {
	name, value, end int
	escaped          bool
}

// EOLs is the number of bytes, at the beginning of src, of line ends between
// frames: LF, or CR LF. They are heart-beats (STOMP 1.2, Heart-beating), and the
// caller may discard them. A CR that is src's last byte is not among them. A NUL
// counts as one: RabbitMQ passes over it, for clients that end a frame twice.
//
// An owner discards them each time before it calls Head, or leaves them to Head
// each time: between two calls for one frame src may only grow.
func EOLs(src []byte) int {
	n := 0
	for n < len(src) {
		switch {
		case src[n] == '\n', src[n] == 0:
			n++
		case src[n] == '\r' && n+1 < len(src) && src[n+1] == '\n':
			n += 2
		default:
			return n
		}
	}
	return n
}

// Head parses what a frame has before its body: EOLs that stand before it, the
// command line, the headers and the blank line. n is the number of bytes this
// took. n == 0 without an error means that more bytes are needed: Head is then to
// be called again with the same bytes and more behind them, at another place if
// need be. It remembers how far it looked, so that a head is read once however it
// comes.
//
// The limits are applied to what is there, before more is waited for, and a
// command that does not exist is an error as soon as no command begins so. After
// an error nothing behind it can be trusted.
//
// Lines end in LF or CR LF in all versions, and a CR elsewhere is an error, as in
// RabbitMQ. To STOMP 1.0 and 1.1 a CR is a byte like others, which would be the
// last of each value from a client that writes CR LF; such clients exist, and
// values with a CR that is meant do not. 1.2 escapes it.
//
// Nothing is trimmed (STOMP 1.2, Value Encoding), but for the spaces in front of
// values from a client of 1.0, which that version's own examples have, and which
// RabbitMQ and Artemis drop there.
//
// The first of several headers of one name is the one that counts (STOMP 1.2,
// Repeated Header Entries), see Get. Several content-lengths that differ are an
// error: whoever else reads the frame may disagree about where it ends.
//
// Bytes of a header may be anything that is not a control of the format. The
// specification's UTF-8 is not enforced: RabbitMQ does not either, and a name or a
// value comes out again as it went in.
func (d *Decoder) Head(src []byte) (n int, err error) {
	n, e := d.head(src)
	if n > 0 || e != nil {
		d.start, d.line, d.seen, d.body = 0, 0, 0, 0
	}
	if e != nil {
		d.Command, d.Headers, d.Length = 0, d.Headers[:0], -1
		return 0, e
	}
	return n, nil
}

func (d *Decoder) head(src []byte) (int, *Error) {
	if d.line == 0 {
		if ok, err := d.command(src); !ok {
			return 0, err
		}
	}
	maxLine, maxHead := or(d.Limits.Line, DefaultLine), or(d.Limits.Head, DefaultHead)
	maxHeaders := or(d.Limits.Headers, DefaultHeaders)
	for {
		if len(d.spans) == maxHeaders && !beginsEOL(src[d.line:]) {
			return 0, tooLarge("a frame has more than %d headers", maxHeaders)
		}
		// The line's LF is before this place, or the line or the head is too long.
		end := min(d.line+maxLine+1, d.start+maxHead)
		window := src[:min(end, len(src))]
		i := bytes.IndexByte(window[min(d.seen, len(window)):], '\n')
		if i < 0 {
			if bytes.IndexByte(window[min(d.seen, len(window)):], 0) >= 0 {
				return 0, faultNUL(window[d.line:])
			}
			d.seen = len(window)
			switch {
			case len(src) < end:
				return 0, nil
			case end == d.start+maxHead:
				return 0, tooLarge("a frame's command and headers are more than %d bytes", maxHead)
			}
			return 0, tooLarge("a header's line is more than %d bytes, it begins %s", maxLine, quoteName(window[d.line:]))
		}
		i += d.seen
		line := src[d.line:i]
		if len(line) > 0 && line[len(line)-1] == '\r' {
			line = line[:len(line)-1]
		}
		if len(line) == 0 {
			return i + 1, d.finish(src[d.start:i])
		}
		if err := d.header(line); err != nil {
			return 0, err
		}
		d.line, d.seen = i+1, i+1
	}
}

// beginsEOL tells whether b is an EOL and more, or may become one.
func beginsEOL(b []byte) bool {
	return len(b) == 0 || b[0] == '\n' || b[0] == '\r' && (len(b) == 1 || b[1] == '\n')
}

// command parses EOLs and the command's line. ok is false where there is an
// error or not enough.
func (d *Decoder) command(src []byte) (ok bool, err *Error) {
	d.start += EOLs(src[d.start:])
	line := src[d.start:]
	if len(line) == 0 || len(line) == 1 && line[0] == '\r' {
		return false, nil
	}
	i := bytes.IndexByte(line[:min(len(line), maxQuoted)], '\n')
	if i < 0 {
		if !beginsCommand(line) {
			return false, faultCommand(line)
		}
		return false, nil
	}
	end := i
	if i > 0 && line[i-1] == '\r' {
		end--
	}
	d.Command = parseCommand(line[:end])
	if d.Command == 0 {
		return false, faultCommand(line[:end])
	}
	d.line = d.start + i + 1
	d.seen = d.line
	d.spans = d.spans[:0]
	return true, nil
}

// header checks the line of a header, without its end, and notes where it is.
func (d *Decoder) header(line []byte) *Error {
	colon := bytes.IndexByte(line, ':')
	switch {
	case bytes.IndexByte(line, 0) >= 0:
		return faultNUL(line)
	case colon < 0:
		return fault("expected a header, name:value, found %s", quote(line))
	case colon == 0:
		return fault("expected a header, name:value, found one without a name")
	}
	at := d.line - d.start
	s := span{name: at, value: at + colon + 1, end: at + len(line)}
	if bytes.IndexByte(line, '\r') >= 0 {
		return fault("a CR inside a header's line, where only its end may have one: %s", quoteName(line))
	}
	if d.escapes() {
		if i := bytes.IndexByte(line, '\\'); i >= 0 {
			if err := checkEscapes(line[i:], d.Version); err != nil {
				return err
			}
			s.escaped = true
		}
	}
	d.spans = append(d.spans, s)
	return nil
}

func (d *Decoder) escapes() bool { return d.Version >= V11 && d.Command.isEscaped() }

// finish makes the headers of a head that is complete.
func (d *Decoder) finish(head []byte) *Error {
	d.Headers = d.Headers[:0]
	if cap(d.scratch) > maxKeptScratch {
		d.scratch = nil
	}
	d.scratch = d.scratch[:0]
	d.Length = -1
	trims := d.trims(head)
	for _, s := range d.spans {
		h := Header{Name: head[s.name : s.value-1 : s.value-1], Value: head[s.value:s.end:s.end]}
		for trims && len(h.Value) > 0 && h.Value[0] == ' ' {
			h.Value = h.Value[1:]
		}
		if s.escaped {
			h.Name, h.Value = d.unescape(h.Name), d.unescape(h.Value)
		}
		d.Headers = append(d.Headers, h)
		if string(h.Name) == HeaderContentLength {
			if err := d.contentLength(h.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

// trims tells whether the frame is from a client of 1.0. A CONNECT says itself
// which version it will be.
func (d *Decoder) trims(head []byte) bool {
	if d.Command != Connect && d.Command != Stomp {
		return d.Version == V10 && d.Command < Connected
	}
	for _, s := range d.spans {
		if string(head[s.name:s.value-1]) == HeaderAcceptVersion {
			v, ok := Negotiate(head[s.value:s.end])
			return ok && v == V10
		}
	}
	return true
}

func (d *Decoder) contentLength(value []byte) *Error {
	n, ok := parseNumber(trimSpaces(value))
	switch {
	case !ok:
		return fault("expected a content-length, a number of bytes, found %s", quote(value))
	case d.Length >= 0 && d.Length != n:
		return fault("two content-lengths, %d and %d", d.Length, n)
	case n > d.maxBody():
		return d.bodyTooLarge()
	}
	d.Length = n
	return nil
}

func (d *Decoder) maxBody() int64 {
	most := d.Limits.Body
	if most == 0 {
		most = DefaultBody
	}
	if !d.Command.MayHaveBody() {
		most = min(most, maxIdleBody)
	}
	return most
}

func (d *Decoder) bodyTooLarge() *Error {
	return tooLarge("the body of a %s frame is more than %d bytes", d.Command, d.maxBody())
}

// Get is the first header of this name: the one that counts.
func (d *Decoder) Get(name string) (value []byte, ok bool) {
	for i := range d.Headers {
		if string(d.Headers[i].Name) == name {
			return d.Headers[i].Value, true
		}
	}
	return nil, false
}

// Body takes the body off src, which begins behind what Head took. n is the
// number of bytes this took, with the NUL that ends the frame; n == 0 without an
// error means that more are needed: Body is then to be called again with the same
// bytes and more behind them. body points into src.
//
// With a content-length the body is that many bytes, NULs among them, and the one
// behind it must be NUL; without one it ends at the first NUL (STOMP 1.2, Body). A
// frame whose command may not have a body may still bring one of 64 KiB at most,
// as RabbitMQ allows it; it is for nothing.
func (d *Decoder) Body(src []byte) (body []byte, n int, err error) {
	if d.Length >= 0 {
		if int64(len(src)) <= d.Length {
			return nil, 0, nil
		}
		n = int(d.Length)
		if src[n] != 0 {
			return nil, 0, fault("expected NUL behind a body of %d bytes, its content-length, found %s", n, quote(src[n:n+1]))
		}
		return src[:n:n], n + 1, nil
	}
	most := d.maxBody()
	window := src
	if int64(len(window)) > most {
		window = window[:most+1]
	}
	i := bytes.IndexByte(window[min(d.body, len(window)):], 0)
	if i >= 0 {
		n = d.body + i
		d.body = 0
		return src[:n:n], n + 1, nil
	}
	if int64(len(window)) > most {
		d.body = 0
		return nil, 0, d.bodyTooLarge()
	}
	d.body = len(window)
	return nil, 0, nil
}

// checkEscapes checks that what follows each backslash is what the version
// defines; anything else is fatal (STOMP 1.2, Value Encoding).
func checkEscapes(b []byte, v Version) *Error {
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return nil
		}
		if i+1 == len(b) {
			return fault("a backslash ends a header's line: %s escapes a backslash", `\\`)
		}
		switch c := b[i+1]; {
		case c == 'n', c == 'c', c == '\\', c == 'r' && v >= V12:
		default:
			return fault(`STOMP %s has no escape %s`, v, quote(b[i:i+2]))
		}
		b = b[i+2:]
	}
}

// unescape is b with its escapes undone, in the scratch. They were checked, and
// none is cut in two by the header's colon: "\:" is no escape.
func (d *Decoder) unescape(b []byte) []byte {
	from := len(d.scratch)
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			d.scratch = append(d.scratch, b...)
			return d.scratch[from:len(d.scratch):len(d.scratch)]
		}
		d.scratch = append(d.scratch, b[:i]...)
		c := b[i+1]
		switch c {
		case 'n':
			c = '\n'
		case 'c':
			c = ':'
		case 'r':
			c = '\r'
		}
		d.scratch = append(d.scratch, c)
		b = b[i+2:]
	}
}

// parseNumber reads a number of digits alone: no sign, no space, no other base.
// One that does not fit is as large as can be, and so over every limit.
func parseNumber(b []byte) (n int64, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n > (math.MaxInt64-9)/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func faultCommand(line []byte) *Error {
	return &Error{Text: "expected a STOMP command, found " + quote(line), UnknownCommand: true}
}

// faultNUL says as much as it says when the NUL is the last byte there is.
func faultNUL(line []byte) *Error {
	line = line[:bytes.IndexByte(line, 0)+1]
	return fault("a NUL before the blank line that ends the headers, in the line %s", quoteName(line))
}

// quoteName is a header's line for an error, without its value: that may be a
// passcode.
func quoteName(line []byte) string {
	if i := bytes.IndexByte(line, ':'); i >= 0 {
		line = line[:i+1]
	}
	return quote(line)
}
