package amqpwire

import "encoding/binary"

// The methods that occur once for each message have functions of their own here,
// which do not allocate. They take and give the same bytes as ParseMethod and
// AppendMethod. Those that parse take a whole method payload, class and method
// included.

// Publish is a BasicPublish whose texts point into the payload.
type Publish struct {
	Exchange, RoutingKey []byte
	Mandatory, Immediate bool
}

// ParsePublish decodes a BasicPublish (amqp0-9-1.xml, basic.publish).
func ParsePublish(payload []byte) (Publish, error) {
	if !isBasic(payload, MethodBasicPublish) {
		return Publish{}, faultOther(payload, MethodBasicPublish)
	}
	b := payload[4:]
	// ticket 2, length of the exchange 1
	if len(b) < 3 || len(b) < 3+int(b[2]) {
		return Publish{}, faultShort("exchange").in(ClassBasic, MethodBasicPublish)
	}
	exchange, b := b[3:3+int(b[2])], b[3+int(b[2]):]
	if len(b) < 1 || len(b) < 1+int(b[0]) {
		return Publish{}, faultShort("routing key").in(ClassBasic, MethodBasicPublish)
	}
	key, b := b[1:1+int(b[0])], b[1+int(b[0]):]
	if len(b) != 1 {
		return Publish{}, faultSize(len(b), 1).in(ClassBasic, MethodBasicPublish)
	}
	return Publish{Exchange: exchange, RoutingKey: key, Mandatory: b[0]&1 != 0, Immediate: b[0]&2 != 0}, nil
}

// Ack is a BasicAck.
type Ack struct {
	DeliveryTag uint64
	Multiple    bool
}

// ParseAck decodes a BasicAck (amqp0-9-1.xml, basic.ack).
func ParseAck(payload []byte) (Ack, error) {
	tag, bits, err := parseSettle(payload, MethodBasicAck)
	return Ack{DeliveryTag: tag, Multiple: bits&1 != 0}, err
}

// Nack is a BasicNack.
type Nack struct {
	DeliveryTag       uint64
	Multiple, Requeue bool
}

// ParseNack decodes a BasicNack (RabbitMQ extension).
func ParseNack(payload []byte) (Nack, error) {
	tag, bits, err := parseSettle(payload, MethodBasicNack)
	return Nack{DeliveryTag: tag, Multiple: bits&1 != 0, Requeue: bits&2 != 0}, err
}

// Reject is a BasicReject.
type Reject struct {
	DeliveryTag uint64
	Requeue     bool
}

// ParseReject decodes a BasicReject (amqp0-9-1.xml, basic.reject).
func ParseReject(payload []byte) (Reject, error) {
	tag, bits, err := parseSettle(payload, MethodBasicReject)
	return Reject{DeliveryTag: tag, Requeue: bits&1 != 0}, err
}

// parseSettle decodes what ack, nack and reject have in common: a delivery tag
// and an octet of bits.
func parseSettle(payload []byte, method uint16) (tag uint64, bits byte, err error) {
	if !isBasic(payload, method) {
		return 0, 0, faultOther(payload, method)
	}
	if len(payload) != 13 {
		return 0, 0, faultSize(len(payload)-4, 9).in(ClassBasic, method)
	}
	return binary.BigEndian.Uint64(payload[4:]), payload[12], nil
}

func isBasic(payload []byte, method uint16) bool {
	return len(payload) >= 4 &&
		binary.BigEndian.Uint32(payload) == uint32(ClassBasic)<<16|uint32(method)
}

func faultOther(payload []byte, method uint16) *Error {
	c, m, ok := MethodID(payload)
	if !ok {
		return faultShort("method id")
	}
	return fault(CommandInvalid, "method %d.%d where %d.%d is expected", c, m, ClassBasic, method).in(c, m)
}

func faultSize(n, want int) *Error {
	if n > want {
		return faultTrailing(n - want)
	}
	return faultShort("last field")
}

// AppendPublish appends a BasicPublish frame; the content header and the body
// follow it. A name over MaxShortString is an error.
func AppendPublish(dst []byte, channel uint16, exchange, key string, mandatory bool) ([]byte, error) {
	if len(exchange) > MaxShortString || len(key) > MaxShortString {
		return dst, faultLong(max(len(exchange), len(key))).in(ClassBasic, MethodBasicPublish)
	}
	// method id 4, ticket 2, lengths 2, bits 1
	dst = AppendFrameHeader(dst, FrameMethod, channel, uint32(9+len(exchange)+len(key)))
	dst = append(dst, 0, byte(ClassBasic), 0, byte(MethodBasicPublish), 0, 0, byte(len(exchange)))
	dst = append(dst, exchange...)
	dst = append(dst, byte(len(key)))
	dst = append(dst, key...)
	return append(dst, bit(mandatory), FrameEnd), nil
}

// AppendDeliver appends a BasicDeliver frame; the content header and the body
// follow it. A text over MaxShortString is an error.
func AppendDeliver(dst []byte, channel uint16, consumerTag string, deliveryTag uint64, redelivered bool, exchange, key []byte) ([]byte, error) {
	if len(consumerTag) > MaxShortString || len(exchange) > MaxShortString || len(key) > MaxShortString {
		return dst, faultLong(max(len(consumerTag), len(exchange), len(key))).in(ClassBasic, MethodBasicDeliver)
	}
	// method id 4, lengths 3, delivery tag 8, bits 1
	dst = AppendFrameHeader(dst, FrameMethod, channel, uint32(16+len(consumerTag)+len(exchange)+len(key)))
	dst = append(dst, 0, byte(ClassBasic), 0, byte(MethodBasicDeliver), byte(len(consumerTag)))
	dst = append(dst, consumerTag...)
	dst = binary.BigEndian.AppendUint64(dst, deliveryTag)
	dst = append(dst, bit(redelivered), byte(len(exchange)))
	dst = append(dst, exchange...)
	dst = append(dst, byte(len(key)))
	dst = append(dst, key...)
	return append(dst, FrameEnd), nil
}

// AppendAck appends a BasicAck frame.
func AppendAck(dst []byte, channel uint16, tag uint64, multiple bool) []byte {
	return appendSettle(dst, channel, MethodBasicAck, tag, bit(multiple))
}

// AppendNack appends a BasicNack frame.
func AppendNack(dst []byte, channel uint16, tag uint64, multiple, requeue bool) []byte {
	return appendSettle(dst, channel, MethodBasicNack, tag, bit(multiple)|bit(requeue)<<1)
}

// AppendReject appends a BasicReject frame.
func AppendReject(dst []byte, channel uint16, tag uint64, requeue bool) []byte {
	return appendSettle(dst, channel, MethodBasicReject, tag, bit(requeue))
}

func appendSettle(dst []byte, channel, method uint16, tag uint64, bits byte) []byte {
	dst = append(dst, FrameMethod, byte(channel>>8), byte(channel), 0, 0, 0, 13,
		0, byte(ClassBasic), 0, byte(method))
	dst = binary.BigEndian.AppendUint64(dst, tag)
	return append(dst, bits, FrameEnd)
}

func bit(v bool) byte {
	if v {
		return 1
	}
	return 0
}
