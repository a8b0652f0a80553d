package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry"
)

// A crossingSide is a client that sends to the queue that all share, and takes the
// message at its head.
type crossingSide struct {
	name string
	send func(body string)
	take func() string
}

const crossingQueue = "crossing"

// TestClientsOfEveryProtocolShareAQueue lets each of five clients send to each, over
// one queue of one broker, and two of them settle what others have sent.
func TestClientsOfEveryProtocolShareAQueue(t *testing.T) {
	t.Parallel()
	address := startGMQFerry(t)
	url := "amqp://guest:guest@" + address["amqp"] + "/"
	c, err := ferry.Dial(t.Context(), "gmq://guest:guest@"+address["gmq"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	other := newAMQPSide(t, stompURLs{amqp: url}, crossingQueue)
	stomp := startStompSide(t, stompURLs{stomp: "stomp://guest:guest@" + address["stomp"] + "/"})
	pika := startPikaSide(t, url)
	sides := []crossingSide{
		{"amqp091-go", func(body string) { other.publish(amqp.Publishing{Body: []byte(body)}) }, func() string {
			d := other.get()
			if err := d.Ack(false); err != nil {
				t.Fatal(err)
			}
			return string(d.Body)
		}},
		{"pika", func(body string) { pika.call(map[string]any{"do": "send", "body": body}) }, func() string {
			return pika.call(map[string]any{"do": "take"})
		}},
		{"stomp.py", func(body string) { stomp.send("/queue/"+crossingQueue, body, nil) }, func() string {
			queue := "/queue/" + crossingQueue
			stomp.frame("SUBSCRIBE", map[string]string{"id": queue, "destination": queue, "ack": "client-individual", "prefetch-count": "1"}, "")
			m := stomp.receive()
			stomp.frame("UNSUBSCRIBE", map[string]string{"id": queue}, "") // it is sent no other
			stomp.settle("ACK", m, nil)
			return m.Body
		}},
		{"GMQ's client", func(body string) {
			if m := askGMQ(t, address["gmq"], gmqRequest("P", crossingQueue, []byte(body))); m.Confirmed != "Y" {
				t.Fatalf("%+v", m)
			}
		}, func() string {
			return askGMQ(t, address["gmq"], gmqRequest("S", crossingQueue, nil)).body(t)
		}},
		{"ferry over GMQ", func(body string) {
			if err := c.Publish(t.Context(), ferry.Message{Key: crossingQueue, Body: []byte(body)}); err != nil {
				t.Fatal(err)
			}
		}, func() string { return takeByFerry(t, c, (*ferry.Delivery).Ack) }},
	}
	for _, from := range sides {
		for _, to := range sides {
			body := from.name + " to " + to.name + ", żółw"
			from.send(body)
			if got := to.take(); got != body {
				t.Fatalf("%s sent %q, and %s got %q", from.name, body, to.name, got)
			}
		}
	}

	// One queue, one order.
	var want, got []string
	for _, from := range sides {
		want = append(want, "by "+from.name)
		from.send("by " + from.name)
	}
	for _, to := range slices.Backward(sides) {
		got = append(got, to.take())
	}
	if !slices.Equal(got, want) {
		t.Errorf("they came as %q, sent as %q", got, want)
	}

	// What one returns comes to another, marked.
	other.publish(amqp.Publishing{Body: []byte("returned")})
	takeByFerry(t, c, (*ferry.Delivery).Requeue)
	if d := other.get(); string(d.Body) != "returned" || !d.Redelivered {
		t.Errorf("%q, redelivered: %v", d.Body, d.Redelivered)
	} else if err := d.Reject(true); err != nil {
		t.Error(err)
	}
	other.ready(1) // basic.reject has no answer
	if m := askGMQ(t, address["gmq"], gmqRequest("S", crossingQueue, nil)); m.body(t) != "returned" {
		t.Errorf("%+v", m)
	}
	other.ready(0)
}

// What a message is travels between AMQP and GMQ.
func TestPropertiesCrossBetweenAMQPAndGMQ(t *testing.T) {
	t.Parallel()
	address := startGMQFerry(t)
	url := "amqp://guest:guest@" + address["amqp"] + "/"
	c, err := ferry.Dial(t.Context(), "gmq://guest:guest@"+address["gmq"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	other := newAMQPSide(t, stompURLs{amqp: url}, crossingQueue)
	sent := ferry.Message{
		Key: crossingQueue, Body: everyByte(), ContentType: "text/plain", ContentEncoding: "identity", Priority: 7, CorrelationID: "c:1",
		ReplyTo: "answers", Expiration: time.Minute, MessageID: "m1", Timestamp: stamp, Type: "order", UserID: "guest", AppID: "app",
		Headers: map[string]any{"text": "żółw\n", "number": int64(-7), "yes": true},
	}
	if err := c.Publish(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	d := other.get()
	if d.ContentType != "text/plain" || d.ContentEncoding != "identity" || d.Priority != 7 || d.CorrelationId != "c:1" || d.ReplyTo != "answers" ||
		d.Expiration != "60000" || d.MessageId != "m1" || !d.Timestamp.Equal(stamp) || d.Type != "order" || d.UserId != "guest" || d.AppId != "app" ||
		d.DeliveryMode != amqp.Persistent || d.Headers["text"] != "żółw\n" || fmt.Sprint(d.Headers["number"]) != "-7" || d.Headers["yes"] != true ||
		string(d.Body) != string(sent.Body) {
		t.Errorf("AMQP got %+v", d)
	}
	if err := d.Reject(true); err != nil {
		t.Fatal(err)
	}
	co, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: crossingQueue})
	if err != nil {
		t.Fatal(err)
	}
	back, err := co.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := back.Message
	if !back.Redelivered || !strings.Contains(back.ID, "-1") || !got.Timestamp.Equal(sent.Timestamp) {
		t.Errorf("%+v", back)
	}
	got.Timestamp = sent.Timestamp
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", sent) {
		t.Errorf("sent %+v\ngot  %+v", sent, got)
	}
}

// takeByFerry takes the message at the head over GMQ, settles it and leaves.
func takeByFerry(t *testing.T, c *ferry.Client, settle func(*ferry.Delivery) error) string {
	t.Helper()
	co, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: crossingQueue, Prefetch: 1})
	if err != nil {
		t.Fatal(err)
	}
	d, err := co.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := settle(d); err != nil {
		t.Fatal(err)
	}
	if err := co.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return string(d.Body)
}

// A pikaSide is pika on the shared queue, told by the test what to do.
type pikaSide struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func startPikaSide(t *testing.T, url string) *pikaSide {
	t.Helper()
	if _, err := os.Stat(venvPython); err != nil {
		missing(t, "pika, in conformance/.venv (make setup installs it)")
	}
	cmd := exec.CommandContext(t.Context(), venvPython, "python/pika_side.py", url, crossingQueue)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // the context of the test ends it at the latest
	})
	return &pikaSide{t, in, bufio.NewScanner(out)}
}

// call has it do something, and is the body that comes of it.
func (s *pikaSide) call(command map[string]any) string {
	s.t.Helper()
	line, err := json.Marshal(command)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		s.t.Fatal(err)
	}
	if !s.out.Scan() {
		s.t.Fatalf("pika ended: %v", s.out.Err())
	}
	var answer struct{ Body, Error string }
	if err := json.Unmarshal(s.out.Bytes(), &answer); err != nil || answer.Error != "" {
		s.t.Fatalf("pika answers %s: %v", s.out.Bytes(), err)
	}
	return answer.Body
}
