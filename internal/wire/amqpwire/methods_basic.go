package amqpwire

// newBasicMethod returns an empty method of class basic, nil where there is
// none of that id.
func newBasicMethod(method uint16) Method {
	switch method {
	case MethodBasicQos:
		return new(BasicQos)
	case MethodBasicQosOk:
		return new(BasicQosOk)
	case MethodBasicConsume:
		return new(BasicConsume)
	case MethodBasicConsumeOk:
		return new(BasicConsumeOk)
	case MethodBasicCancel:
		return new(BasicCancel)
	case MethodBasicCancelOk:
		return new(BasicCancelOk)
	case MethodBasicPublish:
		return new(BasicPublish)
	case MethodBasicReturn:
		return new(BasicReturn)
	case MethodBasicDeliver:
		return new(BasicDeliver)
	case MethodBasicGet:
		return new(BasicGet)
	case MethodBasicGetOk:
		return new(BasicGetOk)
	case MethodBasicGetEmpty:
		return new(BasicGetEmpty)
	case MethodBasicAck:
		return new(BasicAck)
	case MethodBasicReject:
		return new(BasicReject)
	case MethodBasicRecoverAsync:
		return new(BasicRecoverAsync)
	case MethodBasicRecover:
		return new(BasicRecover)
	case MethodBasicRecoverOk:
		return new(BasicRecoverOk)
	case MethodBasicNack:
		return new(BasicNack)
	}
	return nil
}

// BasicQos limits unsettled deliveries. PrefetchSize is in bytes; zero is no
// limit.
type BasicQos struct {
	PrefetchSize  uint32
	PrefetchCount uint16
	Global        bool
}

// ID implements Method.
func (*BasicQos) ID() (class, method uint16) { return ClassBasic, MethodBasicQos }

func (m *BasicQos) decode(r *reader) {
	m.PrefetchSize = r.uint32()
	m.PrefetchCount = r.uint16()
	r.bits(&m.Global)
}

func (m *BasicQos) encode(w *writer) {
	w.uint32(m.PrefetchSize)
	w.uint16(m.PrefetchCount)
	w.bits(m.Global)
}

// BasicQosOk answers BasicQos.
type BasicQosOk struct{}

// ID implements Method.
func (*BasicQosOk) ID() (class, method uint16) { return ClassBasic, MethodBasicQosOk }

func (*BasicQosOk) decode(*reader) {}
func (*BasicQosOk) encode(*writer) {}

// BasicConsume starts a consumer. An empty tag asks the server for one.
type BasicConsume struct {
	Queue       string
	ConsumerTag string
	NoLocal     bool
	NoAck       bool
	Exclusive   bool
	NoWait      bool
	Arguments   Table
}

// ID implements Method.
func (*BasicConsume) ID() (class, method uint16) { return ClassBasic, MethodBasicConsume }

func (m *BasicConsume) decode(r *reader) {
	r.uint16() // reserved
	m.Queue = r.short()
	m.ConsumerTag = r.short()
	r.bits(&m.NoLocal, &m.NoAck, &m.Exclusive, &m.NoWait)
	m.Arguments = r.table()
}

func (m *BasicConsume) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Queue)
	w.short(m.ConsumerTag)
	w.bits(m.NoLocal, m.NoAck, m.Exclusive, m.NoWait)
	w.table(m.Arguments)
}

// BasicConsumeOk answers BasicConsume.
type BasicConsumeOk struct {
	ConsumerTag string
}

// ID implements Method.
func (*BasicConsumeOk) ID() (class, method uint16) { return ClassBasic, MethodBasicConsumeOk }

func (m *BasicConsumeOk) decode(r *reader) {
	m.ConsumerTag = r.short()
}

func (m *BasicConsumeOk) encode(w *writer) {
	w.short(m.ConsumerTag)
}

// BasicCancel ends a consumer; a server sends it where the queue is gone (RabbitMQ
// extension, capability consumer_cancel_notify).
type BasicCancel struct {
	ConsumerTag string
	NoWait      bool
}

