package faultbroker

import (
	"errors"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/ferrymq/ferry/internal/pipenet"
)

// A server is what the brokers are that have queues and connections and no more: they
// embed it, and add a protocol. Its methods may be called concurrently.
type server struct {
	scheme  string           // of its URL
	network *pipenet.Network // where to listen; nil: TCP
	running sync.WaitGroup

	accepted   func(*socket) speaker // makes what speaks on a connection; mu is held
	dispatched func()                // delivers what is ready to who waits; mu is held

	mu          sync.Mutex
	changed     sync.Cond // anything below, or of the broker
	addr        string
	listener    net.Listener // nil: down
	sockets     []*socket    // all there ever were
	queues      map[string][]*stored
	settlements []string
}

// A stored is a message.
type stored struct {
	body        string
	id          string            // where the protocol has one
	headers     map[string]string // likewise
	redelivered bool
}

// start runs the server until the test ends, which it fails if it cannot.
func (b *server) start(t testing.TB, network *pipenet.Network, addr string) {
	t.Helper()
	b.network, b.addr, b.queues = network, addr, make(map[string][]*stored)
	b.changed.L = &b.mu
	if b.addr == "" && b.network == nil {
		b.addr = "127.0.0.1:0"
	}
	if err := b.Up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
}

// Up lets clients in again after Down, at the same address. What queues hold was
// kept.
func (b *server) Up() error {
	b.mu.Lock()
	addr := b.addr
	b.mu.Unlock()
	var ln net.Listener
	var err error
	if b.network != nil {
		ln, err = b.network.Listen(addr)
	} else {
		ln, err = net.Listen("tcp", addr)
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.listener, b.addr = ln, ln.Addr().String()
	b.mu.Unlock()
	b.running.Go(func() { b.accept(ln) })
	return nil
}

// Down closes the listener and cuts all connections, as when a broker's process
// is killed.
func (b *server) Down() {
	b.mu.Lock()
	ln := b.listener
	b.listener = nil
	b.mu.Unlock()
	if ln != nil {
		_ = ln.Close()
	}
	b.Cut()
}

// Cut breaks all connections, without a word to the clients.
func (b *server) Cut() {
	b.mu.Lock()
	sockets := slices.Clone(b.sockets)
	for _, s := range sockets {
		s.endLocked()
	}
	b.mu.Unlock()
	for _, s := range sockets {
		_ = s.nc.Close()
	}
}

// Close ends the broker, as the end of the test does.
func (b *server) Close() {
	b.Down()
	b.running.Wait()
}

// URL is that of the broker, for the user guest.
func (b *server) URL() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.scheme + "://guest:guest@" + b.addr + "/"
}

// Settlements returns what clients settled, in order: the word that they settled it
// with, and the body.
func (b *server) Settlements() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clip(b.settlements)
}

// Bodies returns those of a queue's messages that are ready, in their order.
func (b *server) Bodies(queue string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var bodies []string
	for _, m := range b.queues[queue] {
		bodies = append(bodies, m.body)
	}
	return bodies
}

// Enqueue puts messages with these bodies into a queue.
func (b *server) Enqueue(queue string, bodies ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, body := range bodies {
		b.queues[queue] = append(b.queues[queue], &stored{body: body})
	}
	b.dispatched()
}

// Open is the number of connections that have not ended.
func (b *server) Open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, s := range b.sockets {
		if !s.ended {
			n++
		}
	}
	return n
}

func (b *server) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a connection that was reset before it was accepted
		}
		b.mu.Lock()
		up := b.listener == ln
		s := &socket{b: b, nc: nc, id: len(b.sockets) + 1}
		if up {
			s.speaker = b.accepted(s)
			b.sockets = append(b.sockets, s)
		}
		b.mu.Unlock()
		if !up {
			_ = nc.Close()
			return
		}
		b.running.Go(s.read)
		b.running.Go(s.write)
	}
}

// popLocked takes the oldest message of a queue.
func (b *server) popLocked(queue string) *stored {
	m := b.queues[queue][0]
	b.queues[queue] = b.queues[queue][1:]
	return m
}

// requeueLocked puts back what was delivered.
func (b *server) requeueLocked(queue string, m *stored) {
	m.redelivered = true
	b.queues[queue] = slices.Insert(b.queues[queue], 0, m)
}

// A speaker speaks the broker's protocol on a connection.
type speaker interface {
	// frame handles the first frame of in and returns its size; 0: it is not all there.
	// It may keep what it is given.
	frame(in []byte) (int, error)

	// giveBackLocked puts what is not settled back into the queues. The broker's mutex
	// is held.
	giveBackLocked()
}

// A socket is one connection. Its fields are guarded by the broker's mutex, but for
// those that never change. One goroutine reads it, one writes.
type socket struct {
	b       *server
	nc      net.Conn
	id      int // from 1
	speaker speaker

	out   []byte
	last  bool // what is in out is the last
	ended bool
}

func (s *socket) write() {
	defer func() { _ = s.nc.Close() }() // which ends read
	for {
		s.b.mu.Lock()
		for !s.ended && len(s.out) == 0 && !s.last {
			s.b.changed.Wait()
		}
		out, ended := s.out, s.ended
		s.out = nil
		s.b.mu.Unlock()
		if ended || len(out) == 0 {
			return
		}
		if _, err := s.nc.Write(out); err != nil {
			return
		}
	}
}

func (s *socket) read() {
	defer func() {
		s.b.mu.Lock()
		s.endLocked()
		s.b.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	var in []byte
	for {
		n, err := s.nc.Read(buf)
		if n == 0 && err != nil {
			return
		}
		in = append(in, buf[:n]...)
		for {
			n, err := s.speaker.frame(in)
			if err != nil {
				return
			}
			if n == 0 {
				break
			}
			in = in[n:] // what was before is not written to again
		}
	}
}

// endLocked takes the connection out of the broker. What is left is to close it.
func (s *socket) endLocked() {
	if s.ended {
		return
	}
	s.speaker.giveBackLocked()
	s.ended = true
	s.b.dispatched()
	s.b.changed.Broadcast()
}
