package stompserver

import (
	"bytes"
	"time"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

const (
	tempPrefix = "/temp-queue/"

	// declaredMost is how many queues a connection remembers to have declared.
	declaredMost = 4096

	// The values of destination-type and subscription-type, as Artemis writes them.
	anycast   = "ANYCAST"
	multicast = "MULTICAST"

	topicExchange = "amq.topic"
)

// publishing is what the reader has for SEND.
type publishing struct {
	pub      broker.Publish // the publish at hand
	props    []byte         // its properties
	last     target         // of the last SEND
	sent     sending        // the SEND at hand
	plain    *broker.Channel
	sure     *broker.Channel     // in confirm mode
	declared map[string]struct{} // that were declared
	temps    map[string][]byte   // names of the queues behind temporary ones
}

// target is where messages for a destination go.
type target struct {
	destination, kind []byte // as they were written
	exchange, key     []byte
	mandatory         bool // a queue is meant, and must be there
}

// is tells whether a SEND is for this target. An empty one is of none.
func (t *target) is(f *sending) bool {
	return t.destination != nil && bytes.Equal(f.destination, t.destination) && bytes.Equal(f.kind, t.kind)
}

// sending is what a SEND says about itself. nil is a header that is not there.
type sending struct {
	destination, kind    []byte
	transaction, receipt []byte
	replyTo              int // index of the header, -1 without
	tx                   *transaction
}

// send handles SEND.
func (r *reader) send(body []byte) error {
	ch, err := r.prepare()
	if err != nil {
		return err
	}
	r.pub.Body = body
	if err := r.expect(ch, len(body)); err != nil {
		return err
	}
	return ch.Publish(&r.pub)
}

// expect notes the receipt of a publish of size bytes that is about to be made on
// ch.
func (r *reader) expect(ch *broker.Channel, size int) (err error) {
	f := &r.sent
	switch {
	case f.tx != nil:
		if f.receipt != nil {
			if f.tx.receipts, err = appendReceipt(f.tx.receipts, r.version, f.receipt); err != nil {
				return err
			}
		}
		f.tx.publishes(&r.pub)
		return f.tx.take(size + len(f.receipt))
	case ch == r.sure:
		r.receipts.add(f.receipt, f.receipt != nil)
	}
	return nil
}

// sendDirect handles a SEND with a body of n bytes of which some have not
// arrived: it reads them to where the broker keeps them.
func (r *reader) sendDirect(n int) error {
	ch, err := r.prepare()
	if err != nil {
		return err
	}
	r.pub.Body = nil
	message, err := ch.PublishLarge(&r.pub, uint64(n))
	if err != nil {
		return err
	}
	receipt := bytes.Clone(r.sent.receipt) // the headers go with the buffer
	r.sent.receipt = receipt
	r.dec.Headers = r.dec.Headers[:0]
	r.session.Flush()
	in := &r.nc.In
	in.Discard(r.head)
	r.head = 0
	if _, err := in.ReadFull(message.Room(n)); err != nil {
		return err
	}
	if err := in.NeedOnly(1); err != nil {
		return err
	}
	if end := in.Buffered()[0]; end != 0 {
		f := faultf(malformed, "expected NUL behind a body of %d bytes, its content-length, found %q\n", n, end)
		f.receipt = receipt
		return f
	}
	in.Discard(1)
	if err = r.expect(ch, n); err == nil {
		err = message.Finish()
	}
	if f, ok := asFault(err); ok {
		f.receipt = receipt
		return f
	}
	return err
}

// prepare reads the headers of a SEND into r.pub, and says which channel it goes
// by.
func (r *reader) prepare() (*broker.Channel, error) {
	if err := r.sendHeaders(); err != nil {
		return nil, err
	}
	f := &r.sent
	f.tx = nil
	if f.transaction != nil {
		var err error
		if f.tx, err = r.transaction(f.transaction); err != nil {
			return nil, err
		}
	}
	if !r.last.is(f) {
		if err := r.resolve(); err != nil {
			return nil, err
		}
	}
	if f.replyTo >= 0 {
		if err := r.ensureReplyTo(&r.dec.Headers[f.replyTo]); err != nil {
			return nil, err
		}
	}
	p := &r.pub
	var err error
	if r.props, p.Persistent, err = r.dec.AppendProperties(r.props[:0], time.Now); err != nil {
		return nil, headerFault(err)
	}
	p.Properties = r.props
	p.Exchange, p.Key, p.Mandatory = r.last.exchange, r.last.key, r.last.mandatory
	switch {
	case f.tx != nil:
		return f.tx.channel, nil
	case p.Persistent || f.receipt != nil:
		return r.confirming()
	}
	if r.plain == nil {
		r.plain = r.openChannel()
	}
	return r.plain, nil
}

// confirming is the channel in confirm mode.
func (r *reader) confirming() (*broker.Channel, error) {
	if r.sure != nil {
		return r.sure, nil
	}
	ch := r.openChannel()
	if err := ch.ConfirmSelect(); err != nil {
		return nil, err
	}
	r.sure = ch
	return ch, nil
}

// sendHeaders looks at each header once. Of several of one name the first counts.
func (r *reader) sendHeaders() error {
	f := sending{replyTo: -1}
	set := func(to *[]byte, value []byte) {
		if *to == nil {
			*to = value
		}
	}
	for i := range r.dec.Headers {
		switch h := &r.dec.Headers[i]; string(h.Name) {
		case stompwire.HeaderDestination:
			set(&f.destination, h.Value)
		case stompwire.HeaderDestinationType:
			set(&f.kind, h.Value)
		case stompwire.HeaderTransaction:
			set(&f.transaction, h.Value)
		case stompwire.HeaderReceipt:
			set(&f.receipt, h.Value)
		case stompwire.HeaderReplyTo:
			if f.replyTo < 0 {
				f.replyTo = i
			}
		case stompwire.HeaderMessageID:
			return faultf(invalidHeader, "'message-id' is not allowed on 'SEND'.\n")
		}
	}
	r.sent = f
	if f.destination == nil {
		return faultf(missingDestination, "%q must include a 'destination' header\n", "SEND")
	}
	return nil
}

// resolve finds out where the destination of the SEND at hand is, and makes its
// queue.
func (r *reader) resolve() error {
	f := &r.sent
	r.last = target{}
	many, err := isMulticast(f.kind, stompwire.HeaderDestinationType)
	if err != nil {
		return err
	}
	d, err := parseDestination(f.destination)
	if err != nil {
		return err
	}
	exchange, key, ok := d.Route()
	if !ok {
		return notValidFor(f.destination, "SEND")
	}
	var t target
	switch _, _, qualified := d.Qualified(); {
	case d.Kind == stompwire.Plain && many && !qualified:
		exchange = topicExchange
	case d.Kind == stompwire.Plain, d.Kind == stompwire.QueueDestination:
		if err := r.declareQueue(d.Kind, key); err != nil {
			return err
		}
		t.mandatory = true
	case d.Kind == stompwire.AMQQueue:
		t.mandatory = true
	}
	t.destination, t.kind = bytes.Clone(f.destination), bytes.Clone(f.kind)
	t.exchange, t.key = []byte(exchange), []byte(key)
	r.last = t
	return nil
}

// parseDestination is stompwire's, with RabbitMQ's errors. Names that are not
// UTF-8 no peer of AMQP could be told.
func parseDestination(text []byte) (stompwire.Destination, error) {
	d, err := stompwire.ParseDestination(text)
	if err != nil {
		if len(text) == 0 {
			return d, faultf(invalidDestination, "%s", err)
		}
		return d, faultf(invalidDestination, "%s\n", err)
	}
	if !utf8.ValidString(d.Name) || !utf8.ValidString(d.Key) {
		return d, faultf(invalidDestination, "%s is not UTF-8\n", quoted(text))
	}
	return d, nil
}

func notValidFor(destination []byte, command string) *fault {
	return faultf(invalidDestination, "'%s' is not a valid destination for '%s'\n", destination, command)
}

// isMulticast reads the value of destination-type or subscription-type, as
// Artemis writes it: in capitals.
func isMulticast(value []byte, header string) (bool, error) {
	switch string(value) {
	case "", anycast:
		return false, nil
	case multicast:
		return true, nil
	}
	return false, faultf(invalidHeader, "%s must be %s or %s, not %s\n", header, anycast, multicast, quoted(value))
}

// ensureReplyTo replaces a temporary queue in a reply-to with the name of the
// queue that it stands for.
func (r *reader) ensureReplyTo(h *stompwire.Header) error {
	id, ok := bytes.CutPrefix(h.Value, []byte(tempPrefix))
	if !ok {
		return nil
	}
	queue, ok := r.temps[string(id)]
	if !ok {
		if _, err := parseDestination(h.Value); err != nil {
			return err
		}
		var err error
		if queue, err = r.tempQueue(string(id)); err != nil {
			return err
		}
	}
	h.Value = queue
	return nil
}

// headerFault is the fault of a header that means nothing.
func headerFault(err error) error {
	return faultf(invalidHeader, "%s\n", err)
}
