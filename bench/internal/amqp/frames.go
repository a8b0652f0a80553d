// Package amqp is the little of AMQP 0-9-1 that a load generator speaks: enough
// to log in, declare, publish, consume and settle. It is written apart from the
// broker's own codec on purpose, so that the two check each other, and it
// encodes by appending and decodes without copying, so that the broker and not
// the generator is what a benchmark measures.
package amqp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Frame types and sizes (AMQP 0-9-1, 4.2.3).
const (
	FrameMethod    = 1
	FrameHeader    = 2
	FrameBody      = 3
	FrameHeartbeat = 8

	frameEnd = 0xCE

	// FrameHead and FrameTail are what surrounds a frame's payload.
	FrameHead = 7
	FrameTail = 1
)

// Method is a class and a method number, as the first four bytes of a method
// frame's payload.
type Method uint32

// The methods the generator sends or looks for.
const (
	ConnectionStart   Method = 10<<16 | 10
	ConnectionStartOK Method = 10<<16 | 11
	ConnectionTune    Method = 10<<16 | 30
	ConnectionTuneOK  Method = 10<<16 | 31
	ConnectionOpen    Method = 10<<16 | 40
	ConnectionOpenOK  Method = 10<<16 | 41
	ConnectionClose   Method = 10<<16 | 50
	ConnectionCloseOK Method = 10<<16 | 51
	ChannelOpen       Method = 20<<16 | 10
	ChannelOpenOK     Method = 20<<16 | 11
	ChannelClose      Method = 20<<16 | 40
	ExchangeDeclare   Method = 40<<16 | 10
	ExchangeDeclareOK Method = 40<<16 | 11
	ExchangeDelete    Method = 40<<16 | 20
	ExchangeDeleteOK  Method = 40<<16 | 21
	QueueDeclare      Method = 50<<16 | 10
	QueueDeclareOK    Method = 50<<16 | 11
	QueueBind         Method = 50<<16 | 20
	QueueBindOK       Method = 50<<16 | 21
	QueueDelete       Method = 50<<16 | 40
	QueueDeleteOK     Method = 50<<16 | 41
	BasicQos          Method = 60<<16 | 10
	BasicQosOK        Method = 60<<16 | 11
	BasicConsume      Method = 60<<16 | 20
	BasicConsumeOK    Method = 60<<16 | 21
	BasicCancel       Method = 60<<16 | 30
	BasicPublish      Method = 60<<16 | 40
	BasicDeliver      Method = 60<<16 | 60
	BasicAck          Method = 60<<16 | 80
	BasicNack         Method = 60<<16 | 120
	ConfirmSelect     Method = 85<<16 | 10
	ConfirmSelectOK   Method = 85<<16 | 11
)

// MaxShortString is the longest short string there is (4.2.5.3).
const MaxShortString = 255

func appendShort(dst []byte, s string) []byte {
	if len(s) > MaxShortString {
		panic(fmt.Sprintf("amqp: a short string of %d bytes", len(s))) // names are checked where they come in
	}
	return append(append(dst, byte(len(s))), s...)
}

func appendLong(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(s))), s...)
}

// begin appends a frame's head, with the length left open; end fills it in.
func begin(dst []byte, typ byte, channel uint16) ([]byte, int) {
	dst = append(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, channel)
	dst = append(dst, 0, 0, 0, 0)
	return dst, len(dst)
}

func end(dst []byte, payload int) []byte {
	binary.BigEndian.PutUint32(dst[payload-4:], uint32(len(dst)-payload))
	return append(dst, frameEnd)
}

func beginMethod(dst []byte, channel uint16, m Method) ([]byte, int) {
	dst, at := begin(dst, FrameMethod, channel)
	return binary.BigEndian.AppendUint32(dst, uint32(m)), at
}

// bits packs flags in the order in which the method's definition names them.
func bits(flags ...bool) (b byte) {
	for i, set := range flags {
		if set {
			b |= 1 << i
		}
	}
	return b
}

// AppendChannelOpen appends channel.open.
func AppendChannelOpen(dst []byte, channel uint16) []byte {
	dst, at := beginMethod(dst, channel, ChannelOpen)
	return end(appendShort(dst, ""), at)
}

// AppendQueueDeclare appends queue.declare. The queue is neither exclusive nor
// deleted by itself. With passive set it is only looked up.
func AppendQueueDeclare(dst []byte, channel uint16, queue string, passive, durable bool) []byte {
	dst, at := beginMethod(dst, channel, QueueDeclare)
	dst = appendShort(append(dst, 0, 0), queue)
	dst = append(dst, bits(passive, durable))
	return end(appendLong(dst, ""), at)
}

// AppendQueueBind appends queue.bind with an empty routing key.
func AppendQueueBind(dst []byte, channel uint16, queue, exchange string) []byte {
	dst, at := beginMethod(dst, channel, QueueBind)
	dst = appendShort(append(dst, 0, 0), queue)
	dst = appendShort(dst, exchange)
	dst = append(appendShort(dst, ""), 0)
	return end(appendLong(dst, ""), at)
}

// AppendQueueDelete appends queue.delete, whatever the queue holds.
func AppendQueueDelete(dst []byte, channel uint16, queue string) []byte {
	dst, at := beginMethod(dst, channel, QueueDelete)
	return end(append(appendShort(append(dst, 0, 0), queue), 0), at)
}

