package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// A stompPublisher is a publisher that speaks STOMP.
type stompPublisher struct {
	destination string
	queues      []string // where a message must arrive
	window      int      // SENDs whose receipts have not come
	size        int      // bytes of a body at most; they vary from a tenth of it
	tx          bool     // transactions of up to window messages

	n       int
	unknown []uint64
}

// A stompRefusal is an ERROR of the broker's.
type stompRefusal struct{ stompFrame }

func (e stompRefusal) Error() string { return e.String() }

// stompCodes are AMQP's codes for the ERRORs that end all connections.
var stompCodes = map[string]int{"internal_error": amqp.InternalError, "connection_forced": amqp.ConnectionForced}

// answer is the next frame that is not an ERROR.
func (p *stompPeer) answer(limit time.Duration) (stompFrame, error) {
	f, err := p.next(limit)
	if err == nil && f.command == stompwire.Err {
		err = stompRefusal{f}
	}
	return f, err
}

// dialSTOMP logs in, as often as it takes, until ctx ends.
func (l *load) dialSTOMP(ctx context.Context) *stompPeer {
	for ctx.Err() == nil {
		if p, err := loginSTOMP(l.addr); err == nil {
			return p
		}
		select {
		case <-ctx.Done():
		case <-time.After(redialPause):
		}
	}
	return nil
}

// overSTOMP notes why a connection has ended, if the broker said so, and what else
// went wrong.
func (l *load) overSTOMP(p *stompPeer, who string, err error) {
	var refused stompRefusal
	for err != nil && !errors.As(err, &refused) { // the broker's last word may not have been read
		if _, e := p.answer(time.Second); e != nil {
			if errors.As(e, &refused) {
				err = e
			}
			break
		}
	}
	p.close()
	ne := net.Error(nil)
	switch code := stompCodes[refused.headers["message"]]; {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
	case code != 0:
		l.mu.Lock()
		l.closes[code]++
		l.mu.Unlock()
	case errors.As(err, &ne) && ne.Timeout():
		l.fault("%s: the broker does not answer: %v", who, err)
	default:
		l.fault("%s: %v", who, err)
	}
}

func (l *load) publishSTOMP(p stompPublisher) {
	p.n = l.publisher(p.queues...)
	l.work.pubs.Go(func() {
		for l.hard.Err() == nil {
			c := l.dialSTOMP(l.hard)
			if c == nil {
				return
			}
			stop := context.AfterFunc(l.hard, c.close)
			session := p.session
			if p.tx {
				session = p.transactions
			}
			done, err := session(l, c)
			stop()
			l.overSTOMP(c, fmt.Sprint("publisher ", p.n, " over STOMP"), err)
			if done {
				return
			}
		}
	})
}

// session publishes over one connection; done is whether all is confirmed and
// nothing more is to be sent.
func (p *stompPublisher) session(l *load, c *stompPeer) (done bool, err error) {
	var sent []uint64 // by receipt
	open := map[int]bool{}
	resend := p.unknown
	defer func() {
		var unknown []uint64
		for _, receipt := range slices.Sorted(maps.Keys(open)) {
			unknown = append(unknown, sent[receipt])
		}
		p.unknown = append(unknown, resend...)
	}()
	for {
		for len(open) < p.window && (len(resend) > 0 || l.pubs.Err() == nil) {
			seq := uint64(0)
			if len(resend) > 0 {
				seq, resend = resend[0], resend[1:]
			} else {
				seq = l.next(p.n)
			}
			receipt := len(sent)
			sent = append(sent, seq)
			open[receipt] = true
			if err := p.send(l, c, seq, stompwire.HeaderReceipt, strconv.Itoa(receipt)); err != nil {
				return false, err
			}
		}
		if len(open) == 0 {
			return true, nil
		}
		f, err := c.answer(confirmLimit)
		if err != nil {
			return false, err
		}
		// Each comes once; what a consumer has settled at once may come earlier.
		receipt, err := strconv.Atoi(f.headers[stompwire.HeaderReceiptID])
		if f.command != stompwire.Receipt || err != nil || !open[receipt] {
			return false, fmt.Errorf("got %s of %q", f, f.headers[stompwire.HeaderReceiptID])
		}
		delete(open, receipt)
		l.confirm(p.n, sent[receipt])
	}
}

func (p *stompPublisher) send(l *load, c *stompPeer, seq uint64, headers ...string) error {
	l.sending(p.n, seq)
	size := p.size/10 + int(seq*31)%(p.size-p.size/10)
	return c.send(stompwire.Send, body(p.n, seq, size),
		append(headers, stompwire.HeaderDestination, p.destination, stompwire.HeaderPersistent, "true")...)
}

