package main

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

type amqp091Load struct {
	conn *amqp.Connection
	ch   *amqp.Channel
}

func openAMQP091(_ context.Context, url string) (load, error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	_, err = ch.QueueDeclare(queue, false, false, false, false, nil)
	return &amqp091Load{conn, ch}, err
}

func (l *amqp091Load) close() { _ = l.conn.Close() }

func (l *amqp091Load) publish(ctx context.Context, o options, until time.Time) (uint64, error) {
	body, more := make([]byte, o.size), before(until)
	n := uint64(0)
	for ; more(n); n++ {
		if err := l.ch.PublishWithContext(ctx, "", queue, false, false, amqp.Publishing{Body: body}); err != nil {
			return n, err
		}
	}
	return n, l.ch.Close() // its answer comes behind everything
}

// confirm keeps a window of messages that are not confirmed, as the library's
// documentation advises: a listener for confirmations, read all the time.
func (l *amqp091Load) confirm(ctx context.Context, o options, until time.Time) (uint64, error) {
	if err := l.ch.Confirm(false); err != nil {
		return 0, err
	}
	confirms := l.ch.NotifyPublish(make(chan amqp.Confirmation, o.window))
	slots := make(chan struct{}, o.window)
	go func() {
		for range confirms {
			<-slots
		}
	}()
	body, more := make([]byte, o.size), before(until)
	n := uint64(0)
	for ; more(n); n++ {
		slots <- struct{}{}
		if err := l.ch.PublishWithContext(ctx, "", queue, true, false, amqp.Publishing{Body: body}); err != nil {
			return n, err
		}
	}
	for range o.window {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
	return n, nil
}

func (l *amqp091Load) consume(ctx context.Context, o options) (uint64, error) {
	if err := l.ch.Qos(o.prefetch, 0, false); err != nil {
		return 0, err
	}
	deliveries, err := l.ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return 0, err
	}
	n := uint64(0)
	for n < uint64(o.count) {
		select {
		case d := <-deliveries:
			if err := d.Ack(false); err != nil {
				return n, err
			}
			n++
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
	return n, l.ch.Close()
}
