package broker

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

// prefixes is an Access: what begins with "c" may be configured, with "w" written,
// with "r" read; of an exchange of type topic by keys that begin with "k".
type prefixes struct {
	asked, topics atomic.Int32
	closed        atomic.Bool // nothing is allowed any more
}

func (p *prefixes) May(what Permission, name string) bool {
	p.asked.Add(1)
	return !p.closed.Load() && strings.HasPrefix(name, what.String()[:1])
}

func (p *prefixes) MayTopic(_ Permission, _, key string) bool {
	p.topics.Add(1)
	return !p.closed.Load() && strings.HasPrefix(key, "k")
}

// limited is a client with that Access.
func (w *world) limited() (*client, *prefixes) {
	w.t.Helper()
	p := &prefixes{}
	s, err := w.b.OpenSession(SessionConfig{VHost: "/", User: "u", Access: p})
	if err != nil {
		w.t.Fatalf("open a session: %v", err)
	}
	return &client{t: w.t, Session: s, ch: s.OpenChannel(1)}, p
}

// The texts, and what is asked first, are those of RabbitMQ 3.10.
func TestEveryOperationAsksForItsPermission(t *testing.T) {
	w := newWorld(t)
	guest := w.client()
	defer guest.Close()
	for _, q := range []string{"cq", "rq", "wq", "x"} {
		guest.queue(q, true)
	}
	for _, x := range []string{"cx", "rx", "wx"} {
		guest.exchange(x, "direct")
	}
	guest.exchange("rt", "topic")
	guest.exchange("wt", "topic")
	c, _ := w.limited()
	defer c.Close()
	declare := func(name string, args args) error {
		_, err := c.DeclareQueue(QueueSpec{Name: name, Durable: true, Args: args.list()})
		return err
	}
	publish := func(exchange, key string) error {
		return c.ch.Publish(&Publish{Exchange: []byte(exchange), Key: []byte(key)})
	}
	exchange := func(name string, args args) error {
		return c.DeclareExchange(ExchangeSpec{Name: name, Type: "direct", Durable: true, Args: args.list()})
	}
	refused := func(what string) string { return "access to " + what + " in vhost '/' refused for user 'u'" }
	for _, test := range []struct {
		what string
		do   func() error
		want string
	}{
		{"declare", func() error { return declare("q", nil) }, refused("queue 'q'")},
		{"declare one that is there", func() error { return declare("x", nil) }, refused("queue 'x'")},
		{"declare wrongly", func() error { return declare("q", args{"x-expires": "a"}) }, refused("queue 'q'")},
		{"declare a reserved name", func() error { return declare("amq.q", nil) }, "queue name 'amq.q' contains reserved prefix 'amq.*'"},
		{"declare one's own", func() error { return declare("cq", nil) }, ""},
		{"declare with dead letters", func() error { return declare("c1", args{"x-dead-letter-exchange": "wx"}) }, refused("queue 'c1'")},
		{"declare what is there with dead letters", func() error { return declare("cq", args{"x-dead-letter-exchange": "wx"}) }, "inequivalent arg 'x-dead-letter-exchange' for queue 'cq' in vhost '/': received the value 'wx' of type 'longstr' but current is none"},
		{"look at", func() error { _, err := c.CheckQueue("x"); return err }, ""},
		{"delete", func() error { _, err := c.DeleteQueue("rq", false, false); return err }, refused("queue 'rq'")},
		{"delete what is not there", func() error { _, err := c.DeleteQueue("none", false, false); return err }, refused("queue 'none'")},
		{"purge", func() error { _, err := c.PurgeQueue("wq"); return err }, refused("queue 'wq'")},
		{"purge what may be read", func() error { _, err := c.PurgeQueue("rq"); return err }, ""},
		{"get", func() error { _, err := c.ch.Get("wq", true); return err }, refused("queue 'wq'")},
		{"consume", func() error { _, err := c.ch.Consume(ConsumeSpec{Queue: "wq", Tag: "t"}); return err }, refused("queue 'wq'")},
		{"consume from what is not there", func() error { _, err := c.ch.Consume(ConsumeSpec{Queue: "none", Tag: "t"}); return err }, refused("queue 'none'")},
		{"publish by name", func() error { return publish("", "wq") }, refused("exchange 'amq.default'")},
		{"publish", func() error { return publish("rx", "k") }, refused("exchange 'rx'")},
		{"publish to what is not there", func() error { return publish("none", "k") }, refused("exchange 'none'")},
		{"publish to what may be written and is not there", func() error { return publish("wnone", "k") }, "no exchange 'wnone' in vhost '/'"},
		{"publish to a topic", func() error { return publish("wt", "k") }, ""},
		{"publish to another topic", func() error { return publish("wt", "r") }, refused("topic 'r' in exchange 'wt'")},
		{"bind", func() error { return c.BindQueue("wq", "rx", "r", nil) }, ""},
		{"bind by topic", func() error { return c.BindQueue("wq", "rt", "k", nil) }, ""},
		{"bind by another topic", func() error { return c.BindQueue("wq", "rt", "r", nil) }, refused("topic 'r' in exchange 'rt'")},
		{"bind what may not be written", func() error { return c.BindQueue("rq", "rx", "k", nil) }, refused("queue 'rq'")},
		{"bind to what may not be read", func() error { return c.BindQueue("wq", "wx", "k", nil) }, refused("exchange 'wx'")},
		{"bind to the default exchange", func() error { return c.BindQueue("wq", "", "k", nil) }, "operation not permitted on the default exchange"},
		{"unbind", func() error { return c.UnbindQueue("rq", "rx", "k", nil) }, refused("queue 'rq'")},
		{"unbind another topic", func() error { return c.UnbindQueue("wq", "rt", "r", nil) }, refused("topic 'r' in exchange 'rt'")},
		{"bind an exchange", func() error { return c.BindExchange("rx", "rx", "k", nil) }, refused("exchange 'rx'")},
		{"bind the default exchange", func() error { return c.BindExchange("", "rx", "k", nil) }, refused("exchange 'amq.default'")},
		{"unbind an exchange", func() error { return c.UnbindExchange("wx", "wx", "k", nil) }, refused("exchange 'wx'")},
		{"declare an exchange", func() error { return exchange("x", nil) }, refused("exchange 'x'")},
		{"declare a reserved exchange", func() error { return exchange("amq.x", nil) }, refused("exchange 'amq.x'")},
		{"declare an exchange that is there", func() error { return exchange("cx", nil) }, ""},
		{"declare with an alternate exchange", func() error { return exchange("c1", args{"alternate-exchange": "wx"}) }, refused("exchange 'c1'")},
		{"look at an exchange", func() error { return c.CheckExchange("wx") }, ""},
		{"delete an exchange", func() error { return c.DeleteExchange("wx", false) }, refused("exchange 'wx'")},
		{"delete an exchange of the broker's", func() error { return c.DeleteExchange("amq.direct", false) }, "deletion of system exchange 'amq.direct' in vhost '/' not allowed"},
		{"delete an exchange that is not there", func() error { return c.DeleteExchange("none", false) }, refused("exchange 'none'")},
	} {
		got := ""
		if err := test.do(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.what, got, test.want)
		}
	}
	err := declare("", nil)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != AccessRefused || !strings.HasPrefix(e.Text, "access to queue 'amq.gen-") {
		t.Errorf("a queue that the broker names: %v", err)
	}
}

