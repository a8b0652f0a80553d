package amqplink

import (
	"context"
	"log/slog"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
)

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
	user, password, err := transport.Credentials(ctx, &o)
	if err != nil {
		return nil, err
	}
	line, err := transport.Dial(ctx, &o)
	if err != nil {
		return nil, err
	}
	c := newConn(line, o)

	// Each wait below is a read or a write of this transport: closing it ends
	// whichever is under way.
	stop := context.AfterFunc(ctx, line.Cut)
	h := handshake{conn: c, user: user, password: password}
	if err := h.run(); err != nil {
		stop()
		line.Cut()
		return nil, transport.Ended(ctx, h.doing, err)
	}
	if !stop() {
		return nil, transport.Ended(ctx, "logging in", nil)
	}
	c.run()
	return c, nil
}
