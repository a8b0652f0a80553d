package gmqlink

import (
	"context"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// Declare implements link.Conn. GMQ has no word for it: the server makes a queue,
// durable and without arguments, when it is asked for its length, and takes one that
// is there as it is; Ferry's only tells the length where the item is Passive. What GMQ cannot express is refused with link.NotAllowed, before
// anything is sent.
func (c *conn) Declare(ctx context.Context, items []link.Item) []link.Result {
	results := make([]link.Result, len(items))
	lines := make([][]byte, len(items))
	todo := false
	for i, item := range items {
		if lines[i], results[i].Err = declaration(item); results[i].Err == nil {
			todo = true
		}
	}
	if !todo {
		return results
	}
	fail := func(err error) {
		for i := range results {
			if lines[i] != nil {
				results[i].Err = err
			}
		}
	}
	s, err := c.another(ctx, func(*session) {})
	if err != nil {
		fail(err)
		return results
	}
	calls := make([]*call, len(items))
	s.Mu.Lock()
	if s.Over {
		s.Mu.Unlock()
		fail(s.Err)
		return results
	}
	for i, line := range lines {
		if line != nil {
			calls[i] = s.askLocked(gmqwire.Length, line)
		}
	}
	s.Mu.Unlock()
	s.Signal()
	for i, k := range calls {
		if k == nil {
			continue
		}
		payload, err := k.wait(ctx)
		if err != nil {
			results[i].Err = err
			continue
		}
		results[i].Name = items[i].(link.Queue).Name
		results[i].Messages = number(payload)
	}
	if err := s.Close(ctx); err != nil {
		c.Options.Logger.Debug("closing a connection of declarations", "error", err)
	}
	return results
}

// declaration is the request that declares an item.
func declaration(item link.Item) ([]byte, error) {
	q, ok := item.(link.Queue)
	switch {
	case !ok:
		return nil, notAllowed("GMQ has no way to " + deed(item))
	case q.Name == "":
		return nil, notAllowed("a queue without a name cannot be declared over GMQ")
	case q.Passive:
	case q.Exclusive || q.AutoDelete || q.Transient || len(q.Arguments) > 0:
		return nil, notAllowed(fmt.Sprintf("queue %q: over GMQ queues are durable, and have no arguments", q.Name))
	}
	return appendLength(nil, q.Name, q.Passive)
}

// appendLength appends the request for a queue's length.
func appendLength(dst []byte, queue string, passive bool) ([]byte, error) {
	if !utf8.ValidString(queue) {
		return nil, &link.Error{Kind: link.Precondition, Text: fmt.Sprintf("queue %q", queue), Err: errNotUTF8}
	}
	return append(gmqwire.AppendRequest(dst, &gmqwire.Request{Operation: gmqwire.Length, Queue: queue, Passive: passive}), '\n'), nil
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

// number is the length of a queue as a reply has it: in decimal.
func number(payload []byte) int {
	n, err := strconv.Atoi(string(payload))
	if err != nil {
		return 0
	}
	return n
}
