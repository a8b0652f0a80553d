package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

func (w *world) stomp(addr string) *faultbroker.Stomp {
	return faultbroker.StartStomp(w.t, faultbroker.StompOptions{Network: w.net, Addr: addr + ":61613"})
}

func stompURL(addr string) string { return "stomp://guest:guest@" + addr + ":61613/" }

// overStomp makes a world with a broker that speaks STOMP, and one client.
func overStomp(t *testing.T, f func(t *testing.T, w *world, b *faultbroker.Stomp, c *ferry.Client)) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.stomp("b")
		f(t, w, b, w.dial(stompURL("b"), ferry.WithTopology(queues("q"))))
	})
}

// sentOver is what clients sent: the bodies in order, those that are marked as sent
// before with the number of the attempt.
func sentOver(b *faultbroker.Stomp) []string {
	var list []string
	for _, s := range b.Sends() {
		if n := s.Headers["x-ferry-attempt"]; n != "" {
			list = append(list, s.Body+"/"+n)
		} else {
			list = append(list, s.Body)
		}
	}
	return list
}

func TestOverStompUnknownIsSentAgainFirstAndInOrder(t *testing.T) {
	overStomp(t, func(t *testing.T, w *world, b *faultbroker.Stomp, c *ferry.Client) {
		b.Set(func(f *faultbroker.StompFaults) { f.HoldReceipts = true })
		s := w.sending(c, ferry.PublisherOptions{})
		s.submit("a", "b")
		s.message(ferry.Message{Body: []byte("own"), ID: "moved-1"})
		synctest.Wait()
		b.Down()
		synctest.Wait()
		s.submit("d") // while there is no connection
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		wantList(t, "arrived", sentOver(b), "a", "b", "own", "a/2", "b/2", "own/2", "d")
		b.Set(func(f *faultbroker.StompFaults) { f.HoldReceipts = false })
		s.flush()
		s.expect("confirmed/2 confirmed/2 confirmed/2 confirmed/1", "a", "b", "own", "d")
		ids := make(map[string]string)
		for _, m := range b.Sends() {
			id := m.Headers["x-ferry-id"]
			if before, again := ids[m.Body]; again && id != before {
				t.Errorf("%s: sent with the ids %q and %q", m.Body, before, id)
			}
			ids[m.Body] = id
		}
		if ids["own"] != "moved-1" || ids["a"] == "" {
			t.Errorf("%v", ids)
		}
	})
}

// A message that the broker answers with an ERROR is refused, and no other: neither
// of its own publisher nor of another.
func TestOverStompTheCulpritIsRefusedAlone(t *testing.T) {
	for _, c := range []struct {
		reason string
		named  bool
		is     error
		sent   int // how often, at most
	}{
		{"not_found", true, ferry.ErrNotFound, 1},
		{"not_found", false, ferry.ErrNotFound, 2},
		{"access_refused", false, ferry.ErrAccessRefused, 2},
		{"no_route", true, ferry.ErrUnroutable, 1},
		{"what nobody has said before", true, ferry.ErrUnknown, 3},
		{"what nobody has said before", false, ferry.ErrUnknown, 4},
	} {
		t.Run(fmt.Sprintf("%s/%v", c.reason, c.named), func(t *testing.T) {
			overStomp(t, func(t *testing.T, w *world, b *faultbroker.Stomp, client *ferry.Client) {
				b.Set(func(f *faultbroker.StompFaults) { f.Poison, f.Reason, f.Named = "poison", c.reason, c.named })
				first, second := w.sending(client, ferry.PublisherOptions{}), w.sending(client, ferry.PublisherOptions{})
				first.submit("1", "2", "poison", "3", "4")
				second.submit("a", "b", "c")
				first.flush()
				second.flush()
				for _, body := range []string{"1", "2", "3", "4"} {
					if r, _ := first.result(body); r.Err != nil {
						t.Errorf("%s: %v", body, r.Err)
					}
				}
				second.expect("confirmed/1 confirmed/1 confirmed/1", "a", "b", "c")
				r, _ := first.result("poison")
				if !errors.Is(r.Err, c.is) || errors.Is(r.Err, ferry.ErrRefused) != (c.is != ferry.ErrUnknown) || r.Attempts > c.sent { //nolint:errorlint // it is the very value
					t.Errorf("the message became %v after %d attempts", r.Err, r.Attempts)
				}
				if n := len(w.happened(ferry.Disconnected)); n > 0 {
					t.Errorf("%d connections ended", n)
				}
				for _, body := range []string{"1", "2", "3", "4", "a", "b", "c"} {
					if !slices.Contains(b.Bodies("q"), body) {
						t.Errorf("%s is not stored: %q", body, b.Bodies("q"))
					}
				}
			})
		})
	}
}

