// Command delayed has an exchange of type x-delayed-message keep many messages, kills
// the broker, starts it again, and prints as one JSON object what memory they need and
// how late they come.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry/bench/internal/proc"
)

const (
	bodyBytes   = 100
	startWithin = 2 * time.Minute
	unconfirmed = 2000 // publishes under way
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "delayed:", err)
		os.Exit(1)
	}
}

// A plan is what is asked for.
type plan struct {
	ferry    string
	messages int
	rate     int           // due in a second
	lead     time.Duration // before the first is due, from the start of publishing
	watch    time.Duration // that messages are received for
}

// A report is what was measured.
type report struct {
	Messages    int     `json:"messages"`
	PublishPerS float64 `json:"publish_per_s"` // confirmed
	IdleMB      float64 `json:"idle_mb"`       // resident before the first message
	KeptMB      float64 `json:"kept_mb"`       // resident when all are kept
	PeakMB      float64 `json:"peak_mb"`       // at most until then
	ServingS    float64 `json:"serving_s"`     // from the start after kill -9
	RestartedMB float64 `json:"restarted_mb"`  // resident then
	Received    int     `json:"received"`
	PerS        float64 `json:"per_s"`
	Early       int     `json:"early"`
	P50         float64 `json:"p50_ms"` // behind their time
	P99         float64 `json:"p99_ms"`
	Max         float64 `json:"max_ms"`
	MovingMB    float64 `json:"moving_mb"` // resident at most while they were received
	CPU         float64 `json:"cpu"`       // of one core, meanwhile
}

func run(ctx context.Context) error {
	var p plan
	flag.StringVar(&p.ferry, "ferry", "../bin/ferry", "the broker's `binary`")
	flag.IntVar(&p.messages, "messages", 1_000_000, "`number` of delayed messages, each of 100 bytes")
	flag.IntVar(&p.rate, "rate", 5000, "`number` of them that are due in a second")
	flag.DurationVar(&p.lead, "lead", 90*time.Second, "`time` from the first publish until the first is due; all must be published by then")
	flag.DurationVar(&p.watch, "watch", 30*time.Second, "`time` that messages are received")
	flag.Parse()
	dir, err := os.MkdirTemp("", "ferry-delayed-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r, err := p.measure(ctx, dir)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (p *plan) measure(ctx context.Context, dir string) (*report, error) {
	b, err := p.start(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { b.kill() }()
	r := &report{Messages: p.messages, IdleMB: b.resident()}
	proc.ResetPeak(b.cmd.Process.Pid)
	began := time.Now()
	due := began.Add(p.lead)
	if err := p.publish(ctx, b, due); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	r.PublishPerS = float64(p.messages) / time.Since(began).Seconds()
	r.KeptMB, r.PeakMB = b.resident(), float64(proc.Peak(b.cmd.Process.Pid))/1024
	b.kill()
	began = time.Now()
	if b, err = p.start(ctx, dir); err != nil {
		return nil, err
	}
	r.ServingS = time.Since(began).Seconds()
	r.RestartedMB = b.resident()
	if time.Now().After(due) {
		return nil, fmt.Errorf("the first is due before the broker is back: -lead is too short")
	}
	return r, p.receive(ctx, b, due, r)
}

// A broker is a process of ferry serve.
type broker struct {
	cmd  *exec.Cmd
	addr string
}

var listening = regexp.MustCompile(`127\.0\.0\.1:\d+`)

func (p *plan) start(ctx context.Context, dir string) (*broker, error) {
	cmd := exec.CommandContext(ctx, p.ferry, "serve", "--store", "file:"+filepath.Join(dir, "store"),
		"--amqp", "127.0.0.1:0", "--stomp", "off", "--gmq", "off", "--http", "off")
	out, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b := &broker{cmd: cmd}
	found := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if addr := listening.FindString(lines.Text()); addr != "" {
				select {
				case found <- addr:
				default:
				}
			}
		}
	}()
	select {
	case b.addr = <-found:
		return b, nil
	case <-time.After(startWithin):
		b.kill()
		return nil, errors.New("the broker has not told where it listens")
	}
}

func (b *broker) kill() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
}

func (b *broker) resident() float64 { return float64(proc.Resident(b.cmd.Process.Pid)) / 1024 }

func (b *broker) dial() (*amqp.Connection, *amqp.Channel, error) {
	conn, err := amqp.Dial("amqp://guest:guest@" + b.addr + "/")
	if err != nil {
		return nil, nil, err
	}
	ch, err := conn.Channel()
	return conn, ch, err
}

// publish sends all messages, in an order that is not that of their times, and waits
// for their confirms.
func (p *plan) publish(ctx context.Context, b *broker, due time.Time) error {
	conn, ch, err := b.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := ch.ExchangeDeclare("later", "x-delayed-message", true, false, false, false, amqp.Table{"x-delayed-type": "fanout"}); err != nil {
		return err
	}
	if _, err := ch.QueueDeclare("now", true, false, false, false, nil); err != nil {
		return err
	}
	if err := ch.QueueBind("now", "", "later", false, nil); err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, unconfirmed))
	body := make([]byte, bodyBytes)
	waiting := 0
	for _, k := range rand.New(rand.NewPCG(1, 2)).Perm(p.messages) {
		at := due.Add(time.Duration(k) * time.Second / time.Duration(p.rate))
		delay := time.Until(at).Milliseconds()
		if delay <= 0 {
			return errors.New("a message is due already: -lead is too short")
		}
		binary.BigEndian.PutUint64(body, uint64(time.Now().UnixMilli()+delay))
		if err := ch.PublishWithContext(ctx, "later", "", false, false, amqp.Publishing{
			DeliveryMode: amqp.Persistent, Headers: amqp.Table{"x-delay": delay}, Body: body,
		}); err != nil {
			return err
		}
		for waiting++; waiting >= unconfirmed; waiting-- {
			if c := <-confirms; !c.Ack {
				return errors.New("a message was refused")
			}
		}
	}
	for ; waiting > 0; waiting-- {
		if c := <-confirms; !c.Ack {
			return errors.New("a message was refused")
		}
	}
	return nil
}

// receive takes messages as they come, and tells how late they were.
func (p *plan) receive(ctx context.Context, b *broker, due time.Time, r *report) error {
	conn, ch, err := b.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := ch.Qos(unconfirmed, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.Consume("now", "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	end := time.NewTimer(time.Until(due) + p.watch)
	defer end.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	var late []int64
	var cpu time.Duration
	first := time.Time{}
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
			if err := d.Ack(false); err != nil {
				return err
			}
			done = len(late) == p.messages
		case <-look.C:
			r.MovingMB = max(r.MovingMB, b.resident())
		case <-end.C:
			done = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	took := time.Since(first)
	r.CPU = (proc.CPU(b.cmd.Process.Pid) - cpu).Seconds() / took.Seconds()
	r.Received, r.PerS = len(late), float64(len(late))/took.Seconds()
	slices.Sort(late)
	for _, ms := range late {
		if ms < 0 {
			r.Early++
		}
	}
	if n := len(late); n > 0 {
		r.P50, r.P99, r.Max = float64(late[n/2]), float64(late[n*99/100]), float64(late[n-1])
	}
	return nil
}
