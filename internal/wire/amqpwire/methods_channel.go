package amqpwire

// newChannelMethod returns an empty method of class channel, nil where there is
// none of that id.
func newChannelMethod(method uint16) Method {
	switch method {
	case MethodChannelOpen:
		return new(ChannelOpen)
	case MethodChannelOpenOk:
		return new(ChannelOpenOk)
	case MethodChannelFlow:
		return new(ChannelFlow)
	case MethodChannelFlowOk:
		return new(ChannelFlowOk)
	case MethodChannelClose:
		return new(ChannelClose)
	case MethodChannelCloseOk:
		return new(ChannelCloseOk)
	}
	return nil
}

// ChannelOpen opens a channel.
type ChannelOpen struct{}

// ID implements Method.
func (*ChannelOpen) ID() (class, method uint16) { return ClassChannel, MethodChannelOpen }

func (*ChannelOpen) decode(r *reader) {
	r.short() // reserved
}

func (*ChannelOpen) encode(w *writer) {
	w.short("") // reserved
}

// ChannelOpenOk says that the channel is ready.
type ChannelOpenOk struct{}

// ID implements Method.
func (*ChannelOpenOk) ID() (class, method uint16) { return ClassChannel, MethodChannelOpenOk }

func (*ChannelOpenOk) decode(r *reader) {
	r.long() // reserved
}

func (*ChannelOpenOk) encode(w *writer) {
	w.long(nil) // reserved
}

// ChannelFlow asks the peer to stop or to go on sending content.
type ChannelFlow struct {
	Active bool
}

// ID implements Method.
func (*ChannelFlow) ID() (class, method uint16) { return ClassChannel, MethodChannelFlow }

func (m *ChannelFlow) decode(r *reader) {
	r.bits(&m.Active)
}

func (m *ChannelFlow) encode(w *writer) {
	w.bits(m.Active)
}

// ChannelFlowOk says what ChannelFlow has set.
type ChannelFlowOk struct {
	Active bool
}

// ID implements Method.
func (*ChannelFlowOk) ID() (class, method uint16) { return ClassChannel, MethodChannelFlowOk }

func (m *ChannelFlowOk) decode(r *reader) {
	r.bits(&m.Active)
}

func (m *ChannelFlowOk) encode(w *writer) {
	w.bits(m.Active)
}

// ChannelClose ends the channel. ClassID and MethodID are the method at fault, zero
// where there is none.
type ChannelClose struct {
	ReplyCode uint16
	ReplyText string
	ClassID   uint16
	MethodID  uint16
}

// ID implements Method.
func (*ChannelClose) ID() (class, method uint16) { return ClassChannel, MethodChannelClose }

func (m *ChannelClose) decode(r *reader) {
	m.ReplyCode = r.uint16()
	m.ReplyText = r.short()
	m.ClassID = r.uint16()
	m.MethodID = r.uint16()
}

func (m *ChannelClose) encode(w *writer) {
	w.uint16(m.ReplyCode)
	w.short(m.ReplyText)
	w.uint16(m.ClassID)
	w.uint16(m.MethodID)
}

// ChannelCloseOk is the last method of a channel.
type ChannelCloseOk struct{}

// ID implements Method.
func (*ChannelCloseOk) ID() (class, method uint16) { return ClassChannel, MethodChannelCloseOk }

func (*ChannelCloseOk) decode(*reader) {}
func (*ChannelCloseOk) encode(*writer) {}
