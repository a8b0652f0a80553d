package ferry_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// What no broker could be sent is told at once, and nothing is sent.
func TestMessagesThatCannotBeSent(t *testing.T) {
	long := strings.Repeat("x", 256)
	deep := map[string]any{}
	for range 40 {
		deep = map[string]any{"d": []any{deep}}
	}
	rows := map[string]ferry.Message{
		"Expiration":      {Expiration: -time.Second},
		"unsigned":        {Headers: map[string]any{"unsigned": uint64(1)}},
		"plain uint":      {Headers: map[string]any{"plain uint": uint(1)}},
		"struct":          {Headers: map[string]any{"struct": struct{}{}}},
		"typed":           {Headers: map[string]any{"typed": time.Second}},
		"within":          {Headers: map[string]any{"list": []any{map[string]any{"within": make(chan int)}}}},
		"nested":          {Headers: deep},
		"a header's name": {Headers: map[string]any{long: 1}},
	}
	for _, field := range []string{
		"Exchange", "Key", "ContentType", "ContentEncoding", "CorrelationID", "ReplyTo", "MessageID", "Type", "UserID", "AppID", "ID",
	} {
		var m ferry.Message
		reflect.ValueOf(&m).Elem().FieldByName(field).SetString(long)
		rows[field] = m
	}
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		s := w.sending(c, ferry.PublisherOptions{})
		for name, m := range rows {
			err := s.p.Submit(t.Context(), m, func(ferry.Result) { t.Errorf("%s: called back", name) })
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: Submit: %v", name, err)
			}
			if err := s.p.Publish(t.Context(), m); err == nil {
				t.Errorf("%s: Publish took it", name)
			}
		}
		synctest.Wait()
		wantList(t, "arrived", arrived(b))
		if s.p.Stats() != (ferry.PublisherStats{}) {
			t.Errorf("%+v", s.p.Stats())
		}
		edge := strings.Repeat("x", 255)
		s.message(ferry.Message{Body: []byte("edge"), Type: edge, ID: edge, Headers: map[string]any{edge: edge + edge}})
		s.flush()
		s.expect("confirmed/1", "edge")
	})
}

func TestMessageArrivesAsItWasSent(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		sent := ferry.Message{
			Key: "q", Body: []byte("body"), ContentType: "text/plain", ContentEncoding: "gzip", Priority: 9, Transient: true,
			CorrelationID: "c", ReplyTo: "r", Expiration: time.Hour, MessageID: "m", Timestamp: time.Unix(1e9, 0), Type: "t",
			UserID: "guest", AppID: "a", ID: "of-1",
			Headers: map[string]any{
				"text": "x", "bytes": []byte{1}, "bool": true, "nil": nil, "int64": int64(1), "float": 1.5,
				"decimal": ferry.Decimal{Scale: 2, Value: 314}, "time": time.Unix(1e9, 0),
				"list": []any{int32(1), "x"}, "map": map[string]any{"k": "v"},
			},
		}
		if err := c.Publish(t.Context(), sent); err != nil {
			t.Fatal(err)
		}
		d := receive(t, w.consumer(c, ferry.ConsumerOptions{Queue: "q"}), "body")
		if d.ID != "of-1" {
			t.Errorf("its ID is %q", d.ID)
		}
		sent.ID = "" // that of a delivery is not its message's: it can be sent on as a new one
		sent.Timestamp, sent.Headers["time"] = sent.Timestamp.UTC(), sent.Headers["time"].(time.Time).UTC()
		d.Timestamp = d.Timestamp.UTC()
		if at, is := d.Headers["time"].(time.Time); is {
			d.Headers["time"] = at.UTC()
		}
		if got, want := fmt.Sprintf("%#v", d.Message), fmt.Sprintf("%#v", sent); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
	})
}
