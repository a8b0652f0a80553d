package gmqlink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
)

func TestReceiverAsksForMoreWhileMessagesCome(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		_, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 5}, in)
		if r := s.want("S"); r.Queue != "q" || r.Ack != "manual" || r.WaitMsec != waitMost.Milliseconds() {
			t.Errorf("%+v", r)
		}
		s.write(message("1", ""))
		in.Is(t, "1")
		s.want("S")
		s.want("S")
		s.write(message("2", "") + message("3", ""))
		in.Is(t, "2", "3")
		s.want("S") // 5 may be unsettled
		s.want("S")
		s.write(message("4", "") + none())
		in.Is(t, "4")
		s.want("S") // there are none: one request waits
		time.Sleep(waitMost)
		s.write(none())
		s.want("S") // at once
		s.write(message("5", ""))
		in.Is(t, "5")
		s.nc.Close()
		in.Is(t, "closed connection lost")
	})
}

func TestNoMoreIsAskedForThanMayBeUnsettled(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 1}, in)
		s.want("S")
		s.write(message("1", ""))
		in.Is(t, "1")
		time.Sleep(time.Hour)
		if err := r.Ack(in.Tag(0)); err != nil {
			t.Error(err)
		}
		if a := s.want("A"); a.ID != "1" {
			t.Errorf("%+v", a)
		}
		s.want("S")
		s.write(yes("A", "") + message("2", `,"redelivered":true`))
		in.Is(t, "2")
		if !in.Delivery(1).Redelivered || in.Delivery(0).Redelivered {
			t.Error("the marks are not those of the messages")
		}
	})
}

func TestSettlementsInterruptWhatWaits(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 7}, in)
		s.want("S")
		s.write(message("1", ""))
		s.want("S")
		s.want("S")
		s.write(message("2", "") + message("3", ""))
		in.Is(t, "1", "2", "3")
		for range 4 {
			s.want("S")
		}
		s.write(strings.Repeat(none(), 4))
		s.want("S") // which waits
		for i, settle := range []func(uint64) error{
			r.Ack, func(tag uint64) error { return r.Nack(tag, true) }, func(tag uint64) error { return r.Reject(tag, false) },
		} {
			if err := settle(in.Tag(i)); err != nil {
				t.Error(err)
			}
			if err := settle(in.Tag(i)); !errors.Is(err, link.ErrSettled) {
				t.Errorf("settling twice: %v", err)
			}
			want := []string{"A", "N", "N"}[i]
			got := s.want(want)
			if got.ID != fmt.Sprint(i+1) || (got.Requeue != nil && !*got.Requeue) != (i == 2) {
				t.Errorf("%+v", got)
			}
			s.write(none())
			s.want("S") // behind what interrupted the last
			s.write(yes(want, ""))
		}
		in.Is(t)
		if err := r.Ack(99); !errors.Is(err, link.ErrSettled) {
			t.Errorf("a tag that was not given: %v", err)
		}
	})
}

// A server that does not wait is not asked all the time.
func TestPausesGrowWhereTheServerDoesNotWait(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		_, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 10}, in)
		want := []time.Duration{0, 5, 10, 20, 40, 80, 160, 250, 250}
		for i, pause := range want {
			begin := time.Now()
			s.want("S")
			if took := time.Since(begin); took != pause*time.Millisecond {
				t.Errorf("request %d came after %v, want %vms", i, took, pause)
			}
			s.write(none())
		}
		s.want("S")
		s.write(message("1", ""))
		in.Is(t, "1")
		s.want("S")
		s.want("S")
		s.write(none() + none())
		begin := time.Now()
		s.want("S")
		if took := time.Since(begin); took != pauseLeast {
			t.Errorf("after a message the pause is %v", took)
		}
	})
}

func TestCancelDeliversWhatIsUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 10}, in)
		s.want("S")
		s.write(message("1", ""))
		s.want("S")
		s.want("S")
		ended := make(chan error, 1)
		go func() { ended <- r.Cancel(t.Context()) }()
		s.want("SYNC")
		s.write(message("2", "") + none() + yes("SYNC", ""))
		if err := <-ended; err != nil {
			t.Error(err)
		}
		in.Is(t, "1", "2")
		if err := r.Ack(in.Tag(1)); err != nil {
			t.Error(err)
		}
		s.want("A")
		s.write(yes("A", ""))
		time.Sleep(time.Hour)
		go func() { ended <- r.Close(t.Context()) }()
		s.want("SYNC")
		s.write(yes("SYNC", ""))
		if err := <-ended; err != nil {
			t.Error(err)
		}
		in.Is(t, "closed <nil>")
		if err := r.Ack(in.Tag(0)); !errors.Is(err, link.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestCloseWritesWhatWasSettled(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 1}, in)
		s.want("S")
		s.write(message("1", ""))
		in.Is(t, "1")
		if err := r.Ack(in.Tag(0)); err != nil {
			t.Error(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- r.Close(t.Context()) }()
		s.want("A")
		answers := yes("A", "")
		for {
			if r, ok := s.next(); !ok || r.Operation == "SYNC" {
				break
			}
			answers += none() // it may have been asked for more
		}
		s.write(answers + yes("SYNC", ""))
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.ends()
	})
}

func TestCloseThatIsNotAnsweredIsCut(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 1}, in)
		s.want("S")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		in.Is(t, "closed <nil>")
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	})
}

