package stomplink

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
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// deliver sends a MESSAGE of a subscription, with an ack id.
func (s *side) deliver(subscription int, id, body string) {
	s.t.Helper()
	s.send("MESSAGE", body, fmt.Sprintf("subscription:%d", subscription), "message-id:m"+id, "ack:"+id, "destination:/queue/q",
		fmt.Sprintf("content-length:%d", len(body)))
}

// settles reads so many settlements, as "ACK id" or "NACK id requeue".
func (s *side) settles(n int) string {
	s.t.Helper()
	var all []string
	for range n {
		f, ok := s.next()
		if !ok {
			break
		}
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.command, f.headers["id"], f.headers["requeue"])))
	}
	return strings.Join(all, ", ")
}

func TestSubscribeSaysWhatIsWanted(t *testing.T) {
	for _, c := range []struct {
		url  string
		cfg  link.ReceiverConfig
		want string // headers that must be there
	}{
		{rabbit, link.ReceiverConfig{Queue: "a/b", Prefetch: 7}, "id=1 destination=/amq/queue/a%2Fb ack=client-individual prefetch-count=7 subscription-type="},
		{rabbit, link.ReceiverConfig{Queue: "q"}, "destination=/amq/queue/q prefetch-count="},
		{rabbit, link.ReceiverConfig{Queue: "q", NoAck: true, Prefetch: 3}, "ack=auto prefetch-count="},
		{rabbit, link.ReceiverConfig{Queue: "q", Arguments: map[string]any{"x-priority": 5}}, "x-priority=5"},
		{rabbit, link.ReceiverConfig{Bindings: []link.Binding{{Exchange: "amq.topic", Key: "a.*"}}}, "destination=/topic/a.*"},
		{rabbit, link.ReceiverConfig{Bindings: []link.Binding{{Exchange: "e", Key: "k"}}}, "destination=/exchange/e/k"},
		{rabbit, link.ReceiverConfig{Bindings: []link.Binding{{Exchange: "e"}}}, "destination=/exchange/e"},
		{art, link.ReceiverConfig{Queue: "q", Prefetch: 10}, "destination=q subscription-type=ANYCAST consumer-window-size=10240"},
		{art, link.ReceiverConfig{Queue: "q", Prefetch: 1}, "consumer-window-size=0"},
		{art, link.ReceiverConfig{Queue: "q"}, "consumer-window-size=-1"},
		{art, link.ReceiverConfig{Bindings: []link.Binding{{Exchange: "amq.topic", Key: "a.#"}}}, "destination=a.# subscription-type=MULTICAST"},
	} {
		bubble(t, c.url, func(t *testing.T, p *peer) {
			conn, _ := p.open()
			_, _, f := p.receiver(conn, c.cfg, new(sink))
			for _, want := range strings.Fields(c.want) {
				name, value, _ := strings.Cut(want, "=")
				if f.headers[name] != value {
					t.Errorf("%+v: %s is %q, want %q", c.cfg, name, f.headers[name], value)
				}
			}
		})
	}
}

func TestWhatStompCannotReceiveIsNotAllowed(t *testing.T) {
	bubble(t, art, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		for _, cfg := range []link.ReceiverConfig{
			{Queue: "q", Exclusive: true},
			{},
			{Bindings: []link.Binding{{Exchange: "amq.topic", Key: "a"}, {Exchange: "amq.topic", Key: "b"}}},
			{Bindings: []link.Binding{{Exchange: "amq.topic", Key: "a", Arguments: map[string]any{"x": 1}}}},
			{Bindings: []link.Binding{{Exchange: "e", Key: "a"}}},
		} {
			_, err := conn.OpenReceiver(t.Context(), cfg, new(sink))
			linktest.KindIs(t, err, link.NotAllowed)
		}
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatComesBeforeTheReceiptIsDelivered(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		go func() {
			s := p.accept()
			f := s.want(stompwire.Subscribe)
			s.deliver(1, "x", "early")
			s.deliver(1, "y", "bird")
			synctest.Wait()
			s.receipt(f)
		}()
		if _, err := conn.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q"}, in); err != nil {
			t.Fatal(err)
		}
		in.Is(t, "early", "bird")
	})
}

