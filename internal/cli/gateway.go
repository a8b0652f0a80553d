package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/gateway"
)

// Times of the gateway's HTTP server. That for an answer is the sum of those for
// what comes before it.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 60 * time.Second // of 16 MiB: 280 kB a second
	idleTimeout   = 2 * time.Minute
	answerTimeout = 10 * time.Second
	defaultAnswer = 5 * time.Second // for a message to be confirmed

	// redialPause is how long a client that has given up is left alone: all
	// brokers have refused the login several times.
	redialPause = 10 * time.Second
)

// A gatewaying is what `ferry gateway` is told.
type gatewaying struct {
	clientFlags
	listen     string
	timeout    time.Duration
	persistent bool
}

func newGateway(sys System) *cobra.Command {
	g := &gatewaying{}
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Take messages over HTTP and publish them",
		Long: `Take messages over HTTP and publish them, until SIGTERM or SIGINT: requests that
are under way are answered first.

  POST /publish/{message}   the rest of the path, as text/plain, to the queue "publisher"
  POST /publish             the body, with its content type, to the queue "publisher"
  POST /queues/{queue}      the body, with its content type, to any queue
  GET /healthz              200 while a broker takes messages, else 503

The answer is 200 with an empty body when the broker has confirmed the message,
and never before. It is 503 when no broker is reachable, or none has confirmed it
within --timeout; 413 above 16 MiB; and another 4xx when it was refused. All of
these have a JSON object with "error", and with "outcome": "refused", "not sent",
or "unknown", which means that the message may be in the queue all the same.

Queues that are not there are declared, durable.

` + connectionHelp,
		Example: `  # on port 80, as a container that is told of its broker by $RABBIT_HOST
  ferry gateway

  # somewhere else
  ferry gateway --listen 127.0.0.1:8080 -u amqp://a,amqp://b`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var wrong faults
			var addr string
			if err := setAddress(&addr, g.listen); err != nil {
				wrong = append(wrong, fmt.Errorf("--listen: %w", err))
			} else if addr == "" {
				wrong = append(wrong, errors.New("--listen: a gateway that does not listen has nothing to do"))
			}
			if g.timeout <= 0 {
				wrong = append(wrong, fmt.Errorf("--timeout: %v is not a time to wait", g.timeout))
			}
			if _, err := g.url(sys.Getenv); err != nil {
				wrong = append(wrong, err)
			}
			if len(wrong) > 0 {
				return &wrong
			}
			return failed(g.run(cmd.Context(), sys))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	g.add(f)
	f.StringVar(&g.listen, "listen", ":80", "listen for HTTP on this `ADDR`")
	g.timeout = defaultAnswer
	f.Var((*durationFlag)(&g.timeout), "timeout", "answer 503 when a message is not confirmed within so long: seconds, or as in 1m30s")
	f.BoolVar(&g.persistent, "persistent", true, "messages survive a restart of the broker")
	return cmd
}

func (g *gatewaying) run(ctx context.Context, sys System) error {
	log := slog.New(slog.NewTextHandler(sys.Stderr, nil))
	listener, err := net.Listen("tcp", g.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	h := gateway.New(gateway.Config{Timeout: g.timeout, Transient: !g.persistent})
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout + bodyTimeout,
		WriteTimeout:      headerTimeout + bodyTimeout + g.timeout + answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    gateway.MaxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	// The client outlives the requests that are answered when ctx has ended.
	publishing, stop := context.WithCancel(context.WithoutCancel(ctx))
	client := make(chan struct{})
	go func() {
		defer close(client)
		g.keepClient(publishing, sys, h, log)
	}()
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(listener) }()
	log.Info("gateway started", "http", listener.Addr().String())

	select {
	case err = <-serving:
	case <-ctx.Done():
		h.Stop()
		answering, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.timeout+answerTimeout)
		if err = server.Shutdown(answering); err != nil {
			err = errors.Join(fmt.Errorf("not all requests could be answered: %w", err), server.Close())
		}
		cancel()
		if e := <-serving; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	stop()
	<-client
	if err == nil {
		log.Info("gateway stopped", "reason", context.Cause(ctx))
	}
	return err
}

// keepClient has the handler publish with a client until ctx ends. A client gives
// up when all brokers refuse it for long: then there is another after a while,
// for that is mended at the brokers, and nobody thinks of the gateway.
func (g *gatewaying) keepClient(ctx context.Context, sys System, h *gateway.Handler, log *slog.Logger) {
	for ctx.Err() == nil {
		gone := make(chan struct{}, 1)
		client, err := g.dial(ctx, sys, "ferry gateway", ferry.WithInitialRetry(), ferry.WithEvents(func(e ferry.Event) {
			h.Observe(e)
			g.tell(log, e)
			if e.Kind == ferry.Closed {
				select {
				case gone <- struct{}{}:
				default:
				}
			}
		}))
		if err == nil {
			h.Use(client)
			select {
			case <-gone:
			case <-ctx.Done():
			}
			h.Use(nil)
			err = closeClient(client)
		}
		if ctx.Err() != nil {
			return
		}
		log.Error("gave up connecting, and begins anew", "pause", redialPause, "error", err)
		_ = sleep(ctx, redialPause)
	}
}

// words is an error as the log says it, nil of none.
func words(err error) any {
	if err == nil {
		return nil
	}
	return inPlainWords(err)
}

// tell logs what becomes of the connections.
func (g *gatewaying) tell(log *slog.Logger, e ferry.Event) {
	if g.quiet {
		return
	}
	switch e.Kind {
	case ferry.Connected, ferry.Unblocked, ferry.FailedBack:
		log.Info(e.Kind.String(), "broker", e.Endpoint)
	case ferry.Disconnected, ferry.Blocked, ferry.TopologyRefused:
		log.Warn(e.Kind.String(), "broker", e.Endpoint, "error", words(e.Err))
	case ferry.Retrying:
		log.Warn("no broker is reachable", "pause", e.Delay.Round(time.Millisecond), "error", words(e.Err))
	}
}