func TestOverStompWhatIsToBeDroppedIsNotRefused(t *testing.T) {
	overStomp(t, func(t *testing.T, w *world, b *faultbroker.Stomp, c *ferry.Client) {
		b.Set(func(f *faultbroker.StompFaults) { f.Poison, f.Reason, f.Named = "drop", "no_route", true })
		s := w.sending(c, ferry.PublisherOptions{DropUnroutable: true})
		s.submit("1", "drop", "2")
		s.flush()
		s.expect("confirmed/1", "drop")
	})
}

// A receipt that does not come is the timeout of its message, and holds up no other.
func TestOverStompAMissingReceiptIsATimeout(t *testing.T) {
	overStomp(t, func(t *testing.T, w *world, b *faultbroker.Stomp, c *ferry.Client) {
		b.Set(func(f *faultbroker.StompFaults) { f.LoseReceipt = "lost" })
		p, err := c.Publisher(ferry.PublisherOptions{Key: "q", Window: 3})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Publish(ctx, ferry.Message{Body: []byte("lost")}); !errors.Is(err, ferry.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		begin := time.Now()
		for _, body := range numbered(20) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := p.Publish(ctx, ferry.Message{Body: []byte(body)}); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			cancel()
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the others took %v", took)
		}
		if st := p.Stats(); st.Confirmed != 20 || st.Unknown != 1 {
			t.Errorf("%+v", st)
		}
		wantList(t, "arrived", sentOver(b)[:3], "lost", "m0", "m1")
	})
}

// One that nobody bounds is sent again, when later ones have long been confirmed.
func TestOverStompAMissingReceiptIsAskedForAgain(t *testing.T) {
	overStomp(t, func(t *testing.T, w *world, b *faultbroker.Stomp, c *ferry.Client) {
		b.Set(func(f *faultbroker.StompFaults) { f.LoseReceipt = "lost" })
		s := w.sending(c, ferry.PublisherOptions{Window: 3})
		s.submit("lost", "1", "2")
		time.Sleep(30 * time.Second)
		b.Set(func(f *faultbroker.StompFaults) { f.LoseReceipt = "" })
		s.submit("3", "4", "5")
		s.flush()
		s.expect("confirmed/2 confirmed/1 confirmed/1", "lost", "1", "3")
	})
}

// What STOMP has no way to ask for keeps nobody from connecting.
func TestOverStompTheRestOfATopologyIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stomp("b")
		topology := queues("q")
		topology.Exchanges = []ferry.Exchange{{Name: "e", Kind: "topic"}}
		topology.Bindings = []ferry.Binding{{Exchange: "e", Queue: "q", Key: "#"}}
		c := w.dial(stompURL("b"), ferry.WithTopology(topology))
		publish(t, c, "q", "1")
		refused := w.happened(ferry.TopologyRefused)
		if len(refused) != 2 {
			t.Errorf("%v", w.events)
		}
		for _, e := range refused {
			if !errors.Is(e.Err, ferry.ErrNotAllowed) || !strings.Contains(e.Err.Error(), "amqp://") {
				t.Error(e.Err)
			}
		}
		if err := c.Declare(t.Context(), topology); !errors.Is(err, ferry.ErrNotAllowed) {
			t.Error(err)
		}
		if _, err := c.Inspect(t.Context(), "q"); !errors.Is(err, ferry.ErrNotAllowed) {
			t.Error(err)
		}
	})
}

func TestDialRefusesParametersThatStompDoesNotKnow(t *testing.T) {
	_, err := ferry.Dial(t.Context(), "amqp://a,stomp://b?prefetch=1")
	if err == nil || !strings.Contains(err.Error(), `"prefetch"`) || !strings.Contains(err.Error(), "heart-beat") {
		t.Error(err)
	}
}
