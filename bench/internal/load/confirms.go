package load

import (
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/ferrymq/ferry/bench/internal/amqp"
)

// confirms follows a channel's publisher confirms. Brokers confirm one publish
// or all up to a tag, in any order (the single ones need not be in order).
//
// It belongs to the goroutine that reads the connection, but for stamps: the
// publisher sets a tag's stamp before it counts the tag as sent, and reuses its
// place only when the tag is settled.
type confirms struct {
	done   int64   // every tag up to here is settled
	stamps []int64 // by tag modulo the length: when it was published
	early  []bool  // by tag likewise: settled although done has not come to it
	ahead  int     // how many are set in early
	nacked int64
	hist   *Histogram
}

// newConfirms has room for the given number of publishes in flight.
func newConfirms(inFlight int) *confirms {
	n := 1 << bits.Len(uint(inFlight))
	return &confirms{stamps: make([]int64, n), early: make([]bool, n), hist: new(Histogram)}
}

// stamp notes when the tag was published.
func (c *confirms) stamp(tag, now int64) { c.stamps[tag&int64(len(c.stamps)-1)] = now }

// settle takes note of one confirm. A tag that was not sent is ignored.
func (c *confirms) settle(tag int64, multiple, nack bool, sent, now int64) {
	mask := int64(len(c.stamps) - 1)
	if tag > sent || tag <= c.done {
		return
	}
	before := c.done + int64(c.ahead)
	if !multiple && tag != c.done+1 {
		if at := tag & mask; !c.early[at] {
			c.early[at] = true
			c.ahead++
			c.hist.Add(time.Duration(now-c.stamps[at]), 1)
		}
	} else {
		// Publishes of one write share a stamp: count them at once.
		var stamp int64
		var run uint64
		for t := c.done + 1; t <= tag; t++ {
			at := t & mask
			if c.ahead > 0 && c.early[at] {
				c.early[at] = false
				c.ahead--
				continue
			}
			if s := c.stamps[at]; s != stamp {
				if run > 0 {
					c.hist.Add(time.Duration(now-stamp), run)
				}
				stamp, run = s, 0
			}
			run++
		}
		if run > 0 {
			c.hist.Add(time.Duration(now-stamp), run)
		}
		c.done = tag
		for c.ahead > 0 && c.early[(c.done+1)&mask] {
			c.done++
			c.early[c.done&mask] = false
			c.ahead--
		}
	}
	if nack {
		c.nacked += c.done + int64(c.ahead) - before
	}
}

// scan reads confirms from p and returns how many bytes it is done with.
func (c *confirms) scan(p []byte, sent, now int64) (used int, err error) {
	for {
		f, n, err := amqp.Parse(p[used:])
		if n == 0 || err != nil {
			return used, err
		}
		used += n
		switch m := f.Method(); {
		case m == amqp.BasicAck || m == amqp.BasicNack:
			if len(f.Payload) < 13 {
				return used, amqp.ErrFrame
			}
			tag := int64(binary.BigEndian.Uint64(f.Payload[4:]))
			multiple := f.Payload[12]&1 != 0
			if multiple && tag == 0 {
				tag = sent // "all so far" (1.8.3.13)
			}
			c.settle(tag, multiple, m == amqp.BasicNack, sent, now)
		case m != 0:
			if err := amqp.Closed(f.Payload); err != nil {
				return used, err
			}
		}
	}
}
