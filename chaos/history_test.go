package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry/internal/history"
)

const (
	// observerHeartbeat is longer than any pause: who observes a broker that is
	// paused is still connected to it when it wakes.
	observerHeartbeat = 30 * time.Second

	// observerRetry is between attempts to reach a broker that does not serve.
	observerRetry = 10 * time.Millisecond

	// observerLogin is within what a broker that accepts must have let one in.
	observerLogin = 2 * time.Second

	observerPrefetch = 10

	// historyID is what the ids of all messages of a history begin with.
	historyID = "history-"
)

// Observers publish to and receive from each of several brokers that share their
// messages, and write down what each says. They never leave a broker for another:
// each waits at its own for it to serve, so that one which should not serve is found
// out. Every message is sent once, under an id of its own.
type observers struct {
	rec  *history.Recorder
	user string // and password
	dial func(network, addr string) (net.Conn, error)
	pace time.Duration

	group sync.WaitGroup
	take  func(queue string) // begins to receive from another queue
	stop  context.CancelFunc // of the publishers
	end   context.CancelFunc // of the receivers

	mu     sync.Mutex
	faults []error // of their own
}

// The queues of observers: one is received from all the time, the other is left
// until the end, so that its messages are in the hands of every owner.
const (
	passing = "history.passing"
	kept    = "history.kept"
)

// observe begins to publish to brokers at these addresses, a message each pace to
// each, and to receive.
func observe(o *observers, addrs ...string) {
	o.rec = history.NewRecorder()
	var publishing, receiving context.Context
	publishing, o.stop = context.WithCancel(context.Background())
	receiving, o.end = context.WithCancel(context.Background())
	o.take = func(queue string) {
		for _, addr := range addrs {
			o.group.Go(func() { o.receive(receiving, addr, queue) })
		}
	}
	o.take(passing)
	for n, addr := range addrs {
		o.group.Go(func() { o.publish(publishing, addr, fmt.Sprint(historyID, n, "-")) })
	}
}

// drain ends publishing and receives until all that was confirmed has come, or
// nothing more comes for quiet.
func (o *observers) drain(quiet time.Duration) {
	o.stop()
	o.take(kept)
	missing := map[string]bool{} // what was confirmed and has not come; false: what has come before its confirm
	read := 0
	for last := time.Now(); time.Since(last) < quiet; time.Sleep(20 * time.Millisecond) {
		h := o.rec.History()
		if read < len(h) {
			last = time.Now()
		}
		left := 0
		for _, e := range h[read:] {
			switch e.Kind {
			case history.Confirmed:
				if _, came := missing[e.ID]; !came {
					missing[e.ID] = true
				}
			case history.Delivered:
				missing[e.ID] = false
			}
		}
		read = len(h)
		for _, m := range missing {
			if m {
				left++
			}
		}
		if left == 0 && time.Since(last) > quiet/10 {
			return
		}
	}
}

// A moment is a place in a history.
type moment struct {
	at    time.Duration
	index int
}

// now is the present.
func (o *observers) now() moment { return moment{o.rec.Now(), len(o.rec.History())} }

// confirmed waits for the first confirm of a message that was sent after m on a
// connection of an epoch that is at least epoch, and gives the time from m to it.
func (o *observers) confirmed(m moment, epoch uint64, limit time.Duration) (took time.Duration, ok bool) {
	epochs := map[int]uint64{}
	sent := map[string]bool{}
	read := 0
	ok = until(limit, func() bool {
		h := o.rec.History()
		for ; read < len(h); read++ {
			e := &h[read]
			switch {
			case e.Kind == history.Connected:
				epochs[e.Conn] = e.Epoch
			case e.Kind == history.Sent && read >= m.index:
				sent[e.ID] = true
			case e.Kind == history.Confirmed && sent[e.ID] && epochs[e.Conn] >= epoch:
				took = e.At - m.at
				return true
			}
		}
		return false
	})
	return took, ok
}

// gap is the longest time between two confirms from m on until then.
func (o *observers) gap(m moment, then time.Duration) (longest time.Duration) {
	last := m.at
	for _, e := range o.rec.History()[m.index:] {
		if e.At > then {
			break
		}
		if e.Kind == history.Confirmed {
			longest = max(longest, e.At-last)
			last = e.At
		}
	}
	return longest
}

// owner is who said last that it is of the highest epoch.
func (o *observers) owner() (node string, epoch uint64) {
	for _, e := range o.rec.History() {
		if e.Kind == history.Connected && e.Epoch >= epoch {
			node, epoch = e.Node, e.Epoch
		}
	}
	return node, epoch
}

// close ends everything.
func (o *observers) close() {
	o.stop()
	o.end()
	o.group.Wait()
}

func (o *observers) fault(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.faults) < 10 {
		o.faults = append(o.faults, err)
	}
}

// An observation is a connection to a broker that said who it is.
type observation struct {
	*amqp.Connection
	*amqp.Channel
	number int           // in the history
	closed chan struct{} // when nothing more will be said on it
}

var errNamesNothing = errors.New("the broker names neither its node nor its epoch")

// connect waits until the broker serves. It returns nil when ctx ends.
func (o *observers) connect(ctx context.Context, addr string, prefetch int) *observation {
	for ctx.Err() == nil {
		if c, err := o.open(addr, prefetch); err == nil {
			return c
		} else if errors.Is(err, errNamesNothing) {
			o.fault(err)
			return nil
		}
		select {
		case <-time.After(observerRetry):
		case <-ctx.Done():
		}
	}
	return nil
}

