package ferry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/ferrymq/ferry/internal/link"
)

// A requester sends requests and gets their replies, over RabbitMQ's direct
// reply-to: no queue is made. Over STOMP the link has another way for it.
type requester struct {
	publisher *Publisher

	mu      sync.Mutex
	pending map[string]*request // by correlation id
}

type request struct {
	reply     chan reply // one slot
	submitted bool       // then place says where
	orphaned  bool       // a way for replies was lost before that was known
	place     uint64
}

type reply struct {
	message *Message
	err     error
}

// Request sends a message and waits for the reply to it: a message with its
// CorrelationID, which is made up if there is none, sent to its ReplyTo. The
// request is transient: whoever replies could not do so after the broker's end.
//
// ErrUnroutable says that nobody serves requests with this key. When the
// connection is lost after the broker had the request, the error is
// ErrConnectionLost: the request may have been served, and its reply has no way
// back. When it is lost before, the request is sent again. Request waits until
// ctx ends; ErrNotSent then says that the request never left, and it is not sent
// later either.
//
// Over STOMP the reply comes back to the connection that the client's requests are
// sent on: a request that the broker refuses ends it, and with it the way back of
// others. Where nobody serves the key RabbitMQ says nothing, and Artemis keeps the
// request for who may.
func (c *Client) Request(ctx context.Context, m Message) (*Message, error) {
	r, err := c.requester()
	if err != nil {
		return nil, notSent(err)
	}
	if m.CorrelationID == "" {
		m.CorrelationID = rand.Text()
	}
	m.ReplyTo, m.Transient = link.DirectReplyTo, true
	req := &request{reply: make(chan reply, 1)}
	if !r.add(m.CorrelationID, req) {
		return nil, fmt.Errorf("ferry: a request with the CorrelationID %q is under way", m.CorrelationID)
	}
	defer r.remove(m.CorrelationID)
	return r.do(ctx, m, req)
}

// add makes a request known to replies, unless there is one of that id.
func (r *requester) add(id string, req *request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[id] != nil {
		return false
	}
	r.pending[id] = req
	return true
}

func (r *requester) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, id)
}

func (c *Client) requester() (*requester, error) {
	c.mu.Lock()
	r := c.requests
	c.mu.Unlock()
	if r != nil {
		return r, nil
	}
	r = &requester{pending: make(map[string]*request)}
	p, err := c.newPublisher(PublisherOptions{}, (*replies)(r))
	if err != nil {
		return nil, err
	}
	r.publisher = p
	c.mu.Lock()
	if c.requests == nil {
		c.requests, p = r, nil
	}
	r = c.requests
	c.mu.Unlock()
	if p != nil {
		_ = p.Close(context.Background()) // another call was first; it never had a message
	}
	return r, nil
}

// do sends a request and waits for its reply.
func (r *requester) do(ctx context.Context, m Message, req *request) (*Message, error) {
	p := r.publisher
	end, err := p.prepare(ctx, &m)
	if err != nil {
		return nil, err
	}
	if end == nil {
		end = func(error) {}
	}
	place, err := p.submit(ctx, &entry{message: m, done: func(res Result) {
		end(res.Err)
		if res.Err != nil {
			answer(req, reply{err: res.Err})
		}
	}})
	if err != nil {
		end(err)
		return nil, err
	}
	if r.submitted(req, place) {
		answer(req, reply{err: errNoReply(ErrConnectionLost)})
	}
	select {
	case got := <-req.reply:
		if got.message != nil && p.abandon(ctx, place) != nil {
			end(nil) // the reply was faster than the confirmation
		}
		return got.message, got.err
	case <-ctx.Done():
		err := p.abandon(ctx, place)
		if err != nil {
			end(err)
		}
		if errors.Is(err, ErrNotSent) {
			return nil, err
		}
		return nil, errNoReply(withReason(ended(ctx), p.why()))
	}
}

// submitted notes where a request is, and tells whether its reply has lost its
// way meanwhile.
func (r *requester) submitted(req *request, place uint64) (orphaned bool) {
	r.mu.Lock()
	req.submitted, req.place = true, place
	orphaned = req.orphaned
	r.mu.Unlock()
	return orphaned && !r.publisher.open(place)
}

func errNoReply(why error) error { return fmt.Errorf("ferry: waiting for a reply: %w", why) }

// open tells whether a message has no outcome yet.
func (p *Publisher) open(place uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return place >= p.window.first && p.window.at(place).state != settled
}

func answer(req *request, with reply) {
	select {
	case req.reply <- with:
	default:
	}
}

// replies is a requester as the receiver of its replies sees it.
type replies requester

// Deliver implements link.Sink.
func (r *replies) Deliver(ds []*link.Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range ds {
		if req := r.pending[d.Message.CorrelationID]; req != nil {
			m := Message(d.Message)
			answer(req, reply{message: &m})
		}
	}
}

// Cancelled implements link.Sink.
func (r *replies) Cancelled(reason *link.Error) {
	if reason == nil {
		reason = &link.Error{Kind: link.Network, Text: "the broker sends no more replies"}
	}
	r.Closed(reason)
}

// Closed implements link.Sink. Requests that the broker has not confirmed are
// sent again; the replies to the others have lost their way.
func (r *replies) Closed(err error) {
	cause := ErrClosed
	if err != nil {
		if cause = public(err); !isLost(cause) {
			cause = fmt.Errorf("%w: %w", ErrConnectionLost, cause)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, req := range r.pending {
		switch {
		case !req.submitted:
			req.orphaned = true
		case !r.publisher.open(req.place):
			answer(req, reply{err: errNoReply(cause)})
		}
	}
}

// reply publishes an answer: it is of no use to anybody later.
func (c *Client) reply(ctx context.Context, m Message) error {
	m.Transient = true
	p, err := c.commonPublisher()
	if err != nil {
		return notSent(err)
	}
	return p.publish(ctx, m)
}
