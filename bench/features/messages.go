package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry/bench/internal/proc"
)

// expiryReport tells of messages of one queue whose expirations are in no order. What
// expires is dead-lettered, and a consumer notes when: the move and the delivery are
// in it.
type expiryReport struct {
	Messages int     `json:"messages"`
	RestMB   float64 `json:"resident_mb"` // when all are in the queue
	Seen     int     `json:"seen"`
	Early    int     `json:"early"`
	P50      float64 `json:"p50_ms"` // behind their time
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
	CPU      float64 `json:"cpu"` // of one core, while they expired
}

func measureExpiry(ctx context.Context, b *broker, messages, rate int, watch time.Duration) (*expiryReport, error) {
	conn, ch, err := b.dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if _, err := ch.QueueDeclare("expired", true, false, false, false, nil); err != nil {
		return nil, err
	}
	_, err = ch.QueueDeclare("short", true, false, false, false, amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "expired"})
	if err != nil {
		return nil, err
	}
	p, err := newPublisher(ch)
	if err != nil {
		return nil, err
	}
	// The first is due when all should be there.
	lead := 15*time.Second + time.Duration(messages/30_000)*time.Second
	due := time.Now().Add(lead)
	body := make([]byte, bodyBytes)
	for _, k := range rand.New(rand.NewPCG(1, 2)).Perm(messages) {
		at := due.Add(time.Duration(k) * time.Second / time.Duration(rate))
		ttl := time.Until(at).Milliseconds()
		if ttl <= 0 {
			return nil, errors.New("a message is due before all are there")
		}
		binary.BigEndian.PutUint64(body, uint64(time.Now().UnixMilli()+ttl))
		if err := p.publish(ctx, "short", amqp.Publishing{Body: body, Expiration: strconv.FormatInt(ttl, 10)}); err != nil {
			return nil, err
		}
	}
	if err := p.settle(0); err != nil {
		return nil, err
	}
	r := &expiryReport{Messages: messages, RestMB: b.resident()}
	return r, r.watch(b, due, watch)
}

func (r *expiryReport) watch(b *broker, due time.Time, watch time.Duration) error {
	conn, ch, err := b.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	deliveries, err := ch.Consume("expired", "", true, false, false, false, nil)
	if err != nil {
		return err
	}
	end := time.NewTimer(time.Until(due) + watch)
	defer end.Stop()
	var late []int64
	var cpu time.Duration
	var first time.Time
	for done := false; !done; {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("the broker has closed the channel")
			}
			now := time.Now()
			if first.IsZero() {
				first, cpu = now, proc.CPU(b.cmd.Process.Pid)
			}
			late = append(late, now.UnixMilli()-int64(binary.BigEndian.Uint64(d.Body)))
		case <-end.C:
			done = true
		}
	}
	if len(late) == 0 {
		return errors.New("nothing has expired")
	}
	r.CPU = (proc.CPU(b.cmd.Process.Pid) - cpu).Seconds() / time.Since(first).Seconds()
	slices.Sort(late)
	r.Seen = len(late)
	r.Early, _ = slices.BinarySearch(late, 0)
	r.P50, r.P99, r.Max = float64(late[len(late)/2]), float64(late[len(late)*99/100]), float64(late[len(late)-1])
	return nil
}

// deadReport tells of messages that a consumer refuses.
type deadReport struct {
	Messages int     `json:"messages"`
	PerS     float64 `json:"per_s"` // from the first refusal until all are in the other queue, and durable
	PeakMB   float64 `json:"peak_mb"`
	CPU      float64 `json:"broker_cpu_us_per_msg"`
}

func measureDead(ctx context.Context, b *broker, messages int) (*deadReport, error) {
	conn, ch, err := b.dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if _, err := ch.QueueDeclare("dead", true, false, false, false, nil); err != nil {
		return nil, err
	}
	_, err = ch.QueueDeclare("q", true, false, false, false, amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
	if err != nil {
		return nil, err
	}
	p, err := newPublisher(ch)
	if err != nil {
		return nil, err
	}
	body := make([]byte, bodyBytes)
	for range messages {
		if err := p.publish(ctx, "q", amqp.Publishing{Body: body}); err != nil {
			return nil, err
		}
	}
	if err := p.settle(0); err != nil {
		return nil, err
	}
	// An acknowledgement of a commit says that what was before it is durable.
	tx, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := tx.Qos(2000, 0, false); err != nil {
		return nil, err
	}
	proc.ResetPeak(b.cmd.Process.Pid)
	cpu, began := proc.CPU(b.cmd.Process.Pid), time.Now()
	deliveries, err := tx.Consume("q", "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	for n := 1; n <= messages; n++ {
		d, ok := <-deliveries
		if !ok {
			return nil, errors.New("the broker has closed the channel")
		}
		if n%500 == 0 || n == messages {
			if err := d.Nack(true, false); err != nil {
				return nil, err
			}
		}
	}
	for {
		q, err := ch.QueueDeclarePassive("dead", true, false, false, false, nil)
		if err != nil {
			return nil, err
		}
		if q.Messages == messages {
			break
		}
		if time.Since(began) > within {
			return nil, fmt.Errorf("%d of %d are dead letters", q.Messages, messages)
		}
		time.Sleep(5 * time.Millisecond)
	}
	// What declares a durable queue waits for all that the log has.
	if _, err := ch.QueueDeclare("end", true, false, false, false, nil); err != nil {
		return nil, err
	}
	took := time.Since(began)
	return &deadReport{
		Messages: messages, PerS: float64(messages) / took.Seconds(),
		PeakMB: float64(proc.Peak(b.cmd.Process.Pid)) / 1024,
		CPU:    float64((proc.CPU(b.cmd.Process.Pid) - cpu).Microseconds()) / float64(messages),
	}, nil
}
