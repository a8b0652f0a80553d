package amqplink

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// declaresAtOnce is how many items are sent before their answers are waited for.
const declaresAtOnce = 64

// Declare implements link.Conn. Calls are served one after the other. A refusal
// that a broker counts as the connection's fault (RabbitMQ: an exchange of an
// unknown type) ends the connection, and so the items behind it.
func (c *conn) Declare(ctx context.Context, items []link.Item) []link.Result {
	results := make([]link.Result, len(items))
	if len(items) == 0 {
		return results
	}
	select {
	case c.declares <- struct{}{}:
		defer func() { <-c.declares }()
	case <-ctx.Done():
		return failFrom(results, 0, context.Cause(ctx))
	case <-c.ending:
		return failFrom(results, 0, c.err)
	}
	items = slices.Clone(items)
	for at := 0; at < len(items); {
		n, err := c.declareSome(ctx, items[at:min(at+declaresAtOnce, len(items))], results[at:])
		if at += n; err != nil {
			return failFrom(results, at, err)
		}
	}
	return results
}

func failFrom(results []link.Result, at int, err error) []link.Result {
	for i := at; i < len(results); i++ {
		results[i].Err = err
	}
	return results
}

// declareSome sends items at once and returns how many of them have a result. An
// error means that the others will have none. A queue that is to be declared if it
// is absent, and is, becomes one that is to be declared.
func (c *conn) declareSome(ctx context.Context, items []link.Item, results []link.Result) (n int, err error) {
	var requests []amqpwire.Method
	for _, item := range items {
		m, err := request(item)
		if err == nil {
			_, err = c.appendMethod(nil, 0, m)
		}
		if err != nil {
			if len(requests) > 0 {
				break // those before it come first
			}
			results[0].Err = err
			return 1, nil
		}
		requests = append(requests, m)
	}
	if err := c.openAdmin(ctx); err != nil {
		return 0, err
	}
	ch := c.admin
	answers, err := c.ask(ctx, ch, false, requests...)
	for i, m := range answers {
		results[i] = result(m)
	}
	n = len(answers)
	if err == nil {
		return n, nil
	}
	c.admin = nil
	c.abandon(ch)
	if c.isRefusal(err) {
		// The broker does what it is asked in order, so that it refused the first
		// that it did not answer, and has not looked at those behind it.
		if q, ok := items[n].(link.Queue); ok && q.IfAbsent && isNotFound(err) {
			q.IfAbsent = false
			items[n] = q // is asked for again, with those behind it
			return n, nil
		}
		results[n].Err = err
		return n + 1, nil
	}
	return n, err
}

func isNotFound(err error) bool {
	var e *link.Error
	return errors.As(err, &e) && e.Kind == link.NotFound
}

// openAdmin opens the channel of declarations, if it is not open.
func (c *conn) openAdmin(ctx context.Context) error {
	if c.admin != nil {
		select {
		case <-c.admin.gone: // the broker has closed it meanwhile
			c.admin = nil
		default:
			return nil
		}
	}
	ch := new(channel)
	if err := c.begin(ch); err != nil {
		return err
	}
	if _, err := c.ask(ctx, ch, true, &amqpwire.ChannelOpen{}); err != nil {
		return err
	}
	c.admin = ch
	return nil
}

// isRefusal tells whether an error is what the broker said of one request, and
// the connection goes on.
func (c *conn) isRefusal(err error) bool {
	var e *link.Error
	return errors.As(err, &e) && e.Said && !c.isOver()
}

// request is the method of an item.
func request(item link.Item) (amqpwire.Method, error) {
	switch i := item.(type) {
	case link.Exchange:
		return &amqpwire.ExchangeDeclare{
			Exchange: i.Name, Type: i.Kind, Passive: i.Passive, Durable: !i.Transient,
			AutoDelete: i.AutoDelete, Internal: i.Internal, Arguments: i.Arguments,
		}, nil
	case link.Queue:
		return &amqpwire.QueueDeclare{
			Queue: i.Name, Passive: i.Passive || i.IfAbsent, Durable: !i.Transient,
			Exclusive: i.Exclusive, AutoDelete: i.AutoDelete, Arguments: i.Arguments,
		}, nil
	case link.Binding:
		if i.Destination != "" {
			return &amqpwire.ExchangeBind{Destination: i.Destination, Source: i.Exchange, RoutingKey: i.Key, Arguments: i.Arguments}, nil
		}
		return &amqpwire.QueueBind{Queue: i.Queue, Exchange: i.Exchange, RoutingKey: i.Key, Arguments: i.Arguments}, nil
	case link.Unbinding:
		if i.Destination != "" {
			return &amqpwire.ExchangeUnbind{Destination: i.Destination, Source: i.Exchange, RoutingKey: i.Key, Arguments: i.Arguments}, nil
		}
		return &amqpwire.QueueUnbind{Queue: i.Queue, Exchange: i.Exchange, RoutingKey: i.Key, Arguments: i.Arguments}, nil
	case link.QueueDelete:
		return &amqpwire.QueueDelete{Queue: i.Name, IfEmpty: i.IfEmpty, IfUnused: i.IfUnused}, nil
	case link.ExchangeDelete:
		return &amqpwire.ExchangeDelete{Exchange: i.Name, IfUnused: i.IfUnused}, nil
	case link.QueuePurge:
		return &amqpwire.QueuePurge{Queue: i.Name}, nil
	}
	return nil, &link.Error{Kind: link.NotAllowed, Text: fmt.Sprintf("%T cannot be declared", item)}
}

// result is what an answer says.
func result(m amqpwire.Method) link.Result {
	switch m := m.(type) {
	case *amqpwire.QueueDeclareOk:
		return link.Result{Name: m.Queue, Messages: int(m.MessageCount), Consumers: int(m.ConsumerCount)}
	case *amqpwire.QueueDeleteOk:
		return link.Result{Messages: int(m.MessageCount)}
	case *amqpwire.QueuePurgeOk:
		return link.Result{Messages: int(m.MessageCount)}
	}
	return link.Result{}
}
