package adminserver

import (
	"context"
	"net/netip"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

// answerMost is how long a request waits for the broker: for the confirm of what it
// published. RabbitMQ waits for five seconds.
const answerMost = 5 * time.Second

// A session is a connection of the request's user to a virtual host, with one
// channel. It ends with the request.
type session struct {
	*broker.Session
	ch  *broker.Channel
	ctx context.Context //nolint:containedctx // it is the request's, and ends with it
	end context.CancelFunc
	buf []broker.Event
}

// session opens one. close ends it.
func (c *call) session(vhost string) (*session, error) {
	from, _ := netip.ParseAddrPort(c.r.RemoteAddr) // not valid: not known
	s, err := c.b.OpenSession(broker.SessionConfig{
		VHost: vhost, User: c.who.Name, Peer: from, Name: c.r.RemoteAddr + " -> management", Protocol: protocolName,
		Access: c.access(vhost), TLS: c.r.TLS != nil, Unlisted: true,
		Impersonator: c.who.Is(auth.TagImpersonator),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), answerMost)
	context.AfterFunc(ctx, s.Interrupt)
	return &session{Session: s, ch: s.OpenChannel(1), ctx: ctx, end: cancel}, nil
}

// protocolName is what the API's own connections speak.
const protocolName = "HTTP"

func (s *session) close() {
	s.Close()
	s.end()
}

// await calls visit with each event until it says that there is no more to wait for.
func (s *session) await(visit func(e *broker.Event) (done bool)) error {
	for done := false; !done; {
		s.buf = s.Take(s.buf)
		for i := range s.buf {
			e := &s.buf[i]
			if e.Kind == broker.EventClosed {
				return e.Err
			}
			done = visit(e) || done
		}
		s.Flushed(s.buf)
		if done {
			return nil
		}
		select {
		case <-s.Wake():
		case <-s.ctx.Done():
			return &fault{503, "unavailable", "the broker did not confirm in time; the message may be there or not"}
		}
	}
	return nil
}

// publish publishes a message and returns when it is confirmed: whether a queue took
// it, and whether one refused it.
func (s *session) publish(p *broker.Publish) (routed bool, err error) {
	if err := s.ch.ConfirmSelect(); err != nil {
		return false, err
	}
	p.Mandatory = true
	if err := s.ch.Publish(p); err != nil {
		return false, err
	}
	s.Flush()
	routed = true
	refused := false
	err = s.await(func(e *broker.Event) bool {
		switch e.Kind {
		case broker.EventReturn:
			routed = false
		case broker.EventConfirm:
			refused = e.Nack
			return true
		}
		return false
	})
	if err == nil && refused {
		err = badRequest("the message was refused: a queue that it would enter is full")
	}
	return routed, err
}

// get takes the first message of a queue. ok is false when it is empty.
func (s *session) get(queue string, noAck bool) (got broker.Event, ok bool, err error) {
	found, err := s.ch.Get(queue, noAck)
	if err != nil || !found {
		return got, false, err
	}
	err = s.await(func(e *broker.Event) bool {
		if e.Kind == broker.EventGot {
			got, ok = *e, true
		}
		return ok
	})
	return got, ok, err
}
