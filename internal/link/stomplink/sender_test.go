package stomplink

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

func TestReceiptsSettleInAnyOrder(t *testing.T) {
	for _, c := range []struct {
		name, receipts string
		want           []string
	}{
		{"in order", "1 2 3 4", []string{"settled up to 4"}},
		{"some", "1 2", []string{"settled up to 2"}},
		{"one before its turn", "2 1 3 4", []string{"settled 2", "settled up to 4"}},
		{"backwards", "4 3 2 1", []string{"settled 4", "settled 3", "settled 2", "settled up to 4"}},
		{"one is missing", "1 3 4", []string{"settled up to 1", "settled 3", "settled 4"}},
		{"twice", "1 1 3 3 2 2 4 4", []string{"settled up to 1", "settled 3", "settled up to 4"}},
		{"of nothing", "5 0 r99 x -1 184467440737095516150 1", []string{"settled up to 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, rabbit, func(t *testing.T, p *peer) {
				conn, _ := p.open()
				src := new(source)
				sender, s := p.sender(conn, src)
				src.Add(sender, linktest.Bodies("1", "2", "3", "4")...)
				for range 4 {
					s.want(stompwire.Send)
				}
				var raw string
				for _, id := range strings.Fields(c.receipts) {
					raw += "RECEIPT\nreceipt-id:" + id + "\n\n\x00\n"
				}
				s.write(raw)
				src.Is(t, c.want...)
			})
		})
	}
}

func TestMessagesArePipelinedWithTheirReceipts(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Bodies("a", "b")...)
		src.Add(sender, &link.Message{Key: "q", Transient: true, Body: []byte("c\x00d")})
		for i, want := range []string{"a", "b", "c\x00d"} {
			f := s.want(stompwire.Send)
			if f.body != want || f.headers["receipt"] != fmt.Sprint(i+1) || f.headers["destination"] != "/amq/queue/q" ||
				(f.headers["persistent"] == "true") != (i < 2) {
				t.Errorf("%+v", f)
			}
		}
	})
}

func TestMissingReceiptEndsItsSenderAlone(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src, other := new(source), new(source)
		sender, s := p.sender(conn, src)
		p.sender(conn, other)
		src.Add(sender, linktest.Bodies("1", "2", "3")...)
		for range 3 {
			s.want(stompwire.Send)
		}
		s.send("RECEIPT", "", "receipt-id:2")
		time.Sleep(receiptPatience - time.Second)
		s.receipts("1", "3") // the first is late, but there
		time.Sleep(2 * receiptPatience)
		src.Is(t, "settled 2", "settled up to 3")

		src.Add(sender, linktest.Bodies("4", "5")...)
		s.want(stompwire.Send)
		s.want(stompwire.Send)
		time.Sleep(2 * receiptPatience) // both are missing: the broker is slow
		s.send("RECEIPT", "", "receipt-id:5")
		time.Sleep(receiptPatience - time.Second)
		src.Is(t, "settled 5")
		time.Sleep(2 * time.Second)
		src.Is(t, "closed not available at present")
		other.Is(t)
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	})
}

func TestErrorEndsTheSenderItIsSaidTo(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []string
		tag     uint64
		kind    link.Kind
	}{
		{"naming a message", []string{"message:not_found", "receipt-id:2"}, 2, link.NotFound},
		{"naming none", []string{"message:not_found"}, 0, link.NotFound},
		{"naming one that was not sent", []string{"message:access_refused", "receipt-id:9"}, 0, link.AccessRefused},
		{"of words that nobody knows", []string{"message:Oh no", "receipt-id:1"}, 1, link.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, rabbit, func(t *testing.T, p *peer) {
				conn, _ := p.open()
				src, other := new(source), new(source)
				sender, s := p.sender(conn, src)
				_, s2 := p.sender(conn, other)
				src.Add(sender, linktest.Bodies("1", "2", "3")...)
				for range 3 {
					s.want(stompwire.Send)
				}
				s.send("RECEIPT", "", "receipt-id:1")
				s.send("ERROR", "what is wrong", c.headers...)
				src.Is(t, "settled up to 1", "closed "+c.kind.String())
				if e := src.Fault(); e.Tag != c.tag || !e.Said || !strings.Contains(e.Text, "what is wrong") {
					t.Errorf("%+v", e)
				}
				s.ends()
				s2.send("RECEIPT", "", "receipt-id:1") // it goes on
				other.Is(t)
				if err := conn.Err(); err != nil {
					t.Errorf("the connection ended: %v", err)
				}
			})
		})
	}
}

func TestBrokerThatEndsEndsAll(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src, other := new(source), new(source)
		_, s := p.sender(conn, src)
		p.sender(conn, other)
		s.send("ERROR", "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", "message:connection_forced")
		src.Is(t, "closed connection closed by the broker")
		other.Is(t, "closed connection closed by the broker")
		<-conn.Done()
		linktest.KindIs(t, conn.Err(), link.Forced)
	})
}

