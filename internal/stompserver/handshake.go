package stompserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strconv"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// defaultVHost is that of a CONNECT without a host, as in RabbitMQ.
const defaultVHost = "/"

// preAuthBody is the most that a body before the login may have, which it should
// not have at all, bytes.
const preAuthBody = 1 << 10

// handshake leads the connection to an open session (STOMP 1.2, Connecting).
// Whatever is wrong is told to the peer.
func (c *conn) handshake(ctx context.Context) error {
	d := stompwire.Decoder{Limits: stompwire.Limits{Body: preAuthBody}}
	if err := c.firstFrame(&d); err != nil {
		return err
	}
	if text := c.srv.cfg.Refuse; text != "" {
		if c.srv.cfg.RefuseNow {
			return kindFault(broker.Forced, text)
		}
		return kindFault(broker.NotImplemented, text)
	}
	v := stompwire.V10
	if accepted, ok := d.Get(stompwire.HeaderAcceptVersion); ok {
		if v, ok = stompwire.Negotiate(accepted); !ok {
			return faultf(versionMismatch, "Supported versions are %s\n", supportedVersions)
		}
	}
	c.version = v
	if v == stompwire.V10 {
		trimHeaders(d.Headers)
	}
	var err error
	if value, ok := d.Get(stompwire.HeaderHeartBeat); ok {
		if c.beats, err = negotiate(value, c.srv.cfg.MinHeartbeat); err != nil {
			return faultf(badConnect, "%s\n", err)
		}
	}
	if id, ok := d.Get(stompwire.HeaderClientID); ok {
		c.clientID = string(id)
	}
	id, err := c.login(ctx, &d)
	if err != nil {
		return err
	}
	return c.open(id, &d)
}

var errNotConnected = faultf(illegalCommand, "You must log in using CONNECT first")

// firstFrame waits for the frame that a connection begins with.
func (c *conn) firstFrame(d *stompwire.Decoder) error {
	in := &c.nc.In
	for head := 0; ; {
		if b := in.Buffered(); len(b) > 0 {
			if head == 0 {
				n, err := d.Head(b)
				if _, unknown := unknownCommand(b); err != nil && unknown {
					return errNotConnected
				}
				if err != nil {
					return err
				}
				if head = n; head > 0 && d.Command != stompwire.Connect && d.Command != stompwire.Stomp {
					return errNotConnected
				}
			}
			if head > 0 {
				_, n, err := d.Body(b[head:])
				if err != nil {
					return err
				}
				if n > 0 {
					// The headers may be where the buffer was.
					if _, err := d.Head(b); err != nil {
						return err
					}
					in.Discard(head + n)
					return nil
				}
			}
		}
		if err := in.Fill(); err != nil {
			return err
		}
	}
}

// authProtocol is what logins are counted as, in RabbitMQ's words.
const authProtocol = "stomp"

// login checks the credentials of a CONNECT. Without any the client's certificate is
// what it logs in with, if it has shown one, as in RabbitMQ with ssl_cert_login.
func (c *conn) login(ctx context.Context, d *stompwire.Decoder) (id auth.Identity, err error) {
	name, ok := d.Get(stompwire.HeaderLogin)
	password, ok2 := d.Get(stompwire.HeaderPasscode)
	users := c.srv.cfg.Auth
	switch cert := c.nc.Certificate(); {
	case ok && ok2:
		c.mechanism = "PLAIN"
		id, err = users.Login(ctx, auth.Login{Protocol: authProtocol, Name: string(name), Password: string(password), Peer: c.nc.Peer()})
	case cert != nil && !ok && !ok2:
		c.mechanism = "EXTERNAL"
		var user string
		if user, err = auth.CertificateName(cert, c.srv.cfg.CertificateFrom); err != nil {
			return id, faultf(badConnect, "The client certificate names no user: %s\n", err)
		}
		name = []byte(user)
		id, err = users.LoginByCertificate(authProtocol, user, c.nc.Peer())
	default:
		return id, faultf(badConnect, "Missing login or passcode header(s)")
	}
	switch {
	case errors.Is(err, auth.ErrLoopbackOnly):
		c.log.Warn("login refused", "error", err)
		return id, faultf(badConnect, "non-loopback access denied")
	case errors.Is(err, auth.ErrRefused):
		c.log.Log(ctx, auth.Level(err), "login refused", "error", err)
		return id, faultf(badConnect, "Access refused for user '%.*s'\n", maxLogged, name)
	}
	return id, err
}

