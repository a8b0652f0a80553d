package gmqlink

import (
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
)

func TestRepliesConfirmInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Bodies("1", "2", "3", "4")...)
		for _, want := range []string{"1", "2", "3", "4"} {
			if r := s.want("P"); r.body(t) != want || r.Queue != "q" || r.MessageID != "p-"+want || r.Attempt != 0 || r.Transient != nil || r.Auth.User != "" {
				t.Errorf("%+v", r)
			}
		}
		s.write(yes("P", "") + yes("P", ""))
		src.Is(t, "settled up to 2")
		s.write(yes("P", "")[:10])
		src.Is(t)
		s.write(yes("P", "")[10:] + yes("P", `,"payload":"other"`))
		src.Is(t, "settled up to 4")
	})
}

func TestRefusalIsOfItsMessageAlone(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Bodies("1", "2", "3", "4", "5")...)
		for range 5 {
			s.want("P")
		}
		s.write(yes("P", "") + refuse("P", "NOT_FOUND - no queue 'q' in vhost '/'") + yes("P", "") +
			refuse("P", "NACKED - the queue is full") + yes("P", ""))
		src.Is(t, "settled up to 1", "refused 2: not found", "settled up to 3", "nacked 4", "settled up to 5")
		src.Add(sender, linktest.Body("6"))
		s.want("P")
		s.write(refuse("P", "PRECONDITION_FAILED - message size 17 is larger than configured max size 16"))
		src.Is(t, "refused 6: message too large")
	})
}

// A refusal that says nothing of the message ends its sender, and nothing is known of
// what was sent.
func TestRefusalForTheServersSakeEndsTheSender(t *testing.T) {
	for _, c := range []struct {
		text string
		kind link.Kind
		all  bool // the connection ends
	}{
		{"INTERNAL_ERROR - the disk is gone", link.Internal, false},
		{"RESOURCE_ERROR - publishing is blocked: low on disk", link.Unavailable, false},
		{"what nobody has said before", link.Internal, false},
		{"", link.Internal, false},
		{"CONNECTION_FORCED - broker shutdown", link.Forced, true},
	} {
		t.Run(c.text, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *peer) {
				conn, _ := p.open()
				src, other := new(source), new(source)
				sender, s := p.sender(conn, src)
				p.sender(conn, other)
				src.Add(sender, linktest.Bodies("1", "2", "3")...)
				for range 3 {
					s.want("P")
				}
				s.write(yes("P", "") + refuse("P", c.text) + yes("P", ""))
				src.Is(t, "settled up to 1", "closed "+c.kind.String())
				if e := src.Fault(); e.Tag != 2 || !e.Said {
					t.Errorf("%+v", e)
				}
				if ended := conn.Err() != nil; ended != c.all {
					t.Errorf("the connection: %v", conn.Err())
				}
			})
		})
	}
}

func TestResendIsMarked(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		src.Waiting = []link.Outgoing{
			{Message: linktest.Body("1"), Producer: "p", Seq: 7, Attempt: 3},
			{Message: &link.Message{Key: "q", ID: "own", Transient: true}, Producer: "p", Seq: 8, Attempt: 1},
		}
		_, s := p.sender(conn, src)
		if r := s.want("P"); r.MessageID != "p-7" || r.Attempt != 3 {
			t.Errorf("%+v", r)
		}
		if r := s.want("P"); r.MessageID != "own" || r.Transient == nil || !*r.Transient {
			t.Errorf("%+v", r)
		}
	})
}

func TestPropertiesTravel(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, &link.Message{
			Key: "q", ContentType: "text/plain", ContentEncoding: "gzip", Priority: 3, CorrelationID: "c", ReplyTo: "r",
			Expiration: 1500*time.Microsecond + 1, MessageID: "m", Timestamp: time.Unix(1e9, 5), Type: "t", UserID: "u", AppID: "a",
			Headers: map[string]any{"text": "é\n", "n": int32(-5), "yes": true, link.HeaderID: "not this"},
		})
		r := s.want("P")
		got := r.Properties
		for name, want := range map[string]any{
			"content_type": "text/plain", "content_encoding": "gzip", "priority": 3.0, "correlation_id": "c", "reply_to": "r",
			"expiration": 2.0, "message_id": "m", "timestamp": 1e9, "type": "t", "user_id": "u", "app_id": "a",
		} {
			if got[name] != want {
				t.Errorf("%s: %v, want %v", name, got[name], want)
			}
		}
		if h, _ := got["headers"].(map[string]any); len(h) != 3 || h["text"] != "é\n" || h["n"] != -5.0 || h["yes"] != true {
			t.Errorf("headers %v", got["headers"])
		}
	})
}

