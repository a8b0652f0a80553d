package stomplink

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/linktest"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// errands serves sessions that declare: what answers each SEND, by its destination,
// is an ERROR. The destinations are sent to asked.
func (p *peer) errands(n int, refuse map[string]string) (asked chan []string) {
	asked = make(chan []string, 1)
	go func() {
		var all []string
		for range n {
			s := p.accept()
			wrong := ""
			for {
				f, ok := s.next()
				if !ok {
					break
				}
				switch to := f.headers["destination"]; {
				case f.command == stompwire.Send && f.headers["transaction"] != "":
					all = append(all, to+" "+f.headers["x-message-ttl"])
					if wrong == "" {
						wrong = refuse[to]
					}
				case f.command == stompwire.Send:
					if !strings.HasPrefix(to, "/amq/queue/ferry.nowhere.") {
						p.t.Errorf("%+v", f)
					}
				}
				if f.headers["receipt"] != "" && wrong != "" {
					s.send("ERROR", "what is wrong", "message:"+wrong)
					break
				}
				if f.headers["receipt"] != "" {
					s.receipt(f)
				}
			}
		}
		asked <- all
	}()
	return asked
}

func TestQueuesAreDeclaredWithoutAMessage(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		asked := p.errands(1, nil)
		results := conn.Declare(t.Context(), []link.Item{
			link.Queue{Name: "a"},
			link.Exchange{Name: "e", Kind: "topic"},
			link.Queue{Name: "b", Arguments: map[string]any{"x-message-ttl": 1000}},
			link.Queue{Name: "c", Arguments: map[string]any{"x-overflow": "reject-publish"}},
			link.Queue{Name: "d", Passive: true},
			link.Queue{Name: "e", Exclusive: true},
			link.Queue{},
			link.Binding{Queue: "a", Exchange: "e"},
			link.QueueDelete{Name: "a"},
			link.QueuePurge{Name: "a"},
		})
		for i, r := range results {
			if i == 0 || i == 2 {
				if r.Err != nil || r.Name == "" {
					t.Errorf("%d: %+v", i, r)
				}
				continue
			}
			linktest.KindIs(t, r.Err, link.NotAllowed)
		}
		if got := strings.Join(<-asked, ","); got != "/queue/a ,/queue/b 1000" {
			t.Error(got)
		}
	})
}

func TestOneRefusedDeclarationFailsAlone(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		p.errands(6, map[string]string{"/queue/b": "precondition_failed", "/queue/c": "precondition_failed", "/queue/d": "access_refused"})
		results := conn.Declare(t.Context(), []link.Item{
			link.Queue{Name: "a"}, link.Queue{Name: "b"}, link.Queue{Name: "c", IfAbsent: true}, link.Queue{Name: "d", IfAbsent: true}, link.Queue{Name: "e"},
		})
		for i, kind := range []link.Kind{0, link.Precondition, 0, link.AccessRefused, 0} {
			if kind == 0 && results[i].Err != nil {
				t.Errorf("%d: %v", i, results[i].Err)
			} else if kind != 0 {
				linktest.KindIs(t, results[i].Err, kind)
			}
		}
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestDeclarationsEndWithTheirContext(t *testing.T) {
	bubble(t, rabbit, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		go func() {
			s := p.accept()
			for {
				if _, ok := s.next(); !ok {
					return
				}
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, r := range conn.Declare(ctx, []link.Item{link.Queue{Name: "a"}, link.Queue{Name: "b"}}) {
			if !errors.Is(r.Err, context.DeadlineExceeded) {
				t.Error(r.Err)
			}
		}
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestArtemisMakesQueuesItself(t *testing.T) {
	bubble(t, art, func(t *testing.T, p *peer) {
		conn, _ := p.open()
		asked := p.errands(1, nil)
		results := conn.Declare(t.Context(), []link.Item{
			link.Queue{Name: "a"},
			link.Queue{Name: "b", Arguments: map[string]any{"x-message-ttl": 1000}},
			link.Queue{Name: "c", Arguments: map[string]any{"x-message-ttl": 1000}, IfAbsent: true},
		})
		if results[0].Err != nil || results[2].Err != nil {
			t.Errorf("%+v", results)
		}
		linktest.KindIs(t, results[1].Err, link.NotAllowed)
		if got := strings.Join(<-asked, ","); !strings.HasPrefix(got, "a ,c") {
			t.Error(got)
		}
	})
}
