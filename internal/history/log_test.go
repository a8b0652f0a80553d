package history

import (
	"context"
	"slices"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/message"
)

// The ids of what a broker stores are found in its log, one message in one queue and
// one in several.
func TestBatchesOfABroker(t *testing.T) {
	j := memory.New(memory.Options{})
	b, err := broker.Open(t.Context(), broker.Config{Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.OpenSession(broker.SessionConfig{VHost: "/", User: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"one", "two"} {
		if _, err := s.DeclareQueue(broker.QueueSpec{Name: q, Durable: true}); err != nil {
			t.Fatal(err)
		}
		if err := s.BindQueue(q, "amq.fanout", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	ch := s.OpenChannel(1)
	publish := func(exchange, key, id string) {
		t.Helper()
		err := ch.Publish(&broker.Publish{
			Exchange: []byte(exchange), Key: []byte(key), Persistent: true, Body: []byte("x"),
			Properties: message.AppendFieldString(nil, message.MessageID, id),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Flush()
	}
	publish("", "one", "h-1")
	publish("", "one", "other")
	publish("amq.fanout", "", "h-2")
	publish("", "two", "h-3")
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}

	var ids []string
	next := uint64(1)
	err = j.Replay(t.Context(), 0, 0, true, func(raw journal.Batch) error {
		parsed, err := ParseBatch(raw, "w", "h-")
		if err != nil {
			return err
		}
		if parsed.Position != next || parsed.Epoch != raw.Epoch || parsed.Writer != "w" {
			t.Errorf("batch %d is %+v", next, parsed)
		}
		next++
		ids = append(ids, parsed.IDs...)
		if raw.BodySize() > 0 {
			raw.Body = [][]byte{raw.Body[0][:1]}
			if _, err := ParseBatch(raw, "", ""); err == nil {
				t.Error("a batch whose body is cut short is taken for a whole one")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"h-1", "h-2", "h-3"}; !slices.Equal(ids, want) {
		t.Errorf("the log has %v, want %v", ids, want)
	}
	if _, err := ParseBatch(journal.Batch{Position: 7, Head: []byte{0xff}}, "", ""); err == nil {
		t.Error("a record of no kind is taken for one")
	}
}
