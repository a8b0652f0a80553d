package stomplink

import (
	"context"
	"fmt"
	"strings"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// conn is what the client takes for one connection: sessions with one broker.
type conn struct {
	*transport.Group
	settings settings

	// What the broker said when it was first logged in to.
	dialect          dialect
	product, version string
	escapes          stompwire.Version

	declares chan struct{} // a slot for who declares
}

// Open connects to the broker of o.Endpoint and logs in. It returns within 100 ms
// of the end of ctx, with what ended it, unless o.Dial or o.Credentials take
// longer. Other errors are *link.Error: Network if the broker cannot be reached
// or closes without a word, Protocol if what answers does not speak STOMP,
// AccessRefused if it does not know the credentials, Unavailable if there are none
// to be had, Precondition for what is wrong with the endpoint.
func Open(ctx context.Context, o link.Options) (link.Conn, error) {
	c, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func open(ctx context.Context, o link.Options) (*conn, error) {
	s, err := settingsOf(o.Endpoint, o.Heartbeat)
	if err != nil {
		return nil, precondition("parameters of the URL", err)
	}
	c := &conn{
		Group:    transport.NewGroup(o),
		settings: s,
		dialect:  s.dialect,
		declares: make(chan struct{}, 1),
	}
	home := newSession(c)
	if err := c.OpenHome(ctx, home.Session, func() error { return c.introduce(home) }); err != nil {
		return nil, err
	}
	return c, nil
}

// introduce notes what a broker says that it is.
func (c *conn) introduce(home *session) error {
	server := home.server
	c.escapes = home.version
	name, _, _ := strings.Cut(server, " ")
	c.product, c.version, _ = strings.Cut(name, "/")
	if c.dialect == unknown {
		c.dialect = dialectOf(server)
	}
	if c.dialect == unknown {
		return precondition(fmt.Sprintf("the broker says that it is %.64q: what its destinations mean is not known; the parameter dialect of the URL tells it, one of %s",
			server, list(dialects)), nil)
	}
	return nil
}

// Peer implements link.Conn.
func (c *conn) Peer() (product, version string) { return c.product, c.version }

// another opens a session more.
func (c *conn) another(ctx context.Context, prepare func(*session)) (*session, error) {
	s := newSession(c)
	prepare(s)
	if err := c.Group.Open(ctx, s.Session); err != nil {
		return nil, err
	}
	return s, nil
}
