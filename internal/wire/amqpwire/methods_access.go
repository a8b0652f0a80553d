package amqpwire

// newAccessMethod returns an empty method of class access, nil where there is
// none of that id.
func newAccessMethod(method uint16) Method {
	switch method {
	case MethodAccessRequest:
		return new(AccessRequest)
	case MethodAccessRequestOk:
		return new(AccessRequestOk)
	}
	return nil
}

// AccessRequest asks for a ticket. Nothing depends on tickets any more.
type AccessRequest struct {
	Realm     string
	Exclusive bool
	Passive   bool
	Active    bool
	Write     bool
	Read      bool
}

// ID implements Method.
func (*AccessRequest) ID() (class, method uint16) { return ClassAccess, MethodAccessRequest }

func (m *AccessRequest) decode(r *reader) {
	m.Realm = r.short()
	r.bits(&m.Exclusive, &m.Passive, &m.Active, &m.Write, &m.Read)
}

func (m *AccessRequest) encode(w *writer) {
	w.short(m.Realm)
	w.bits(m.Exclusive, m.Passive, m.Active, m.Write, m.Read)
}

// AccessRequestOk gives a ticket; RabbitMQ gives 1.
type AccessRequestOk struct {
	Ticket uint16
}

// ID implements Method.
func (*AccessRequestOk) ID() (class, method uint16) { return ClassAccess, MethodAccessRequestOk }

func (m *AccessRequestOk) decode(r *reader) {
	m.Ticket = r.uint16()
}

func (m *AccessRequestOk) encode(w *writer) {
	w.uint16(m.Ticket)
}
