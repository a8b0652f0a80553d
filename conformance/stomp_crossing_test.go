package conformance

import (
	"bufio"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A stompSide is stomp.py, told by the test what to do.
type stompSide struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

type stompMessage struct {
	Number  int               `json:"number"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	Error   any               `json:"error"`
}

func startStompSide(t *testing.T, urls stompURLs) *stompSide {
	t.Helper()
	if _, err := os.Stat(".venv/bin/stomp"); err != nil {
		missing(t, "stomp.py, in conformance/.venv (make setup installs it)")
	}
	cmd := exec.CommandContext(t.Context(), ".venv/bin/python", "python/stomp_side.py", urls.stomp)
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
	return &stompSide{t, in, bufio.NewScanner(out)}
}

func (s *stompSide) call(command map[string]any) stompMessage {
	s.t.Helper()
	line, err := json.Marshal(command)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		s.t.Fatal(err)
	}
	if !s.out.Scan() {
		s.t.Fatalf("stomp.py ended: %v", s.out.Err())
	}
	var m stompMessage
	if err := json.Unmarshal(s.out.Bytes(), &m); err != nil {
		s.t.Fatalf("%v in %s", err, s.out.Bytes())
	}
	return m
}

func (s *stompSide) mustCall(command map[string]any) stompMessage {
	s.t.Helper()
	m := s.call(command)
	if m.Error != nil {
		s.t.Fatalf("%v: %v", command, m.Error)
	}
	return m
}

func (s *stompSide) frame(command string, headers map[string]string, body string) {
	s.t.Helper()
	s.mustCall(map[string]any{"do": "frame", "command": command, "headers": headers, "body": body})
}

func (s *stompSide) send(destination, body string, headers map[string]string) {
	s.t.Helper()
	all := map[string]string{"destination": destination}
	maps.Copy(all, headers)
	s.frame("SEND", all, body)
}

func (s *stompSide) subscribe(destination, ack string) {
	s.t.Helper()
	s.frame("SUBSCRIBE", map[string]string{"id": destination, "destination": destination, "ack": ack}, "")
}

func (s *stompSide) receive() stompMessage {
	s.t.Helper()
	return s.mustCall(map[string]any{"do": "receive"})
}

func (s *stompSide) settle(command string, m stompMessage, headers map[string]string) {
	s.t.Helper()
	if headers == nil {
		headers = map[string]string{}
	}
	s.mustCall(map[string]any{"do": "settle", "command": command, "number": m.Number, "headers": headers})
}

// amqpSide is the official Go client on a durable queue.
type amqpSide struct {
	*peer
	queue string
}

func newAMQPSide(t *testing.T, urls stompURLs, queue string) amqpSide {
	t.Helper()
	p := dial(t, urls.amqp)
	if _, err := p.ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	return amqpSide{p, queue}
}

func (a amqpSide) publish(p amqp.Publishing) {
	a.t.Helper()
	c, err := a.ch.PublishWithDeferredConfirmWithContext(a.t.Context(), "", a.queue, true, false, p)
	if err != nil {
		a.t.Fatal(err)
	}
	if ok, err := c.WaitContext(a.t.Context()); !ok || err != nil {
		a.t.Fatal("not confirmed: ", err)
	}
}

// get is the message at the head, unacknowledged.
func (a amqpSide) get() amqp.Delivery {
	a.t.Helper()
	for end := time.Now().Add(patience); ; {
		d, ok, err := a.ch.Get(a.queue, false)
		if err != nil {
			a.t.Fatal(err)
		}
		if ok {
			return d
		}
		if time.Now().After(end) {
			a.t.Fatal("nothing is in " + a.queue)
		}
	}
}

// ready waits until the queue holds so many messages ready.
func (a amqpSide) ready(n int) {
	a.t.Helper()
	for end := time.Now().Add(patience); ; {
		q, err := a.ch.QueueDeclarePassive(a.queue, true, false, false, false, nil)
		if err != nil {
			a.t.Fatal(err)
		}
		if q.Messages == n {
			return
		}
		if time.Now().After(end) {
			a.t.Fatalf("%s holds %d messages, not %d", a.queue, q.Messages, n)
		}
	}
}

// TestHeadersCrossFromStompToAMQP sends with stomp.py every header that means a
// property, and others, and looks what the Go client for AMQP makes of them.
func TestHeadersCrossFromStompToAMQP(t *testing.T) {
	t.Parallel()
	urls := startStompFerry(t)
	stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "crossing")
	stomp.send("/queue/crossing", "żółw", map[string]string{
		"content-type": "text/plain", "content-encoding": "utf-8", "persistent": "true", "priority": "7", "correlation-id": "c:1",
		"reply-to": "/queue/answers", "expiration": "60000", "amqp-message-id": "m1", "timestamp": "1700000000", "type": "order",
		"user-id": "guest", "app-id": "app", "x-own": "a:b\nc\\d", "empty": "", "ünï": "ö", "number": "7",
	})
	d := other.get()
	got := amqp.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId,
		Timestamp: d.Timestamp.UTC(), Type: d.Type, UserId: d.UserId, AppId: d.AppId, Body: d.Body,
	}
	want := amqp.Publishing{
		Headers:     amqp.Table{"x-own": "a:b\nc\\d", "empty": "", "ünï": "ö", "number": "7"},
		ContentType: "text/plain", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 7, CorrelationId: "c:1",
		ReplyTo: "/queue/answers", Expiration: "60000", MessageId: "m1", Timestamp: stamp.UTC(), Type: "order", UserId: "guest",
		AppId: "app", Body: []byte("żółw"),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %#v\nwant %#v", got, want)
	}
}

// TestHeadersCrossFromAMQPToStomp publishes a value of every type that AMQP
// has; STOMP has text alone.
func TestHeadersCrossFromAMQPToStomp(t *testing.T) {
	t.Parallel()
	urls := startStompFerry(t)
	stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "crossing")
	other.publish(amqp.Publishing{
		Headers: amqp.Table{
			"string": "a:b\nc\\d", "bytes": []byte("raw"), "bool": true, "int8": int8(-2), "byte": byte(200), "int16": int16(-3),
			"int32": int32(-7), "int64": int64(1) << 40, "float32": float32(1.5), "float64": 2.25, "time": stamp, "void": nil,
			"decimal": amqp.Decimal{Scale: 2, Value: 314}, "list": []any{"a", int32(1)}, "table": amqp.Table{"k": "v"},
			"destination": "elsewhere", "subscription": "another", "receipt": "none",
		},
		ContentType: "text/plain", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 7, CorrelationId: "c:1",
		ReplyTo: "answers", Expiration: "60000", MessageId: "m1", Timestamp: stamp, Type: "order", UserId: "guest", AppId: "app",
		Body: []byte("żółw"),
	})
	stomp.subscribe("/queue/crossing", "auto")
	m := stomp.receive()
	want := map[string]string{
		"string": "a:b\nc\\d", "bytes": "raw", "bool": "true", "int8": "-2", "byte": "200", "int16": "-3", "int32": "-7",
		"int64": "1099511627776", "float32": "1.5", "float64": "2.25", "time": "1700000000", "void": "", "decimal": "3.14",
		"list": `["a",1]`, "table": `{"k":"v"}`,
		"content-type": "text/plain", "content-encoding": "utf-8", "persistent": "true", "priority": "7", "correlation-id": "c:1",
		"reply-to": "/reply-queue/answers", "expiration": "60000", "amqp-message-id": "m1", "timestamp": "1700000000", "type": "order",
		"user-id": "guest", "app-id": "app",
		"destination": "/queue/crossing", "subscription": "/queue/crossing", "redelivered": "false", "content-length": "7",
	}
	if !maps.Equal(m.Headers, want) {
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if m.Headers[name] != want[name] {
				t.Errorf("%s: got %q, want %q", name, m.Headers[name], want[name])
			}
		}
		for name, value := range m.Headers {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: %q was not published", name, value)
			}
		}
	}
	if m.Body != "żółw" {
		t.Errorf("the body is %q", m.Body)
	}
}

// TestAcknowledgementsCross settles on one side what the other has sent.
func TestAcknowledgementsCross(t *testing.T) {
	t.Parallel()
	urls := startStompFerry(t)
	t.Run("STOMP acknowledges", func(t *testing.T) {
		t.Parallel()
		stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "acks")
		for _, body := range []string{"one", "two", "three"} {
			other.publish(amqp.Publishing{Body: []byte(body)})
		}
		stomp.subscribe("/queue/acks", "client")
		stomp.receive()
		second := stomp.receive()
		stomp.receive()
		stomp.settle("ACK", second, nil) // of the first, too
		stomp.mustCall(map[string]any{"do": "close"})
		other.ready(1)
		d := other.get()
		if string(d.Body) != "three" || !d.Redelivered {
			t.Errorf("%q is left, redelivered: %v", d.Body, d.Redelivered)
		}
	})
	t.Run("STOMP returns", func(t *testing.T) {
		t.Parallel()
		stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "nacks")
		stomp.subscribe("/queue/nacks", "client-individual")
		other.publish(amqp.Publishing{Body: []byte("task")})
		m := stomp.receive()
		stomp.frame("UNSUBSCRIBE", map[string]string{"id": "/queue/nacks"}, "")
		stomp.settle("NACK", m, nil)
		d := other.get()
		if !d.Redelivered {
			t.Error("what was returned is not marked as redelivered")
		}
	})
	t.Run("STOMP drops", func(t *testing.T) {
		t.Parallel()
		stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "drops")
		stomp.subscribe("/queue/drops", "client-individual")
		other.publish(amqp.Publishing{Body: []byte("task")})
		stomp.settle("NACK", stomp.receive(), map[string]string{"requeue": "false"})
		stomp.mustCall(map[string]any{"do": "close"})
		other.ready(0)
	})
	t.Run("AMQP acknowledges and returns", func(t *testing.T) {
		t.Parallel()
		stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "amqp")
		stomp.send("/queue/amqp", "one", nil)
		stomp.send("/queue/amqp", "two", nil)
		if err := other.get().Ack(false); err != nil {
			t.Fatal(err)
		}
		if err := other.get().Reject(true); err != nil {
			t.Fatal(err)
		}
		stomp.subscribe("/queue/amqp", "auto")
		m := stomp.receive()
		if m.Body != "two" || m.Headers["redelivered"] != "true" {
			t.Errorf("STOMP got %q, redelivered: %s", m.Body, m.Headers["redelivered"])
		}
	})
	t.Run("two consumers share one queue", func(t *testing.T) {
		t.Parallel()
		stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "shared")
		if err := other.ch.Qos(1, 0, false); err != nil {
			t.Fatal(err)
		}
		deliveries, err := other.ch.Consume("shared", "", false, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		stomp.frame("SUBSCRIBE", map[string]string{"id": "0", "destination": "/queue/shared", "ack": "client-individual", "prefetch-count": "1"}, "")
		other.publish(amqp.Publishing{Body: []byte("one")})
		other.publish(amqp.Publishing{Body: []byte("two")})
		got := []string{stomp.receive().Body}
		select {
		case d := <-deliveries:
			got = append(got, string(d.Body))
		case <-time.After(patience):
			t.Fatal("AMQP got nothing")
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{"one", "two"}) {
			t.Errorf("the two got %q", got)
		}
	})
}

// TestTransactionsCross commits on one side and looks from the other.
func TestTransactionsCross(t *testing.T) {
	t.Parallel()
	urls := startStompFerry(t)
	stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "tx")

	other.publish(amqp.Publishing{Body: []byte("task")})
	stomp.subscribe("/queue/tx", "client-individual")
	task := stomp.receive()
	stomp.frame("UNSUBSCRIBE", map[string]string{"id": "/queue/tx"}, "")
	stomp.frame("BEGIN", map[string]string{"transaction": "t"}, "")
	stomp.mustCall(map[string]any{"do": "cast", "command": "SEND", "body": "result", "headers": map[string]string{
		"destination": "/queue/tx", "transaction": "t", "persistent": "true",
	}})
	stomp.settle("ACK", task, map[string]string{"transaction": "t"})
	other.ready(0)
	stomp.frame("COMMIT", map[string]string{"transaction": "t"}, "")
	other.ready(1)
	result := other.get()
	if string(result.Body) != "result" || result.Redelivered {
		t.Errorf("AMQP got %q, redelivered: %v", result.Body, result.Redelivered)
	}
	if err := result.Ack(false); err != nil {
		t.Fatal(err)
	}

	stomp.subscribe("/queue/tx", "auto")
	tx := dial(t, urls.amqp)
	if err := tx.ch.Tx(); err != nil {
		t.Fatal(err)
	}
	if err := tx.ch.PublishWithContext(t.Context(), "", "tx", true, false, amqp.Publishing{Body: []byte("by AMQP")}); err != nil {
		t.Fatal(err)
	}
	if m := stomp.call(map[string]any{"do": "receive", "patience": stompQuiet.Seconds()}); m.Error == nil {
		t.Errorf("STOMP got %q before its commit", m.Body)
	}
	if err := tx.ch.TxCommit(); err != nil {
		t.Fatal(err)
	}
	if m := stomp.receive(); m.Body != "by AMQP" {
		t.Errorf("STOMP got %q", m.Body)
	}
}

// TestRequestsCross asks on one side and answers on the other.
func TestRequestsCross(t *testing.T) {
	t.Parallel()
	urls := startStompFerry(t)
	stomp, other := startStompSide(t, urls), newAMQPSide(t, urls, "requests")

	stomp.send("/queue/requests", "2+2", map[string]string{"reply-to": "/temp-queue/answers", "correlation-id": "1"})
	d := other.get()
	if err := d.Ack(false); err != nil {
		t.Fatal(err)
	}
	answer := amqpSide{other.peer, d.ReplyTo}
	answer.publish(amqp.Publishing{CorrelationId: d.CorrelationId, Body: []byte("4")})
	if m := stomp.receive(); m.Body != "4" || m.Headers["correlation-id"] != "1" || m.Headers["subscription"] != "/temp-queue/answers" {
		t.Errorf("STOMP got %q with %v", m.Body, m.Headers)
	}

	stomp.subscribe("/queue/requests", "auto")
	answers, err := other.ch.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	other.publish(amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to", CorrelationId: "2", Body: []byte("3+3")})
	m := stomp.receive()
	stomp.send(m.Headers["reply-to"], "6", map[string]string{"correlation-id": m.Headers["correlation-id"]})
	select {
	case d := <-answers:
		if string(d.Body) != "6" || d.CorrelationId != "2" {
			t.Errorf("AMQP got %q, of %q", d.Body, d.CorrelationId)
		}
	case <-time.After(patience):
		t.Error("AMQP got no answer")
	}
}
