package main

import (
	"context"
	"time"

	"github.com/ferrymq/ferry"
)

type ferryLoad struct{ client *ferry.Client }

func openFerry(ctx context.Context, url string) (load, error) {
	c, err := ferry.Dial(ctx, url, ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: queue, Transient: true}}}))
	if err != nil {
		return nil, err
	}
	return &ferryLoad{c}, nil
}

func (l *ferryLoad) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = l.client.Close(ctx)
}

func (l *ferryLoad) send(ctx context.Context, o ferry.PublisherOptions, size int, more func(n uint64) bool) (uint64, error) {
	p, err := l.client.Publisher(o)
	if err != nil {
		return 0, err
	}
	m := ferry.Message{Key: queue, Body: make([]byte, size), Transient: true}
	n := uint64(0)
	for ; more(n); n++ {
		if err := p.Submit(ctx, m, nil); err != nil {
			return n, err
		}
	}
	return n, p.Close(ctx)
}

func (l *ferryLoad) publish(ctx context.Context, o options, until time.Time) (uint64, error) {
	return l.send(ctx, ferry.PublisherOptions{NoConfirm: true, Window: o.window}, o.size, before(until))
}

func (l *ferryLoad) confirm(ctx context.Context, o options, until time.Time) (uint64, error) {
	return l.send(ctx, ferry.PublisherOptions{Window: o.window}, o.size, before(until))
}

func (l *ferryLoad) fill(ctx context.Context, o options) error {
	_, err := l.send(ctx, ferry.PublisherOptions{Window: 4000}, o.size, func(n uint64) bool { return n < uint64(o.count) })
	return err
}

func (l *ferryLoad) consume(ctx context.Context, o options) (uint64, error) {
	co, err := l.client.Consumer(ctx, ferry.ConsumerOptions{Queue: queue, Prefetch: o.prefetch})
	if err != nil {
		return 0, err
	}
	n := uint64(0)
	for n < uint64(o.count) {
		d, err := co.Receive(ctx)
		if err != nil {
			return n, err
		}
		if err := d.Ack(); err != nil {
			return n, err
		}
		n++
	}
	return n, co.Close(ctx)
}

// before is true until then; the clock is looked at now and then only.
func before(then time.Time) func(uint64) bool {
	return func(n uint64) bool { return n%256 != 0 || time.Now().Before(then) }
}