// ID implements Method.
func (*BasicCancel) ID() (class, method uint16) { return ClassBasic, MethodBasicCancel }

func (m *BasicCancel) decode(r *reader) {
	m.ConsumerTag = r.short()
	r.bits(&m.NoWait)
}

func (m *BasicCancel) encode(w *writer) {
	w.short(m.ConsumerTag)
	w.bits(m.NoWait)
}

// BasicCancelOk answers BasicCancel.
type BasicCancelOk struct {
	ConsumerTag string
}

// ID implements Method.
func (*BasicCancelOk) ID() (class, method uint16) { return ClassBasic, MethodBasicCancelOk }

func (m *BasicCancelOk) decode(r *reader) {
	m.ConsumerTag = r.short()
}

func (m *BasicCancelOk) encode(w *writer) {
	w.short(m.ConsumerTag)
}

// BasicPublish sends a message; its content follows.
type BasicPublish struct {
	Exchange   string
	RoutingKey string
	Mandatory  bool
	Immediate  bool
}

// ID implements Method.
func (*BasicPublish) ID() (class, method uint16) { return ClassBasic, MethodBasicPublish }

func (m *BasicPublish) decode(r *reader) {
	r.uint16() // reserved
	m.Exchange = r.short()
	m.RoutingKey = r.short()
	r.bits(&m.Mandatory, &m.Immediate)
}

func (m *BasicPublish) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Exchange)
	w.short(m.RoutingKey)
	w.bits(m.Mandatory, m.Immediate)
}

// BasicReturn gives back a message that could not be routed; its content follows.
type BasicReturn struct {
	ReplyCode  uint16
	ReplyText  string
	Exchange   string
	RoutingKey string
}

// ID implements Method.
func (*BasicReturn) ID() (class, method uint16) { return ClassBasic, MethodBasicReturn }

func (m *BasicReturn) decode(r *reader) {
	m.ReplyCode = r.uint16()
	m.ReplyText = r.short()
	m.Exchange = r.short()
	m.RoutingKey = r.short()
}

func (m *BasicReturn) encode(w *writer) {
	w.uint16(m.ReplyCode)
	w.short(m.ReplyText)
	w.short(m.Exchange)
	w.short(m.RoutingKey)
}

// BasicDeliver brings a message to a consumer; its content follows.
type BasicDeliver struct {
	ConsumerTag string
	DeliveryTag uint64
	Redelivered bool
	Exchange    string
	RoutingKey  string
}

// ID implements Method.
func (*BasicDeliver) ID() (class, method uint16) { return ClassBasic, MethodBasicDeliver }

func (m *BasicDeliver) decode(r *reader) {
	m.ConsumerTag = r.short()
	m.DeliveryTag = r.uint64()
	r.bits(&m.Redelivered)
	m.Exchange = r.short()
	m.RoutingKey = r.short()
}

func (m *BasicDeliver) encode(w *writer) {
	w.short(m.ConsumerTag)
	w.uint64(m.DeliveryTag)
	w.bits(m.Redelivered)
	w.short(m.Exchange)
	w.short(m.RoutingKey)
}

// BasicGet asks for one message.
type BasicGet struct {
	Queue string
	NoAck bool
}

// ID implements Method.
func (*BasicGet) ID() (class, method uint16) { return ClassBasic, MethodBasicGet }

func (m *BasicGet) decode(r *reader) {
	r.uint16() // reserved
	m.Queue = r.short()
	r.bits(&m.NoAck)
}

func (m *BasicGet) encode(w *writer) {
	w.uint16(0) // reserved
	w.short(m.Queue)
	w.bits(m.NoAck)
}

// BasicGetOk answers BasicGet with a message; its content follows. MessageCount is
// what is left.
type BasicGetOk struct {
	DeliveryTag  uint64
	Redelivered  bool
	Exchange     string
	RoutingKey   string
	MessageCount uint32
}