func TestWhatGMQCannotCarryIsUnsendable(t *testing.T) {
	for name, m := range map[string]*link.Message{
		"an exchange":     {Exchange: "amq.topic", Key: "k"},
		"no queue":        {},
		"a table":         {Key: "q", Headers: map[string]any{"a": map[string]any{}}},
		"a float":         {Key: "q", Headers: map[string]any{"a": 1.5}},
		"bytes":           {Key: "q", Headers: map[string]any{"a": []byte("x")}},
		"no UTF-8":        {Key: "q", Type: "\xff"},
		"no UTF-8 within": {Key: "q", Headers: map[string]any{"a": "\xff"}},
		"a reply":         {Key: "q", ReplyTo: link.DirectReplyTo},
		"negative":        {Key: "q", Expiration: -1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *peer) {
				conn, _ := p.open()
				src := new(source)
				sender, s := p.sender(conn, src)
				src.Add(sender, linktest.Body("1"), m, linktest.Body("3"))
				src.Is(t, "closed message cannot be sent")
				if e := src.Fault(); e.Tag != 2 || e.Err == nil {
					t.Errorf("%+v", e)
				}
				s.want("P")
				s.ends()
				if err := conn.Err(); err != nil {
					t.Errorf("the connection ended: %v", err)
				}
			})
		})
	}
}

func TestSenderCloseWaitsForTheReplies(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Bodies("1", "2")...)
		s.want("P")
		s.want("P")
		ended := make(chan error, 1)
		go func() { ended <- sender.Close(t.Context()) }()
		s.want("SYNC")
		s.write(yes("P", "") + yes("P", "") + yes("SYNC", ""))
		if err := <-ended; err != nil {
			t.Error(err)
		}
		src.Is(t, "settled up to 2", "closed <nil>")
		s.ends()
	})
}

func TestWithoutConfirmsMessagesAreDoneWhenWritten(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := logIn(p, func() (link.Sender, error) { return conn.OpenSender(t.Context(), link.SenderConfig{}, src) })
		src.Add(sender, linktest.Bodies("1", "2")...)
		s.want("P")
		s.want("P")
		s.write(yes("P", "") + refuse("P", "NOT_FOUND - no queue"))
		src.Is(t, "written 2")
	})
}

// A server that takes no messages says so, and says that it takes them by taking one.
func TestServerThatTakesNoMessagesIsBlocked(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		var told record
		p.options.Blocked = func(reason string, ok bool) { told.Note("%v %s", ok, reason) }
		conn, _ := p.open()
		for range 2 {
			src := new(source)
			sender, s := p.sender(conn, src)
			src.Add(sender, linktest.Body("1"))
			s.want("P")
			s.write(refuse("P", "RESOURCE_ERROR - publishing is blocked: low on disk"))
			src.Is(t, "closed not available at present")
		}
		told.Is(t, "false RESOURCE_ERROR - publishing is blocked: low on disk")
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Bodies("1", "2")...)
		s.want("P")
		s.want("P")
		s.write(refuse("P", "RESOURCE_ERROR - queue 'q' is full: 5 messages wait in it, the limit is 5 (max_queue_capacity)") + yes("P", ""))
		src.Is(t, "nacked 1", "settled up to 2")
		told.Is(t, "true ")
	})
}

// Behind a request that is too large to be read the server closes that connection.
func TestCloseBehindARefusalEndsTheSenderAlone(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Bodies("1", "2")...)
		s.want("P")
		s.want("P")
		s.write(refuse("P", "CONTENT_TOO_LARGE - the request has more than 22435160 bytes"))
		s.nc.Close()
		src.Is(t, "refused 1: message too large", "closed not available at present")
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	})
}

// While nothing that was published is answered the home tells that the server lives.
func TestServerThatAnswersNoPublishIsBlocked(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		var told record
		p.options.Heartbeat = 10 * time.Second
		p.options.Blocked = func(_ string, ok bool) { told.Note("takes messages: %v", ok) }
		conn, home := p.open()
		home.live()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Body("1"))
		s.want("P")
		time.Sleep(15 * time.Second)
		told.Is(t, "takes messages: false")
		time.Sleep(time.Minute)
		src.Is(t)
		if err := conn.Err(); err != nil {
			t.Fatal(err)
		}
		s.write(yes("P", ""))
		s.live()
		time.Sleep(15 * time.Second)
		told.Is(t, "takes messages: true")
		src.Is(t, "settled up to 1")
		time.Sleep(time.Minute) // it is alive
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestServerThatNeverAnswersAPublishIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		p.options.Heartbeat = 10 * time.Second
		conn, home := p.open()
		home.live()
		src := new(source)
		sender, s := p.sender(conn, src)
		src.Add(sender, linktest.Body("1"))
		s.want("P")
		time.Sleep(answerPatience + time.Minute)
		src.Is(t, "closed not available at present")
		if err := conn.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	})
}

func TestLargeBodiesAreWrittenWhole(t *testing.T) {
	bubble(t, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		src := new(source)
		sender, s := p.sender(conn, src)
		large := strings.Repeat("large", 100_000)
		src.Add(sender, linktest.Bodies("a", large, "b", large)...)
		for _, want := range []string{"a", large, "b", large} {
			if r := s.want("P"); r.body(t) != want {
				t.Errorf("a body of %d bytes came as %d", len(want), len(r.body(t)))
			}
		}
		s.write(strings.Repeat(yes("P", ""), 4))
		src.Is(t, "settled up to 4")
	})
}
