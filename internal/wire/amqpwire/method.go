package amqpwire

import "encoding/binary"

// Method is one of the methods of this package, always a pointer. Reserved
// fields are not in the structs: they are read over and written as zero.
type Method interface {
	// ID is the class and the method, as on the wire.
	ID() (class, method uint16)

	decode(r *reader)
	encode(w *writer)
}

// MethodID reads which method a payload is. ok is false where the payload is too
// short to say; that is a FRAME_ERROR.
func MethodID(payload []byte) (class, method uint16, ok bool) {
	if len(payload) < 4 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:]), true
}

// ParseMethod decodes the payload of a method frame (AMQP 0-9-1 §4.2.4). The
// result shares nothing with payload. Bytes behind the last field are an error.
func ParseMethod(payload []byte) (Method, error) {
	class, method, ok := MethodID(payload)
	if !ok {
		return nil, faultShort("method id")
	}
	m := newMethod(class, method)
	if m == nil {
		return nil, fault(NotImplemented, "unknown method %d.%d", class, method).in(class, method)
	}
	r := reader{b: payload[4:]}
	m.decode(&r)
	if r.err == nil && len(r.b) > 0 {
		r.err = faultTrailing(len(r.b))
	}
	if r.err != nil {
		return nil, r.err.in(class, method)
	}
	return m, nil
}

func faultTrailing(n int) *Error {
	return fault(FrameError, "%d bytes behind the last field", n)
}

// AppendMethod appends a method as a whole frame. The caller checks with
// FrameFits that the peer may be sent it, where a table or a long string makes
// it large.
func AppendMethod(dst []byte, channel uint16, m Method) ([]byte, error) {
	start := len(dst)
	class, method := m.ID()
	w := writer{dst: beginFrame(dst, FrameMethod, channel)}
	w.uint16(class)
	w.uint16(method)
	m.encode(&w)
	if w.err != nil {
		return dst, w.err.in(class, method)
	}
	return endFrame(w.dst, start)
}

// newMethod returns an empty method, nil where there is none of that id.
func newMethod(class, method uint16) Method {
	switch class {
	case ClassConnection:
		return newConnectionMethod(method)
	case ClassChannel:
		return newChannelMethod(method)
	case ClassAccess:
		return newAccessMethod(method)
	case ClassExchange:
		return newExchangeMethod(method)
	case ClassQueue:
		return newQueueMethod(method)
	case ClassBasic:
		return newBasicMethod(method)
	case ClassConfirm:
		return newConfirmMethod(method)
	case ClassTx:
		return newTxMethod(method)
	}
	return nil
}
