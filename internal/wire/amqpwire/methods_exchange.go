package amqpwire

// newExchangeMethod returns an empty method of class exchange, nil where
// there is none of that id.
func newExchangeMethod(method uint16) Method {
	switch method {
	case MethodExchangeDeclare:
		return new(ExchangeDeclare)
	case MethodExchangeDeclareOk:
		return new(ExchangeDeclareOk)
	case MethodExchangeDelete:
		return new(ExchangeDelete)
	case MethodExchangeDeleteOk:
		return new(ExchangeDeleteOk)
	case MethodExchangeBind:
		return new(ExchangeBind)
	case MethodExchangeBindOk:
		return new(ExchangeBindOk)
	case MethodExchangeUnbind:
		return new(ExchangeUnbind)
	case MethodExchangeUnbindOk:
		return new(ExchangeUnbindOk)
	}
	return nil
}

// ExchangeDeclare creates an exchange, or verifies one.
type ExchangeDeclare struct {
	Exchange   string
	Type       string
	Passive    bool
	Durable    bool
	AutoDelete bool
	Internal   bool
	NoWait     bool
	Arguments  Table
}

// ID implements Method.
func (*ExchangeDeclare) ID() (class, method uint16) { return ClassExchange, MethodExchangeDeclare }

func (m *ExchangeDeclare) decode(r *reader) {
	r.uint16() // reserved
	m.Exchange = r.short()
	m.Type = r.short()
	r.bits(&m.Passive, &m.Durable, &m.AutoDelete, &m.Internal, &m.NoWait)
	m.Arguments = r.table()
}

func (m *ExchangeDeclare) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Exchange)
	w.short(m.Type)
	w.bits(m.Passive, m.Durable, m.AutoDelete, m.Internal, m.NoWait)
	w.table(m.Arguments)
}

// ExchangeDeclareOk answers ExchangeDeclare.
type ExchangeDeclareOk struct{}

// ID implements Method.
func (*ExchangeDeclareOk) ID() (class, method uint16) { return ClassExchange, MethodExchangeDeclareOk }

func (*ExchangeDeclareOk) decode(*reader) {}
func (*ExchangeDeclareOk) encode(*writer) {}

// ExchangeDelete deletes an exchange.
type ExchangeDelete struct {
	Exchange string
	IfUnused bool
	NoWait   bool
}

// ID implements Method.
func (*ExchangeDelete) ID() (class, method uint16) { return ClassExchange, MethodExchangeDelete }

func (m *ExchangeDelete) decode(r *reader) {
	r.uint16() // reserved
	m.Exchange = r.short()
	r.bits(&m.IfUnused, &m.NoWait)
}

func (m *ExchangeDelete) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Exchange)
	w.bits(m.IfUnused, m.NoWait)
}

// ExchangeDeleteOk answers ExchangeDelete.
type ExchangeDeleteOk struct{}

// ID implements Method.
func (*ExchangeDeleteOk) ID() (class, method uint16) { return ClassExchange, MethodExchangeDeleteOk }

func (*ExchangeDeleteOk) decode(*reader) {}
func (*ExchangeDeleteOk) encode(*writer) {}

// ExchangeBind binds an exchange to an exchange (RabbitMQ extension).
type ExchangeBind struct {
	Destination string
	Source      string
	RoutingKey  string
	NoWait      bool
	Arguments   Table
}

// ID implements Method.
func (*ExchangeBind) ID() (class, method uint16) { return ClassExchange, MethodExchangeBind }

func (m *ExchangeBind) decode(r *reader) {
	r.uint16() // reserved
	m.Destination = r.short()
	m.Source = r.short()
	m.RoutingKey = r.short()
	r.bits(&m.NoWait)
	m.Arguments = r.table()
}

func (m *ExchangeBind) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Destination)
	w.short(m.Source)
	w.short(m.RoutingKey)
	w.bits(m.NoWait)
	w.table(m.Arguments)
}

// ExchangeBindOk answers ExchangeBind.
type ExchangeBindOk struct{}

// ID implements Method.
func (*ExchangeBindOk) ID() (class, method uint16) { return ClassExchange, MethodExchangeBindOk }

func (*ExchangeBindOk) decode(*reader) {}
func (*ExchangeBindOk) encode(*writer) {}

// ExchangeUnbind removes a binding of ExchangeBind.
type ExchangeUnbind struct {
	Destination string
	Source      string
	RoutingKey  string
	NoWait      bool
	Arguments   Table
}

// ID implements Method.
func (*ExchangeUnbind) ID() (class, method uint16) { return ClassExchange, MethodExchangeUnbind }

func (m *ExchangeUnbind) decode(r *reader) {
	r.uint16() // reserved
	m.Destination = r.short()
	m.Source = r.short()
	m.RoutingKey = r.short()
	r.bits(&m.NoWait)
	m.Arguments = r.table()
}

func (m *ExchangeUnbind) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Destination)
	w.short(m.Source)
	w.short(m.RoutingKey)
	w.bits(m.NoWait)
	w.table(m.Arguments)
}

// ExchangeUnbindOk answers ExchangeUnbind.
type ExchangeUnbindOk struct{}

// ID implements Method.
func (*ExchangeUnbindOk) ID() (class, method uint16) { return ClassExchange, MethodExchangeUnbindOk }

func (*ExchangeUnbindOk) decode(*reader) {}
func (*ExchangeUnbindOk) encode(*writer) {}