// open opens the virtual host: the session begins, and everything from here on
// is answered through its outbox.
func (c *conn) open(id auth.Identity, d *stompwire.Decoder) error {
	vhost := defaultVHost
	if host, ok := d.Get(stompwire.HeaderHost); ok && len(host) > 0 {
		vhost = string(host)
	}
	access, _ := id.Access(vhost)
	s, err := c.srv.cfg.Broker.OpenSession(broker.SessionConfig{
		VHost:           vhost,
		User:            id.Name,
		Access:          access,
		Impersonator:    id.Is(auth.TagImpersonator),
		Peer:            c.nc.PeerPort(),
		Name:            c.nc.Name(),
		Protocol:        "STOMP " + c.version.String(),
		TLS:             c.nc.TLS() != nil,
		Local:           c.nc.LocalPort(),
		Mechanism:       c.mechanism,
		Heartbeat:       c.beats.receive,
		Octets:          c.nc.Octets,
		NotifyCancelled: true,
	})
	denied := false
	if err == nil {
		// Behind it, so that a user who is deleted now has no session that nobody closes.
		if _, ok := id.Access(vhost); !ok {
			s.Close()
			denied = true
		}
	} else if _, there := errors.AsType[*broker.Error](err); there && !c.srv.cfg.Broker.HasVHost(vhost) {
		denied = true
	}
	if denied {
		return faultf(badConnect, "Virtual host '%.*s' access denied\n"+
			"The header host names a virtual host here: leave it out for '/'.\n", maxLogged, vhost)
	}
	if err != nil {
		return err
	}
	c.session = s
	c.nc.Authenticated()
	c.log = c.log.With("user", capped(id.Name), "vhost", capped(vhost))
	c.name = "session-" + randomName()
	s.Reply(c.connected())
	return nil
}

// connected is the CONNECTED frame. Its headers are not escaped in any version.
func (c *conn) connected() []byte {
	b := stompwire.AppendCommand(nil, stompwire.Connected)
	b = append(b, "server:Ferry/"...)
	b = append(b, bytes.Map(visible, []byte(c.srv.cfg.Version))...)
	b = append(b, "\nsession:"...)
	b = append(b, c.name...)
	b = append(b, "\nversion:"...)
	b = append(b, c.version.String()...)
	b = append(b, "\nheart-beat:"...)
	b = appendBeats(b, c.beats)
	if node := c.srv.cfg.Node; node != "" {
		b = append(b, "\nnode:"...)
		b = append(b, bytes.Map(visible, []byte(node))...)
		b = append(b, "\nepoch:"...)
		b = strconv.AppendUint(b, c.srv.cfg.Epoch, 10)
	}
	return append(stompwire.AppendHeadEnd(append(b, '\n')), 0)
}

// visible leaves out of our own version and name what a header cannot have.
func visible(r rune) rune {
	if r < ' ' {
		return -1
	}
	return r
}

// randomName is a text that nobody else has.
func randomName() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(id[:])
}

// trimHeaders takes the spaces off that STOMP 1.0 has behind its colons: the
// examples of that specification are written so, and RabbitMQ trims them.
func trimHeaders(headers []stompwire.Header) {
	for i := range headers {
		headers[i].Value = bytes.TrimLeft(headers[i].Value, " ")
	}
}
