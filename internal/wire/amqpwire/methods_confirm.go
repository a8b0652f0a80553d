package amqpwire

// newConfirmMethod returns an empty method of class confirm, nil where there is
// none of that id.
func newConfirmMethod(method uint16) Method {
	switch method {
	case MethodConfirmSelect:
		return new(ConfirmSelect)
	case MethodConfirmSelectOk:
		return new(ConfirmSelectOk)
	}
	return nil
}

// ConfirmSelect makes the server confirm publishes on the channel.
type ConfirmSelect struct {
	NoWait bool
}

// ID implements Method.
func (*ConfirmSelect) ID() (class, method uint16) { return ClassConfirm, MethodConfirmSelect }

func (m *ConfirmSelect) decode(r *reader) {
	r.bits(&m.NoWait)
}

func (m *ConfirmSelect) encode(w *writer) {
	w.bits(m.NoWait)
}

// ConfirmSelectOk answers ConfirmSelect.
type ConfirmSelectOk struct{}

// ID implements Method.
func (*ConfirmSelectOk) ID() (class, method uint16) { return ClassConfirm, MethodConfirmSelectOk }

func (*ConfirmSelectOk) decode(*reader) {}
func (*ConfirmSelectOk) encode(*writer) {}
