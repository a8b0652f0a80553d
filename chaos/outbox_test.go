package chaos

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry"
)

// The environment of a sender.
const (
	senderURL    = "FERRY_CHAOS_SENDER_URL"
	senderOutbox = "FERRY_CHAOS_SENDER_OUTBOX"
	senderLife   = "FERRY_CHAOS_SENDER_LIFE"

	outboxQueue = "numbers"
)

// sendNumbers is the program whose messages must not be lost when it is killed. It
// publishes "LIFE NUMBER" to an outbox and prints what was accepted, until its
// standard input ends; then it waits until a broker has everything.
func sendNumbers() error {
	ctx := context.Background()
	client, err := ferry.Dial(ctx, os.Getenv(senderURL),
		ferry.WithOutbox(os.Getenv(senderOutbox), 0), ferry.WithBackoff(10*time.Millisecond, 200*time.Millisecond),
		ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{{Name: outboxQueue}}}))
	if err != nil {
		return err
	}
	publisher, err := client.Publisher(ferry.PublisherOptions{Key: outboxQueue})
	if err != nil {
		return err
	}
	told := make(chan struct{})
	go func() { // until the process ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(told)
	}()
	for n := 0; ; n++ {
		select {
		case <-told:
			if err := publisher.Flush(ctx); err != nil {
				return err
			}
			return client.Close(ctx)
		default:
		}
		body := fmt.Sprint(os.Getenv(senderLife), " ", n)
		if err := publisher.Publish(ctx, ferry.Message{Body: []byte(body)}); err != nil {
			return err
		}
		fmt.Println(body)
		time.Sleep(time.Millisecond)
	}
}

// A sender is a process that sends numbers, and again as another after it was
// killed.
type sender struct {
	t      *testing.T
	url    string
	outbox string
	lives  int

	cmd    *exec.Cmd
	stdin  io.Closer
	stderr bytes.Buffer
	ended  chan struct{} // closed when what it printed was read

	mu       sync.Mutex
	accepted []string
}

func (s *sender) start() {
	s.t.Helper()
	s.lives++
	s.ended = make(chan struct{})
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), senderURL+"="+s.url, senderOutbox+"="+s.outbox, senderLife+"="+strconv.Itoa(s.lives))
	s.stderr.Reset()
	s.cmd.Stderr = &s.stderr
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.stdin = stdin
	cmd, ended := s.cmd, s.ended
	go func() {
		defer close(ended)
		lines := bufio.NewReader(stdout)
		for {
			line, err := lines.ReadString('\n')
			if err != nil { // half a line was not said
				return
			}
			s.mu.Lock()
			s.accepted = append(s.accepted, line[:len(line)-1])
			s.mu.Unlock()
		}
	}()
	s.t.Cleanup(func() { _ = cmd.Process.Kill() })
}

func (s *sender) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.accepted)
}

// more waits until it has accepted n more messages.
func (s *sender) more(n int) {
	s.t.Helper()
	before := s.count()
	if !until(startLimit, func() bool { return s.count() >= before+n }) {
		s.t.Fatalf("the sender has accepted %d messages and then no %d within %s: %s", before, n, startLimit, &s.stderr)
	}
}

// kill ends it without a chance to do anything.
func (s *sender) kill() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	<-s.ended
	_ = s.cmd.Wait()
}

// finish has it hand over everything and end.
func (s *sender) finish() {
	s.t.Helper()
	s.stdin.Close()
	select {
	case <-s.ended:
	case <-time.After(endLimit):
		s.t.Errorf("the sender has not handed over its outbox within %s", endLimit)
		s.kill()
		return
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the sender: %v\n%s", err, &s.stderr)
	}
}

// What a client has accepted into its outbox arrives, whatever is killed: the
// broker, the program itself, both. A single broker of Ferry's has it once; of two
// that do not know each other each has it at most once.
func TestOutbox(t *testing.T) {
	takeTurn(t)
	rounds := pick(3, 25)
	for _, names := range [][]string{{"broker"}, {"live", "backup"}} {
		var brokers []*broker
		list := ""
		for i, name := range names {
			b := ferryBroker(t, name)
			brokers = append(brokers, b)
			if i > 0 {
				list += ","
			}
			list += b.url
		}
		s := &sender{t: t, url: list, outbox: t.TempDir()}
		s.start()
		meanwhile := 0 // accepted while no broker was up
		for range rounds {
			s.more(50 + rand.IntN(100))
			for _, b := range brokers {
				b.kill()
			}
			before := s.count()
			s.more(50)
			s.kill()
			s.start()
			s.more(50)
			meanwhile += s.count() - before
			time.Sleep(pick(0, 2*time.Second))
			for i := range brokers {
				brokers[len(brokers)-1-i].up() // the backup first
				time.Sleep(rand.N(100 * time.Millisecond))
			}
		}
		s.finish()

		arrived, doubles := map[string]int{}, 0
		for _, b := range brokers {
			for body, n := range drained(t, b.url, outboxQueue) {
				arrived[body] += n
				if n > 1 {
					doubles++
					t.Errorf("%s: %q arrived %d times at the %s", names, body, n, b.name)
				}
			}
		}
		lost, both := 0, 0
		for _, body := range s.accepted {
			if arrived[body] == 0 {
				lost++
				t.Errorf("%s: %q was accepted, and did not arrive", names, body)
			}
		}
		for _, n := range arrived {
			if n > 1 {
				both++
			}
		}
		t.Logf("\n%s", table("brokers", names, "rounds", rounds, "lives of the sender", s.lives, "accepted", len(s.accepted),
			"accepted with no broker up", meanwhile, "arrived", len(arrived), "lost", lost, "twice at one broker", doubles, "at both brokers", both))
		if t.Failed() {
			return
		}
	}
}

// drained is how often each body comes out of a queue, which is empty where no
// client ever was.
func drained(t *testing.T, url, queue string) map[string]int {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	bodies := map[string]int{}
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return bodies
		}
		bodies[string(d.Body)]++
	}
}
