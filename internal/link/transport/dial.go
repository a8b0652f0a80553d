package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// keepAlive is how often an idle socket is probed by the system, for peers that
// agree on no heartbeat.
const keepAlive = 15 * time.Second

// A Line is an open transport to a broker.
type Line struct {
	net.Conn // the stream, or TLS over it

	Stream *Stream // around what was dialled
	Secure bool    // there is TLS

	raw net.Conn
	log *slog.Logger
}

// Credentials are the user and password for an attempt to connect. The error is
// an *link.Error, or what ended ctx.
func Credentials(ctx context.Context, o *link.Options) (user, password string, err error) {
	if o.Credentials == nil {
		return o.Endpoint.User, o.Endpoint.Password, nil
	}
	user, password, err = o.Credentials(ctx, o.Endpoint)
	if err != nil {
		const doing = "getting credentials"
		return "", "", Ended(ctx, doing, &link.Error{Kind: link.Unavailable, Text: doing, Err: err})
	}
	return user, password, nil
}

// Dial opens the transport to the broker of o.Endpoint. It returns within 100 ms of
// the end of ctx, with what ended it, unless o.Dial takes longer. Other errors are
// an *link.Error.
func Dial(ctx context.Context, o *link.Options) (*Line, error) {
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
		return nil, Ended(ctx, "connecting", Lost("connecting to "+o.Endpoint.Address(), err))
	}
	l := NewLine(raw, o.Logger)
	if config == nil {
		return l, nil
	}
	stop := context.AfterFunc(ctx, l.Cut)
	defer stop()
	secure := tls.Client(l.Stream, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		l.Cut()
		doing := "TLS handshake with " + o.Endpoint.Address()
		return nil, Ended(ctx, doing, tlsError(doing, err))
	}
	l.Conn, l.Secure = secure, true
	return l, nil
}

// NewLine is a transport that was opened already. log may be nil.
func NewLine(raw net.Conn, log *slog.Logger) *Line {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	stream := &Stream{Conn: raw}
	return &Line{Conn: stream, Stream: stream, raw: raw, log: log}
}

// Cut closes the transport, which ends reads and writes that are under way.
func (l *Line) Cut() {
	if err := l.raw.Close(); err != nil {
		l.log.Debug("closing the transport", "error", err)
	}
}

// EndTLS tells the peer that nothing follows, where there is TLS. Nobody is left to
// see a stalled write through: the caller has a timer that cuts.
func (l *Line) EndTLS() {
	if !l.Secure {
		return
	}
	l.Stream.Stall.Store(0)
	if err := l.Conn.(*tls.Conn).CloseWrite(); err != nil {
		l.log.Debug("ending TLS", "error", err)
	}
}

// Ended is err, unless what is behind it is the end of ctx. A nil err is nothing but
// that.
func Ended(ctx context.Context, doing string, err *link.Error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	return err
}

// Lost says that the transport failed.
func Lost(doing string, err error) *link.Error {
	return &link.Error{Kind: link.Network, Text: doing, Err: err}
}

func tlsError(doing string, err error) *link.Error {
	var header tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	var remote *net.OpError // a TLS alert
	switch {
	case errors.As(err, &header):
		return &link.Error{Kind: link.Protocol, Text: doing + ": the peer does not speak TLS", Err: err}
	case errors.As(err, &verify):
		return &link.Error{Kind: link.AccessRefused, Text: doing, Err: err}
	case errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(remote.Err.Error(), "handshake failure"):
		// Nothing in common; or a peer that knows TLS when it sees it, as Ferry does on
		// a port where it does not speak it.
		return &link.Error{Kind: link.Protocol, Text: doing + ": the peer refuses TLS", Err: err}
	}
	return Lost(doing, err)
}
