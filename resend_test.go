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
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// reconnected waits until the client is on the n-th connection and has sent what
// it is to send.
func reconnected(t *testing.T, b *faultbroker.Broker, n int) {
	t.Helper()
	err := b.Wait(t.Context(), func(s faultbroker.State) bool { return len(s.Conns) == n && s.Conns[n-1].Open })
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func up(t *testing.T, b *faultbroker.Broker) {
	t.Helper()
	if err := b.Up(); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownIsSentAgainFirstAndInOrder(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		hold(b, true)
		s := w.sending(c, ferry.PublisherOptions{})
		s.submit("a", "b", "c")
		s.message(ferry.Message{Body: []byte("own"), ID: "moved-1"})
		synctest.Wait()
		b.Down()
		synctest.Wait()
		s.submit("d") // while there is no connection
		up(t, b)
		reconnected(t, b, 2)
		wantList(t, "arrived", arrived(b)[4:], "a/2", "b/2", "c/2", "own/2", "d")
		b.Cut()
		reconnected(t, b, 3)
		wantList(t, "arrived", arrived(b)[9:], "a/3", "b/3", "c/3", "own/3", "d/2")
		hold(b, false)
		s.flush()
		s.expect("confirmed/3 confirmed/3 confirmed/3 confirmed/3 confirmed/2", "a", "b", "c", "own", "d")
		ids := make(map[string]any)
		for _, p := range b.Publishes() {
			body, id := string(p.Body), p.Header("x-ferry-id")
			if r, _ := s.result(body); id != r.ID() || ids[body] != nil && ids[body] != id {
				t.Errorf("%s: sent with the id %v, its result says %q", body, id, r.ID())
			}
			ids[body] = id
		}
		if ids["own"] != "moved-1" {
			t.Errorf("a message that came with an id was sent with %v", ids["own"])
		}
		if n, is := b.Publishes()[4].Header("x-ferry-attempt").(int32); !is || n != 2 {
			t.Errorf("the mark is %#v", b.Publishes()[4].Header("x-ferry-attempt"))
		}
		if st := s.p.Stats(); st.Resent != 9 || st.Confirmed != 5 || st.Unknown != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestOnlyWhatHasNoOutcomeIsSentAgain(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		hold(b, true)
		s := w.sending(c, ferry.PublisherOptions{})
		bodies := numbered(200) // the ring grows meanwhile
		s.submit(bodies...)
		synctest.Wait()
		// Not in order, with holes, some refused, some several at once.
		sent := b.Publishes()
		b.Ack(sent[0], false)
		b.Ack(sent[150], false)
		b.Nack(sent[151], false)
		b.Ack(sent[40], false)
		b.Ack(sent[20], true) // and 1 to 19
		b.Nack(sent[30], false)
		synctest.Wait()
		if got := s.became(bodies[:22]...); got != strings.Repeat("confirmed/1 ", 21) {
			t.Errorf("the first became %q", got)
		}
		b.Down()
		synctest.Wait()
		s.submit("new")
		up(t, b)
		reconnected(t, b, 2)
		var want []string
		for i, body := range bodies {
			if i > 20 && i != 30 && i != 40 && i != 150 && i != 151 {
				want = append(want, body+"/2")
			}
		}
		wantList(t, "arrived", arrived(b)[200:], append(want, "new")...)
		// Confirms of the new connection are of the new tags. That what was sent
		// before is refused now says nothing of the first time.
		b.Nack(b.Publishes()[200], false)
		synctest.Wait()
		s.expect("unknown/2 ", bodies[21], bodies[22])
		if r, _ := s.result(bodies[21]); !errors.Is(r.Err, ferry.ErrNacked) || errors.Is(r.Err, ferry.ErrRefused) || !errors.Is(r.Err, ferry.ErrUnknown) {
			t.Errorf("%v", r.Err)
		}
		hold(b, false)
		s.flush()
		s.expect("refused/1 confirmed/1 confirmed/1 refused/1 confirmed/2", bodies[30], bodies[40], bodies[150], bodies[151], bodies[199])
		if st := s.p.Stats(); st.Confirmed != 198 || st.Refused != 2 || st.Unknown != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestWindowGrowsWhileItWaits(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		s := w.sending(c, ferry.PublisherOptions{Window: 10000})
		s.submit(numbered(50)...)
		s.flush() // so that the ring does not begin at its beginning
		hold(b, true)
		var bodies []string
		for round := range 5 {
			more := numbered(300 * (round + 1))
			for i := range more {
				more[i] = fmt.Sprint(round, more[i])
			}
			s.submit(more...)
			bodies = append(bodies, more...)
			synctest.Wait()
			b.Cut()
			before := len(b.Publishes())
			reconnected(t, b, round+2)
			var got []string
			for _, p := range b.Publishes()[before:] {
				got = append(got, string(p.Body))
			}
			wantList(t, "sent again", got, bodies...)
		}
		hold(b, false)
		s.flush()
		if st := s.p.Stats(); st.Confirmed != uint64(50+len(bodies)) {
			t.Errorf("%+v", st)
		}
	})
}

// channelsOpened counts the channels that clients opened.
func channelsOpened(b *faultbroker.Broker) int {
	n := 0
	for _, m := range b.Snapshot().Methods {
		if _, is := m.Method.(*amqpwire.ChannelOpen); is {
			n++
		}
	}
	return n
}

func TestMessageToAMissingExchangeIsRefusedAlone(t *testing.T) {
	publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
		b.Set(func(f *faultbroker.Faults) { f.ConfirmMultiple = true })
		other := w.sending(c, ferry.PublisherOptions{})
		other.submit("undisturbed")
		other.flush()
		before := channelsOpened(b)
		s := w.sending(c, ferry.PublisherOptions{})
		bodies := numbered(300)
		culprit := func(i int) bool { return i%10 == 3 }
		for i, body := range bodies {
			m := ferry.Message{Body: []byte(body)}
			if culprit(i) {
				m.Exchange, m.Key = "missing", "k"
			}
			s.message(m)
		}
		other.submit("beside them")
		s.flush()
		other.flush()
		for i, body := range bodies {
			r, _ := s.result(body)
			said := (*ferry.BrokerError)(nil)
			switch {
			case culprit(i) != (r.Outcome() == ferry.Refused), !culprit(i) && r.Outcome() != ferry.Confirmed:
				t.Errorf("%s: %v", body, r.Err)
			case culprit(i) && (!errors.Is(r.Err, ferry.ErrNotFound) || !errors.As(r.Err, &said) || said.Code != 404 || !strings.Contains(said.Text, "no exchange 'missing'")):
				t.Errorf("%s: %v", body, r.Err)
			}
		}
		// Repeats are marked, the first of each are in order.
		var stored []string
		for _, p := range b.Publishes() {
			body := string(p.Body)
			if p.Fate != faultbroker.Stored || !strings.HasPrefix(body, "m") || p.Exchange != "" || slices.Contains(stored, body) {
				continue
			}
			stored = append(stored, body)
		}
		var want []string
		for i, body := range bodies {
			if !culprit(i) {
				want = append(want, body)
			}
		}
		wantList(t, "stored", stored, want...)
		// One channel to begin with, one for each culprit, and one for each time
		// that it was not known who that is.
		if n := channelsOpened(b) - before; n > 1+2*30 {
			t.Errorf("%d channels were opened for 30 culprits", n)
		}
		other.expect("confirmed/1 confirmed/1", "undisturbed", "beside them")
		if got := c.Status().Publish; got.Connects != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestChannelIsClosedForWhatOneMessageIs(t *testing.T) {
	for _, row := range []struct {
		code uint16
		text string
		is   error
	}{
		{403, "ACCESS_REFUSED - user_id property set to 'x' but authenticated user was 'guest'", ferry.ErrAccessRefused},
		{404, "NOT_FOUND - no exchange 'x' in vhost '/'", ferry.ErrNotFound},
		{406, "PRECONDITION_FAILED - message size 200 is larger than configured max size 100", nil},
		{406, "PRECONDITION_FAILED - invalid expiration", ferry.ErrPrecondition},
		{311, "CONTENT_TOO_LARGE", nil},
	} {
		t.Run(fmt.Sprint(row.code, row.is), func(t *testing.T) {
			publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
				hold(b, true)
				s := w.sending(c, ferry.PublisherOptions{})
				s.submit("bad")
				synctest.Wait()
				b.CloseChannels(row.code, row.text)
				hold(b, false)
				s.flush()
				s.expect("refused/1", "bad")
				r, _ := s.result("bad")
				said := (*ferry.BrokerError)(nil)
				if !errors.As(r.Err, &said) || said.Code != int(row.code) || said.Text != row.text || errors.Is(r.Err, ferry.ErrNacked) {
					t.Errorf("%v", r.Err)
				}
				if row.is != nil && !errors.Is(r.Err, row.is) {
					t.Errorf("%v is not %v", r.Err, row.is)
				}
			})
		})
	}
}

// What is said of a connection is no message's fault, whatever the code.
func TestConnectionErrorIsNobodysFault(t *testing.T) {
	for _, code := range []uint16{320, 403, 404, 406, 501, 530, 541} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
				hold(b, true)
				s := w.sending(c, ferry.PublisherOptions{})
				s.submit("a")
				synctest.Wait()
				b.CloseConnections(code, "for a reason of its own")
				reconnected(t, b, 2)
				hold(b, false)
				s.flush()
				s.expect("confirmed/2", "a")
			})
		})
	}
}

func TestUnsendableMessageIsRefusedAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.broker("b", func(o *faultbroker.Options) { o.FrameMax = 4096 })
		c := w.dial(url("b"), ferry.WithTopology(queues("q")))
		s := w.sending(c, ferry.PublisherOptions{})
		for i := range 50 {
			m := ferry.Message{Body: []byte(fmt.Sprint("m", i))}
			if i%10 == 5 {
				m.Headers = map[string]any{"large": strings.Repeat("x", 5000)}
			}
			s.message(m)
		}
		s.flush()
		for i, body := range numbered(50) {
			r, _ := s.result(body)
			if (i%10 == 5) != (r.Outcome() == ferry.Refused) || i%10 != 5 && r.Err != nil {
				t.Errorf("%s: %v", body, r.Err)
			}
		}
		for _, p := range b.Publishes() {
			if p.Header("large") != nil {
				t.Error("it arrived")
			}
		}
		if got := c.Status().Publish; got.Connects != 1 {
			t.Errorf("%+v", got)
		}
	})
}

// A broker that closes each channel at once gets no more of them than the backoff
// allows, and what waits ends with its context.
func TestChannelThatIsClosedAtOnceEachTime(t *testing.T) {
	for _, code := range []uint16{404, 405, 541} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
				b.Set(func(f *faultbroker.Faults) { f.Silent = faultbroker.StepConfirmSelect })
				s := w.sending(c, ferry.PublisherOptions{})
				ctx, cancel := context.WithCancel(t.Context())
				closing := make(chan struct{})
				go func() {
					defer close(closing)
					seen := 0
					_ = b.Wait(ctx, func(st faultbroker.State) bool {
						if n := confirmSelects(st); n > seen {
							seen = n
							go b.CloseChannels(code, "no")
						}
						return false
					})
				}()
				before := channelsOpened(b)
				deadline, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				start := time.Now()
				err := s.p.Publish(deadline, ferry.Message{Body: []byte("a")})
				said := (*ferry.BrokerError)(nil)
				if !errors.Is(err, ferry.ErrNotSent) || !errors.As(err, &said) || said.Code != int(code) {
					t.Errorf("Publish: %v", err)
				}
				if d := time.Since(start); d != time.Minute {
					t.Errorf("it took %v", d)
				}
				// Bounds of 10, 20, ... ms up to 5 s, half of which is waited on average.
				if n := channelsOpened(b) - before; n < 5 || n > 100 {
					t.Errorf("%d channels in a minute", n)
				}
				cancel()
				<-closing
			})
		})
	}
}