// transactions publishes in transactions; a COMMIT that is not answered makes all
// of it unknown. One in ten is given up, with messages that never come: they have
// the number of no publisher.
func (p *stompPublisher) transactions(l *load, c *stompPeer) (done bool, err error) {
	const name = "t"
	for {
		if len(p.unknown) == 0 {
			if l.pubs.Err() != nil {
				return true, nil
			}
			for range 1 + rand.IntN(p.window) {
				p.unknown = append(p.unknown, l.next(p.n))
			}
		}
		err := c.send(stompwire.Begin, nil, stompwire.HeaderTransaction, name)
		if rand.IntN(10) == 0 && err == nil {
			err = errors.Join(
				c.send(stompwire.Send, body(-1, 0, p.size), stompwire.HeaderDestination, p.destination, stompwire.HeaderTransaction, name),
				c.send(stompwire.Abort, nil, stompwire.HeaderTransaction, name),
				c.send(stompwire.Begin, nil, stompwire.HeaderTransaction, name))
		}
		for _, seq := range p.unknown {
			if err == nil {
				err = p.send(l, c, seq, stompwire.HeaderTransaction, name)
			}
		}
		if err == nil {
			err = c.commit(name)
		}
		if err != nil {
			return false, err
		}
		for _, seq := range p.unknown {
			l.confirm(p.n, seq)
		}
		p.unknown = p.unknown[:0]
	}
}

// commit commits a transaction and waits for the receipt. Nothing else may be under
// way to the peer.
func (p *stompPeer) commit(name string) error {
	if err := p.send(stompwire.Commit, nil, stompwire.HeaderTransaction, name, stompwire.HeaderReceipt, name); err != nil {
		return err
	}
	f, err := p.answer(confirmLimit)
	if err == nil && (f.command != stompwire.Receipt || f.headers[stompwire.HeaderReceiptID] != name) {
		err = fmt.Errorf("COMMIT was answered with %s", f)
	}
	return err
}

// A stompConsumer is a consumer that speaks STOMP. ackMultiple is ack mode client.
type stompConsumer struct {
	queue       string // whose messages it gets
	destination string
	headers     []string // of its SUBSCRIBE
	prefetch    int
	settle      settling
}

func (l *load) consumeSTOMP(c stompConsumer) {
	l.work.subs.Go(func() {
		for {
			p := l.dialSTOMP(l.subs)
			if p == nil {
				return
			}
			l.overSTOMP(p, "consumer of "+c.queue+" over STOMP", c.session(l, p))
		}
	})
}

func (c *stompConsumer) session(l *load, p *stompPeer) error {
	mode := "client-individual"
	if c.settle == ackMultiple {
		mode = "client"
	}
	headers := append([]string{
		stompwire.HeaderID, "s", stompwire.HeaderDestination, c.destination, stompwire.HeaderAck, mode,
		stompwire.HeaderPrefetchCount, strconv.Itoa(c.prefetch),
	}, c.headers...)
	if err := p.send(stompwire.Subscribe, nil, headers...); err != nil {
		return err
	}
	type id struct {
		publisher int
		seq       uint64
		ack       string
	}
	var open []id // received and not settled
	var committed [][]id
	last := map[int]uint64{}
	settle := func(command stompwire.Command, ack string, headers ...string) error {
		return p.send(command, nil, append(headers, stompwire.HeaderID, ack)...)
	}
	flush := func() (err error) {
		switch {
		case len(open) == 0:
		case c.settle == ackMultiple:
			err = settle(stompwire.Ack, open[len(open)-1].ack)
		default:
			name := strconv.Itoa(len(committed))
			err = p.send(stompwire.Begin, nil, stompwire.HeaderTransaction, name)
			for _, i := range open {
				if err == nil {
					err = settle(stompwire.Ack, i.ack, stompwire.HeaderTransaction, name)
				}
			}
			if err == nil {
				err = p.send(stompwire.Commit, nil, stompwire.HeaderTransaction, name, stompwire.HeaderReceipt, name)
			}
			committed = append(committed, slices.Clone(open))
		}
		open = open[:0]
		return err
	}
	for {
		f, err := p.answer(20 * time.Millisecond)
		switch {
		case timedOut(err): // what the queue's end leaves of a batch
			if err := flush(); err != nil {
				return err
			}
			if l.subs.Err() != nil {
				return p.disconnect()
			}
			continue
		case err != nil:
			return err
		case f.command == stompwire.Receipt:
			i, err := strconv.Atoi(f.headers[stompwire.HeaderReceiptID])
			if err != nil || i >= len(committed) {
				return fmt.Errorf("got %s", f)
			}
			for _, i := range committed[i] {
				l.settled(c.queue, i.publisher, i.seq)
			}
			continue
		}
		ack := f.headers[stompwire.HeaderAck]
		publisher, seq := l.received(c.queue, f.body, f.headers[stompwire.HeaderRedelivered] == "true", last)
		switch {
		case c.settle == ackEach, c.settle == nackSome && rand.IntN(100) > 0, publisher < 0:
			err = settle(stompwire.Ack, ack)
		case c.settle == nackSome:
			err = settle(stompwire.Nack, ack)
		default:
			open = append(open, id{publisher, seq, ack})
			if len(open) >= max(c.prefetch/2, 1) {
				err = flush()
			}
		}
		if err != nil {
			return err
		}
	}
}

// disconnect says good-bye, and returns when all that was sent before is done.
func (p *stompPeer) disconnect() error {
	if err := p.send(stompwire.Disconnect, nil, stompwire.HeaderReceipt, "bye"); err != nil {
		return err
	}
	for {
		f, err := p.answer(peerLimit)
		if err != nil || f.headers[stompwire.HeaderReceiptID] == "bye" {
			return err
		}
	}
}
