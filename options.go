package ferry

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/ferrymq/ferry/internal/endpoint"
)

// Defaults of the options.
const (
	DefaultHeartbeat      = 10 * time.Second // brokers advise 5 to 20 s
	DefaultConnectTimeout = 5 * time.Second  // of one attempt at one endpoint
	DefaultInitialDelay   = 100 * time.Millisecond
	DefaultMaxDelay       = 30 * time.Second
	DefaultFailbackAfter  = 10 * time.Second
	DefaultOutboxBytes    = 1 << 30
)

// An Option changes what Dial does.
type Option func(*options)

type options struct {
	name           string
	heartbeat      time.Duration // 0: none
	connectTimeout time.Duration // 0: not given
	sendTimeout    time.Duration // of Publish, 0: none but the context's
	initialDelay   time.Duration
	maxDelay       time.Duration
	maxAttempts    int  // 0: no limit
	once           bool // a connection that is lost is not replaced
	initialRetry   bool
	startAttempts  int           // with initialRetry, before the first connection; 0: maxAttempts
	failback       time.Duration // 0: off
	credentials    func(ctx context.Context, endpoint string) (user, password string, err error)
	topology       Topology
	outboxDir      string
	outboxBytes    int64
	events         func(Event)
	tracer         Tracer
	logger         *slog.Logger
	dial           func(ctx context.Context, network, address string) (net.Conn, error)
}

// WithName gives the connections a name that the broker shows to its operators.
// The default is the name of the program.
func WithName(name string) Option { return func(o *options) { o.name = name } }

// WithHeartbeat is how often a sign of life is asked for; a broker that gave none
// for twice as long is left. 0 turns it off. What a URL says (heartbeat=) counts
// more, and the broker may ask for less.
func WithHeartbeat(d time.Duration) Option { return func(o *options) { o.heartbeat = d } }

// WithConnectTimeout bounds one attempt at one endpoint, from the look-up of its
// name until the broker has opened the connection. What a URL says
// (connection_timeout=) counts more.
func WithConnectTimeout(d time.Duration) Option { return func(o *options) { o.connectTimeout = d } }

// WithBackoff sets the waits after all endpoints were tried in vain: each is
// random between 0 and a bound, which begins at initial, doubles, and ends at
// maximum. It begins anew once a connection has lasted.
func WithBackoff(initial, maximum time.Duration) Option {
	return func(o *options) { o.initialDelay, o.maxDelay = initial, maximum }
}

// WithMaxAttempts gives up after all endpoints were tried n times in vain, and
// closes the client; 0, the default, never does.
func WithMaxAttempts(n int) Option {
	return func(o *options) { o.maxAttempts, o.once = n, false }
}

// WithInitialRetry makes Dial try for as long as its context lasts, as it is
// done later. Without it Dial fails when all endpoints were tried once.
func WithInitialRetry() Option { return func(o *options) { o.initialRetry = true } }

// WithFailback moves back to an endpoint that stands before the one in use, once
// it has been reachable for the given time without a break: what is under way is
// finished first. 0 is DefaultFailbackAfter.
func WithFailback(after time.Duration) Option {
	return func(o *options) {
		if after <= 0 {
			after = DefaultFailbackAfter
		}
		o.failback = after
	}
}

// WithCredentials asks for user and password at each connect, so that they may
// change. endpoint is the URL without its password. f is a part of the attempt to
// connect, and is not waited for any longer than that may take.
func WithCredentials(f func(ctx context.Context, endpoint string) (user, password string, err error)) Option {
	return func(o *options) { o.credentials = f }
}

// WithTopology declares exchanges, queues and bindings at each connect, as
// Client.Declare does.
func WithTopology(t Topology) Option { return func(o *options) { o.topology = t } }

// WithOutbox keeps what is published in the directory dir until a broker has
// confirmed it, also across restarts of this program: a publish is done when it
// is on disk. See Client.Outbox. maxBytes bounds it; 0 is DefaultOutboxBytes.
// One program at a time can have the directory.
func WithOutbox(dir string, maxBytes int64) Option {
	return func(o *options) { o.outboxDir, o.outboxBytes = dir, maxBytes }
}

// WithEvents has f called with each change of a connection's state, in order, on
// a goroutine of its own. If f is slow the oldest of many events that wait are
// left out, and Close waits for it for one second at most.
func WithEvents(f func(Event)) Option { return func(o *options) { o.events = f } }

// WithTracer has each message shown to t when it is sent and when it is handled.
func WithTracer(t Tracer) Option { return func(o *options) { o.tracer = t } }

// WithLogger gives what is nobody's error to l. Without it nothing is logged.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// firstAttempts is how often all endpoints are tried before there was any
// connection, 0 for ever.
func (o *options) firstAttempts() int {
	switch {
	case !o.initialRetry:
		return 1
	case o.startAttempts > 0:
		return o.startAttempts
	default:
		return o.maxAttempts
	}
}

// dialWithin and credentialsWithin call the program's functions, and wait for
// them no longer than ctx lasts.

func (o *options) dialWithin(ctx context.Context, network, address string) (net.Conn, error) {
	return within(ctx, func() (net.Conn, error) { return o.dial(ctx, network, address) }, func(late net.Conn) {
		_ = late.Close() // nobody knows it
	})
}

func (o *options) credentialsWithin(ctx context.Context, e endpoint.Endpoint) (user, password string, err error) {
	type login struct{ user, password string }
	got, err := within(ctx, func() (l login, err error) {
		l.user, l.password, err = o.credentials(ctx, e.String())
		return l, err
	}, func(login) {})
	return got.user, got.password, err
}

// within calls f, and gives up when ctx ends first. What f returns after that
// goes to late.
func within[T any](ctx context.Context, f func() (T, error), late func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done, gone := make(chan outcome), make(chan struct{})
	go func() { // it ends when f does
		value, err := f()
		select {
		case done <- outcome{value, err}:
		case <-gone:
			if err == nil {
				late(value)
			}
		}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		close(gone)
		var none T
		return none, context.Cause(ctx)
	}
}

// WithNetDial opens the transports with f instead of a net.Dialer. The address
// has the name of the URL, which is to be looked up each time. f is not waited
// for any longer than the attempt to connect may take.
func WithNetDial(f func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(o *options) { o.dial = f }
}