// AppendExchangeDeclare appends exchange.declare.
func AppendExchangeDeclare(dst []byte, channel uint16, exchange, kind string, durable bool) []byte {
	dst, at := beginMethod(dst, channel, ExchangeDeclare)
	dst = appendShort(append(dst, 0, 0), exchange)
	dst = append(appendShort(dst, kind), bits(false, durable))
	return end(appendLong(dst, ""), at)
}

// AppendExchangeDelete appends exchange.delete.
func AppendExchangeDelete(dst []byte, channel uint16, exchange string) []byte {
	dst, at := beginMethod(dst, channel, ExchangeDelete)
	return end(append(appendShort(append(dst, 0, 0), exchange), 0), at)
}

// AppendQos appends basic.qos with a prefetch for each consumer.
func AppendQos(dst []byte, channel, prefetch uint16) []byte {
	dst, at := beginMethod(dst, channel, BasicQos)
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, prefetch)
	return end(append(dst, 0), at)
}

// AppendConsume appends basic.consume; the broker makes up the consumer's tag.
func AppendConsume(dst []byte, channel uint16, queue string, noAck bool) []byte {
	dst, at := beginMethod(dst, channel, BasicConsume)
	dst = appendShort(append(dst, 0, 0), queue)
	dst = append(appendShort(dst, ""), bits(false, noAck))
	return end(appendLong(dst, ""), at)
}

// AppendConfirmSelect appends confirm.select.
func AppendConfirmSelect(dst []byte, channel uint16) []byte {
	dst, at := beginMethod(dst, channel, ConfirmSelect)
	return end(append(dst, 0), at)
}

// AppendAck appends basic.ack for every delivery up to tag.
func AppendAck(dst []byte, channel uint16, tag uint64) []byte {
	dst, at := beginMethod(dst, channel, BasicAck)
	dst = binary.BigEndian.AppendUint64(dst, tag)
	return end(append(dst, 1), at)
}

// AppendConnectionClose appends connection.close without a fault.
func AppendConnectionClose(dst []byte) []byte {
	dst, at := beginMethod(dst, 0, ConnectionClose)
	dst = binary.BigEndian.AppendUint16(dst, 200)
	return end(append(appendShort(dst, "done"), 0, 0, 0, 0), at)
}

// Message is what a publish carries beside its body.
type Message struct {
	Exchange, Key string
	Persistent    bool
}

// AppendPublish appends basic.publish, the header and the body, in frames no
// larger than frameMax. It returns the offset in dst of the body's first byte.
func AppendPublish(dst []byte, channel uint16, m Message, body []byte, frameMax int) ([]byte, int) {
	dst, at := beginMethod(dst, channel, BasicPublish)
	dst = appendShort(append(dst, 0, 0), m.Exchange)
	dst = append(appendShort(dst, m.Key), 0)
	dst = end(dst, at)

	dst, at = begin(dst, FrameHeader, channel)
	dst = binary.BigEndian.AppendUint32(dst, 60<<16) // class, weight
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(body)))
	dst = binary.BigEndian.AppendUint16(dst, 1<<12) // delivery-mode follows, and nothing else
	mode := byte(1)
	if m.Persistent {
		mode = 2
	}
	dst = end(append(dst, mode), at)

	bodyAt := len(dst) + FrameHead
	for len(body) > 0 {
		n := min(len(body), frameMax-FrameHead-FrameTail)
		dst, at = begin(dst, FrameBody, channel)
		dst = end(append(dst, body[:n]...), at)
		body = body[n:]
	}
	return dst, bodyAt
}

// ErrFrame is a frame that does not end where it says it does.
var ErrFrame = errors.New("amqp: a frame without its end octet")

// Frame is a frame within the buffer that it was parsed from.
type Frame struct {
	Type    byte
	Channel uint16
	Payload []byte
}

// Method is the frame's method, or zero if it is not a method frame.
func (f Frame) Method() Method {
	if f.Type != FrameMethod || len(f.Payload) < 4 {
		return 0
	}
	return Method(binary.BigEndian.Uint32(f.Payload))
}

// Parse finds the frame at the start of p, and how many bytes it takes; zero
// means that p does not hold all of it yet.
func Parse(p []byte) (f Frame, n int, err error) {
	if len(p) < FrameHead {
		return f, 0, nil
	}
	size := int(binary.BigEndian.Uint32(p[3:]))
	n = FrameHead + size + FrameTail
	if len(p) < n {
		return f, 0, nil
	}
	if p[n-1] != frameEnd {
		return f, 0, ErrFrame
	}
	return Frame{p[0], binary.BigEndian.Uint16(p[1:]), p[FrameHead : n-1]}, n, nil
}

// ClosedError is what the broker gave as its reason for closing a channel or a
// connection.
type ClosedError struct {
	Code int
	Text string
}

func (e *ClosedError) Error() string { return fmt.Sprintf("the broker closed: %d %s", e.Code, e.Text) }

// Closed returns the reason if m, a method's payload, closes something, else nil.
func Closed(payload []byte) error {
	if len(payload) < 7 {
		return nil
	}
	switch Method(binary.BigEndian.Uint32(payload)) {
	case ConnectionClose, ChannelClose:
		text := payload[7:min(len(payload), 7+int(payload[6]))]
		return &ClosedError{int(binary.BigEndian.Uint16(payload[4:])), string(text)}
	case BasicCancel:
		return errors.New("the broker cancelled a consumer")
	}
	return nil
}
