package load

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/bench/internal/amqp"
)

const (
	readBuffer    = 256 << 10
	confirmBuffer = 64 << 10

	// flushAfter is how long a consumer keeps acknowledgements back when nothing
	// comes. The timer is set again only when a third of it is over, so it may
	// take half as long again.
	flushAfter = 5 * time.Millisecond
	timerSlack = flushAfter / 2
)

// past is a deadline that makes a read return at once.
var past = time.Unix(1, 0)

type consumer struct {
	conn *amqp.Conn
	auto bool // the broker takes a delivery for settled
	// every is how many deliveries each acknowledgement settles.
	every    int
	received counter
	last     atomic.Int64 // when the latest message was received
	hist     *Histogram
}

// newConsumer subscribes to the queues. The replies come between deliveries, and
// are passed over with whatever else is not one.
func newConsumer(c *Config, conn *amqp.Conn, queues []string) (*consumer, error) {
	k := &consumer{conn: conn, auto: c.Prefetch == 0, every: c.AckEvery, hist: new(Histogram)}
	if !k.auto {
		k.every = max(1, min(c.AckEvery, c.Prefetch/2))
		if _, err := conn.Call(amqp.AppendQos(nil, amqp.Channel, uint16(c.Prefetch)), amqp.BasicQosOK); err != nil {
			return nil, err
		}
	}
	var request []byte
	for _, q := range queues {
		request = amqp.AppendConsume(request, amqp.Channel, q, k.auto)
	}
	_, err := conn.Write(request)
	return k, err
}

// run consumes until closing is set and the connection's read deadline has then
// been moved into the past. It leaves nothing unacknowledged.
func (k *consumer) run(closing *atomic.Bool) error {
	var (
		stream  amqp.Deliveries
		stamps  [256]uint64
		acks    []byte
		unacked int
		armed   int64 // when the read deadline was set, 0 for none
	)
	buf := make([]byte, readBuffer)
	kept := copy(buf, k.conn.Rest())
	for {
		n, err := k.conn.Read(buf[kept:])
		if n == 0 && err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("read from the broker: %w", err)
			}
			if unacked > 0 {
				if _, err := k.conn.Write(amqp.AppendAck(acks[:0], amqp.Channel, stream.Tag)); err != nil {
					return err
				}
				unacked = 0
			}
			_ = k.conn.SetReadDeadline(time.Time{})
			armed = 0
			if closing.Load() {
				return nil
			}
			continue
		}
		kept += n
		t := now()
		acks = acks[:0]
		used, messages := 0, 0
		for more := true; more; {
			room := len(stamps)
			if !k.auto {
				room = min(room, k.every-unacked)
			}
			n, m, err := stream.Scan(buf[used:kept], stamps[:room])
			if err != nil {
				return err
			}
			used += n
			messages += m
			for _, s := range stamps[:m] {
				k.hist.Add(time.Duration(t-int64(s)), 1)
			}
			if !k.auto {
				if unacked += m; unacked >= k.every {
					acks = amqp.AppendAck(acks, amqp.Channel, stream.Tag)
					unacked = 0
				}
			}
			more = m == room
		}
		if used == 0 && kept == len(buf) {
			return fmt.Errorf("a frame of more than %d bytes that is no body", len(buf))
		}
		kept = copy(buf, buf[used:kept])
		if messages > 0 {
			k.received.Store(k.received.Load() + int64(messages))
			k.last.Store(t)
		}
		if len(acks) > 0 {
			if _, err := k.conn.Write(acks); err != nil {
				return err
			}
		}
		if unacked > 0 && t-armed > int64(timerSlack) {
			_ = k.conn.SetReadDeadline(time.Now().Add(flushAfter + timerSlack))
			armed = t
			if closing.Load() { // the deadline that ends this was overwritten, perhaps
				_ = k.conn.SetReadDeadline(past)
			}
		}
	}
}
