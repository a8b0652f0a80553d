package amqpserver

import (
	"net"
)

// output gathers frames and writes them at once. It holds no buffer while it has
// nothing to write.
type output struct {
	src  *source
	buf  []byte
	refs []reference
	held int // bytes of refs
	vec  net.Buffers
}

// reference is bytes that are written from where they are, before buf[at:].
type reference struct {
	at int
	p  []byte
}

func (o *output) size() int { return len(o.buf) + o.held }

// refer appends p without copying it: it must not change before flush.
func (o *output) refer(p []byte) {
	o.refs = append(o.refs, reference{len(o.buf), p})
	o.held += len(p)
}

func (o *output) flush() error {
	defer o.reset()
	if len(o.refs) == 0 {
		return o.src.write(o.buf)
	}
	vec, at := o.vec[:0], 0
	for _, r := range o.refs {
		vec = append(vec, o.buf[at:r.at], r.p)
		at = r.at
	}
	o.vec = append(vec, o.buf[at:])
	return o.src.writeAll(o.vec)
}

func (o *output) reset() {
	clear(o.refs)
	clear(o.vec)
	o.buf, o.refs, o.held = o.buf[:0], o.refs[:0], 0
}

func (o *output) idle() {
	o.src.give(o.buf)
	*o = output{src: o.src}
}
