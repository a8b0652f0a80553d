package amqpwire

// newConnectionMethod returns an empty method of class connection, nil where
// there is none of that id.
func newConnectionMethod(method uint16) Method {
	switch method {
	case MethodConnectionStart:
		return new(ConnectionStart)
	case MethodConnectionStartOk:
		return new(ConnectionStartOk)
	case MethodConnectionSecure:
		return new(ConnectionSecure)
	case MethodConnectionSecureOk:
		return new(ConnectionSecureOk)
	case MethodConnectionTune:
		return new(ConnectionTune)
	case MethodConnectionTuneOk:
		return new(ConnectionTuneOk)
	case MethodConnectionOpen:
		return new(ConnectionOpen)
	case MethodConnectionOpenOk:
		return new(ConnectionOpenOk)
	case MethodConnectionClose:
		return new(ConnectionClose)
	case MethodConnectionCloseOk:
		return new(ConnectionCloseOk)
	case MethodConnectionBlocked:
		return new(ConnectionBlocked)
	case MethodConnectionUnblocked:
		return new(ConnectionUnblocked)
	case MethodConnectionUpdateSecret:
		return new(ConnectionUpdateSecret)
	case MethodConnectionUpdateSecretOk:
		return new(ConnectionUpdateSecretOk)
	}
	return nil
}

// ConnectionStart opens the negotiation. Mechanisms and Locales are lists
// separated by spaces; what the server can do is in the table "capabilities" of
// ServerProperties.
type ConnectionStart struct {
	VersionMajor     uint8
	VersionMinor     uint8
	ServerProperties Table
	Mechanisms       string
	Locales          string
}

// ID implements Method.
func (*ConnectionStart) ID() (class, method uint16) { return ClassConnection, MethodConnectionStart }

func (m *ConnectionStart) decode(r *reader) {
	m.VersionMajor = r.uint8()
	m.VersionMinor = r.uint8()
	m.ServerProperties = r.table()
	m.Mechanisms = r.longString()
	m.Locales = r.longString()
}

func (m *ConnectionStart) encode(w *writer) {
	w.uint8(m.VersionMajor)
	w.uint8(m.VersionMinor)
	w.table(m.ServerProperties)
	w.longString(m.Mechanisms)
	w.longString(m.Locales)
}

// ConnectionStartOk chooses a security mechanism and answers its first challenge.
type ConnectionStartOk struct {
	ClientProperties Table
	Mechanism        string
	Response         []byte
	Locale           string
}

// ID implements Method.
func (*ConnectionStartOk) ID() (class, method uint16) {
	return ClassConnection, MethodConnectionStartOk
}

func (m *ConnectionStartOk) decode(r *reader) {
	m.ClientProperties = r.table()
	m.Mechanism = r.short()
	m.Response = r.long()
	m.Locale = r.short()
}

func (m *ConnectionStartOk) encode(w *writer) {
	w.table(m.ClientProperties)
	w.short(m.Mechanism)
	w.long(m.Response)
	w.short(m.Locale)
}

// ConnectionSecure is a challenge of the security mechanism.
type ConnectionSecure struct {
	Challenge []byte
}

// ID implements Method.
func (*ConnectionSecure) ID() (class, method uint16) { return ClassConnection, MethodConnectionSecure }

func (m *ConnectionSecure) decode(r *reader) {
	m.Challenge = r.long()
}

func (m *ConnectionSecure) encode(w *writer) {
	w.long(m.Challenge)
}

// ConnectionSecureOk answers a challenge.
type ConnectionSecureOk struct {
	Response []byte
}

// ID implements Method.
func (*ConnectionSecureOk) ID() (class, method uint16) {
	return ClassConnection, MethodConnectionSecureOk
}

func (m *ConnectionSecureOk) decode(r *reader) {
	m.Response = r.long()
}

func (m *ConnectionSecureOk) encode(w *writer) {
	w.long(m.Response)
}

// ConnectionTune proposes limits. Zero is no limit. FrameMax is in bytes and includes
// FrameOverhead, Heartbeat is in seconds.
type ConnectionTune struct {
	ChannelMax uint16
	FrameMax   uint32
	Heartbeat  uint16
}

// ID implements Method.
func (*ConnectionTune) ID() (class, method uint16) { return ClassConnection, MethodConnectionTune }

func (m *ConnectionTune) decode(r *reader) {
	m.ChannelMax = r.uint16()
	m.FrameMax = r.uint32()
	m.Heartbeat = r.uint16()
}

func (m *ConnectionTune) encode(w *writer) {
	w.uint16(m.ChannelMax)
	w.uint32(m.FrameMax)
	w.uint16(m.Heartbeat)
}

