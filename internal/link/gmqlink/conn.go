package gmqlink

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
)

// conn is what the client takes for one connection: sessions with one server.
type conn struct {
	*transport.Group
	product, version string // as the server said when it was first logged in to

	refusing atomic.Bool // the server has said that it takes no messages
}

// Open connects to the server of o.Endpoint and logs in. It returns within 100 ms
// of the end of ctx, with what ended it, unless o.Dial or o.Credentials take
// longer. Other errors are *link.Error: Network if the server cannot be reached
// or closes without a word, Protocol if what answers does not speak GMQ as Ferry
// does, AccessRefused if it does not know the credentials, Unavailable if there are
// none to be had, Precondition for what is wrong with the endpoint.
func Open(ctx context.Context, o link.Options) (link.Conn, error) {
	c, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func open(ctx context.Context, o link.Options) (*conn, error) {
	c := &conn{Group: transport.NewGroup(o)}
	home := newSession(c)
	introduce := func() error {
		c.product, c.version, _ = strings.Cut(home.server, "/")
		return nil
	}
	if err := c.OpenHome(ctx, home.Session, introduce); err != nil {
		return nil, err
	}
	return c, nil
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

// refuses is told that the server takes no messages, for a reason, and takes that it
// does.
func (c *conn) refuses(reason string) {
	if c.refusing.CompareAndSwap(false, true) {
		c.SetBlocked(true, reason)
	}
}

func (c *conn) takes() {
	if c.refusing.Load() && c.refusing.CompareAndSwap(true, false) {
		c.SetBlocked(false, "")
	}
}

// silent is what there is to say of a server that answers nothing.
const silent = "the broker answers nothing that is published"
