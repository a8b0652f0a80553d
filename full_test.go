package ferry_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
)

// TestAFullQueueRefusesOverEachProtocol: the publisher hears of it, and goes on. STOMP
// has but an ERROR for it.
func TestAFullQueueRefusesOverEachProtocol(t *testing.T) {
	b := ferrytest.Start(t)
	for name, url := range map[string]string{"AMQP": b.URL(), "STOMP": b.STOMPURL(), "GMQ": b.GMQURL()} {
		t.Run(name, func(t *testing.T) {
			admin, err := ferry.Dial(t.Context(), b.URL(), ferry.WithTopology(ferry.Topology{Queues: []ferry.Queue{
				{Name: "full " + name, Arguments: map[string]any{"x-max-length": 1, "x-overflow": "reject-publish"}},
				{Name: "roomy"},
			}}))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = admin.Close(context.Background()) }() // the broker ends next
			c, err := ferry.Dial(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close(context.Background()) }()
			publish := func(queue string) error {
				return c.Publish(t.Context(), ferry.Message{Key: queue, Body: []byte("m")})
			}
			if err := publish("full " + name); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := publish("full " + name); !errors.Is(err, ferry.ErrRefused) || errors.Is(err, ferry.ErrNacked) != (name != "STOMP") {
					t.Errorf("a full queue: %v", err)
				}
			}
			if err := publish("roomy"); err != nil {
				t.Error(err)
			}
		})
	}
}