// ConnectionTuneOk settles the limits that ConnectionTune proposed, in the same units.
type ConnectionTuneOk struct {
	ChannelMax uint16
	FrameMax   uint32
	Heartbeat  uint16
}

// ID implements Method.
func (*ConnectionTuneOk) ID() (class, method uint16) { return ClassConnection, MethodConnectionTuneOk }

func (m *ConnectionTuneOk) decode(r *reader) {
	m.ChannelMax = r.uint16()
	m.FrameMax = r.uint32()
	m.Heartbeat = r.uint16()
}

func (m *ConnectionTuneOk) encode(w *writer) {
	w.uint16(m.ChannelMax)
	w.uint32(m.FrameMax)
	w.uint16(m.Heartbeat)
}

// ConnectionOpen chooses a virtual host.
type ConnectionOpen struct {
	VirtualHost string
}

// ID implements Method.
func (*ConnectionOpen) ID() (class, method uint16) { return ClassConnection, MethodConnectionOpen }

func (m *ConnectionOpen) decode(r *reader) {
	m.VirtualHost = r.short()
	r.short() // reserved
	r.bits()  // reserved
}

func (m *ConnectionOpen) encode(w *writer) {
	w.short(m.VirtualHost)
	w.short("") // reserved
	w.bits()    // reserved
}

// ConnectionOpenOk says that the connection is ready.
type ConnectionOpenOk struct{}

// ID implements Method.
func (*ConnectionOpenOk) ID() (class, method uint16) { return ClassConnection, MethodConnectionOpenOk }

func (*ConnectionOpenOk) decode(r *reader) {
	r.short() // reserved
}

func (*ConnectionOpenOk) encode(w *writer) {
	w.short("") // reserved
}

// ConnectionClose ends the connection. ClassID and MethodID are the method at fault,
// zero where there is none.
type ConnectionClose struct {
	ReplyCode uint16
	ReplyText string
	ClassID   uint16
	MethodID  uint16
}

// ID implements Method.
func (*ConnectionClose) ID() (class, method uint16) { return ClassConnection, MethodConnectionClose }

func (m *ConnectionClose) decode(r *reader) {
	m.ReplyCode = r.uint16()
	m.ReplyText = r.short()
	m.ClassID = r.uint16()
	m.MethodID = r.uint16()
}

func (m *ConnectionClose) encode(w *writer) {
	w.uint16(m.ReplyCode)
	w.short(m.ReplyText)
	w.uint16(m.ClassID)
	w.uint16(m.MethodID)
}

// ConnectionCloseOk is the last method of a connection.
type ConnectionCloseOk struct{}

// ID implements Method.
func (*ConnectionCloseOk) ID() (class, method uint16) {
	return ClassConnection, MethodConnectionCloseOk
}

func (*ConnectionCloseOk) decode(*reader) {}
func (*ConnectionCloseOk) encode(*writer) {}

// ConnectionBlocked tells a client that had the capability that its publishes are not
// read (RabbitMQ extension).
type ConnectionBlocked struct {
	Reason string
}

// ID implements Method.
func (*ConnectionBlocked) ID() (class, method uint16) {
	return ClassConnection, MethodConnectionBlocked
}

func (m *ConnectionBlocked) decode(r *reader) {
	m.Reason = r.short()
}

func (m *ConnectionBlocked) encode(w *writer) {
	w.short(m.Reason)
}

// ConnectionUnblocked ends ConnectionBlocked (RabbitMQ extension).
type ConnectionUnblocked struct{}

// ID implements Method.
func (*ConnectionUnblocked) ID() (class, method uint16) {
	return ClassConnection, MethodConnectionUnblocked
}

func (*ConnectionUnblocked) decode(*reader) {}
func (*ConnectionUnblocked) encode(*writer) {}

// ConnectionUpdateSecret renews credentials that expire (RabbitMQ extension).
type ConnectionUpdateSecret struct {
	NewSecret []byte
	Reason    string
}

// ID implements Method.
func (*ConnectionUpdateSecret) ID() (class, method uint16) {
	return ClassConnection, MethodConnectionUpdateSecret
}

func (m *ConnectionUpdateSecret) decode(r *reader) {
	m.NewSecret = r.long()
	m.Reason = r.short()
}

func (m *ConnectionUpdateSecret) encode(w *writer) {
	w.long(m.NewSecret)
	w.short(m.Reason)
}

// ConnectionUpdateSecretOk says that the new secret is in force.
type ConnectionUpdateSecretOk struct{}

// ID implements Method.
func (*ConnectionUpdateSecretOk) ID() (class, method uint16) {
	return ClassConnection, MethodConnectionUpdateSecretOk
}

func (*ConnectionUpdateSecretOk) decode(*reader) {}
func (*ConnectionUpdateSecretOk) encode(*writer) {}
