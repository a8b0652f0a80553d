package amqplink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// defaultChannelMax is what is asked for where the endpoint does not say.
const defaultChannelMax = 2047

// handshake opens the connection (AMQP 0-9-1 §2.2.4): start, tune, open. It
// waits in reads of the transport only.
type handshake struct {
	*conn
	user, password string
	doing          string // what to say of an error
}

func (h *handshake) run() *link.Error {
	h.doing = "sending the protocol header"
	if _, err := h.line.Write(amqpwire.ProtocolHeader[:]); err != nil {
		return transport.Lost(h.doing, err)
	}
	h.doing = "waiting for connection.start"
	start, err := expect[*amqpwire.ConnectionStart](h)
	if err != nil {
		return err
	}
	if err := h.login(start); err != nil {
		return err
	}
	h.doing = "logging in"
	tune, err := expect[*amqpwire.ConnectionTune](h)
	if err != nil {
		return h.refused(err)
	}
	if err := h.tune(tune); err != nil {
		return err
	}
	h.doing = "opening the virtual host"
	_, err = expect[*amqpwire.ConnectionOpenOk](h)
	return err
}

// login answers start with the first mechanism that both sides know.
func (h *handshake) login(start *amqpwire.ConnectionStart) *link.Error {
	h.doing = "choosing how to log in"
	if start.VersionMajor != 0 || start.VersionMinor != 9 {
		return violation(fmt.Sprintf("the peer speaks AMQP %d.%d, not 0.9", start.VersionMajor, start.VersionMinor))
	}
	h.product, _ = start.ServerProperties["product"].(string)
	h.version, _ = start.ServerProperties["version"].(string)
	ours := h.o.Endpoint.AuthMechanisms
	if len(ours) == 0 {
		ours = []string{"PLAIN", "AMQPLAIN"}
	}
	theirs := strings.Fields(start.Mechanisms)
	i := slices.IndexFunc(ours, func(m string) bool { return slices.Contains(theirs, m) && slices.Contains(known, m) })
	if i < 0 {
		return &link.Error{Kind: link.AccessRefused, Text: fmt.Sprintf(
			"the broker offers %s to log in with, of which none is usable here (allowed %s, known %s)",
			start.Mechanisms, strings.Join(ours, " "), strings.Join(known, " "))}
	}
	response, err := respond(ours[i], h.user, h.password)
	if err != nil {
		return malformed(h.doing, err)
	}
	return h.send(&amqpwire.ConnectionStartOk{
		ClientProperties: clientProperties(h.o.Name), Mechanism: ours[i], Response: response, Locale: "en_US",
	})
}

// known are the SASL mechanisms that respond knows.
var known = []string{"PLAIN", "AMQPLAIN", "EXTERNAL"}

// respond is the first response of a SASL mechanism: PLAIN is RFC 4616, AMQPLAIN
// a table without its length, EXTERNAL leaves it to the certificate.
func respond(mechanism, user, password string) ([]byte, error) {
	switch mechanism {
	case "EXTERNAL":
		return nil, nil
	case "AMQPLAIN":
		return amqpwire.AppendHeadersFromTable(nil, amqpwire.Table{"LOGIN": user, "PASSWORD": password})
	}
	return []byte("\x00" + user + "\x00" + password), nil
}

// tune takes the lesser of both sides' limits; zero is no limit of that side.
func (h *handshake) tune(t *amqpwire.ConnectionTune) *link.Error {
	h.doing = "agreeing on limits"
	e := h.o.Endpoint
	h.channelMax = lesser(orElse(e.ChannelMax, defaultChannelMax), t.ChannelMax)
	h.frameMax = lesser(orElse(e.FrameMax, amqpwire.DefaultFrameMax), t.FrameMax)
	if h.frameMax < amqpwire.MinFrameSize {
		return violation(fmt.Sprintf("frames of at most %d bytes were agreed on, less than the %d that every peer must take", h.frameMax, amqpwire.MinFrameSize))
	}
	seconds := uint16(0)
	if want := h.o.Heartbeat; want > 0 {
		seconds = uint16(min(math.MaxUint16, (want+time.Second-1)/time.Second))
		seconds = lesser(seconds, t.Heartbeat)
	}
	h.heartbeat = time.Duration(seconds) * time.Second
	if err := h.send(&amqpwire.ConnectionTuneOk{ChannelMax: h.channelMax, FrameMax: h.frameMax, Heartbeat: seconds}); err != nil {
		return err
	}
	return h.send(&amqpwire.ConnectionOpen{VirtualHost: e.VHost})
}

