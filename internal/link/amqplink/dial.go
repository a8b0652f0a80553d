package amqplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// keepAlive is how often an idle socket is probed by the system, for peers that
// agree on no heartbeat.
const keepAlive = 15 * time.Second

// Open connects to the broker of o.Endpoint and logs in. It returns within 100 ms
// of the end of ctx, with what ended it, unless o.Dial or o.Credentials take
// longer. Other errors are *link.Error: Network if the broker cannot be reached
// or closes without a word, Protocol if what answers does not speak AMQP 0-9-1,
// AccessRefused if it does not know the credentials, Unavailable if there are
// none to be had.
func Open(ctx context.Context, o link.Options) (link.Conn, error) {
	c, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func open(ctx context.Context, o link.Options) (*conn, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	user, password := o.Endpoint.User, o.Endpoint.Password
	if o.Credentials != nil {
		var err error
		if user, password, err = o.Credentials(ctx, o.Endpoint); err != nil {
			return nil, ended(ctx, "getting credentials", &link.Error{Kind: link.Unavailable, Text: "getting credentials", Err: err})
		}
	}
	config, err := o.Endpoint.TLSConfig()
	if err != nil {
		return nil, &link.Error{Kind: link.Precondition, Text: "setting up TLS", Err: err}
	}
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: keepAlive}).DialContext // which sets TCP_NODELAY
	}
	raw, err := dial(ctx, "tcp", o.Endpoint.Address())
	if err != nil {
		return nil, ended(ctx, "connecting", lost("connecting to "+o.Endpoint.Address(), err))
	}
	c := newConn(raw, o)

	// Each wait below is a read or a write of this transport: closing it ends
	// whichever is under way.
	stop := context.AfterFunc(ctx, c.cut)
	doing := "TLS handshake with " + o.Endpoint.Address()
	if config != nil {
		secure := tls.Client(c.stream, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, c.giveUp(ctx, stop, doing, tlsError(doing, err))
		}
		c.nc, c.secure = secure, true
	}
	h := handshake{conn: c, user: user, password: password}
	if err := h.run(); err != nil {
		return nil, c.giveUp(ctx, stop, h.doing, err)
	}
	if !stop() {
		return nil, ended(ctx, "logging in", nil)
	}
	c.run()
	return c, nil
}

// giveUp ends an attempt to connect.
func (c *conn) giveUp(ctx context.Context, stop func() bool, doing string, err *link.Error) error {
	stop()
	c.cut()
	return ended(ctx, doing, err)
}

// ended is err, unless what is behind it is the end of ctx.
func ended(ctx context.Context, doing string, err *link.Error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	return err
}

func tlsError(doing string, err error) *link.Error {
	var header tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &header):
		return &link.Error{Kind: link.Protocol, Text: doing + ": the peer does not speak TLS", Err: err}
	case errors.As(err, &verify):
		return &link.Error{Kind: link.AccessRefused, Text: doing, Err: err}
	}
	return lost(doing, err)
}
