package app

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/stompws"
)

// shutdownReason is what clients are told, as RabbitMQ tells it.
const shutdownReason = "broker forced connection closure with reason 'shutdown'"

// servers are what speaks with clients for a broker.
type servers struct{ amqp, stomp, gmq server }

// serveClients lets clients in: each protocol with its own server is understood on
// every listener from now on. After an error, too, dismiss is called.
func (f *front) serveClients(ctx context.Context, s servers) error {
	f.amqp.server.Store(&s.amqp)
	f.stomp.server.Store(&s.stomp)
	f.gmq.server.Store(&s.gmq)
	for _, p := range f.spoken() {
		if p.addr == "" {
			continue
		}
		ln, err := f.listen(ctx, p.name, p.addr)
		if err != nil {
			return err
		}
		g, err := f.serve(p.name, ln, p.handle, f.all())
		if err != nil {
			return err
		}
		f.clients = append(f.clients, g)
	}
	if f.web == nil {
		return nil
	}
	sockets := stompws.NewHandler(stompws.Config{Origins: f.origins, Addr: f.web.Addr(), Logger: f.log})
	// What comes out of a WebSocket is STOMP and nothing else.
	g, err := f.serve("ws", sockets.Listener(), f.stomp.handle, netserve.Config{})
	if err != nil {
		return err
	}
	f.clients = append(f.clients, g)
	f.sockets.Store(sockets)
	return nil
}

// A farewell is how long clients may take to go.
type farewell struct {
	failed time.Duration // to be told of the broker's failure
	drain  time.Duration // to answer that their connection is closed
}

// dismiss closes the listeners of clients, and asks for all their connections to be
// closed with the reason. What it returns is called, and returns when they have
// ended.
func (f *front) dismiss(b *broker.Broker, patience farewell) (wait func() error) {
	for _, g := range f.clients {
		f.unlisten(g.name, g.listener)
	}
	failed := b.Err() != nil
	if !failed {
		b.CloseSessions(shutdownReason)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.seeOff(failed, patience) }()
	return func() error {
		err := <-ended
		f.clients = nil
		return err
	}
}

// seeOff returns when all clients' connections have ended.
func (f *front) seeOff(failed bool, patience farewell) error {
	if failed {
		// Each connection is being closed with the failure. What is still there
		// after a while is cut.
		f.awaitClients(patience.failed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience.drain)
	defer cancel()
	var stopping sync.WaitGroup
	spoken := f.spoken()
	errs := make([]error, len(spoken))
	for i, p := range spoken {
		if s := p.server.Load(); s != nil {
			stopping.Go(func() { errs[i] = (*s).Shutdown(ctx, shutdownReason) })
		}
	}
	stopping.Wait()
	for _, p := range spoken {
		p.server.Store(nil)
	}
	for _, s := range f.https {
		// Who goes on asking by a client's listener must not hold it up.
		s.SetKeepAlivesEnabled(false)
	}
	for _, g := range f.clients {
		errs = append(errs, g.stop())
	}
	for _, s := range f.https {
		s.SetKeepAlivesEnabled(true)
	}
	if sockets := f.sockets.Swap(nil); sockets != nil {
		sockets.Close()
	}
	return errors.Join(errs...)
}

// awaitClients returns when no client is connected, or after a while.
func (f *front) awaitClients(d time.Duration) {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for over := time.After(d); ; {
		left := 0
		for _, g := range f.clients {
			n, _ := g.server.Conns()
			left += n
		}
		if left == 0 {
			return
		}
		select {
		case <-look.C:
		case <-over:
			return
		}
	}
}

// relayClients opens the listeners of clients, and passes their connections through
// to the broker that is live; target is where it serves a protocol, "" if that is
// not known. After an error, too, endRelays is called.
func (f *front) relayClients(ctx context.Context, target func(protocol string) string) error {
	for _, p := range f.spoken() {
		if p.addr == "" {
			continue
		}
		ln, err := f.listen(ctx, p.name, p.addr)
		if err != nil {
			return err
		}
		r := startRelay(p.name, ln, func() string { return target(p.name) }, f.log)
		f.mu.Lock()
		f.relays = append(f.relays, r)
		f.mu.Unlock()
	}
	return nil
}

// followLive ends connections that are passed through to a broker that is not live
// any more. Any goroutine may call it.
func (f *front) followLive() {
	f.mu.Lock()
	relays := f.relays
	f.mu.Unlock()
	for _, r := range relays {
		r.follow()
	}
}

// endRelays ends what relayClients began.
func (f *front) endRelays() {
	f.mu.Lock()
	relays := f.relays
	f.relays = nil
	f.mu.Unlock()
	for _, r := range relays {
		f.unlisten(r.name, r.listener)
		r.stop()
	}
}
