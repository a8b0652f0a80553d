package stomplink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// Declare implements link.Conn. STOMP has no word for it: a broker makes a queue
// when it sees the first SEND to it, with the arguments that are headers of that.
// The SEND is in a transaction that is given up, so that nothing is left but the
// queue. A refusal ends the session; so the queues are declared on one of their
// own, all on one, and, if that did not do, each by itself.
//
// What STOMP cannot express is refused with link.NotAllowed, before anything is
// sent.
func (c *conn) Declare(ctx context.Context, items []link.Item) []link.Result {
	results := make([]link.Result, len(items))
	frames := make([][]byte, len(items))
	var todo []int
	for i, item := range items {
		q, ok := item.(link.Queue)
		if !ok {
			results[i].Err = notAllowed("STOMP has no way to " + deed(item) + ": it needs an amqp:// URL")
			continue
		}
		if frames[i], results[i].Err = c.declaration(q); results[i].Err == nil {
			results[i].Name = q.Name
			todo = append(todo, i)
		}
	}
	if len(todo) == 0 {
		return results
	}
	fail := func(err error) []link.Result {
		for _, i := range todo {
			results[i].Err = err
		}
		return results
	}
	select {
	case c.declares <- struct{}{}:
		defer func() { <-c.declares }()
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	case <-c.Failed():
		return fail(c.Reason())
	}
	var all []byte
	for _, i := range todo {
		all = append(all, frames[i]...)
	}
	err := c.errand(ctx, all)
	if err == nil {
		return results
	}
	if len(todo) == 1 || !c.isRefusal(err) {
		if len(todo) == 1 {
			err = pardon(items[todo[0]], err)
		}
		return fail(err)
	}
	for len(todo) > 0 {
		i := todo[0]
		results[i].Err = pardon(items[i], c.errand(ctx, frames[i]))
		if err := results[i].Err; err != nil && !c.isRefusal(err) {
			return fail(err)
		}
		todo = todo[1:]
	}
	return results
}

// deed is what an item asks for.
func deed(item link.Item) string {
	switch item.(type) {
	case link.Exchange:
		return "declare an exchange"
	case link.Binding:
		return "bind"
	case link.Unbinding:
		return "remove a binding"
	case link.QueueDelete:
		return "delete a queue"
	case link.ExchangeDelete:
		return "delete an exchange"
	case link.QueuePurge:
		return "purge a queue"
	}
	return fmt.Sprintf("do %T", item)
}

// pardon is err, but for what says that a queue is there and different, where it is
// to be taken as it is.
func pardon(item link.Item, err error) error {
	var e *link.Error
	if q, ok := item.(link.Queue); ok && q.IfAbsent && errors.As(err, &e) && e.Said && e.Kind == link.Precondition {
		return nil
	}
	return err
}

// isRefusal tells whether an error is what the broker said of what it was asked, and
// the connection goes on.
func (c *conn) isRefusal(err error) bool {
	var e *link.Error
	return errors.As(err, &e) && e.Said && c.Err() == nil
}

// errand has a broker do frames on a session of their own.
func (c *conn) errand(ctx context.Context, frames []byte) error {
	s, err := c.another(ctx, func(s *session) {
		s.errand = true
		s.control = frames
	})
	if err != nil {
		return err
	}
	if c.dialect == rabbitmq {
		if err := s.ask(ctx, stompwire.Send, c.barrier(), false); err != nil {
			s.End(transport.Closed(), false)
			return err
		}
	}
	return s.Close(ctx)
}

// barrier is the headers of a message that is for nobody. RabbitMQ declares a queue
// without waiting for the answer, and tells what is wrong with it behind the receipts
// of frames that follow; but it confirms no message when it has refused what came
// before.
func (c *conn) barrier() []byte {
	nowhere := stompwire.Destination{Kind: stompwire.AMQQueue, Name: "ferry.nowhere." + rand.Text()}
	return []byte(stompwire.HeaderDestination + ":" + nowhere.String() + "\n" + stompwire.HeaderPersistent + ":true\n")
}

// transaction is the name of the one that is given up; a session has its own.
const transaction = "ferry"

// declaration is the frames that declare a queue.
func (c *conn) declaration(q link.Queue) ([]byte, error) {
	if err := c.dialect.declarable(q); err != nil {
		return nil, err
	}
	to := place{q.Name, anycast}
	switch {
	case c.dialect.hasExchanges():
		var err error
		if to, err = c.dialect.named(stompwire.Destination{Kind: stompwire.QueueDestination, Name: q.Name}); err != nil {
			return nil, err
		}
	case c.dialect == activemq:
		to = place{destination: "/queue/" + q.Name}
	}
	var out []byte
	var errs []error
	header := func(name, value string) {
		var err error
		out, err = stompwire.AppendHeader(out, c.escapes, name, value)
		errs = append(errs, err)
	}
	command := func(command stompwire.Command) {
		out = stompwire.AppendCommand(out, command)
		header(stompwire.HeaderTransaction, transaction)
	}
	end := func() { out = append(stompwire.AppendHeadEnd(out), 0) }
	command(stompwire.Begin)
	end()
	command(stompwire.Send)
	header(stompwire.HeaderDestination, to.destination)
	if to.kind != "" {
		header(stompwire.HeaderDestinationType, to.kind)
	}
	if c.dialect.hasExchanges() {
		header("durable", fmt.Sprint(!q.Transient))
		header("auto-delete", fmt.Sprint(q.AutoDelete))
		header("exclusive", "false") // which RabbitMQ takes a transient one to be
	}
	for _, name := range slices.Sorted(maps.Keys(q.Arguments)) {
		text, err := headerText(q.Arguments[name])
		errs = append(errs, err)
		header(name, text)
	}
	end()
	command(stompwire.Abort)
	end()
	if err := errors.Join(errs...); err != nil {
		return nil, precondition(fmt.Sprintf("queue %q cannot be declared over STOMP", q.Name), err)
	}
	return out, nil
}

// arguments are those of a queue that RabbitMQ's plugin, and Ferry, take from
// headers.
var arguments = []string{
	"x-dead-letter-exchange", "x-dead-letter-routing-key", "x-expires", "x-message-ttl", "x-max-length",
	"x-max-length-bytes", "x-max-priority", "x-queue-type", "x-max-age", "x-stream-max-segment-size-bytes",
}

// declarable tells what of a queue cannot be said.
func (d dialect) declarable(q link.Queue) error {
	const instead = "over STOMP: it needs an amqp:// URL"
	switch {
	case q.Name == "":
		return notAllowed("a queue without a name cannot be declared " + instead)
	case q.Passive:
		return notAllowed("a queue cannot be asked about " + instead)
	case q.Exclusive:
		return notAllowed("a queue cannot be made exclusive " + instead)
	case q.IfAbsent && !d.hasExchanges():
		return nil
	case !d.hasExchanges() && (q.Transient || len(q.Arguments) > 0):
		return notAllowed(fmt.Sprintf("%s makes queues as its address settings say: a queue cannot be declared with arguments, or transient, over STOMP", d.name()))
	}
	if !d.hasExchanges() {
		return nil
	}
	for name := range q.Arguments {
		if !slices.Contains(arguments, name) {
			return notAllowed(fmt.Sprintf("argument %s of a queue cannot be declared %s", name, instead))
		}
	}
	return nil
}
