package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// stompURLs are the entrances of one broker. One that does not speak AMQP 0-9-1
// has none for it.
type stompURLs struct {
	stomp, web, amqp string
}

// A scenario is what some connections send to a broker, and what is seen of it
// is recorded.
type scenario struct {
	name string
	play func(*stage)
}

// A stage is where a scenario is played: "$q" in what is sent is the name of a
// queue of its own, and "$q.2" another one.
type stage struct {
	t       *testing.T
	urls    stompURLs
	queue   string
	replies []map[string]any
	conn    *amqp.Connection
	channel *amqp.Channel
	// shown are the headers that are recorded; nil is all of them.
	shown map[string]bool
}

// An actor is a connection that is named in the transcript.
type actor struct {
	*stompPeer
	stage *stage
	name  string
}

// transcript is what a scenario shows of a broker.
func (s scenario) transcript(t *testing.T, urls stompURLs) string {
	t.Helper()
	st := &stage{t: t, urls: urls, queue: "stomp." + s.name}
	st.clean()
	line := s.playOn(st)
	st.clean()
	return line
}

func (s scenario) playOn(st *stage) string {
	st.t.Helper()
	s.play(st)
	replies := st.replies
	if replies == nil {
		replies = []map[string]any{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(replies); err != nil {
		st.t.Fatal(err)
	}
	return fmt.Sprintf(`{"case": %q, "replies": %s}`, s.name, bytes.TrimSpace(b.Bytes()))
}

// clean deletes what an earlier run may have left, in a broker that was not
// started for this test.
func (s *stage) clean() {
	s.t.Helper()
	if s.urls.amqp == "" {
		return
	}
	conn, err := amqp.Dial(s.urls.amqp)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	for _, name := range []string{s.queue, s.queue + ".2", s.queue + "/slash", s.queue + "%", s.queue + "%é", s.queue + ".é"} {
		ch, err := conn.Channel()
		if err != nil {
			s.t.Fatal(err)
		}
		// An exclusive queue is refused; it goes with its connection.
		if _, err := ch.QueueDelete(name, false, false, false); err == nil {
			_ = ch.ExchangeDelete(name, false, false)
			_ = ch.Close()
		}
	}
}

func (s *stage) record(fact map[string]any) { s.replies = append(s.replies, fact) }

// raw is a connection that has said nothing.
func (s *stage) raw(name string) *actor {
	s.t.Helper()
	return &actor{dialStomp(s.t, s.urls.stomp), s, name}
}

// connect is one that is logged in, with STOMP 1.2.
func (s *stage) connect(name string) *actor { return s.connectAs(name, "1.2") }

func (s *stage) connectAs(name, version string, headers ...string) *actor {
	s.t.Helper()
	a := s.raw(name)
	a.login(version, headers...)
	return a
}

func (s *stage) expand(text string) string { return strings.ReplaceAll(text, "$q", s.queue) }

func (a *actor) send(frame string)  { a.stompPeer.send(a.stage.expand(frame)) }
func (a *actor) write(bytes string) { a.stompPeer.write(a.stage.expand(bytes)) }

func (a *actor) do(frame string) {
	a.t.Helper()
	a.stompPeer.do(a.stage.expand(frame))
}

// expect records n frames and is the last of them. Where fewer come, it records
// that.
func (a *actor) expect(n int) stompFrame {
	a.t.Helper()
	frames := a.take(n, stompPatience)
	if len(frames) == 0 {
		return stompFrame{}
	}
	return frames[len(frames)-1]
}

func (a *actor) take(n int, limit time.Duration) []stompFrame {
	a.t.Helper()
	var frames []stompFrame
	var end error
	for len(frames) < n && end == nil {
		var f stompFrame
		if f, end = a.read(limit); end == nil {
			frames = append(frames, f)
		}
	}
	sortReceipts(frames)
	for _, f := range frames {
		fact := f.show()
		fact["to"] = a.name
		if headers, ok := fact["headers"].(map[string]string); ok && a.stage.shown != nil {
			maps.DeleteFunc(headers, func(name, _ string) bool { return !a.stage.shown[name] })
		}
		a.stage.record(scrub(fact, a.stage.queue))
	}
	if end != nil {
		a.stage.record(map[string]any{"to": a.name, "end": end.Error()})
	}
	return frames
}

// scrub leaves the name of the scenario's queue out of what is recorded.
func scrub(fact map[string]any, queue string) map[string]any {
	for k, v := range fact {
		switch v := v.(type) {
		case string:
			fact[k] = strings.ReplaceAll(v, queue, "$q")
		case map[string]string:
			for h, x := range v {
				v[h] = strings.ReplaceAll(x, queue, "$q")
			}
		}
	}
	return fact
}

// expectAll records n frames that may come in any order.
func (a *actor) expectAll(n int) {
	a.t.Helper()
	at := len(a.stage.replies)
	a.take(n, stompPatience)
	slices.SortFunc(a.stage.replies[at:], func(x, y map[string]any) int {
		return strings.Compare(fmt.Sprint(x), fmt.Sprint(y))
	})
}

// quiet records that nothing comes.
func (a *actor) quiet() {
	a.t.Helper()
	a.take(1, stompQuiet)
}

// closed records whether the server ends the connection.
func (a *actor) closed() {
	a.t.Helper()
	a.take(1, stompPatience)
}

// alive records whether the connection still serves.
func (a *actor) alive() {
	a.t.Helper()
	a.send("BEGIN\ntransaction:alive\nreceipt:alive")
	a.expect(1)
}

// The AMQP side.

func (s *stage) amqp() *amqp.Channel {
	s.t.Helper()
	var err error
	if s.conn == nil {
		if s.conn, err = amqp.Dial(s.urls.amqp); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = s.conn.Close() })
	}
	if s.channel == nil {
		if s.channel, err = s.conn.Channel(); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.channel
}

// declare declares a durable queue and says what the broker answers.
func (s *stage) declare(name string, args amqp.Table) {
	s.t.Helper()
	if _, err := s.amqp().QueueDeclare(s.expand(name), true, false, false, false, args); err != nil {
		s.t.Fatal(err)
	}
}

// declared records whether a queue can be declared with exactly these
// properties: it is how AMQP lets somebody look at them.
func (s *stage) declared(name string, durable, autoDelete, exclusive bool, args amqp.Table) {
	s.t.Helper()
	fact := map[string]any{"amqp": "declare", "queue": name}
	if _, err := s.amqp().QueueDeclare(s.expand(name), durable, autoDelete, exclusive, false, args); err != nil {
		fact["error"] = refusal(err)
		s.channel = nil
	}
	s.record(fact)
}

// refusal is an error's code and name. RabbitMQ cuts longer texts off.
func refusal(err error) string {
	refused, ok := errors.AsType[*amqp.Error](err)
	if !ok {
		return err.Error()
	}
	name, _, _ := strings.Cut(refused.Reason, " - ")
	return fmt.Sprintf("%d %s", refused.Code, name)
}

// publish publishes by AMQP, and waits until it is confirmed.
func (s *stage) publish(exchange, key string, p amqp.Publishing) {
	s.t.Helper()
	ch := s.amqp()
	if err := ch.Confirm(false); err != nil {
		s.t.Fatal(err)
	}
	c, err := ch.PublishWithDeferredConfirmWithContext(s.t.Context(), s.expand(exchange), s.expand(key), false, false, p)
	if err != nil {
		s.t.Fatal(err)
	}
	c.Wait()
}

// get records the message at the head of a queue, and takes it away.
func (s *stage) get(queue string) {
	s.t.Helper()
	end := time.Now().Add(stompPatience)
	for {
		d, ok, err := s.amqp().Get(s.expand(queue), true)
		if err != nil {
			s.record(map[string]any{"amqp": "get", "error": refusal(err)})
			s.channel = nil
			return
		}
		if ok {
			s.record(map[string]any{"amqp": "get", "message": s.showDelivery(d)})
			return
		}
		if time.Now().After(end) {
			s.record(map[string]any{"amqp": "get", "message": nil})
			return
		}
	}
}

func (s *stage) showDelivery(d amqp.Delivery) map[string]any {
	out := map[string]any{"redelivered": d.Redelivered}
	put := func(name, value string) {
		if value != "" {
			out[name] = strings.ReplaceAll(generated.ReplaceAllString(value, "$1*"), s.queue, "$q")
		}
	}
	put("exchange", d.Exchange)
	put("routing_key", d.RoutingKey)
	put("content_type", d.ContentType)
	put("content_encoding", d.ContentEncoding)
	put("correlation_id", d.CorrelationId)
	put("reply_to", d.ReplyTo)
	put("expiration", d.Expiration)
	put("message_id", d.MessageId)
	put("type", d.Type)
	put("user_id", d.UserId)
	put("app_id", d.AppId)
	put("body", string(d.Body))
	if d.DeliveryMode != 0 {
		out["delivery_mode"] = d.DeliveryMode
	}
	if d.Priority != 0 {
		out["priority"] = d.Priority
	}
	if !d.Timestamp.IsZero() {
		out["timestamp"] = d.Timestamp.Unix()
	}
	headers := make(map[string]string)
	for name, v := range d.Headers {
		if text, ok := v.(string); ok && name == "receipt" && ofDo.MatchString(text) {
			continue
		}
		headers[name] = strings.ReplaceAll(fmt.Sprintf("%T %v", v, v), s.queue, "$q")
	}
	if len(headers) > 0 {
		out["headers"] = headers
	}
	return out
}

// count records how many messages a queue holds ready, when they are as many as
// are expected or too much time has passed.
func (s *stage) count(queue string, expected int) {
	s.t.Helper()
	end := time.Now().Add(stompPatience / 4)
	for {
		q, err := s.amqp().QueueDeclarePassive(s.expand(queue), true, false, false, false, nil)
		if err != nil {
			s.channel = nil
			if time.Now().Before(end) {
				continue // it is declared without waiting for the answer
			}
			s.record(map[string]any{"amqp": "count", "queue": queue, "error": refusal(err)})
			return
		}
		if q.Messages == expected || time.Now().After(end) {
			s.record(map[string]any{"amqp": "count", "queue": queue, "ready": q.Messages})
			return
		}
	}
}

// gone records that a queue is there no more.
func (s *stage) gone(queue string) {
	s.t.Helper()
	end := time.Now().Add(stompPatience / 4)
	for {
		_, err := s.amqp().QueueDeclarePassive(s.expand(queue), true, false, false, false, nil)
		refused, ok := errors.AsType[*amqp.Error](err)
		if ok {
			s.channel = nil
		}
		if (ok && refused.Code == amqp.NotFound) || time.Now().After(end) {
			s.record(map[string]any{"amqp": "gone", "queue": queue, "is": ok && refused.Code == amqp.NotFound})
			return
		}
	}
}
