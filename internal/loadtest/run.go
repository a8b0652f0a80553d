package loadtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry"
)

// A load is one run.
type load struct {
	o        Options
	topology ferry.Topology // to be there at each connect; empty with NoDeclare
	made     []string       // queues that were not there before

	clients    []*ferry.Client // of producers, then of consumers
	publishers []*ferry.Publisher
	consumers  []*ferry.Consumer
	meters     []*meter              // of producers, then of consumers
	refusal    atomic.Pointer[error] // why the first was refused
}

// Run puts the load on and reports, when all counts are reached, or the duration
// or ctx has ended; the end of ctx is no error. An error means that there is no
// result.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	l := &load{o: o}
	defer l.close(ctx)
	if err := l.connect(ctx); err != nil {
		return nil, err
	}
	if err := l.open(ctx); err != nil {
		return nil, err
	}
	return l.run(ctx), nil
}

// connect makes a client for each producer and each consumer. The first looks
// at what is there before the others declare what is needed.
func (l *load) connect(ctx context.Context) error {
	if l.o.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.o.ConnectTimeout)
		defer cancel()
	}
	for i := range l.o.Producers + l.o.Consumers {
		c, err := ferry.Dial(ctx, l.url(i), l.options(i)...)
		if err != nil {
			return err
		}
		l.clients = append(l.clients, c)
		if i == 0 && !l.o.NoDeclare {
			if err := l.declare(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// url is what the client with index i connects to.
func (l *load) url(i int) string {
	if i >= l.o.Producers && l.o.ConsumeURL != "" {
		return l.o.ConsumeURL
	}
	return l.o.URL
}

// options are those of the client with index i.
func (l *load) options(i int) []ferry.Option {
	var options []ferry.Option
	switch {
	case l.o.Client == nil:
	case i < l.o.Producers:
		options = slices.Clip(l.o.Client(false, i+1))
	default:
		options = slices.Clip(l.o.Client(true, i-l.o.Producers+1))
	}
	if l.o.ConnectTimeout > 0 {
		options = append(options, ferry.WithInitialRetry())
	}
	if i > 0 {
		options = append(options, ferry.WithTopology(l.topology))
	}
	return options
}

func (l *load) declare(ctx context.Context, c *ferry.Client) error {
	exchange := l.o.Exchange
	if l.o.Kind != "" && !strings.HasPrefix(exchange, "amq.") {
		l.topology.Exchanges = []ferry.Exchange{{Name: exchange, Kind: l.o.Kind}}
	}
	for i := range l.o.Queues {
		name := l.o.queue(i)
		_, err := c.Inspect(ctx, name)
		switch {
		case errors.Is(err, ferry.ErrNotFound):
			l.made = append(l.made, name)
		case errors.Is(err, ferry.ErrNotAllowed): // STOMP: it cannot be deleted either
		case err != nil:
			return fmt.Errorf("queue %s: %w", name, err)
		}
		l.topology.Queues = append(l.topology.Queues, ferry.Queue{Name: name, Arguments: l.o.QueueArguments})
		if exchange != "" {
			l.topology.Bindings = append(l.topology.Bindings, ferry.Binding{Exchange: exchange, Key: l.o.Key, Queue: name})
		}
	}
	if err := c.Declare(ctx, l.topology); err != nil {
		return fmt.Errorf("declaring queues: %w", err)
	}
	return nil
}

// open makes publishers and consumers.
func (l *load) open(ctx context.Context) error {
	for i := range l.o.Producers {
		o := ferry.PublisherOptions{Window: l.o.Confirm, NoConfirm: l.o.Confirm == 0, Exchange: l.o.Exchange, Key: l.o.Key}
		if l.o.Exchange == "" {
			o.Key = l.o.queue(i)
		}
		p, err := l.clients[i].Publisher(o)
		if err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
		l.publishers = append(l.publishers, p)
		l.meters = append(l.meters, &meter{})
	}
	for i := range l.o.Consumers {
		c := l.clients[l.o.Producers+i]
		o := ferry.ConsumerOptions{Queue: l.o.queue(i), Prefetch: l.o.Prefetch, NoAck: l.o.AutoAck}
		co, err := c.Consumer(ctx, o)
		if err != nil {
			return fmt.Errorf("consuming from %s: %w", o.Queue, err)
		}
		l.consumers = append(l.consumers, co)
		l.meters = append(l.meters, &meter{consumer: true})
	}
	return nil
}

func (l *load) run(ctx context.Context) *Result {
	start := time.Now()
	b := newBoard(start, l.meters)
	// What receives and reports lasts until what was sent is confirmed.
	working, end := context.WithCancelCause(context.WithoutCancel(ctx))
	producing, stop := context.WithCancelCause(ctx)
	if l.o.Duration > 0 {
		var cancel context.CancelFunc
		producing, cancel = context.WithTimeout(producing, l.o.Duration)
		defer cancel()
	}
	broken := func(err error) {
		stop(err)
		end(err)
	}
	var producers, consumers, reporter sync.WaitGroup
	reporting, reported := context.WithCancel(context.WithoutCancel(ctx))
	reporter.Go(func() { l.report(reporting, b) })
	for i, co := range l.consumers {
		consumers.Go(func() {
			if err := l.receive(working, l.meters[l.o.Producers+i], co, start); err != nil {
				broken(fmt.Errorf("receiving: %w", err))
			}
		})
	}
	for i, p := range l.publishers {
		producers.Go(func() {
			if err := l.send(producing, l.meters[i], p, start); err != nil {
				broken(fmt.Errorf("sending: %w", err))
			}
		})
	}
	finished := make(chan struct{})
	go func() {
		consumers.Wait()
		close(finished)
	}()
	producers.Wait()
	l.flush(working)
	l.drain(working, producing, finished)
	why := context.Cause(working)
	end(nil)
	<-finished
	if cause := context.Cause(producing); ctx.Err() == nil && !errors.Is(cause, context.DeadlineExceeded) {
		why = cmp.Or(why, cause)
	}
	stop(nil)
	reported()
	reporter.Wait()
	r := b.result(l.o)
	if why := l.refusal.Load(); why != nil {
		r.Refusal = *why
	}
	r.Broker = host(l.clients[0].Status().Publish.Endpoint)
	if why != nil {
		r.Err, r.Stopped = why, why.Error()
	}
	return r
}

// flush waits for the outcome of what was sent, for as long as is reasonable.
func (l *load) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	for _, p := range l.publishers {
		if p.Flush(ctx) != nil {
			return // the result counts what is left
		}
	}
}

// drain waits until the consumers have taken what they were to take: their
// counts; or, if the producers have sent theirs, all that there is; else until
// the time has come.
func (l *load) drain(working, producing context.Context, finished <-chan struct{}) {
	if l.o.Consumers == 0 {
		return
	}
	if l.o.Producers == 0 || l.o.ConsumeCount > 0 {
		select {
		case <-finished:
		case <-producing.Done():
		}
		return
	}
	ticker := time.NewTicker(drainEvery)
	defer ticker.Stop()
	moved, before := time.Now(), l.received()
	for time.Since(moved) < idle && before < l.expected() {
		select {
		case <-ticker.C:
		case <-producing.Done():
			return
		case <-working.Done():
			return
		}
		if n := l.received(); n > before {
			moved, before = time.Now(), n
		}
	}
}

// expected is how many deliveries what was sent makes.
func (l *load) expected() uint64 {
	var n uint64
	for _, m := range l.meters[:l.o.Producers] {
		m.mu.Lock()
		n += m.totals.sent.n - m.totals.refused
		m.mu.Unlock()
	}
	if l.o.Exchange != "" {
		n *= uint64(min(l.o.Queues, l.o.Consumers))
	}
	return n
}

func (l *load) received() uint64 {
	var n uint64
	for _, m := range l.meters[l.o.Producers:] {
		m.mu.Lock()
		n += m.totals.received.n
		m.mu.Unlock()
	}
	return n
}

// report takes samples until ctx ends, and a last one.
func (l *load) report(ctx context.Context, b *board) {
	ticker := time.NewTicker(l.o.ReportEvery)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			s := b.sample(now)
			if l.o.Progress != nil {
				l.o.Progress(s)
			}
		case <-ctx.Done():
			b.sample(time.Now())
			return
		}
	}
}

