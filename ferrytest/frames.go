package ferrytest

import (
	"bytes"
	"slices"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// largestFrame is what is still taken for a frame, bytes. Brokers and clients
// agree on much less.
const largestFrame = 16 << 20

// frames is what a connection says, as far as refusing publishes takes: where
// frames begin and end, and which channels confirm. It reads AMQP 0-9-1; as soon
// as it reads something else it lets everything through (opaque).
//
// A publish that is refused is not passed on, so that the broker counts fewer
// publishes on its channel than the client does: the broker's confirms get other
// tags. Its deliveries, and the client's settlements of them, have tags that
// nothing happens to.
type frames struct {
	opaque   bool
	begun    bool // the protocol header has come
	closing  bool // connection.close has passed
	up, down []byte
	channels map[uint16]*confirming
}

// confirming is the confirm mode of a channel.
type confirming struct {
	on       bool // confirm.select has passed
	answered bool // so has the answer, or there is none
	closing  bool // channel.close has passed, in whichever direction

	passed   uint64   // publishes passed on: the last tag of the broker's
	refused  []uint64 // for each that was not: passed at that time
	pending  []uint64 // tags of the broker's that it has not confirmed; sorted
	early    []uint64 // tags of the client's, refused before confirm.select was answered
	swallow  bool     // the content of a publish that is refused
	announce bool     // its header has come
	left     uint64   // bytes of its body to come
}

// last is the tag of the client's last publish.
func (ch *confirming) last() uint64 { return ch.passed + uint64(len(ch.refused)) }

// tag is what the client calls the publish that the broker calls so.
func (ch *confirming) tag(passed uint64) uint64 {
	before, _ := slices.BinarySearch(ch.refused, passed) // those refused when fewer had been passed
	return passed + uint64(before)
}

// each takes whole frames off the front of what has come.
func each(in []byte, visit func(f amqpwire.Frame, raw []byte)) (rest []byte, err error) {
	for {
		f, n, err := amqpwire.ParseFrame(in, largestFrame)
		if err != nil || n == 0 {
			return in, err
		}
		visit(f, in[:n])
		in = in[n:]
	}
}

// fromClient takes what the client sent, and returns what is to be passed on, and
// what the client is to be told. refuse says of a publish whether it is refused.
func (fs *frames) fromClient(b []byte, refuse func() bool) (up, down []byte) {
	if fs.opaque {
		return b, nil
	}
	in := append(fs.rest(true), b...)
	if !fs.begun {
		header := amqpwire.ProtocolHeader[:]
		n := min(len(in), len(header))
		if !bytes.Equal(in[:n], header[:n]) {
			fs.opaque = true
			return in, fs.rest(false)
		}
		if n < len(header) {
			fs.up = in
			return nil, nil
		}
		fs.begun = true
		up, in = append(up, in[:n]...), in[n:]
	}
	in, err := each(in, func(f amqpwire.Frame, raw []byte) {
		pass, tell := fs.sent(f, refuse)
		if pass {
			up = append(up, raw...)
		}
		down = append(down, tell...)
	})
	if err != nil {
		fs.opaque = true
		return append(up, in...), append(down, fs.rest(false)...)
	}
	fs.up = bytes.Clone(in)
	return up, down
}

// rest is the part of a frame that has come in a direction, and is not kept any
// more.
func (fs *frames) rest(up bool) []byte {
	part := &fs.down
	if up {
		part = &fs.up
	}
	rest := *part
	*part = nil
	return rest
}

// sent looks at a frame of the client's: whether it is passed on, and what the
// client is told behind it.
func (fs *frames) sent(f amqpwire.Frame, refuse func() bool) (pass bool, tell []byte) {
	ch := fs.channels[f.Channel]
	if f.Type != amqpwire.FrameMethod {
		if ch == nil || !ch.swallow {
			return true, nil
		}
		return false, ch.content(f)
	}
	if ch != nil {
		ch.swallow = false // a client that sends half a publish does not get it refused
	}
	class, method, _ := amqpwire.MethodID(f.Payload)
	switch {
	case class == amqpwire.ClassConnection && method == amqpwire.MethodConnectionClose:
		fs.closing = true
	case class == amqpwire.ClassChannel && method == amqpwire.MethodChannelOpen:
		if fs.channels == nil {
			fs.channels = make(map[uint16]*confirming)
		}
		fs.channels[f.Channel] = &confirming{}
	case ch == nil:
	case class == amqpwire.ClassChannel && method == amqpwire.MethodChannelClose:
		ch.closing = true
	case class == amqpwire.ClassConfirm && method == amqpwire.MethodConfirmSelect:
		m, err := amqpwire.ParseMethod(f.Payload)
		sel, ok := m.(*amqpwire.ConfirmSelect)
		ch.on = ch.on || err == nil && ok
		ch.answered = ch.answered || err == nil && ok && sel.NoWait
	case class == amqpwire.ClassBasic && method == amqpwire.MethodBasicPublish && ch.on:
		if !ch.closing && !fs.closing && refuse() {
			ch.refused = append(ch.refused, ch.passed)
			ch.swallow, ch.announce, ch.left = true, false, 0
			return false, nil
		}
		ch.passed++
		ch.pending = append(ch.pending, ch.passed)
	}
	return true, nil
}

// content takes a frame of a refused publish's content, and returns the refusal
// when it has all come (AMQP 0-9-1 §4.2.6).
func (ch *confirming) content(f amqpwire.Frame) (tell []byte) {
	switch f.Type {
	case amqpwire.FrameHeader:
		h, err := amqpwire.ParseContentHeader(f.Payload)
		if err == nil {
			ch.announce, ch.left = true, h.BodySize
		}
	case amqpwire.FrameBody:
		ch.left -= min(ch.left, uint64(len(f.Payload)))
	}
	if !ch.announce || ch.left > 0 {
		return nil
	}
	ch.swallow = false
	if !ch.answered {
		ch.early = append(ch.early, ch.last())
		return nil
	}
	return amqpwire.AppendNack(nil, f.Channel, ch.last(), false, false)
}

// fromBroker takes what the broker sent, and returns what is to be passed on to
// either. A broker that speaks first does not speak AMQP.
func (fs *frames) fromBroker(b []byte) (up, down []byte) {
	if fs.opaque {
		return nil, b
	}
	in, err := append(fs.rest(false), b...), error(nil)
	if fs.begun {
		in, err = each(in, func(f amqpwire.Frame, raw []byte) { down = fs.received(down, f, raw) })
	}
	if !fs.begun || err != nil {
		fs.opaque = true
		return fs.rest(true), append(down, in...)
	}
	fs.down = bytes.Clone(in)
	return nil, down
}

// received appends what the client gets for a frame of the broker's.
func (fs *frames) received(down []byte, f amqpwire.Frame, raw []byte) []byte {
	ch := fs.channels[f.Channel]
	class, method, ok := amqpwire.MethodID(f.Payload)
	if f.Type != amqpwire.FrameMethod || !ok {
		return append(down, raw...)
	}
	switch {
	case class == amqpwire.ClassConnection && method == amqpwire.MethodConnectionClose:
		fs.closing = true
	case ch == nil:
	case class == amqpwire.ClassChannel && method == amqpwire.MethodChannelClose:
		ch.closing = true
	case class == amqpwire.ClassConfirm && method == amqpwire.MethodConfirmSelectOk:
		down = append(down, raw...)
		for _, tag := range ch.early {
			down = amqpwire.AppendNack(down, f.Channel, tag, false, false)
		}
		ch.answered, ch.early = true, nil
		return down
	case class == amqpwire.ClassBasic && ch.on:
		return append(down, ch.renumber(f, method, raw)...)
	}
	return append(down, raw...)
}

// renumber is a frame of class basic as the client is to see it.
func (ch *confirming) renumber(f amqpwire.Frame, method uint16, raw []byte) []byte {
	out := raw
	switch method {
	case amqpwire.MethodBasicAck:
		if m, err := amqpwire.ParseAck(f.Payload); err == nil {
			out = ch.confirm(nil, m.DeliveryTag, m.Multiple, func(out []byte, tag uint64) []byte {
				return amqpwire.AppendAck(out, f.Channel, tag, m.Multiple)
			})
		}
	case amqpwire.MethodBasicNack:
		if m, err := amqpwire.ParseNack(f.Payload); err == nil {
			out = ch.confirm(nil, m.DeliveryTag, m.Multiple, func(out []byte, tag uint64) []byte {
				return amqpwire.AppendNack(out, f.Channel, tag, m.Multiple, m.Requeue)
			})
		}
	}
	if len(ch.refused) == 0 {
		return raw // to the bit
	}
	return out
}

// confirm appends a confirm of the broker's as the client is to see it.
//
// One that says multiple covers everything up to its tag, and with that publishes
// that were refused among those that it means. The client has been told of these,
// because they were refused before anything behind them was passed on; but not
// every client remembers it where others before them are still open. So such a
// confirm becomes several, each up to the next refused publish: when a client gets
// one, everything before it is settled. Zero, "all", means what is open, and with
// that nothing that was refused.
func (ch *confirming) confirm(out []byte, tag uint64, multiple bool, appendFrame func(out []byte, tag uint64) []byte) []byte {
	if tag == 0 {
		if multiple {
			ch.pending = nil
		}
		return appendFrame(out, 0)
	}
	at, found := slices.BinarySearch(ch.pending, tag)
	if !multiple {
		if found {
			ch.pending = slices.Delete(ch.pending, at, at+1)
		}
		return appendFrame(out, ch.tag(tag))
	}
	if found {
		at++
	}
	settled := ch.pending[:at]
	ch.pending = ch.pending[at:]
	for i, p := range settled {
		if i+1 == len(settled) || ch.tag(settled[i+1])-settled[i+1] != ch.tag(p)-p {
			out = appendFrame(out, ch.tag(p))
		}
	}
	if len(settled) == 0 {
		return appendFrame(out, ch.tag(tag)) // of what is settled already
	}
	return out
}
