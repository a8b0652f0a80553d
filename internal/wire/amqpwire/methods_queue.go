package amqpwire

// newQueueMethod returns an empty method of class queue, nil where there is
// none of that id.
func newQueueMethod(method uint16) Method {
	switch method {
	case MethodQueueDeclare:
		return new(QueueDeclare)
	case MethodQueueDeclareOk:
		return new(QueueDeclareOk)
	case MethodQueueBind:
		return new(QueueBind)
	case MethodQueueBindOk:
		return new(QueueBindOk)
	case MethodQueueUnbind:
		return new(QueueUnbind)
	case MethodQueueUnbindOk:
		return new(QueueUnbindOk)
	case MethodQueuePurge:
		return new(QueuePurge)
	case MethodQueuePurgeOk:
		return new(QueuePurgeOk)
	case MethodQueueDelete:
		return new(QueueDelete)
	case MethodQueueDeleteOk:
		return new(QueueDeleteOk)
	}
	return nil
}

// QueueDeclare creates a queue, or verifies one. An empty name asks the server for
// one.
type QueueDeclare struct {
	Queue      string
	Passive    bool
	Durable    bool
	Exclusive  bool
	AutoDelete bool
	NoWait     bool
	Arguments  Table
}

// ID implements Method.
func (*QueueDeclare) ID() (class, method uint16) { return ClassQueue, MethodQueueDeclare }

func (m *QueueDeclare) decode(r *reader) {
	r.uint16() // reserved
	m.Queue = r.short()
	r.bits(&m.Passive, &m.Durable, &m.Exclusive, &m.AutoDelete, &m.NoWait)
	m.Arguments = r.table()
}

func (m *QueueDeclare) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Queue)
	w.bits(m.Passive, m.Durable, m.Exclusive, m.AutoDelete, m.NoWait)
	w.table(m.Arguments)
}

// QueueDeclareOk answers QueueDeclare.
type QueueDeclareOk struct {
	Queue         string
	MessageCount  uint32
	ConsumerCount uint32
}

// ID implements Method.
func (*QueueDeclareOk) ID() (class, method uint16) { return ClassQueue, MethodQueueDeclareOk }

func (m *QueueDeclareOk) decode(r *reader) {
	m.Queue = r.short()
	m.MessageCount = r.uint32()
	m.ConsumerCount = r.uint32()
}

func (m *QueueDeclareOk) encode(w *writer) {
	w.short(m.Queue)
	w.uint32(m.MessageCount)
	w.uint32(m.ConsumerCount)
}

// QueueBind binds a queue to an exchange.
type QueueBind struct {
	Queue      string
	Exchange   string
	RoutingKey string
	NoWait     bool
	Arguments  Table
}

// ID implements Method.
func (*QueueBind) ID() (class, method uint16) { return ClassQueue, MethodQueueBind }

func (m *QueueBind) decode(r *reader) {
	r.uint16() // reserved
	m.Queue = r.short()
	m.Exchange = r.short()
	m.RoutingKey = r.short()
	r.bits(&m.NoWait)
	m.Arguments = r.table()
}

func (m *QueueBind) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Queue)
	w.short(m.Exchange)
	w.short(m.RoutingKey)
	w.bits(m.NoWait)
	w.table(m.Arguments)
}

// QueueBindOk answers QueueBind.
type QueueBindOk struct{}

// ID implements Method.
func (*QueueBindOk) ID() (class, method uint16) { return ClassQueue, MethodQueueBindOk }

func (*QueueBindOk) decode(*reader) {}
func (*QueueBindOk) encode(*writer) {}

// QueueUnbind removes a binding.
type QueueUnbind struct {
	Queue      string
	Exchange   string
	RoutingKey string
	Arguments  Table
}

// ID implements Method.
func (*QueueUnbind) ID() (class, method uint16) { return ClassQueue, MethodQueueUnbind }

func (m *QueueUnbind) decode(r *reader) {
	r.uint16() // reserved
	m.Queue = r.short()
	m.Exchange = r.short()
	m.RoutingKey = r.short()
	m.Arguments = r.table()
}

func (m *QueueUnbind) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Queue)
	w.short(m.Exchange)
	w.short(m.RoutingKey)
	w.table(m.Arguments)
}

// QueueUnbindOk answers QueueUnbind.
type QueueUnbindOk struct{}

// ID implements Method.
func (*QueueUnbindOk) ID() (class, method uint16) { return ClassQueue, MethodQueueUnbindOk }

func (*QueueUnbindOk) decode(*reader) {}
func (*QueueUnbindOk) encode(*writer) {}

// QueuePurge removes all messages that are not delivered.
type QueuePurge struct {
	Queue  string
	NoWait bool
}

// ID implements Method.
func (*QueuePurge) ID() (class, method uint16) { return ClassQueue, MethodQueuePurge }

func (m *QueuePurge) decode(r *reader) {
	r.uint16() // reserved
	m.Queue = r.short()
	r.bits(&m.NoWait)
}

func (m *QueuePurge) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Queue)
	w.bits(m.NoWait)
}

// QueuePurgeOk answers QueuePurge.
type QueuePurgeOk struct {
	MessageCount uint32
}

// ID implements Method.
func (*QueuePurgeOk) ID() (class, method uint16) { return ClassQueue, MethodQueuePurgeOk }

func (m *QueuePurgeOk) decode(r *reader) {
	m.MessageCount = r.uint32()
}

func (m *QueuePurgeOk) encode(w *writer) {
	w.uint32(m.MessageCount)
}

// QueueDelete deletes a queue.
type QueueDelete struct {
	Queue    string
	IfUnused bool
	IfEmpty  bool
	NoWait   bool
}

// ID implements Method.
func (*QueueDelete) ID() (class, method uint16) { return ClassQueue, MethodQueueDelete }

func (m *QueueDelete) decode(r *reader) {
	r.uint16() // reserved
	m.Queue = r.short()
	r.bits(&m.IfUnused, &m.IfEmpty, &m.NoWait)
}

func (m *QueueDelete) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Queue)
	w.bits(m.IfUnused, m.IfEmpty, m.NoWait)
}

// QueueDeleteOk answers QueueDelete.
type QueueDeleteOk struct {
	MessageCount uint32
}

// ID implements Method.
func (*QueueDeleteOk) ID() (class, method uint16) { return ClassQueue, MethodQueueDeleteOk }

func (m *QueueDeleteOk) decode(r *reader) {
	m.MessageCount = r.uint32()
}

func (m *QueueDeleteOk) encode(w *writer) {
	w.uint32(m.MessageCount)
}
