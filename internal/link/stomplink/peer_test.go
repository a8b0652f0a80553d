package stomplink

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/pipenet"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// peer is a broker that does what a test says, frame by frame.
type peer struct {
	t         testing.TB
	dialled   chan *pipenet.Conn
	connected []string // headers of CONNECTED
	options   link.Options
}

const (
	rabbit = "stomp://ada:lovelace@peer/v?dialect=rabbitmq"
	art    = "stomp://ada:lovelace@peer?dialect=artemis"
)

// newPeer makes a peer and the options that lead to it.
func newPeer(t testing.TB, url string) *peer {
	t.Helper()
	list, err := endpoint.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, dialled: make(chan *pipenet.Conn, 16), connected: []string{"version:1.2", "server:Peer/1.0 of a test"}}
	p.options = link.Options{
		Endpoint: list.Endpoints[0],
		Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := pipenet.Pipe()
			p.dialled <- far
			return near, nil
		},
	}
	return p
}

// A side is the broker's end of one session.
type side struct {
	t       testing.TB
	nc      *pipenet.Conn
	decoder stompwire.Decoder
	in      []byte
	beats   int
	connect frame
}

type frame struct {
	command stompwire.Command
	headers map[string]string
	body    string
}

// raw accepts a session that has not logged in.
func (p *peer) raw() *side { return &side{t: p.t, nc: <-p.dialled} }

// accept accepts a session and lets it log in.
func (p *peer) accept() *side {
	s := p.raw()
	s.connect = s.want(stompwire.Connect)
	s.write("CONNECTED\n" + strings.Join(p.connected, "\n") + "\n\n\x00")
	s.decoder.Version = stompwire.V12
	return s
}

// logIn runs f, which opens a session, and accepts that.
func logIn[T any](p *peer, f func() (T, error)) (T, *side) {
	p.t.Helper()
	accepted := make(chan *side, 1)
	go func() { accepted <- p.accept() }()
	v, err := f()
	if err != nil {
		p.t.Fatal(err)
	}
	return v, <-accepted
}

// open opens a connection that is cut when the test ends, and gives its home.
func (p *peer) open() (*conn, *side) {
	p.t.Helper()
	c, home := logIn(p, func() (*conn, error) { return open(p.t.Context(), p.options) })
	p.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Close(ctx)
	})
	return c, home
}

func (p *peer) sender(c *conn, src link.Source) (link.Sender, *side) {
	p.t.Helper()
	return logIn(p, func() (link.Sender, error) {
		return c.OpenSender(p.t.Context(), link.SenderConfig{Confirm: true}, src)
	})
}

// receiver opens a receiver, and gives its SUBSCRIBE.
func (p *peer) receiver(c *conn, cfg link.ReceiverConfig, sink link.Sink) (link.Receiver, *side, frame) {
	p.t.Helper()
	var subscribe frame
	accepted := make(chan *side, 1)
	go func() {
		s := p.accept()
		subscribe = s.want(stompwire.Subscribe)
		s.receipt(subscribe)
		accepted <- s
	}()
	r, err := c.OpenReceiver(p.t.Context(), cfg, sink)
	if err != nil {
		p.t.Fatal(err)
	}
	return r, <-accepted, subscribe
}

func (s *side) write(raw string) {
	s.t.Helper()
	if _, err := s.nc.Write([]byte(raw)); err != nil {
		s.t.Errorf("the peer cannot write: %v", err)
	}
}

// send sends a frame; headers are "name:value", escaped.
func (s *side) send(command, body string, headers ...string) {
	s.t.Helper()
	s.write(command + "\n" + strings.Join(headers, "\n") + "\n\n" + body + "\x00")
}

// receipts sends several, in one write: one read brings them.
func (s *side) receipts(ids ...string) {
	s.t.Helper()
	var all strings.Builder
	for _, id := range ids {
		all.WriteString("RECEIPT\nreceipt-id:" + id + "\n\n\x00")
	}
	s.write(all.String())
}

// receipt answers a frame.
func (s *side) receipt(of frame) {
	s.t.Helper()
	id, ok := of.headers[stompwire.HeaderReceipt]
	if !ok {
		s.t.Errorf("%s has no receipt", of.command)
	}
	s.send("RECEIPT", "", "receipt-id:"+id)
}

// next reads a frame; ok is false at the end.
func (s *side) next() (f frame, ok bool) {
	s.t.Helper()
	within := false
	for {
		if !within {
			n := stompwire.EOLs(s.in)
			s.beats += n
			s.in = s.in[n:]
			n, err := s.decoder.Head(s.in)
			if err != nil {
				s.t.Errorf("the client wrote no frame: %v", err)
				return f, false
			}
			if within = n > 0; within {
				f = frame{command: s.decoder.Command, headers: make(map[string]string)}
				for _, h := range s.decoder.Headers {
					if _, again := f.headers[string(h.Name)]; !again {
						f.headers[string(h.Name)] = string(h.Value)
					}
				}
				s.in = s.in[n:]
			}
		}
		if within {
			body, n, err := s.decoder.Body(s.in)
			if err != nil {
				s.t.Errorf("the client wrote no frame: %v", err)
				return f, false
			}
			if n > 0 {
				f.body = string(body)
				s.in = s.in[n:]
				return f, true
			}
		}
		buf := make([]byte, 64<<10)
		n, err := s.nc.Read(buf)
		if n == 0 && err != nil {
			return f, false
		}
		s.in = append(s.in, buf[:n]...)
	}
}

func (s *side) want(command stompwire.Command) frame {
	s.t.Helper()
	f, ok := s.next()
	if !ok || f.command != command {
		s.t.Fatalf("the client sent %v %+v, not %s", f.command, f.headers, command)
	}
	return f
}

// ends fails the test unless nothing but the end follows.
func (s *side) ends() {
	s.t.Helper()
	if f, ok := s.next(); ok {
		s.t.Errorf("the client sent %s %v", f.command, f.headers)
	}
}

// breathe sends heart-beats until ctx ends.
func (s *side) breathe(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := s.nc.Write([]byte{'\n'}); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
