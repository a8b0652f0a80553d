// Command features measures what RabbitMQ's users rely on beyond publishing and
// receiving, on a ferry serve of its own, and prints one JSON object: how late
// messages expire, how many dead letters a second move, and what the management API
// takes with many queues.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry/bench/internal/proc"
)

const (
	bodyBytes   = 100
	startWithin = time.Minute
	unconfirmed = 2000 // publishes under way
	// within is for anything that is waited for.
	within = 5 * time.Minute
)

// A report is what was measured. Every message is persistent.
type report struct {
	Expiry  *expiryReport  `json:"expiry,omitempty"`
	Dead    *deadReport    `json:"dead_letters,omitempty"`
	Objects *objectsReport `json:"objects,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "features:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	ferry := flag.String("ferry", "../bin/ferry", "the broker's `binary`")
	only := flag.String("only", "", "expiry, dead or objects alone")
	messages := flag.Int("messages", 1_000_000, "`number` of messages that expire, and of dead letters")
	rate := flag.Int("rate", 20_000, "`number` of messages that expire in a second")
	watch := flag.Duration("watch", 20*time.Second, "`time` for which it is looked how late they expire")
	queues := flag.Int("queues", 100_000, "`number` of queues, and of bindings")
	flag.Parse()
	var r report
	for _, part := range []struct {
		name string
		do   func(context.Context, *broker) error
	}{
		{"expiry", func(ctx context.Context, b *broker) (err error) {
			r.Expiry, err = measureExpiry(ctx, b, *messages, *rate, *watch)
			return err
		}},
		{"dead", func(ctx context.Context, b *broker) (err error) {
			r.Dead, err = measureDead(ctx, b, *messages)
			return err
		}},
		{"objects", func(ctx context.Context, b *broker) (err error) {
			r.Objects, err = measureObjects(ctx, b, *queues)
			return err
		}},
	} {
		if *only != "" && *only != part.name {
			continue
		}
		if err := with(ctx, *ferry, part.do); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if r == (report{}) {
		return fmt.Errorf("there is no part %q", *only)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(r)
}

// A broker is a process of ferry serve.
type broker struct {
	cmd        *exec.Cmd
	amqp, http string
}

var listening = regexp.MustCompile(`(amqp|http) (127\.0\.0\.1:\d+)`)

// with starts a broker, uses it, and kills it.
func with(ctx context.Context, ferry string, use func(context.Context, *broker) error) (err error) {
	dir, err := os.MkdirTemp("", "ferry-features-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cmd := exec.CommandContext(ctx, ferry, "serve", "--store", "file:"+filepath.Join(dir, "store"),
		"--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--stomp", "off", "--gmq", "off")
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b := &broker{cmd: cmd}
	ready, read := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			found := listening.FindAllStringSubmatch(lines.Text(), -1)
			if len(found) == 2 && b.amqp == "" {
				b.amqp, b.http = found[0][2], found[1][2]
				close(ready)
			}
		}
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait() // it was killed
	}()
	select {
	case <-ready:
		return use(ctx, b)
	case <-read:
		return errors.New("the broker has ended")
	case <-time.After(startWithin):
		return errors.New("the broker has not told where it listens")
	}
}

func (b *broker) resident() float64 { return float64(proc.Resident(b.cmd.Process.Pid)) / 1024 }

func (b *broker) dial() (*amqp.Connection, *amqp.Channel, error) {
	conn, err := amqp.Dial("amqp://guest:guest@" + b.amqp + "/")
	if err != nil {
		return nil, nil, err
	}
	ch, err := conn.Channel()
	return conn, ch, err
}

// A publisher has so many publishes under way.
type publisher struct {
	ch       *amqp.Channel
	confirms chan amqp.Confirmation
	waiting  int
}

func newPublisher(ch *amqp.Channel) (*publisher, error) {
	if err := ch.Confirm(false); err != nil {
		return nil, err
	}
	return &publisher{ch: ch, confirms: ch.NotifyPublish(make(chan amqp.Confirmation, unconfirmed))}, nil
}

func (p *publisher) publish(ctx context.Context, queue string, m amqp.Publishing) error {
	m.DeliveryMode = amqp.Persistent
	if err := p.ch.PublishWithContext(ctx, "", queue, false, false, m); err != nil {
		return err
	}
	p.waiting++
	return p.settle(unconfirmed - 1)
}

// settle waits until no more than so many are under way.
func (p *publisher) settle(most int) error {
	for ; p.waiting > most; p.waiting-- {
		if c, ok := <-p.confirms; !ok || !c.Ack {
			return errors.New("a message was refused")
		}
	}
	return nil
}