func TestRefusedSubscriptionFailsAlone(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		go func() {
			s := p.accept()
			f := s.want(stompwire.Subscribe)
			s.write("ERROR\nmessage:not_found\n\nNOT_FOUND - no queue 'q' in vhost '/'\x00\n" +
				"RECEIPT\nreceipt-id:" + f.headers["receipt"] + "\n\n\x00\n") // which RabbitMQ sends all the same
		}()
		_, err := conn.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q"}, in)
		linktest.KindIs(t, err, link.NotFound)
		in.Is(t)
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestReceiverThatIsNotAnsweredIsGivenUp(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		go func() {
			s := p.accept()
			s.want(stompwire.Subscribe)
			s.deliver(1, "x", "early")
			s.ends()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := conn.OpenReceiver(ctx, link.ReceiverConfig{Queue: "q"}, in)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		in.Is(t)
	})
}

func TestSettlementsAreWrittenOnceAndInOrder(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
		for i := range 100 {
			s.deliver(1, fmt.Sprintf("T_1@@s@@%d", i), "x")
		}
		synctest.Wait()
		for i := range 100 {
			var err error
			switch tag := in.Tag(i); i % 5 {
			case 3:
				err = r.Nack(tag, true)
			case 4:
				err = r.Reject(tag, false)
			default:
				err = r.Ack(tag)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range 100 {
			want := fmt.Sprintf("ACK T_1@@s@@%d", i)
			switch i % 5 {
			case 3:
				want = fmt.Sprintf("NACK T_1@@s@@%d true", i)
			case 4:
				want = fmt.Sprintf("NACK T_1@@s@@%d false", i)
			}
			if got := s.settles(1); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		}
		for tag, want := range map[uint64]error{1: link.ErrSettled, 0: link.ErrSettled, 101: link.ErrSettled} {
			if err := r.Ack(tag); !errors.Is(err, want) {
				t.Errorf("%d: %v", tag, err)
			}
		}
		s.nc.Close()
		<-conn.Done()
		if err := r.Ack(50); !errors.Is(err, link.ErrClosed) {
			t.Error(err)
		}
	})
}

// What is settled together is written together.
func TestSettlementsAreWrittenTogether(t *testing.T) {
	l := newLedger(true)
	var batch []*link.Delivery
	var ids []byte
	var ends []int
	for i := range 300 {
		batch = append(batch, new(link.Delivery))
		ids = fmt.Appendf(ids, "id:%d", i)
		ends = append(ends, len(ids))
	}
	l.add(batch, ids, ends)
	told := 0
	for _, d := range batch {
		first, err := l.settle(d.Tag, acked)
		if err != nil {
			t.Fatal(err)
		}
		if first {
			told++
		}
	}
	out, _ := l.appendFrames(nil, stompwire.V12, rabbitmq)
	if n := strings.Count(string(out), "ACK\nid:id\\c"); n != 300 || told != 1 {
		t.Errorf("%d frames, the writer was told %d times", n, told)
	}
	if out, _ := l.appendFrames(nil, stompwire.V12, rabbitmq); len(out) > 0 {
		t.Errorf("written again: %q", out)
	}
}

func TestAcknowledgementsOfOlderVersions(t *testing.T) {
	for v, want := range map[stompwire.Version]string{
		stompwire.V12: "ACK\nid:a\\cb\n\n\x00",
		stompwire.V11: "ACK\nsubscription:1\nmessage-id:a\\cb\n\n\x00",
		stompwire.V10: "ACK\nsubscription:1\nmessage-id:a:b\n\n\x00",
	} {
		l := newLedger(true)
		l.add([]*link.Delivery{{}}, []byte("a:b"), []int{3})
		if _, err := l.settle(1, acked); err != nil {
			t.Fatal(err)
		}
		if out, _ := l.appendFrames(nil, v, rabbitmq); string(out) != want {
			t.Errorf("%v: %q, want %q", v, out, want)
		}
	}
}

