package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry"
)

// appID marks messages of this package, beside their run's id as the type.
const appID = "ferry-verify"

// A run is one use of the instrument.
type run struct {
	o      Options
	id     uint64
	name   string // the id in text
	start  time.Time
	ledger *ledger

	publishing *ferry.Client
	consuming  *ferry.Client // the same one, if it consumes from the same brokers
	made       bool          // the queue was not there before

	publishers []*ferry.Publisher
	consumers  []*ferry.Consumer

	refusal  atomic.Pointer[error] // why the first was refused
	moved    chan struct{}         // one slot: an outcome or a delivery came
	progress atomic.Int64          // when the latest outcome or first arrival came, since start
	arrival  atomic.Int64          // when the latest delivery came
}

// Run does one run: it declares the queue, sends and receives until the count,
// the duration or ctx ends, waits until nothing is missing or nothing new comes,
// and reports. An end of ctx is no error, and what is under way then is waited for
// all the same. An error means that there is no result.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	r := &run{o: o, id: rand.Uint64(), start: time.Now(), moved: make(chan struct{}, 1)}
	r.name = fmt.Sprintf("%016x", r.id)
	r.ledger = newLedger(o.Producers, o.Consumers, r.start)
	defer r.close(ctx)
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	if err := r.declare(ctx); err != nil {
		return nil, fmt.Errorf("queue %s: %w", o.Queue, err)
	}
	return r.run(ctx)
}

func (r *run) connect(ctx context.Context) error {
	if r.o.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.o.ConnectTimeout)
		defer cancel()
	}
	var err error
	if r.publishing, err = r.dial(ctx, r.o.URL); err != nil {
		return err
	}
	if r.o.ConsumeURL == "" {
		r.consuming = r.publishing
		return nil
	}
	if r.consuming, err = r.dial(ctx, r.o.ConsumeURL); err != nil {
		return fmt.Errorf("to consume: %w", err)
	}
	return nil
}

// dial connects one client; it is nil if there is an error.
func (r *run) dial(ctx context.Context, url string) (*ferry.Client, error) {
	var options []ferry.Option
	if r.o.Client != nil {
		options = r.o.Client()
	}
	if r.o.ConnectTimeout > 0 {
		options = append(slices.Clip(options), ferry.WithInitialRetry())
	}
	return ferry.Dial(ctx, url, options...)
}

// clients are the connections, each once.
func (r *run) clients() []*ferry.Client {
	switch {
	case r.publishing == nil:
		return nil
	case r.consuming == nil || r.consuming == r.publishing:
		return []*ferry.Client{r.publishing}
	}
	return []*ferry.Client{r.publishing, r.consuming}
}

func (r *run) declare(ctx context.Context) error {
	if r.o.NoDeclare {
		return nil
	}
	_, err := r.publishing.Inspect(ctx, r.o.Queue)
	r.made = errors.Is(err, ferry.ErrNotFound)
	if err != nil && !r.made && !errors.Is(err, ferry.ErrNotAllowed) { // STOMP has no way to ask, nor to delete
		return err
	}
	queue := ferry.Queue{Name: r.o.Queue, Arguments: r.o.QueueArguments, IfAbsent: true}
	for _, c := range r.clients() {
		if err := c.Declare(ctx, ferry.Topology{Queues: []ferry.Queue{queue}}); err != nil {
			return err
		}
	}
	return nil
}

// run sends and receives, and waits for what is under way.
func (r *run) run(ctx context.Context) (*Report, error) {
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	// What receives and reports goes on when ctx has ended, until all is settled.
	working, end := context.WithCancelCause(context.WithoutCancel(ctx))
	producing, stop := context.WithCancelCause(ctx)
	if r.o.Duration > 0 {
		var cancel context.CancelFunc
		producing, cancel = context.WithTimeout(producing, r.o.Duration)
		defer cancel()
	}
	broken := func(err error) {
		stop(err)
		end(err)
	}
	var producers, others sync.WaitGroup
	for i, co := range r.consumers {
		others.Go(func() {
			if err := r.receive(working, i, co); err != nil {
				broken(fmt.Errorf("receiving: %w", err))
			}
		})
	}
	others.Go(func() { r.tell(working) })
	for i, p := range r.publishers {
		producers.Go(func() {
			if err := r.send(producing, i, p); err != nil {
				stop(fmt.Errorf("sending: %w", err))
			}
		})
	}
	producers.Wait()
	if r.o.Phase != nil {
		r.o.Phase("sending has ended, waiting for what is under way")
	}
	r.settle(working)
	deaf := context.Cause(working)
	why := cmp.Or(deaf, r.failure(ctx, producing))
	end(nil)
	others.Wait()
	stop(nil)
	report := r.report()
	report.Deaf = deaf != nil
	if why != nil {
		report.Err, report.Stopped = why, why.Error()
	}
	return report, nil
}

