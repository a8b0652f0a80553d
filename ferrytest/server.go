package ferrytest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/amqpserver"
	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/gmqserver"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/stompserver"
	"github.com/ferrymq/ferry/internal/vfs"
)

const (
	// stopTimeout is for clients to answer that their connection is closed, and
	// for the store to take what is pending.
	stopTimeout = 5 * time.Second
	// shutdownReason is what clients are told, as RabbitMQ tells it.
	shutdownReason = "broker forced connection closure with reason 'shutdown'"
)

// A server is a broker from its start to its end: what a process of ferry serve
// is, without what concerns a whole process (collector, memory alarm, health),
// because this one is the test's. And it can be killed.
type server struct {
	log      *muting
	fs       *vfs.Faulty // of the store, if that is files
	journal  journal.Journal
	broker   *broker.Broker
	amqp     *amqpserver.Server
	stomp    *stompserver.Server
	gmq      *gmqserver.Server
	listener *listener
	cancel   context.CancelFunc
	served   chan struct{}
}

// users are computed once for all brokers of a process: hashing a password takes
// longer than the rest of a start.
var users = sync.OnceValues(func() (*auth.Users, error) { return auth.NewUsers(user, user) })

// openServer starts a broker; without a directory it keeps everything in memory.
func openServer(dir string, log *slog.Logger) (_ *server, err error) {
	known, err := users()
	if err != nil {
		return nil, err
	}
	s := &server{log: newMuting(log.Handler()), fs: vfs.NewFaulty(vfs.OS{}), served: make(chan struct{})}
	log = slog.New(s.log)
	if dir == "" {
		log.Warn("messages are kept in memory only: none of them survives a restart", "store", "memory:")
		s.journal = memory.New(memory.Options{})
	} else if s.journal, err = file.Open(s.fs, dir, file.Options{Logger: log}); err != nil {
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.journal.Close())
		}
	}()
	if s.broker, err = broker.Open(context.Background(), broker.Config{Journal: s.journal, Logger: log}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.broker.Close(context.Background()))
		}
	}()
	s.amqp = amqpserver.New(amqpserver.Config{Broker: s.broker, Auth: known, Logger: log, Version: "devel", ClusterName: "ferrytest"})
	s.stomp = stompserver.New(stompserver.Config{Broker: s.broker, Auth: known, Logger: log, Version: "devel"})
	s.gmq = gmqserver.New(gmqserver.Config{Broker: s.broker, Auth: known, Logger: log, Version: "devel", TokenAuth: true})
	ln, err := netserve.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.listener = &listener{Listener: ln}
	front, err := netserve.New(netserve.Config{
		Endpoints:    []netserve.Endpoint{{Name: "amqp", Listener: s.listener, Handle: s.amqp.Handle}},
		Protocols:    []netserve.Protocol{s.amqp.Protocol(), s.stomp.Protocol(), s.gmq.Protocol()},
		DrainTimeout: stopTimeout,
		Log:          log,
	})
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() {
		defer close(s.served)
		if err := front.Serve(ctx); err != nil {
			log.Warn("connections were not ended by their clients", "error", err)
		}
	}()
	return s, nil
}

func (s *server) addr() string { return s.listener.Addr().String() }

// stop ends the broker in order.
func (s *server) stop() error {
	_ = s.listener.Close()
	s.broker.CloseSessions(shutdownReason)
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.shutdown(ctx)
	s.cancel()
	<-s.served
	ctx, cancel = context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return errors.Join(s.broker.Close(ctx), s.journal.Close())
}

var errKilled = errors.New("the broker was killed")

// kill ends the broker so that neither the network nor the disk gets anything
// more from it. The network is first: what reaches the disk after that is as if
// it had been killed a moment later, while a confirm of what does not reach the
// disk would be a lie.
func (s *server) kill() {
	s.log.mute()
	s.listener.kill()
	s.fs.SetHook(func(c vfs.Call) error {
		if c.Op == vfs.OpClose {
			return nil // the system closes the files of who was killed
		}
		return errKilled
	})
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.shutdown(ctx) // what cannot be done any more fails, as it is meant to
	s.cancel()
	<-s.served
	_ = s.broker.Close(ctx)
	_ = s.journal.Close()
}

// shutdown ends the connections. Clients that do not answer are cut: that is their
// fault, not the broker's.
func (s *server) shutdown(ctx context.Context) {
	var ending sync.WaitGroup
	ending.Go(func() { _ = s.amqp.Shutdown(ctx, shutdownReason) })
	ending.Go(func() { _ = s.stomp.Shutdown(ctx, shutdownReason) })
	ending.Go(func() { _ = s.gmq.Shutdown(ctx, shutdownReason) })
	ending.Wait()
}

// A listener knows what it has accepted, so that it can be cut.
type listener struct {
	net.Listener

	mu       sync.Mutex
	accepted []net.Conn
	killed   bool
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	killed := l.killed
	l.accepted = append(l.accepted, c)
	l.mu.Unlock()
	if killed {
		reset(c)
	}
	return c, nil
}

func (l *listener) kill() {
	_ = l.Close()
	l.mu.Lock()
	l.killed = true
	accepted := l.accepted
	l.mu.Unlock()
	for _, c := range accepted {
		reset(c)
	}
}

// reset closes a connection so that its peer sees a reset.
func reset(c net.Conn) {
	if c, ok := c.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}
