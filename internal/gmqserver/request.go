package gmqserver

import (
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// knownMost is how many queues a connection remembers to be there.
const knownMost = 4096

// request carries out one request, whose answer is queued. An error ends the
// connection; it is not answered yet.
func (c *conn) request(object []byte, e ending) error {
	err := gmqwire.ParseRequest(object, &c.req)
	if text := c.srv.cfg.Refuse; text != "" {
		name := notImplemented
		if c.srv.cfg.RefuseNow {
			name = names[broker.Forced]
		}
		c.refuse(e, &fault{name: name, text: text})
		return errAnswered
	}
	if err == nil || isMistyped(err) {
		if e := c.authenticate(); e != nil {
			err = e
		}
	}
	if err == nil {
		err = c.operate(e)
	}
	if err == nil {
		return nil
	}
	f, ok := asFault(err)
	if !ok {
		return err
	}
	c.refuse(e, f)
	if f.final {
		level := c.log.Warn
		if f.ours || f.name == accessRefused { // that was told
			level = c.log.Debug
		}
		level("connection closed by the server", "error", capped(f.Error()))
		return errAnswered
	}
	return nil
}

func isMistyped(err error) bool {
	var we *gmqwire.Error
	return errors.As(err, &we) && we.Mistyped
}

// reply is the beginning of an answer to the request at hand. Of what is too long to
// be a name it has the beginning.
func (c *conn) reply(e ending) answer {
	operation, queue := c.req.Operation, c.req.Queue
	operation, queue = operation[:min(len(operation), message.MaxName)], queue[:min(len(queue), message.MaxName)]
	return answer{
		reply: gmqwire.Reply{Operation: operation, Queue: queue, Confirmed: true},
		line:  c.stream,
	}
}

// refuse queues the answer that the request at hand was not carried out.
func (c *conn) refuse(e ending, f *fault) {
	a := c.reply(e)
	a.reply.Confirmed, a.reply.ErrorText = false, f.Error()
	if e.next == nothing && c.session != nil && c.req.Operation == gmqwire.Publish {
		a.reply.Payload = c.req.Payload
	}
	c.add(a)
}

// operate carries out the operation of the request at hand.
func (c *conn) operate(e ending) error {
	switch c.req.Operation {
	case gmqwire.Publish:
		return c.publish(e)
	case gmqwire.Subscribe:
		return c.subscribe(e)
	case gmqwire.Length:
		return c.length(e)
	case gmqwire.Sync:
		return c.sync(e)
	case gmqwire.Ack, gmqwire.Return:
		return c.settle(e)
	}
	return faultf(notImplemented, "operation not yet implemented: %s", quoted(c.req.Operation))
}

func (c *conn) sync(e ending) error {
	a := c.reply(e)
	if c.req.AskServer {
		a.reply.Server, a.reply.Node = "Ferry/"+c.srv.cfg.Version, c.srv.cfg.Node
		if c.srv.cfg.Epoch != nil {
			a.reply.Epoch = c.srv.cfg.Epoch()
		}
	}
	c.add(a)
	return nil
}

func (c *conn) length(e ending) error {
	if !c.req.Passive {
		if err := c.ensure(c.req.Queue); err != nil {
			return err
		}
	}
	info, err := c.session.CheckQueue(c.req.Queue)
	if isKind(err, broker.NotFound) && !c.req.Passive { // somebody deleted it
		delete(c.known, c.req.Queue)
		if err = c.ensure(c.req.Queue); err == nil {
			info, err = c.session.CheckQueue(c.req.Queue)
		}
	}
	if err != nil {
		return err
	}
	a := c.reply(e)
	a.reply.Payload = strconv.AppendInt(nil, int64(info.Messages), 10)
	c.add(a)
	return nil
}

// settle handles A and N.
func (c *conn) settle(e ending) error {
	tag, err := strconv.ParseUint(c.req.ID, 10, 64)
	switch {
	case err != nil || tag == 0:
		return faultf(names[broker.PreconditionFailed], "unknown id %s", quoted(c.req.ID))
	case c.req.Operation == gmqwire.Ack:
		err = c.ch.Ack(tag, false)
	default:
		err = c.ch.Nack(tag, false, !c.req.NoRequeue)
	}
	if isKind(err, broker.PreconditionFailed) {
		return faultf(names[broker.PreconditionFailed], "unknown id %s: no message is held under it by this connection", quoted(c.req.ID))
	}
	if err != nil {
		return err
	}
	a := c.reply(e)
	a.reply.ID = strconv.FormatUint(tag, 10)
	c.add(a)
	return nil
}

// isKind tells whether an error is one of the broker's, of this kind.
func isKind(err error, k broker.Kind) bool {
	var be *broker.Error
	return errors.As(err, &be) && be.Kind == k
}

// ensure makes a queue that is not there. One that is there is taken as it is.
func (c *conn) ensure(queue string) error {
	if _, ok := c.known[queue]; ok {
		return nil
	}
	switch {
	case queue == "":
		return faultf(commandInvalid, "the request has no queue")
	case len(queue) > message.MaxName:
		return faultf(commandInvalid, "the name of a queue has at most %d bytes, this one has %d", message.MaxName, len(queue))
	case !utf8.ValidString(queue):
		return faultf(commandInvalid, "the name of the queue is not UTF-8")
	}
	there := func(name string) bool {
		_, err := c.session.CheckQueue(name)
		return !isKind(err, broker.NotFound)
	}
	if !c.srv.queues.use(queue, there) {
		return faultf(resourceError, "there are %d queues already, which is the limit (max_queue_number)", c.srv.cfg.Limits.Queues)
	}
	_, err := c.session.CheckQueue(queue)
	if isKind(err, broker.NotFound) {
		_, err = c.session.DeclareQueue(broker.QueueSpec{Name: queue, Durable: true})
		if isKind(err, broker.PreconditionFailed) { // somebody made it meanwhile
			_, err = c.session.CheckQueue(queue)
		}
	}
	if err != nil {
		if c.srv.cfg.Limits.Queues > 0 && !there(queue) {
			c.srv.queues.forget(queue)
		}
		return err
	}
	if c.known == nil || len(c.known) >= knownMost {
		c.known = map[string]struct{}{}
	}
	c.known[queue] = struct{}{}
	return nil
}