func TestCloseWaitsForWhatWasSettled(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
		s.deliver(1, "a", "1")
		s.deliver(1, "b", "2")
		synctest.Wait()
		if err := r.Ack(in.Tag(1)); err != nil {
			t.Error(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- r.Close(t.Context()) }()
		if got := s.settles(1); got != "ACK b" {
			t.Error(got)
		}
		bye := s.want(stompwire.Disconnect)
		synctest.Wait()
		select {
		case err := <-closed:
			t.Errorf("closed before the answer: %v", err)
		default:
		}
		if err := r.Ack(in.Tag(0)); !errors.Is(err, link.ErrClosed) {
			t.Error(err)
		}
		s.deliver(1, "c", "late")
		s.receipt(bye)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		in.Is(t, "1", "2", "closed <nil>")
	})
}

func TestNothingIsDeliveredAfterCancel(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q", Prefetch: 2}, in)
		s.deliver(1, "a", "1")
		synctest.Wait()
		if err := r.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.deliver(1, "b", "2")
		in.Is(t, "1")
		if err := r.Ack(in.Tag(0)); err != nil {
			t.Error(err)
		}
		if got := s.settles(1); got != "ACK a" { // and no UNSUBSCRIBE, after which it would be an error
			t.Error(got)
		}
	})
}

func TestCancelWaitsForTheSink(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := &sink{Hold: make(chan struct{})}
		r, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
		s.deliver(1, "a", "1")
		cancelled := make(chan error, 1)
		synctest.Wait()
		go func() { cancelled <- r.Cancel(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-cancelled:
			t.Errorf("cancelled while something is delivered: %v", err)
		default:
		}
		close(in.Hold)
		if err := <-cancelled; err != nil {
			t.Error(err)
		}
	})
}

func TestCancelWithoutAcknowledgementsUnsubscribes(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q", NoAck: true}, in)
		go func() {
			f := s.want(stompwire.Unsubscribe)
			s.deliver(1, "", "on its way")
			s.receipt(f)
		}()
		if err := r.Cancel(t.Context()); err != nil {
			t.Error(err)
		}
		in.Is(t, "on its way")
	})
}

// Artemis takes a NACK for an ACK.
func TestArtemisGetsRequeuedMessagesBackWithTheSubscription(t *testing.T) {
	bubble(t, art, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q", Prefetch: 10}, in)
		for _, id := range []string{"a", "b", "c"} {
			s.deliver(1, id, id)
		}
		synctest.Wait()
		if err := errors.Join(r.Ack(in.Tag(0)), r.Nack(in.Tag(1), true)); err != nil {
			t.Fatal(err)
		}
		if got := s.settles(1); got != "ACK a" {
			t.Error(got)
		}
		s.deliver(1, "d", "d") // stays at the broker until the other is settled
		synctest.Wait()
		if err := r.Ack(in.Tag(2)); err != nil {
			t.Fatal(err)
		}
		if got := s.settles(1); got != "ACK c" {
			t.Error(got)
		}
		if f := s.want(stompwire.Unsubscribe); f.headers["id"] != "1" {
			t.Errorf("%+v", f)
		}
		if f := s.want(stompwire.Subscribe); f.headers["id"] != "2" || f.headers["destination"] != "q" || f.headers["consumer-window-size"] != "10240" {
			t.Errorf("%+v", f)
		}
		s.deliver(1, "e", "of the old one")
		s.deliver(2, "b2", "b")
		s.deliver(2, "d2", "d")
		in.Is(t, "a", "b", "c", "b", "d")
		if err := r.Ack(in.Tag(1)); !errors.Is(err, link.ErrSettled) {
			t.Errorf("the first copy: %v", err)
		}
		if err := errors.Join(r.Ack(in.Tag(3)), r.Reject(in.Tag(4), false)); err != nil {
			t.Fatal(err)
		}
		if got := s.settles(2); got != "ACK b2, NACK d2" {
			t.Error(got)
		}
	})
}