// Whoever may write to one topic could otherwise write to all.
func TestFurtherKeysNeedPermissionToo(t *testing.T) {
	w := newWorld(t)
	guest := w.client()
	defer guest.Close()
	guest.exchange("wt", "topic")
	c, _ := w.limited()
	defer c.Close()
	header := append([]byte("\x02CCA\x00\x00\x00\x06"), "S\x00\x00\x00\x01r"...)
	err := c.ch.Publish(&Publish{Exchange: []byte("wt"), Key: []byte("k"), Properties: message.AppendField(nil, message.Headers, header)})
	if want := "access to topic 'r' in exchange 'wt' in vhost '/' refused for user 'u'"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestPublishingAsksOnceUntilPermissionsChange(t *testing.T) {
	w := newWorld(t)
	guest := w.client()
	defer guest.Close()
	guest.exchange("wt", "topic")
	guest.exchange("wh", "headers")
	c, p := w.limited()
	defer c.Close()
	publish := func(exchange, key string) error {
		return c.ch.Publish(&Publish{Exchange: []byte(exchange), Key: []byte(key)})
	}
	for i := range 100 {
		if err := publish("wt", fmt.Sprint("k", i%2)); err != nil {
			t.Fatal(err)
		}
	}
	if n, topics := p.asked.Load(), p.topics.Load(); n != 2 || topics != 2 {
		t.Errorf("asked for the exchange %d times, for topics %d times, want 2 each", n, topics)
	}
	p.asked.Store(0)
	for range 100 { // which no route is remembered of
		if err := publish("wh", "k"); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	p.closed.Store(true)
	w.b.AccessChanged()
	for _, x := range []string{"wt", "wh"} {
		if err := publish(x, "k0"); err == nil {
			t.Errorf("published to %s when that was not permitted any more", x)
		}
	}
}

func TestAnImpersonatorPublishesInOthersNames(t *testing.T) {
	w := newWorld(t)
	guest := w.client()
	defer guest.Close()
	props := message.AppendFieldString(nil, message.UserID, "other")
	if err := guest.ch.Publish(&Publish{Key: []byte("q"), Properties: props}); err == nil {
		t.Error("published in another's name")
	}
	s, err := w.b.OpenSession(SessionConfig{VHost: "/", User: "u", Impersonator: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.OpenChannel(1).Publish(&Publish{Key: []byte("q"), Properties: props}); err != nil {
		t.Error(err)
	}
}

// Only arguments that begin with "x-" mean anything, as in RabbitMQ: those that have
// the names of policies' keys are not checked, and nobody is asked for a permission.
func TestArgumentsWithTheNamesOfPolicyKeysMeanNothing(t *testing.T) {
	w := newWorld(t)
	guest := w.client()
	defer guest.Close()
	guest.exchange("vault", "fanout")
	c, _ := w.limited()
	defer c.Close()
	own := args{"dead-letter-exchange": "vault", "message-ttl": int64(-1), "max-length": int64(0), "expires": int64(-1)}
	if _, err := c.DeclareQueue(QueueSpec{Name: "cq", Durable: true, Args: own.list()}); err != nil {
		t.Fatal(err)
	}
	q, err := w.b.vhost("/").queue("cq", c.Session)
	if err != nil {
		t.Fatal(err)
	}
	if *q.rules != *rulesOf(args{"any": "thing"}.list(), nil, nil) {
		t.Errorf("the arguments have made rules: %+v", *q.rules)
	}
}
