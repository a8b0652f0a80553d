package stomplink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// LogIn implements transport.Dialogue.
func (s *session) LogIn(user, password string) (doing string, err *link.Error) {
	h := handshake{session: s, user: user, password: password}
	err = h.run()
	s.Line.Stream.Excused = s.standsStill
	return h.doing, err
}

// handshake logs in (STOMP 1.2, Connecting). It waits in reads and writes of the
// transport only.
type handshake struct {
	*session
	user, password string
	doing          string // what to say of an error
}

func (h *handshake) run() *link.Error {
	h.doing = "logging in"
	out, err := h.connect()
	if err != nil {
		return precondition(h.doing, err)
	}
	if _, err := h.Line.Write(out); err != nil {
		return transport.Lost(h.doing, err)
	}
	h.doing = "waiting for CONNECTED"
	if err := h.head(); err != nil {
		return err
	}
	switch d := &h.found.decoder; d.Command {
	case stompwire.Err:
		return h.refused()
	case stompwire.Connected:
		if err := h.connected(); err != nil {
			return err
		}
		if _, err := h.body(); err != nil {
			return err
		}
		h.found.decoder.Version = h.version
		return nil
	default:
		return violation(fmt.Sprintf("%s: got %s", h.doing, d.Command))
	}
}

// connect is the CONNECT frame.
func (h *handshake) connect() ([]byte, error) {
	c := h.conn
	out := stompwire.AppendCommand(nil, stompwire.Connect)
	var errs []error
	for _, header := range []struct{ name, value string }{
		{stompwire.HeaderAcceptVersion, c.settings.versions},
		{stompwire.HeaderHost, c.settings.host},
		{stompwire.HeaderLogin, h.user},
		{stompwire.HeaderPasscode, h.password},
		{stompwire.HeaderHeartBeat, fmt.Sprintf("%d,%d", milliseconds(c.settings.send), milliseconds(c.settings.receive))},
		{stompwire.HeaderClientID, c.settings.clientID},
	} {
		if header.value == "" && (header.name == stompwire.HeaderClientID || header.name == stompwire.HeaderLogin && h.password == "" ||
			header.name == stompwire.HeaderPasscode && h.user == "") {
			continue
		}
		if c.dialect == rabbitmq {
			// Headers of CONNECT are not escaped; its plugin unescapes them all the same.
			header.value = strings.ReplaceAll(header.value, `\`, `\\`)
		}
		var err error
		out, err = stompwire.AppendHeader(out, 0, header.name, header.value)
		errs = append(errs, err)
	}
	return append(stompwire.AppendHeadEnd(out), 0), errors.Join(errs...)
}

// milliseconds is what a heart-beat header says; not 0 for what is not.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// connected reads what the broker says of itself.
func (h *handshake) connected() *link.Error {
	c, d := h.conn, &h.found.decoder
	h.version = stompwire.V10
	if v, ok := d.Get(stompwire.HeaderVersion); ok {
		if h.version, ok = stompwire.ParseVersion(v); !ok || !strings.Contains(c.settings.versions, h.version.String()) {
			return violation(fmt.Sprintf("the broker speaks STOMP %.16q, which it was not offered", v))
		}
	}
	if beat, ok := d.Get(stompwire.HeaderHeartBeat); ok {
		can, wants, err := stompwire.ParseHeartBeat(beat)
		if err != nil {
			return malformed(h.doing, err)
		}
		h.Send, h.Receive = agreed(c.settings.send, wants), agreed(c.settings.receive, can)
	}
	server, _ := d.Get(stompwire.HeaderServer)
	h.server = string(server)
	return nil
}

// agreed is the interval of heart-beats in one direction (STOMP 1.2,
// Heart-beating): the longer of what one side offers and what the other wants,
// none if either is 0.
func agreed(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// refused is the error of an ERROR.
func (h *handshake) refused() *link.Error {
	var r report
	r.read(&h.found.decoder)
	body, err := h.body()
	if err != nil && len(r.message) == 0 {
		return err
	}
	r.body = string(body)
	e := r.error()
	if e.Kind == link.Internal || e.Kind == link.Protocol && !strings.Contains(strings.ToLower(e.Text), "version") {
		// What is said to a CONNECT is of the login where nothing else is known.
		e.Kind = link.AccessRefused
	}
	return e
}

// head reads until a frame's head is there.
func (h *handshake) head() *link.Error {
	d := &h.found.decoder
	for {
		n, err := d.Head(h.In.Unread())
		if err != nil {
			return h.garbage(err)
		}
		if n > 0 {
			h.In.Take(n)
			return nil
		}
		if err := h.In.Fill(h.Line); err != nil {
			return h.hangup(err)
		}
	}
}

// body reads the rest of the frame.
func (h *handshake) body() ([]byte, *link.Error) {
	if h.found.decoder.Length > reportMost {
		return nil, violation(fmt.Sprintf("%s: got a frame of %d bytes", h.doing, h.found.decoder.Length))
	}
	for {
		body, n, err := h.found.decoder.Body(h.In.Unread())
		if err != nil {
			return nil, malformed(h.doing, err)
		}
		if n > 0 {
			h.In.Take(n)
			return body, nil
		}
		if len(h.In.Unread()) > reportMost {
			return nil, violation(h.doing + ": got a frame without an end")
		}
		if err := h.In.Fill(h.Line); err != nil {
			return nil, h.hangup(err)
		}
	}
}

// hangup is the error of a read.
func (h *handshake) hangup(err error) *link.Error {
	if b := h.In.Unread(); len(b) > 0 && errors.Is(err, io.EOF) {
		if e := foreign(b); e != nil {
			return e
		}
	}
	if errors.Is(err, io.EOF) && h.conn.dialect == unknown && strings.Contains(h.user+h.password, `\`) {
		return transport.Lost(h.doing+` (RabbitMQ does this to a user or password with a \; the parameter dialect=rabbitmq of the URL helps)`, err)
	}
	return transport.Lost(h.doing, err)
}

// garbage is the error of bytes that are no frame.
func (h *handshake) garbage(err error) *link.Error {
	if e := foreign(h.In.Unread()); e != nil {
		return e
	}
	return malformed(h.doing, err)
}

// foreign names other protocols by what they begin with.
func foreign(b []byte) *link.Error {
	switch {
	case bytes.HasPrefix(b, []byte("AMQP")):
		return violation("the peer speaks AMQP, not STOMP")
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return violation("the peer speaks HTTP, not STOMP")
	case len(b) >= 2 && b[0] == 0x15 && b[1] == 3: // an alert (RFC 8446 §5.1)
		return violation("the peer expects TLS")
	}
	return nil
}
