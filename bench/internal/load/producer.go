package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/bench/internal/amqp"
)

// lastConfirms bounds the wait for confirms after the last publish.
const lastConfirms = 60 * time.Second

// pace is how long a producer held to a rate sleeps before it looks again.
const pace = time.Millisecond

// script is what a producer writes again and again, encoded once: a number of
// publishes, one after the other. A write is some of them in a row, with the
// time put into the first eight bytes of each body.
type script struct {
	bytes  []byte
	starts []int // where each publish starts, and after the last the end
	bodies []int // where each body starts
}

func newScript(messages []amqp.Message, size, frameMax int) *script {
	s := &script{starts: make([]int, 1, len(messages)+1)}
	body := make([]byte, size)
	for _, m := range messages {
		var at int
		s.bytes, at = amqp.AppendPublish(s.bytes, amqp.Channel, m, body, frameMax)
		s.bodies = append(s.bodies, at)
		s.starts = append(s.starts, len(s.bytes))
	}
	return s
}

// slice is the bytes of n publishes from the one at first, stamped with now.
func (s *script) slice(first, n int, now int64) []byte {
	for _, at := range s.bodies[first : first+n] {
		binary.BigEndian.PutUint64(s.bytes[at:], uint64(now))
	}
	return s.bytes[s.starts[first]:s.starts[first+n]]
}

type producer struct {
	conn   *amqp.Conn
	script *script
	batch  int
	window int     // publishes in flight, 0 for no confirms
	rate   float64 // publishes a second, 0 for no limit
	quota  int64   // publishes in all, 0 for no limit

	published counter
	sent      atomic.Int64 // counted before it is written, for the reader
	settled   atomic.Int64
	confirms  *confirms
	wake      chan struct{} // settled has grown, or the reader has ended
	readErr   error         // set before readDone is closed
	readDone  chan struct{}
}

func newProducer(c *Config, conn *amqp.Conn, messages []amqp.Message, quota int64) (*producer, error) {
	p := &producer{
		conn: conn, batch: c.Batch, window: c.Confirm, rate: c.Rate, quota: quota,
		wake: make(chan struct{}, 1), readDone: make(chan struct{}),
	}
	if p.window > 0 {
		p.batch = min(p.batch, p.window)
		p.confirms = newConfirms(p.window)
		if _, err := conn.Call(amqp.AppendConfirmSelect(nil, amqp.Channel), amqp.ConfirmSelectOK); err != nil {
			return nil, err
		}
	}
	for len(messages) < p.batch {
		messages = append(messages, messages...)
	}
	p.script = newScript(messages, c.Size, conn.FrameMax)
	return p, nil
}

// run publishes until its quota is met or stop is set, and then waits for what
// is not confirmed. The caller closes the connection afterwards.
func (p *producer) run(stop *atomic.Bool) error {
	var reader sync.WaitGroup
	reader.Go(p.read)
	err := p.publish(stop)
	if err == nil && p.window > 0 {
		err = p.await(p.sent.Load(), nil, time.After(lastConfirms))
	}
	_ = p.conn.SetReadDeadline(past) // the reader ends
	reader.Wait()
	return err
}

func (p *producer) publish(stop *atomic.Bool) error {
	var sent int64
	at := 0
	start := now()
	for !stop.Load() && (p.quota == 0 || sent < p.quota) {
		n := min(p.batch, len(p.script.bodies)-at)
		if p.quota > 0 {
			n = int(min(int64(n), p.quota-sent))
		}
		if p.rate > 0 {
			due := int64(time.Duration(now()-start).Seconds()*p.rate) - sent
			if due <= 0 {
				time.Sleep(pace)
				continue
			}
			n = int(min(int64(n), due))
		}
		if p.window > 0 {
			if err := p.await(sent+int64(n)-int64(p.window), stop, nil); err != nil {
				return err
			}
			if stop.Load() {
				return nil
			}
		}
		t := now()
		if p.window > 0 {
			for i := range int64(n) {
				p.confirms.stamp(sent+i+1, t)
			}
			p.sent.Store(sent + int64(n))
		}
		if _, err := p.conn.Write(p.script.slice(at, n, t)); err != nil {
			if stop.Load() {
				return nil // the broker had stopped reading, and the time is over
			}
			<-p.readDone // it knows the broker's reason, or fails as the write did
			return errors.Join(p.readErr, err)
		}
		if at += n; at == len(p.script.bodies) {
			at = 0
		}
		sent += int64(n)
		p.published.Store(sent)
	}
	return nil
}

// await returns when every publish up to the tag is settled, or stop is set.
func (p *producer) await(tag int64, stop *atomic.Bool, deadline <-chan time.Time) error {
	for p.settled.Load() < tag && (stop == nil || !stop.Load()) {
		select {
		case <-p.wake:
		case <-p.readDone:
			return p.readErr
		case <-deadline:
			return fmt.Errorf("%d publishes are not confirmed after %v", tag-p.settled.Load(), lastConfirms)
		}
	}
	return nil
}

// nudge makes await look again.
func (p *producer) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// read takes the confirms, or waits for the broker to say why it closes.
func (p *producer) read() {
	defer close(p.readDone)
	have := p.conn.Rest()
	buf := make([]byte, confirmBuffer)
	kept := copy(buf, have)
	confirms := p.confirms
	if confirms == nil {
		confirms = newConfirms(0)
	}
	for {
		n, err := p.conn.Read(buf[kept:])
		if n == 0 && err != nil {
			p.readErr = fmt.Errorf("read from the broker: %w", err)
			return
		}
		kept += n
		used, err := confirms.scan(buf[:kept], p.sent.Load(), now())
		if err != nil {
			p.readErr = err
			return
		}
		if used == 0 && kept == len(buf) {
			p.readErr = fmt.Errorf("a frame of more than %d bytes", len(buf))
			return
		}
		kept = copy(buf, buf[used:kept])
		if confirms.done > p.settled.Load() {
			p.settled.Store(confirms.done)
			p.nudge()
		}
	}
}
