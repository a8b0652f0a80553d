package gmqserver

import (
	"context"
	"encoding/base64"
	"errors"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// vhost is where the queues of GMQ's clients are. They know of no virtual hosts.
const vhost = "/"

// loginTimeout is for the check of a password on a connection that has had a right
// one; that of the first is netserve's.
const loginTimeout = 10 * time.Second

// authenticate checks who sends the request at hand, and begins the session with
// the first. Later requests need no user and password; those that have one must
// be of the same user. An error is a fault, final, or what ended the wait.
func (c *conn) authenticate() error {
	r := &c.req
	if c.session != nil && (r.User == "" && r.Password == "" || r.User == c.token && r.Password == c.password) {
		return nil
	}
	deadline := c.nc.LoginDeadline()
	if c.session != nil {
		deadline = time.Now().Add(loginTimeout)
	}
	ctx, cancel := context.WithDeadline(c.nc.Context(), deadline)
	defer cancel()
	id, err := c.login(ctx)
	if err != nil {
		return err
	}
	if c.session == nil {
		if err := c.open(id); err != nil {
			return err
		}
	} else if id.Name != c.user {
		return faultf(accessRefused, "this connection is of user %s: another needs one of its own", quoted(c.user)).finally()
	}
	c.user, c.token, c.password = id.Name, r.User, r.Password
	return nil
}

func (c *conn) login(ctx context.Context) (id auth.Identity, err error) {
	name, password, err := c.credentials()
	if err != nil {
		return id, err
	}
	id, err = c.srv.cfg.Auth.Login(ctx, auth.Login{Protocol: "gmq", Name: name, Password: password, Peer: c.nc.Peer()})
	switch {
	case errors.Is(err, auth.ErrLoopbackOnly):
		c.log.Warn("login refused", "error", err)
		return id, faultf(accessRefused, "user %s may connect from the broker's own machine only", quoted(name)).finally()
	case errors.Is(err, auth.ErrRefused):
		c.log.Log(ctx, auth.Level(err), "login refused", "error", err)
		return id, faultf(accessRefused, "authentication failed: wrong user or password").finally()
	}
	return id, err
}

// credentials are the user and the password of the request at hand.
func (c *conn) credentials() (user, password string, err error) {
	r := &c.req
	if r.User == "" && r.Password == "" {
		return "", "", faultf(accessRefused, "authentication failed: the request has no auth with user and password").finally()
	}
	user, ok := gmqwire.DecodeToken(r.User)
	password, ok2 := gmqwire.DecodeToken(r.Password)
	switch {
	case !ok || !ok2:
		return r.User, r.Password, nil
	case !c.srv.cfg.TokenAuth:
		return "", "", faultf(accessRefused, "authentication failed: this broker takes no tokens, but user and password as they are").finally()
	}
	return user, password, nil
}

// open begins the session.
func (c *conn) open(id auth.Identity) error {
	access, _ := id.Access(vhost)
	s, err := c.srv.cfg.Broker.OpenSession(broker.SessionConfig{
		VHost: vhost,
		User:  id.Name,
		Peer:  c.nc.PeerPort(),
		Name:  c.nc.Name(),

		Access:       access,
		Impersonator: id.Is(auth.TagImpersonator),

		Protocol:   "GMQ",
		TLS:        c.nc.TLS() != nil,
		Local:      c.nc.LocalPort(),
		Mechanism:  "PLAIN",
		ChannelMax: 1,
		Octets:     c.nc.Octets,

		NotifyCancelled: true,
	})
	if err != nil {
		if f, ok := asFault(err); ok {
			return f.finally()
		}
		return err
	}
	// Behind it, so that a user who is deleted now has no session that nobody closes.
	if _, ok := id.Access(vhost); !ok {
		s.Close()
		return faultf(accessRefused, "access to vhost '%s' refused for user %s", vhost, quoted(id.Name)).finally()
	}
	c.session = s
	c.ch = s.OpenChannel(1)
	if err := c.ch.ConfirmSelect(); err != nil {
		return err
	}
	c.nc.Authenticated()
	c.log = c.log.With("user", capped(id.Name))
	most := c.srv.cfg.Broker.MaxMessage()
	if limit := c.srv.cfg.Limits.Message; limit > 0 {
		most = min(most, limit)
	}
	c.scan.Max = base64.StdEncoding.EncodedLen(most) + requestSlack
	c.nc.In.SetMax(c.scan.Max)
	c.opened.Store(s)
	select {
	case <-c.forced: // before there was a session to interrupt
		s.Interrupt()
	default:
	}
	return nil
}