// failure is why sending ended, if that was neither the caller's wish nor the time.
func (r *run) failure(ctx, producing context.Context) error {
	err := context.Cause(producing)
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// open makes publishers and consumers, these first so that nothing waits.
func (r *run) open(ctx context.Context) error {
	for range r.o.Consumers {
		co, err := r.consuming.Consumer(ctx, ferry.ConsumerOptions{Queue: r.o.Queue, Prefetch: r.o.Prefetch, Dedup: r.o.Dedup})
		if err != nil {
			return fmt.Errorf("consuming from %s: %w", r.o.Queue, err)
		}
		r.consumers = append(r.consumers, co)
	}
	for range r.o.Producers {
		p, err := r.publishing.Publisher(ferry.PublisherOptions{Key: r.o.Queue, Window: r.o.Window})
		if err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
		r.publishers = append(r.publishers, p)
	}
	return nil
}

// send is one producer.
func (r *run) send(ctx context.Context, producer int, p *ferry.Publisher) error {
	left := r.o.share(producer)
	pace := newPace(r.o.Rate/float64(r.o.Producers), time.Now())
	for (r.o.Count == 0 || left > 0) && pace.wait(ctx) {
		now := time.Now()
		s := stamp{run: r.id, producer: uint32(producer), sequence: r.ledger.submit(producer, now), sent: now.UnixNano()}
		m := ferry.Message{
			Body: appendBody(make([]byte, 0, r.o.Size), s, r.o.Size), Transient: r.o.Transient,
			Type: r.name, AppID: appID,
		}
		err := p.Submit(ctx, m, func(result ferry.Result) { r.outcome(producer, s.sequence, result.Err) })
		if err != nil {
			r.ledger.withdraw(producer)
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		left--
	}
	return nil
}

func (r *run) outcome(producer int, sequence uint64, err error) {
	now := time.Now()
	o := confirmed
	switch {
	case errors.Is(err, ferry.ErrRefused):
		o = refused
		r.refusal.CompareAndSwap(nil, &err)
	case err != nil:
		o = unknown
	}
	r.ledger.settle(producer, sequence, o, now)
	r.progress.Store(int64(now.Sub(r.start)))
	r.move()
}

// receive is one consumer. It returns when ctx has ended.
func (r *run) receive(ctx context.Context, consumer int, co *ferry.Consumer) error {
	for {
		d, err := co.Receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		r.take(consumer, d)
		// What can no longer be acknowledged comes again, and is counted then.
		if err := d.Ack(); err != nil && !errors.Is(err, ferry.ErrStale) && ctx.Err() == nil {
			return err
		}
	}
}

func (r *run) take(consumer int, d *ferry.Delivery) {
	now := time.Now()
	s, err := parseBody(d.Body, r.id, r.o.Size, d.AppID == appID && d.Type == r.name)
	switch {
	case errors.Is(err, errForeign):
		r.ledger.foreign.Add(1)
		return
	case err != nil:
		r.ledger.damaged.Add(1)
		return
	}
	if r.ledger.arrive(consumer, s, marks{redelivered: d.Redelivered, resent: d.Attempt > 1}, now) {
		r.progress.Store(int64(now.Sub(r.start)))
	}
	r.arrival.Store(int64(now.Sub(r.start)))
	r.move()
}

func (r *run) move() {
	select {
	case r.moved <- struct{}{}:
	default:
	}
}

// settle waits until every message has its outcome and all that were confirmed
// have arrived, and no repeat of one has come for a while; or until nothing new
// has come for the settle timeout.
func (r *run) settle(ctx context.Context) {
	stopped := time.Since(r.start)
	defer func() {
		if unsettled, _ := r.ledger.pending(); unsettled > 0 {
			// The gaps that had no end.
			r.ledger.confirms.mark(r.start.Add(stopped))
			r.ledger.deliveries.mark(r.start.Add(stopped))
		}
	}()
	for {
		progress := max(stopped, time.Duration(r.progress.Load()))
		until := progress + r.o.SettleTimeout
		if unsettled, missing := r.ledger.pending(); unsettled == 0 && missing == 0 {
			until = min(until, max(progress, time.Duration(r.arrival.Load()))+quiet)
		}
		wait := until - time.Since(r.start)
		if wait <= 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-r.moved:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// tell reports progress until ctx ends.
func (r *run) tell(ctx context.Context) {
	if r.o.Progress == nil {
		return
	}
	ticker := time.NewTicker(r.o.ReportEvery)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			r.o.Progress(Progress{At: now, Elapsed: now.Sub(r.start), Counts: r.ledger.counts()})
		case <-ctx.Done():
			return
		}
	}
}

func (r *run) report() *Report {
	confirmGap, deliveryGap := r.ledger.confirms.max(), r.ledger.deliveries.max()
	report := &Report{
		Run: r.name, Queue: r.o.Queue, Counts: r.ledger.counts(),
		LongestGap:     max(confirmGap, deliveryGap).Milliseconds(),
		LongestConfirm: confirmGap.Milliseconds(),
		LongestDeliver: deliveryGap.Milliseconds(),
		Failovers:      uint64(max(0, r.publishing.Status().Publish.Connects-1)),
		Seconds:        time.Since(r.start).Seconds(),
		Missing:        r.ledger.missing(maxMissing),
	}
	if why := r.refusal.Load(); why != nil {
		report.Refusal = *why
	}
	for _, co := range r.consumers {
		report.Dropped += co.Stats().Duplicates
	}
	return report
}

// close ends the connections, and the queue if it was made for this run. What
// they say then changes nothing of the result.
func (r *run) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	for _, c := range r.clients() {
		if c.Status().Publish.State != ferry.Up {
			cancel() // nobody is there to say goodbye to
		}
	}
	for _, co := range r.consumers {
		_ = co.Close(ctx)
	}
	for _, c := range r.clients() {
		if r.made && !r.o.Keep {
			_, _ = c.DeleteQueue(ctx, r.o.Queue)
		}
	}
	for _, c := range r.clients() {
		_ = c.Close(ctx)
	}
}