func confirmSelects(s faultbroker.State) int {
	n := 0
	for _, m := range s.Methods {
		if _, is := m.Method.(*amqpwire.ConfirmSelect); is {
			n++
		}
	}
	return n
}

func TestMoveToABetterBrokerLeavesNothingBehind(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		a.Down()
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(time.Second))
		s := w.sending(c, ferry.PublisherOptions{})
		hold(b, true)
		s.submit("a", "b")
		synctest.Wait()
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		for len(w.happened(ferry.FailedBack)) == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		s.submit("c") // for the better one, when the rest is confirmed
		synctest.Wait()
		wantList(t, "arrived at the second", arrived(b), "a", "b")
		wantList(t, "arrived at the first", arrived(a))
		hold(b, false)
		s.flush()
		wantList(t, "arrived at the second", arrived(b), "a", "b")
		wantList(t, "arrived at the first", arrived(a), "c")
		s.expect("confirmed/1 confirmed/1 confirmed/1", "a", "b", "c")
	})
}

// One that is left and confirms too late is not heard: its tags are others now.
func TestLateConfirmOfABrokerThatWasLeft(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.broker("a"), w.broker("b")
		a.Down()
		c := w.dial(url("a", "b"), ferry.WithTopology(queues("q")), ferry.WithFailback(time.Second))
		s := w.sending(c, ferry.PublisherOptions{})
		b.Set(func(f *faultbroker.Faults) { f.HoldConfirms = true; f.Silent = faultbroker.StepChannelClose })
		hold(a, true)
		s.submit("a", "b")
		synctest.Wait()
		if err := a.Up(); err != nil {
			t.Fatal(err)
		}
		if err := a.Wait(t.Context(), func(st faultbroker.State) bool {
			if len(st.Publishes) == 0 {
				return false
			}
			b.Nack(b.Publishes()[1], true)
			return len(st.Publishes) == 2
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantList(t, "arrived at the first", arrived(a), "a/2", "b/2")
		s.expect(" ", "a", "b")
		hold(a, false)
		s.flush()
		s.expect("confirmed/2 confirmed/2", "a", "b")
	})
}
