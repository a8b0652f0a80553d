package gmqlink

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"testing"

	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/pipenet"
)

// peer is a server that does what a test says, line by line.
type peer struct {
	t       testing.TB
	dialled chan *pipenet.Conn
	options link.Options
}

// newPeer makes a peer and the options that lead to it.
func newPeer(t testing.TB) *peer {
	t.Helper()
	list, err := endpoint.Parse("gmq://ada:lovelace@peer")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, dialled: make(chan *pipenet.Conn, 16)}
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

// A side is the server's end of one session.
type side struct {
	t     testing.TB
	nc    *pipenet.Conn
	lines *bufio.Reader
	login request
}

// A request is one as encoding/json reads it.
type request struct {
	Operation, Queue, Payload, Ack, ID string
	Auth                               struct{ User, Password string }
	Requeue, Transient                 *bool
	Passive                            bool
	WaitMsec                           int64          `json:"wait_msec"`
	MessageID                          string         `json:"message_id"`
	Attempt                            int            `json:"attempt"`
	Properties                         map[string]any `json:"properties"`
}

func (r *request) body(t testing.TB) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(r.Payload)
	if err != nil {
		t.Errorf("the payload: %v", err)
	}
	return string(b)
}

// raw accepts a session that has not logged in.
func (p *peer) raw() *side {
	nc := <-p.dialled
	return &side{t: p.t, nc: nc, lines: bufio.NewReaderSize(nc, 64<<10)}
}

// accept accepts a session and lets it log in.
func (p *peer) accept() *side {
	s := p.raw()
	s.login = s.want("SYNC")
	s.write(`{"operation":"SYNC","queue":"","payload":"","confirmation":"Y","error":null,"auth":{"user":"","password":""},"server":"Peer/1.0"}` + "\n")
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

// receiver opens a receiver of the queue q.
func (p *peer) receiver(c *conn, cfg link.ReceiverConfig, sink link.Sink) (link.Receiver, *side) {
	p.t.Helper()
	accepted := make(chan *side, 1)
	go func() {
		s := p.accept()
		s.want("L")
		s.write(yes("L", `,"payload":"0"`))
		accepted <- s
	}()
	cfg.Queue = "q"
	r, err := c.OpenReceiver(p.t.Context(), cfg, sink)
	if err != nil {
		p.t.Fatal(err)
	}
	return r, <-accepted
}

// yes is a reply that says yes; more are members of it.
func yes(operation, more string) string {
	return `{"operation":"` + operation + `","queue":"q","confirmation":"Y","error":null` + more + "}\n"
}

// refuse is one that says no.
func refuse(operation, text string) string {
	return `{"operation":"` + operation + `","queue":"q","payload":"","confirmation":"N","error":{},"error_text":"` + text + `"}` + "\n"
}

// message is a reply that brings one; its id is its body.
func message(body, more string) string {
	return yes("S", `,"payload":"`+base64.StdEncoding.EncodeToString([]byte(body))+`","id":"`+body+`"`+more)
}

// none is a reply that brings none.
func none() string { return yes("S", `,"payload":""`) }

func (s *side) write(raw string) {
	s.t.Helper()
	if _, err := s.nc.Write([]byte(raw)); err != nil {
		s.t.Errorf("the peer cannot write: %v", err)
	}
}

// next reads a request; ok is false at the end.
func (s *side) next() (r request, ok bool) {
	s.t.Helper()
	line, err := s.lines.ReadBytes('\n')
	if err != nil {
		return r, false
	}
	if err := json.Unmarshal(line, &r); err != nil {
		s.t.Errorf("the client wrote %q: %v", line, err)
	}
	return r, true
}

func (s *side) want(operation string) request {
	s.t.Helper()
	r, ok := s.next()
	if !ok || r.Operation != operation {
		s.t.Errorf("the client sent %+v, not %s", r, operation)
	}
	return r
}

// ends fails the test unless nothing but the end follows.
func (s *side) ends() {
	s.t.Helper()
	if r, ok := s.next(); ok {
		s.t.Errorf("the client sent %+v", r)
	}
}

// live answers each SYNC from here on.
func (s *side) live() {
	go func() {
		for {
			r, ok := s.next()
			if !ok {
				return
			}
			if r.Operation == "SYNC" {
				if _, err := s.nc.Write([]byte(yes("SYNC", ""))); err != nil {
					return
				}
			}
		}
	}()
}