func TestBlockedSinkWithoutAcknowledgementsHoldsTheReader(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		p.options.Heartbeat = time.Second
		p.connected = append(p.connected, "heart-beat:1000,1000")
		conn, home := p.open()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go home.breathe(ctx, time.Second)
		in := &sink{Hold: make(chan struct{})}
		_, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q", NoAck: true}, in)
		s.deliver(1, "", "1")
		time.Sleep(time.Minute)
		if err := conn.Err(); err != nil {
			t.Fatalf("the peer was taken for dead: %v", err)
		}
		go s.breathe(ctx, time.Second)
		close(in.Hold)
		in.Is(t, "1")
		cancel()
		synctest.Wait()
	})
}

func TestBrokerThatCancelsEndsTheReceiver(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		_, s, _ := p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
		s.send("ERROR", "The server has canceled a subscription.", "message:Server cancelled subscription", "subscription:1")
		in.Is(t, "closed not available at present")
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

// A queue of the receiver's own goes with the subscription: what is given back is
// given again from memory, as often as it takes, and is acknowledged once.
func TestRequeuedMessagesOfATopicAreGivenAgain(t *testing.T) {
	bubble(t, art, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		topic := link.ReceiverConfig{Bindings: []link.Binding{{Exchange: "amq.topic", Key: "k"}}, Prefetch: 10}
		r, s, _ := p.receiver(conn, topic, in)
		s.send("MESSAGE", "a", "subscription:1", "message-id:ma", "ack:a", "destination:k", "content-length:1", "colour:red")
		s.deliver(1, "b", "b")
		synctest.Wait()
		in.Delivery(0).Message.Body[0] = 'x' // it is the application's
		in.Delivery(0).Message.Headers["colour"] = "blue"
		const times = 200
		last := in.Tag(0)
		for i := range times {
			if err := r.Nack(last, true); err != nil {
				t.Fatal(err)
			}
			if err := r.Ack(last); !errors.Is(err, link.ErrSettled) {
				t.Fatalf("what was given back: %v", err)
			}
			synctest.Wait()
			d := in.Delivery(2 + i)
			if !d.Redelivered || string(d.Message.Body) != "a" || d.Message.Headers["colour"] != "red" {
				t.Fatalf("given again: %+v", d)
			}
			last = d.Tag
		}
		if n := len(r.(*receiver).ledger.ring); n != ledgerLeast {
			t.Errorf("the ledger has grown to %d for two messages", n)
		}
		s.deliver(1, "c", "c") // is not held up
		synctest.Wait()
		if err := errors.Join(r.Ack(last), r.Ack(in.Tag(1)), r.Reject(in.Tag(2+times), false)); err != nil {
			t.Fatal(err)
		}
		if got := s.settles(3); got != "ACK a, ACK b, NACK c" {
			t.Error(got)
		}
		if err := r.Ack(last); !errors.Is(err, link.ErrSettled) {
			t.Errorf("acknowledged twice: %v", err)
		}
	})
}

func TestNothingIsGivenAgainAfterCancel(t *testing.T) {
	bubble(t, art, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		in := new(sink)
		r, s, _ := p.receiver(conn, link.ReceiverConfig{Bindings: []link.Binding{{Exchange: "amq.topic", Key: "k"}}}, in)
		s.deliver(1, "a", "a")
		s.deliver(1, "b", "b")
		synctest.Wait()
		if err := errors.Join(r.Cancel(t.Context()), r.Nack(in.Tag(0), true), r.Ack(in.Tag(1))); err != nil {
			t.Fatal(err)
		}
		if got := s.settles(1); got != "ACK b" {
			t.Error(got)
		}
		synctest.Wait()
		in.Is(t, "a", "b")
	})
}