// send is one producer.
func (l *load) send(ctx context.Context, m *meter, p *ferry.Publisher, start time.Time) error {
	bodies := bodies{size: l.o.Size}
	schedule := newSchedule(l.o.Rate, start)
	noConfirm := l.o.Confirm == 0
	for n := uint64(0); l.o.PublishCount == 0 || n < l.o.PublishCount; n++ {
		due, ok := schedule.next(ctx)
		if !ok {
			return nil
		}
		var done func(ferry.Result)
		if !noConfirm {
			done = func(r ferry.Result) {
				o := outcomeOf(r.Err)
				if o == refused {
					l.refusal.CompareAndSwap(nil, &r.Err)
				}
				m.settled(o, due, time.Now())
			}
		}
		if err := p.Submit(ctx, ferry.Message{Body: bodies.make(due), Transient: l.o.Transient}, done); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		m.sent(time.Now())
	}
	return nil
}

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return confirmed
	case errors.Is(err, ferry.ErrRefused):
		return refused
	}
	return unknown
}

// receive is one consumer. It returns when it has had its count, or ctx has
// ended.
func (l *load) receive(ctx context.Context, m *meter, co *ferry.Consumer, start time.Time) error {
	earliest := start.UnixNano()
	for n := uint64(0); l.o.ConsumeCount == 0 || n < l.o.ConsumeCount; n++ {
		d, err := co.Receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		now := time.Now()
		took := time.Duration(-1)
		// Messages that were there before are not timed, only counted.
		if at, ok := sentAt(d.Body); ok && at >= earliest {
			took = time.Duration(now.UnixNano() - at)
		}
		m.received(took, now)
		if l.o.AutoAck {
			continue
		}
		if err := d.Ack(); err != nil && !errors.Is(err, ferry.ErrStale) && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// close ends the connections, and deletes the queues that were made for the load. What they
// say then changes nothing of the result.
func (l *load) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if len(l.clients) > 0 && l.clients[0].Status().Publish.State != ferry.Up {
		cancel() // nobody is there to say goodbye to
	}
	for _, co := range l.consumers {
		_ = co.Close(ctx)
	}
	if len(l.clients) > 0 && !l.o.Keep {
		for _, name := range l.made {
			_, _ = l.clients[0].DeleteQueue(ctx, name)
		}
	}
	var all sync.WaitGroup
	for _, c := range l.clients {
		all.Go(func() { _ = c.Close(ctx) })
	}
	all.Wait()
}

// host is the host and port of a URL.
func host(endpoint string) string {
	if u, err := url.Parse(endpoint); err == nil && u.Host != "" {
		return u.Host
	}
	return endpoint
}