func TestLostSessionEndsAll(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, home := p.open()
		src, in := new(source), new(sink)
		p.sender(conn, src)
		p.receiver(conn, link.ReceiverConfig{Queue: "q"}, in)
		home.nc.Close()
		src.Is(t, "closed connection lost")
		in.Is(t, "closed connection lost")
		<-conn.Done()
		linktest.KindIs(t, conn.Err(), link.Network)
		_, err := conn.OpenSender(t.Context(), link.SenderConfig{}, new(source))
		linktest.KindIs(t, err, link.Network)
	})
}

func TestWithoutConfirmsThereAreNoReceipts(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := logIn(p, func() (link.Sender, error) { return conn.OpenSender(t.Context(), link.SenderConfig{}, src) })
		src.Add(sender, linktest.Bodies("1", "2")...)
		if f := s.want(stompwire.Send); f.headers["receipt"] != "" {
			t.Errorf("%+v", f)
		}
		s.want(stompwire.Send)
		src.Is(t, "written 2")
	})
}

func TestUnsendableMessageEndsItsSender(t *testing.T) {
	for name, m := range map[string]*link.Message{
		"a header that is no text": {Key: "q", Headers: map[string]any{"a": []any{math.Inf(1)}}},
		"a header of STOMP's":      {Key: "q", Headers: map[string]any{"destination": "/queue/other"}},
		"a NUL":                    {Key: "q", Headers: map[string]any{"a": "b\x00"}},
		"no destination":           {},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, rabbit, func(t *testing.T, p *peer) {
				conn, _ := p.open()
				src := new(source)
				sender, s := p.sender(conn, src)
				src.Add(sender, linktest.Body("fine"), m, linktest.Body("behind"))
				s.want(stompwire.Send)
				s.ends()
				src.Is(t, "closed message cannot be sent")
				if e := src.Fault(); e.Tag != 2 || e.Said {
					t.Errorf("%+v", e)
				}
				if err := conn.Err(); err != nil {
					t.Errorf("the connection ended: %v", err)
				}
			})
		})
	}
}

func TestLargeBodiesArriveWhole(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		large := strings.Repeat("large", 100_000)
		src.Add(sender, linktest.Bodies("small", large, "small again")...)
		for _, want := range []string{"small", large, "small again"} {
			if f := s.want(stompwire.Send); f.body != want {
				t.Errorf("%d bytes came as %d", len(want), len(f.body))
			}
		}
	})
}

func TestSenderClosesBehindItsMessages(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Bodies("1", "2")...)
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- sender.Close(t.Context()) }()
		s.want(stompwire.Send)
		s.want(stompwire.Send)
		bye := s.want(stompwire.Disconnect)
		s.receipts("1", "2")
		s.receipt(bye)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		src.Is(t, "settled up to 2", "closed <nil>")
		s.ends()
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	})
}

func TestDisconnectWithoutReceiptHangsNothing(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src, other := new(source), new(source)
		sender, s := p.sender(conn, src)
		second, s2 := p.sender(conn, other)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := sender.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		src.Is(t, "closed <nil>")
		s.want(stompwire.Disconnect)
		go func() {
			s2.want(stompwire.Disconnect)
			s2.nc.Close() // as some brokers do
		}()
		linktest.KindIs(t, second.Close(t.Context()), link.Network)
		synctest.Wait()
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	})
}

func TestRepliesComeBackToTheSender(t *testing.T) {
	for _, url := range []string{rabbit, art} {
		bubble(t, url, func(t *testing.T, p *peer) {
			conn, _ := p.open()
			src, in := new(source), new(sink)
			sides := make(chan *side, 1)
			var queue string
			go func() {
				s := p.accept()
				if url == art {
					f := s.want(stompwire.Subscribe)
					queue = f.headers["destination"]
					if f.headers["ack"] != "auto" || f.headers["subscription-type"] != "ANYCAST" {
						t.Errorf("%+v", f)
					}
					s.receipt(f)
				} else {
					queue = "/temp-queue/ferry"
				}
				sides <- s
			}()
			sender, err := conn.OpenSender(t.Context(), link.SenderConfig{Confirm: true, Replies: in}, src)
			if err != nil {
				t.Fatal(err)
			}
			s := <-sides
			src.Add(sender, &link.Message{Key: "q", ReplyTo: link.DirectReplyTo})
			if f := s.want(stompwire.Send); f.headers["reply-to"] != queue || queue == "" {
				t.Errorf("%+v, want a reply to %q", f, queue)
			}
			s.write("RECEIPT\nreceipt-id:1\n\n\x00MESSAGE\nsubscription:/temp-queue/ferry\nmessage-id:1\ndestination:/queue/x\n\nanswer\x00")
			in.Is(t, "answer")
			src.Is(t, "settled up to 1")
			s.send("ERROR", "", "message:not_found")
			in.Is(t, "closed not found")
			src.Is(t, "closed not found")
		})
	}
}