func (o *observers) open(addr string, prefetch int) (*observation, error) {
	conn, err := amqp.DialConfig(fmt.Sprintf("amqp://%[1]s:%[1]s@%[2]s/", o.user, addr), amqp.Config{
		Heartbeat: observerHeartbeat,
		Dial: func(network, addr string) (net.Conn, error) {
			conn, err := o.dial(network, addr)
			if err == nil {
				err = conn.SetDeadline(time.Now().Add(observerLogin)) // amqp091 clears it
			}
			return conn, err
		},
	})
	if err != nil {
		return nil, err
	}
	c := &observation{Connection: conn, closed: make(chan struct{})}
	ended := conn.NotifyClose(make(chan *amqp.Error, 1))
	go func() { // it ends with the connection
		for range ended {
		}
		close(c.closed)
	}()
	node, named := conn.Properties["node"].(string)
	epoch, numbered := unsigned(conn.Properties["epoch"])
	if !named || !numbered {
		_ = conn.CloseDeadline(time.Now().Add(observerLogin))
		return nil, fmt.Errorf("%w: %v", errNamesNothing, conn.Properties)
	}
	c.number = o.rec.Connected(node, epoch, prefetch)
	if c.Channel, err = conn.Channel(); err == nil {
		for _, q := range []string{passing, kept} {
			if _, err = c.QueueDeclare(q, true, false, false, false, nil); err != nil {
				break
			}
		}
	}
	if err == nil && prefetch > 0 {
		err = c.Qos(prefetch, 0, false)
	}
	if err != nil {
		o.leave(c)
		return nil, err
	}
	return c, nil
}

// leave ends a connection, and waits until nothing of it comes any more.
func (o *observers) leave(c *observation) {
	_ = c.CloseDeadline(time.Now().Add(observerLogin))
	o.rec.Disconnected(c.number)
}

func unsigned(v any) (uint64, bool) {
	switch n := v.(type) {
	case int64:
		return uint64(n), n >= 0
	case int32:
		return uint64(n), n >= 0
	default:
		return 0, false
	}
}

// publish sends a message each pace, to the two queues in turn, for as long as ctx
// lasts, and then waits for the confirms.
func (o *observers) publish(ctx context.Context, addr, prefix string) {
	next := 0
	for ctx.Err() == nil {
		c := o.connect(ctx, addr, 0)
		if c == nil {
			return
		}
		// The channel's confirms are numbered as its publishes are.
		const window = 1000
		var mu sync.Mutex
		var ids []string
		confirms := c.NotifyPublish(make(chan amqp.Confirmation, window))
		if err := c.Confirm(false); err != nil {
			o.leave(c)
			continue
		}
		var pending sync.WaitGroup // messages, of a channel that is well
		read := make(chan struct{})
		go func() {
			defer close(read)
			for confirm := range confirms {
				mu.Lock()
				id := ids[confirm.DeliveryTag-1]
				mu.Unlock()
				if confirm.Ack {
					o.rec.Confirmed(c.number, id)
				} else {
					o.rec.Refused(c.number, id)
				}
				pending.Done()
			}
		}()
		tick := time.NewTicker(o.pace)
		for alive := true; alive; {
			select {
			case <-c.closed:
				alive = false
				continue
			case <-ctx.Done():
				done := make(chan struct{})
				go func() { pending.Wait(); close(done) }()
				select {
				case <-done:
				case <-c.closed:
				case <-time.After(confirmLimit):
					o.fault(fmt.Errorf("%s: confirms are missing after %v", addr, confirmLimit))
				}
				alive = false
				continue
			case <-tick.C:
			}
			id := fmt.Sprint(prefix, next)
			queue := passing
			if next%2 == 0 {
				queue = kept
			}
			next++
			mu.Lock()
			ids = append(ids, id)
			mu.Unlock()
			pending.Add(1)
			o.rec.Sent(c.number, id)
			// What fails was perhaps written all the same.
			if err := c.Publish("", queue, false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: id, Body: []byte(id)}); err != nil {
				alive = false
			}
		}
		tick.Stop()
		_ = c.CloseDeadline(time.Now().Add(observerLogin))
		<-read
		o.rec.Disconnected(c.number)
	}
}

// receive takes the messages of a queue and acknowledges each, for as long as ctx
// lasts.
func (o *observers) receive(ctx context.Context, addr, queue string) {
	for ctx.Err() == nil {
		c := o.connect(ctx, addr, observerPrefetch)
		if c == nil {
			return
		}
		deliveries, err := c.Consume(queue, "", false, false, false, false, nil)
		for err == nil {
			var d amqp.Delivery
			var ok bool
			select {
			case d, ok = <-deliveries:
			case <-ctx.Done():
			}
			if !ok {
				break
			}
			if string(d.Body) != d.MessageId {
				o.fault(fmt.Errorf("%s: message %q has the body %q", queue, d.MessageId, d.Body))
			}
			o.rec.Delivered(c.number, d.MessageId, d.Redelivered)
			o.rec.Acknowledged(c.number, d.MessageId)
			err = d.Ack(false)
		}
		o.leave(c)
	}
}
