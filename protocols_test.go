package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
)

// A queueing is a broker that has queues and no more.
type queueing interface {
	Enqueue(queue string, bodies ...string)
	Bodies(queue string) []string
	Settlements() []string
	Cut()
	Open() int
}

// A protocol is one besides AMQP, of which the client promises the same.
type protocol struct {
	name     string
	start    func(w *world, addr string) queueing
	url      func(addr string) string
	acked    string // what its broker notes of a message that was acknowledged, before its body
	rejected func(body string) string
}

var protocols = []protocol{
	{
		"STOMP", func(w *world, addr string) queueing { return w.stomp(addr) }, stompURL,
		"ACK", func(body string) string { return "NACK " + body },
	},
	{
		"GMQ", func(w *world, addr string) queueing { return w.gmq(addr) }, gmqURL,
		"A", func(body string) string { return "N " + body + " dropped" },
	},
}

// overEach makes a world for each of them, with a broker that speaks it, and one
// client.
func overEach(t *testing.T, f func(t *testing.T, w *world, over protocol, b queueing, c *ferry.Client)) {
	for _, over := range protocols {
		t.Run(over.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				b := over.start(w, "b")
				f(t, w, over, b, w.dial(over.url("b"), ferry.WithTopology(queues("q"))))
			})
		})
	}
}

func TestAckAfterAReconnectIsStaleOverEachProtocol(t *testing.T) {
	overEach(t, func(t *testing.T, w *world, over protocol, b queueing, c *ferry.Client) {
		b.Enqueue("q", "one", "two")
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q", Prefetch: 1})
		d := receive(t, co, "one")
		b.Cut()
		<-d.Context().Done()
		if cause := context.Cause(d.Context()); !errors.Is(cause, ferry.ErrConnectionLost) {
			t.Errorf("the context ended with %v", cause)
		}
		again := receive(t, co, "one")
		if !again.Redelivered {
			t.Error("not marked redelivered")
		}
		if err := d.Ack(); !errors.Is(err, ferry.ErrStale) {
			t.Error(err)
		}
		synctest.Wait()
		if s := b.Settlements(); len(s) != 0 {
			t.Errorf("sent %v", s)
		}
		if err := again.Ack(); err != nil {
			t.Error(err)
		}
		if err := again.Ack(); !errors.Is(err, ferry.ErrSettled) {
			t.Errorf("settling twice: %v", err)
		}
		_ = receive(t, co, "two").Reject()
		if err := co.Close(t.Context()); err != nil {
			t.Error(err)
		}
		wantList(t, "settled", b.Settlements(), over.acked+" one", over.rejected("two"))
	})
}

// A client of a broker of one protocol goes on with one of another, and back.
func TestFailoverBetweenProtocols(t *testing.T) {
	for _, over := range protocols {
		t.Run(over.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.broker("a"), over.start(w, "b")
				c := w.dial(url("a")+","+over.url("b"), ferry.WithTopology(queues("q")), ferry.WithFailback(5*time.Second))
				co := w.consumer(c, ferry.ConsumerOptions{Queue: "q"})
				publish(t, c, "q", "1")
				_ = receive(t, co, "1").Ack()
				synctest.Wait()
				a.Down()
				publish(t, c, "q", "2")
				_ = receive(t, co, "2").Ack()
				if got := on(c); got[0] != strings.Replace(over.url("b"), ":guest@", "@", 1) || got[1] != got[0] {
					t.Errorf("on %v", got)
				}
				if err := a.Up(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(30 * time.Second)
				if got := on(c); got != both("a") {
					t.Errorf("on %v", got)
				}
				publish(t, c, "q", "3")
				_ = receive(t, co, "3").Ack()
				synctest.Wait()
				if n := b.Open(); n != 0 {
					t.Errorf("%d connections are left", n)
				}
				wantList(t, "settled", b.Settlements(), over.acked+" 2")
			})
		})
	}
}

func TestCloseLeavesNothingBehindOverEachProtocol(t *testing.T) {
	overEach(t, func(t *testing.T, w *world, _ protocol, b queueing, c *ferry.Client) {
		b.Enqueue("q", numbered(50)...)
		co := w.consumer(c, ferry.ConsumerOptions{Queue: "q", Prefetch: 20})
		for i := range 5 {
			if err := receive(t, co, fmt.Sprintf("m%d", i)).Ack(); err != nil {
				t.Error(err)
			}
		}
		s := w.sending(c, ferry.PublisherOptions{Key: "q"})
		s.submit("x")
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		s.expect("confirmed/1", "x")
		synctest.Wait()
		if got := b.Bodies("q"); len(got) != 46 || b.Open() != 0 {
			t.Errorf("%d connections, %d messages: %q", b.Open(), len(got), got)
		}
	})
}