func orElse[T uint16 | uint32](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// lesser is the smaller of two limits of which zero is none.
func lesser[T uint16 | uint32](a, b T) T {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// refused adds what a close without a word means after a login: brokers that do
// not know authentication_failure_close say nothing else.
func (h *handshake) refused(err *link.Error) *link.Error {
	if err.Kind == link.Network && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return &link.Error{
			Kind: link.AccessRefused, Err: err.Err,
			Text: "the broker closed the connection after the login, as old ones do when they refuse user or password",
		}
	}
	return err
}

func (h *handshake) send(m amqpwire.Method) *link.Error {
	out, err := amqpwire.AppendMethod(nil, 0, m)
	if err == nil && !amqpwire.FrameFits(len(out), amqpwire.PreAuthFrameMax) {
		err = fmt.Errorf("%T of %d bytes is too large", m, len(out))
	}
	if err != nil {
		return &link.Error{Kind: link.Precondition, Text: h.doing, Err: err}
	}
	if _, err := h.line.Write(out); err != nil {
		return transport.Lost(h.doing, err)
	}
	return nil
}

// expect reads the next method of channel 0, which must be an M or a close.
// What came behind it stays in the buffer.
func expect[M amqpwire.Method](h *handshake) (M, *link.Error) {
	var none M
	for {
		f, n, err := amqpwire.ParseFrame(h.in.Unread(), largest(h.frameMax))
		if err != nil {
			return none, h.garbage(err)
		}
		if n == 0 {
			if err := h.in.Fill(h.line); err != nil {
				return none, h.hangup(err)
			}
			continue
		}
		h.in.Take(n)
		if f.Type == amqpwire.FrameHeartbeat {
			continue
		}
		if f.Type != amqpwire.FrameMethod || f.Channel != 0 {
			return none, violation(fmt.Sprintf("%s: got a frame of type %d on channel %d", h.doing, f.Type, f.Channel))
		}
		m, err := amqpwire.ParseMethod(f.Payload)
		if err != nil {
			return none, malformed(h.doing, err)
		}
		switch m := m.(type) {
		case M:
			return m, nil
		case *amqpwire.ConnectionClose:
			refused := refusal(m.ReplyCode, m.ReplyText)
			if err := h.send(&amqpwire.ConnectionCloseOk{}); err != nil {
				h.log.Debug("answering connection.close", "error", err)
			}
			return none, refused
		}
		return none, violation(fmt.Sprintf("%s: got %s", h.doing, methodName(m)))
	}
}

// hangup is the error of a read.
func (h *handshake) hangup(err error) *link.Error {
	if b := h.in.Unread(); len(b) > 0 && errors.Is(err, io.EOF) {
		if e := h.foreign(b); e != nil {
			return e
		}
	}
	return transport.Lost(h.doing, err)
}

// garbage is the error of bytes that are no frame.
func (h *handshake) garbage(err error) *link.Error {
	// A whole protocol header may still be on its way; its first bytes say
	// enough.
	if e := h.foreign(h.in.Unread()); e != nil {
		return e
	}
	return malformed(h.doing, err)
}

// foreign names other protocols by what they begin with.
func (h *handshake) foreign(b []byte) *link.Error {
	switch {
	case len(b) >= 8 && bytes.HasPrefix(b, []byte("AMQP")):
		return violation(fmt.Sprintf("the peer speaks AMQP %d.%d.%d, not 0.9.1", b[5], b[6], b[7]))
	case bytes.HasPrefix(b, []byte("AMQP")):
		return violation("the peer does not speak AMQP 0.9.1 but another version")
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return violation("the peer speaks HTTP, not AMQP")
	case len(b) >= 2 && b[0] == 0x15 && b[1] == 3: // an alert (RFC 8446 §5.1)
		return violation("the peer expects TLS")
	}
	return nil
}

// clientProperties is what brokers are told of this client.
func clientProperties(name string) amqpwire.Table {
	t := amqpwire.Table{
		"product":     "Ferry",
		"version":     ownVersion(),
		"platform":    "Go " + strings.TrimPrefix(runtime.Version(), "go") + " " + runtime.GOOS + "/" + runtime.GOARCH,
		"information": "https://github.com/ferrymq/ferry",
		"capabilities": amqpwire.Table{
			"publisher_confirms":           true,
			"consumer_cancel_notify":       true,
			"connection.blocked":           true,
			"authentication_failure_close": true,
			"basic.nack":                   true,
			"exchange_exchange_bindings":   true,
		},
	}
	if name != "" {
		t["connection_name"] = name
	}
	return t
}

// ownVersion is the version of this module in the program.
var ownVersion = sync.OnceValue(func() string {
	const path = "github.com/ferrymq/ferry"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path == path && m.Version != "" {
			return m.Version
		}
	}
	return "(devel)"
})
