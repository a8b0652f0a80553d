package stompws

import (
	"bytes"
	"math"
	"strconv"
)

// keep is how much room for a frame that came in pieces is kept for the next one,
// bytes.
const keep = 4 << 10

// keepMost is how much of it is kept at all, bytes: nobody knows whether a next one
// comes.
const keepMost = 64 << 10

// ahead is how much room is made for a frame before it comes, at most, bytes.
const ahead = 1 << 20

// cutter cuts the stream that a server sends into frames and heart-beats:
//
//	MESSAGE LF  name:value LF ...  LF  body NUL      content-length bytes, or up to NUL
//	LF
//
// It trusts the stream to be well-formed.
type cutter struct {
	frame []byte // has begun and is not whole; nil: none
	size  int    // of the frame, when that is known; else 0
	seen  int    // bytes of the frame that do not hold its end
	body  bool   // its head is whole: the rest ends with NUL
}

// next takes the next message off what has come, nil if it is not whole. It is
// valid until the following call.
func (c *cutter) next(in []byte) (message, rest []byte) {
	if len(c.frame) == 0 {
		c.size, c.seen, c.body = 0, 0, false
		if n := c.end(in); n > 0 {
			return in[:n], in[n:]
		}
		if cap(c.frame) > keep && c.size < keep {
			c.frame = nil
		}
	}
	before := len(c.frame)
	// Of what belongs to a frame whose size is known nothing else need be looked at.
	take := len(in)
	if c.size > 0 {
		take = min(take, c.size-before)
		c.grow(min(c.size, ahead))
	}
	c.frame = append(c.frame, in[:take]...)
	n := c.end(c.frame)
	if n == 0 {
		return nil, in[take:]
	}
	message = c.frame[:n]
	if c.frame = c.frame[:0]; cap(c.frame) > keepMost {
		c.frame = nil
	}
	return message, in[n-before:]
}

// end is where the frame or the heart-beat at the beginning of b ends, 0 if that has
// not come.
func (c *cutter) end(b []byte) int {
	if n := eol(b); n > 0 {
		return n
	}
	if c.size == 0 && !c.body {
		head := headEnd(b)
		if head == 0 {
			return 0
		}
		if n, ok := contentLength(b[:head]); ok {
			c.size = head + n + 1
		}
		c.body, c.seen = true, head
	}
	switch {
	case c.size > 0 && len(b) >= c.size:
		return c.size
	case c.size > 0:
		return 0
	}
	if i := bytes.IndexByte(b[c.seen:], 0); i >= 0 {
		return c.seen + i + 1
	}
	c.seen = len(b)
	return 0
}

func (c *cutter) grow(n int) {
	if cap(c.frame) < n {
		c.frame = append(make([]byte, 0, n), c.frame...)
	}
}

// eol is the length of the end of a line that b begins with, 0 if there is none.
func eol(b []byte) int {
	switch {
	case bytes.HasPrefix(b, []byte("\n")):
		return 1
	case bytes.HasPrefix(b, []byte("\r\n")):
		return 2
	}
	return 0
}

// headEnd is where the body begins, 0 if that has not come.
func headEnd(b []byte) int {
	for at := 0; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return 0
		}
		at += i + 1
		if n := eol(b[at:]); n > 0 {
			return at + n
		}
	}
}

// contentLength is the value of the first header of that name.
func contentLength(head []byte) (int, bool) {
	_, value, ok := bytes.Cut(head, []byte("\ncontent-length:"))
	if !ok {
		return 0, false
	}
	line, _, _ := bytes.Cut(value, []byte("\n"))
	n, err := strconv.Atoi(string(bytes.TrimRight(line, "\r")))
	return n, err == nil && n >= 0 && n <= math.MaxInt32/2
}
