package adminserver

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/memory"
)

// settings are a broker's as a store of users.
type settings struct{ *broker.Broker }

func (s settings) Settings(kind string) []auth.Setting {
	var list []auth.Setting
	for _, x := range s.Broker.Settings(kind) {
		list = append(list, auth.Setting(x))
	}
	return list
}

func (s settings) PutSetting(x auth.Setting) error { return s.Broker.PutSetting(broker.Setting(x)) }

// own is a broker with an API, and a world around it.
type own struct {
	*world
	b     *broker.Broker
	users *auth.Users
	s     *Server
	open  map[string]*broker.Session
}

// messageMost is the largest message of the broker, bytes.
const messageMost = 100_000

func newOwn(t testing.TB) *own {
	t.Helper()
	b, err := broker.Open(t.Context(), broker.Config{Journal: memory.New(memory.Options{}), MaxMessage: messageMost})
	if err != nil {
		t.Fatal(err)
	}
	o := &own{b: b, users: auth.New(settings{b}), open: map[string]*broker.Session{}}
	t.Cleanup(func() {
		for _, s := range o.open {
			s.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	b.WatchSettings(func(broker.Setting) { o.users.Changed() })
	hash := hashOf("guest")
	if _, err := o.users.PutUser(t.Context(), "guest", auth.UserSpec{PasswordHash: &hash, Tags: &auth.Tags{auth.TagAdministrator}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.users.PutPermission(auth.Permissions{User: "guest", VHost: "/", Configure: ".*", Write: ".*", Read: ".*"}); err != nil {
		t.Fatal(err)
	}
	o.s = New(Config{
		Broker: func() (*broker.Broker, string) { return b, "" },
		Users:  o.users, Known: func() bool { return true },
		Node: func() Node {
			return Node{
				Listeners: []Listener{{"amqp", "127.0.0.1", 5672}, {"http", "127.0.0.1", 15672}},
				Memory:    1 << 20, MemoryLimit: 1 << 30, DiskFree: 1 << 30, DiskLimit: 1 << 20, Files: 5, FilesLimit: 1024,
			}
		},
		Peers: func(context.Context) any { return []any{} },
		Name:  "ferry@here", Version: "0",
	})
	server := httptest.NewServer(o.s)
	t.Cleanup(server.Close)
	o.world = &world{t: t, base: server.URL, user: "guest", password: "guest", node: "ferry@here"}
	o.connect = o.connectUser
	return o
}

// connectUser opens a connection with a channel and a consumer, unless there is one.
func (o *own) connectUser(user, vhost string) {
	o.t.Helper()
	name := user + "@" + vhost
	if s := o.open[name]; s != nil {
		if _, ok := o.b.Connection(name); ok && !closed(s) {
			return
		}
		s.Close()
	}
	s, err := o.b.OpenSession(broker.SessionConfig{
		VHost: vhost, User: user, Name: name, Protocol: "AMQP 0-9-1", Peer: netip.MustParseAddrPort("127.0.0.1:1234"),
	})
	if err != nil {
		o.t.Fatal(err)
	}
	o.open[name] = s
	k, err := s.OpenChannel(1).Consume(broker.ConsumeSpec{Queue: "q", Tag: "tag"})
	if err != nil {
		o.t.Fatal(err)
	}
	k.Start()
}

// closed tells whether the broker has asked a connection to end.
func closed(s *broker.Session) bool {
	for _, e := range s.Take(nil) {
		if e.Kind == broker.EventClosed {
			return true
		}
	}
	return false
}

// get makes a request as the first user and decodes the answer, which has a status.
func (o *own) get(method, path, body string, status int, to any) {
	o.t.Helper()
	got := o.call(o.user, o.password, method, path, body)
	if got.status != status {
		o.t.Fatalf("%s %s %s: %d %s", method, path, body, got.status, got.body)
	}
	if to != nil {
		if err := json.Unmarshal(got.body, to); err != nil {
			o.t.Fatalf("%s %s: %v: %s", method, path, err, got.body)
		}
	}
}