func TestWithoutAcksTheSinkHoldsTheReaderUp(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		p.options.Heartbeat = time.Second
		conn, home := p.open()
		home.live()
		in := &sink{Hold: make(chan struct{})}
		_, s := p.receiver(conn, link.ReceiverConfig{NoAck: true}, in)
		if r := s.want("S"); r.Ack != "auto" {
			t.Errorf("%+v", r)
		}
		s.write(message("1", ""))
		time.Sleep(time.Minute) // no dead peer
		in.Is(t)
		close(in.Hold)
		in.Is(t, "1")
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestReceiverEndsWithWhatTheServerSays(t *testing.T) {
	for _, c := range []struct {
		text string
		kind link.Kind
		all  bool
	}{
		{"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'", link.Locked, false},
		{"NOT_FOUND - no queue 'q' in vhost '/'", link.NotFound, false},
		{"CONNECTION_FORCED - broker shutdown", link.Forced, true},
	} {
		t.Run(c.text, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *peer) {
				conn, _ := p.open()
				in := new(sink)
				_, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 10}, in)
				s.want("S")
				s.write(message("1", ""))
				s.want("S")
				s.write(message("2", "") + refuse("S", c.text))
				in.Is(t, "1", "2", "closed "+c.kind.String())
				if ended := conn.Err() != nil; ended != c.all {
					t.Errorf("the connection: %v", conn.Err())
				}
			})
		})
	}
}

func TestQueueThatMayNotBeUsedIsRefusedWhenOpening(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		go func() {
			s := p.accept()
			s.want("L")
			s.write(refuse("L", "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'ada'"))
		}()
		_, err := conn.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q"}, new(sink))
		linktest.KindIs(t, err, link.AccessRefused)
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	})
}

func TestReceiversThatGMQDoesNotHave(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		for _, cfg := range []link.ReceiverConfig{
			{},
			{Bindings: []link.Binding{{Exchange: "amq.topic", Key: "k"}}},
			{Queue: "q", Exclusive: true},
			{Queue: "q", Arguments: map[string]any{"x-priority": 1}},
		} {
			_, err := conn.OpenReceiver(t.Context(), cfg, new(sink))
			linktest.KindIs(t, err, link.NotAllowed)
			if !strings.Contains(err.Error(), "amqp://") {
				t.Errorf("%v does not say what can do it", err)
			}
		}
	})
}

func TestDeliveriesAreWholeMessages(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		_, s := p.receiver(conn, link.ReceiverConfig{Prefetch: 10}, in)
		s.want("S")
		s.write(message("1", `,"message_id":"p-7","properties":{"content_type":"text/plain","priority":9,"expiration":1500,"timestamp":1000000000,`+
			`"reply_to":"r","headers":{"a":"b","n":7,"yes":false,"x-ferry-id":"other"}}`))
		in.Is(t, "1")
		m := in.Delivery(0).Message
		if m.Key != "q" || m.Exchange != "" || m.ID != "p-7" || m.ContentType != "text/plain" || m.Priority != 9 || m.ReplyTo != "r" ||
			m.Expiration != 1500*time.Millisecond || !m.Timestamp.Equal(time.Unix(1e9, 0)) ||
			len(m.Headers) != 3 || m.Headers["a"] != "b" || m.Headers["n"] != int64(7) || m.Headers["yes"] != false {
			t.Errorf("%+v", m)
		}
		s.want("S")
		s.write(yes("S", `,"payload":"","id":"empty"`))
		in.Is(t, "")
	})
}

func TestQueuesAreDeclared(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		go func() {
			s := p.accept()
			for i, answer := range []string{
				yes("L", `,"payload":"17"`), refuse("L", "RESOURCE_LOCKED - it is another's"), yes("L", `,"payload":"0"`),
				refuse("L", "NOT_FOUND - no queue 'f' in vhost '/'"),
			} {
				if r := s.want("L"); r.Passive != (i == 3) {
					t.Errorf("%+v", r)
				}
				s.write(answer)
			}
			s.want("SYNC")
			s.write(yes("SYNC", ""))
		}()
		results := conn.Declare(t.Context(), []link.Item{
			link.Queue{Name: "a", IfAbsent: true},
			link.Exchange{Name: "e", Kind: "topic"},
			link.Queue{Name: "b"},
			link.Queue{Name: "c"},
			link.Queue{Name: "d", Arguments: map[string]any{"x-max-length": 5}},
			link.Queue{Name: "e", Transient: true},
			link.Queue{},
			link.Binding{Queue: "q"},
			link.QueuePurge{Name: "a"},
			link.Queue{Name: "f", Passive: true},
			link.QueueDelete{Name: "a"},
		})
		if r := results[0]; r.Err != nil || r.Name != "a" || r.Messages != 17 {
			t.Errorf("%+v", r)
		}
		linktest.KindIs(t, results[2].Err, link.Locked)
		if r := results[3]; r.Err != nil || r.Name != "c" || r.Messages != 0 {
			t.Errorf("%+v", r)
		}
		linktest.KindIs(t, results[9].Err, link.NotFound)
		for _, i := range []int{1, 4, 5, 6, 7, 8, 10} {
			linktest.KindIs(t, results[i].Err, link.NotAllowed)
		}
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	})
}

func TestDeclareEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		go func() { p.accept().want("L") }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := conn.Declare(ctx, []link.Item{link.Queue{Name: "a"}})[0]; !errors.Is(r.Err, context.DeadlineExceeded) {
			t.Error(r.Err)
		}
		synctest.Wait()
	})
}