// ID implements Method.
func (*BasicGetOk) ID() (class, method uint16) { return ClassBasic, MethodBasicGetOk }

func (m *BasicGetOk) decode(r *reader) {
	m.DeliveryTag = r.uint64()
	r.bits(&m.Redelivered)
	m.Exchange = r.short()
	m.RoutingKey = r.short()
	m.MessageCount = r.uint32()
}

func (m *BasicGetOk) encode(w *writer) {
	w.uint64(m.DeliveryTag)
	w.bits(m.Redelivered)
	w.short(m.Exchange)
	w.short(m.RoutingKey)
	w.uint32(m.MessageCount)
}

// BasicGetEmpty answers BasicGet where there is no message.
type BasicGetEmpty struct{}

// ID implements Method.
func (*BasicGetEmpty) ID() (class, method uint16) { return ClassBasic, MethodBasicGetEmpty }

func (*BasicGetEmpty) decode(r *reader) {
	r.short() // reserved
}

func (*BasicGetEmpty) encode(w *writer) {
	w.short("") // reserved
}

// BasicAck settles deliveries, or confirms publishes.
type BasicAck struct {
	DeliveryTag uint64
	Multiple    bool
}

// ID implements Method.
func (*BasicAck) ID() (class, method uint16) { return ClassBasic, MethodBasicAck }

func (m *BasicAck) decode(r *reader) {
	m.DeliveryTag = r.uint64()
	r.bits(&m.Multiple)
}

func (m *BasicAck) encode(w *writer) {
	w.uint64(m.DeliveryTag)
	w.bits(m.Multiple)
}

// BasicReject refuses a delivery.
type BasicReject struct {
	DeliveryTag uint64
	Requeue     bool
}

// ID implements Method.
func (*BasicReject) ID() (class, method uint16) { return ClassBasic, MethodBasicReject }

func (m *BasicReject) decode(r *reader) {
	m.DeliveryTag = r.uint64()
	r.bits(&m.Requeue)
}

func (m *BasicReject) encode(w *writer) {
	w.uint64(m.DeliveryTag)
	w.bits(m.Requeue)
}

// BasicRecoverAsync is BasicRecover without an answer (deprecated).
type BasicRecoverAsync struct {
	Requeue bool
}

// ID implements Method.
func (*BasicRecoverAsync) ID() (class, method uint16) { return ClassBasic, MethodBasicRecoverAsync }

func (m *BasicRecoverAsync) decode(r *reader) {
	r.bits(&m.Requeue)
}

func (m *BasicRecoverAsync) encode(w *writer) {
	w.bits(m.Requeue)
}

// BasicRecover asks for all unsettled deliveries again.
type BasicRecover struct {
	Requeue bool
}

// ID implements Method.
func (*BasicRecover) ID() (class, method uint16) { return ClassBasic, MethodBasicRecover }

func (m *BasicRecover) decode(r *reader) {
	r.bits(&m.Requeue)
}

func (m *BasicRecover) encode(w *writer) {
	w.bits(m.Requeue)
}

// BasicRecoverOk answers BasicRecover.
type BasicRecoverOk struct{}

// ID implements Method.
func (*BasicRecoverOk) ID() (class, method uint16) { return ClassBasic, MethodBasicRecoverOk }

func (*BasicRecoverOk) decode(*reader) {}
func (*BasicRecoverOk) encode(*writer) {}

// BasicNack refuses deliveries, or publishes (RabbitMQ extension).
type BasicNack struct {
	DeliveryTag uint64
	Multiple    bool
	Requeue     bool
}

// ID implements Method.
func (*BasicNack) ID() (class, method uint16) { return ClassBasic, MethodBasicNack }

func (m *BasicNack) decode(r *reader) {
	m.DeliveryTag = r.uint64()
	r.bits(&m.Multiple, &m.Requeue)
}

func (m *BasicNack) encode(w *writer) {
	w.uint64(m.DeliveryTag)
	w.bits(m.Multiple, m.Requeue)
}
