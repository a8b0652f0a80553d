package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/vfs"
)

// in opens a session in a virtual host.
func (w *world) in(vhost string) *client {
	w.t.Helper()
	s, err := w.b.OpenSession(SessionConfig{VHost: vhost, User: "guest", NotifyCancelled: true})
	if err != nil {
		w.t.Fatalf("open a session: %v", err)
	}
	return &client{t: w.t, Session: s, ch: s.OpenChannel(1)}
}

func kindOf(err error) Kind {
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		return 0
	}
	return e.Kind
}

func TestADeletedVirtualHostTakesAllWithIt(t *testing.T) {
	eachJournal(t, func(t *testing.T, on journals) {
		w := on.world(t)
		if err := w.b.AddVHost("v"); err != nil {
			t.Fatal(err)
		}
		c, other := w.in("v"), w.client()
		other.queue("q", true)
		other.publish("", "q", "stays", true)
		c.queue("q", true)
		c.queue("transient", false)
		if _, err := c.DeclareQueue(QueueSpec{Name: "mine", Durable: true, Exclusive: true}); err != nil {
			t.Fatal(err)
		}
		c.exchange("x", "direct")
		if err := c.BindQueue("q", "x", "k", nil); err != nil {
			t.Fatal(err)
		}
		if err := c.ch.ConfirmSelect(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			c.publish("x", "k", "goes", true)
			c.publish("", "mine", "goes", true)
		}
		for c.next(EventConfirm).Tag < 6 {
		}
		c.consume("transient", "t", false)
		for _, s := range []Setting{
			{SettingVHost, "", "v", []byte(`{}`)},
			{SettingVHost, "", "other", []byte(`{}`)},
			{SettingPermission, "v", "guest", []byte(`{}`)},
			{SettingPolicy, "v", "p", []byte(`{"pattern":"q","definition":{"max-length":1000}}`)},
			{SettingPolicy, "/", "p", []byte(`{"pattern":"q","definition":{"max-length":1000}}`)},
		} {
			if err := w.b.PutSetting(s); err != nil {
				t.Fatal(err)
			}
		}
		var told []string
		w.b.WatchSettings(func(s Setting) { told = append(told, s.Kind) })
		if err := w.b.DeleteVHost("v"); err != nil {
			t.Fatal(err)
		}
		if len(told) != 3 {
			t.Errorf("told of the end of %v, want three", told)
		}
		e := c.next(EventClosed)
		if e.Err.Kind != Forced || e.Err.Text != "vhost 'v' is deleted" {
			t.Errorf("its connection is closed with %v", e.Err)
		}
		if _, err := c.DeclareQueue(QueueSpec{Name: "late"}); kindOf(err) != Forced {
			t.Errorf("a queue was declared in it: %v", err)
		}
		if err := c.ch.Publish(&Publish{Key: []byte("q"), Body: []byte("late")}); kindOf(err) != Forced {
			t.Errorf("a message was published in it: %v", err)
		}
		c.Close()
		if _, err := w.b.OpenSession(SessionConfig{VHost: "v"}); kindOf(err) != NotAllowed {
			t.Errorf("a session was opened in it: %v", err)
		}
		if err := w.b.DeleteVHost("v"); kindOf(err) != NotFound {
			t.Errorf("it was deleted again: %v", err)
		}
		other.Close()
		check := func() {
			t.Helper()
			if w.b.vhost("v") != nil {
				t.Error("it is there")
			}
			if n := len(w.b.Settings("")); n != 2 {
				t.Errorf("there are %d settings, want 2", n)
			}
			c := w.client()
			defer c.Close()
			c.ready("q", 1)
		}
		check()
		w.restart()
		check()
		if err := w.b.takeCheckpoint(); err != nil {
			t.Fatal(err)
		}
		w.restart()
		check()
		if err := w.b.AddVHost("v"); err != nil {
			t.Fatal(err)
		}
		again := func() {
			t.Helper()
			v := w.b.vhost("v")
			if len(v.queues) != 0 || len(v.exchanges) != len(builtIn) {
				t.Errorf("a new one has %d queues, %d exchanges", len(v.queues), len(v.exchanges))
			}
		}
		again()
		w.restart()
		again()
	})
}

// What is under way when a virtual host goes is of it, never of one that is made
// under its name.
func TestAVirtualHostIsMadeAnewWhileTheOldOneIsUsed(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for k := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				s, err := w.b.OpenSession(SessionConfig{VHost: "v"})
				if err != nil {
					continue
				}
				ch := s.OpenChannel(1)
				name := fmt.Sprintf("q%d.%d", k, i%5)
				for range 5 {
					_, _ = s.DeclareQueue(QueueSpec{Name: name, Durable: true})
					_ = s.BindQueue(name, "amq.direct", name, nil)
					_ = ch.Publish(&Publish{Exchange: []byte("amq.direct"), Key: []byte(name), Persistent: true, Body: []byte("x")})
					s.Flush()
				}
				s.Close()
			}
		})
	}
	for range 50 {
		if err := w.b.AddVHost("v"); err != nil {
			t.Fatal(err)
		}
		if err := w.b.PutSetting(Setting{SettingPolicy, "v", "p", []byte(`{"pattern":"q","definition":{"max-length":1000}}`)}); err != nil {
			t.Fatal(err)
		}
		if err := w.b.takeCheckpoint(); err != nil {
			t.Fatal(err)
		}
		if err := w.b.DeleteVHost("v"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.b.AddVHost("v"); err != nil {
		t.Fatal(err)
	}
	close(stop)
	wg.Wait()
	before := topology(w.b, "v")
	w.restart()
	if after := topology(w.b, "v"); after != before {
		t.Errorf("before the restart there was\n%s\nand there is\n%s", before, after)
	}
}

// topology tells what durable queues a virtual host has, what is in them, and to
// how much they are bound.
func topology(b *Broker, vhost string) string {
	v := b.vhost(vhost)
	list := ""
	for _, q := range v.listing.snapshot(v) { // nobody else is there
		list += fmt.Sprintf("%s: %d messages, %d bindings\n", q.name, q.ready, len(q.bindings))
	}
	return list
}

func TestALimitedNumberOfConnectionsChannelsAndQueues(t *testing.T) {
	w := newWorld(t)
	if err := w.b.AddVHost("v"); err != nil {
		t.Fatal(err)
	}
	put := func(kind, vhost, name, value string) {
		t.Helper()
		if err := w.b.PutSetting(Setting{kind, vhost, name, []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	open := func(vhost, user string) (*Session, error) {
		return w.b.OpenSession(SessionConfig{VHost: vhost, User: user})
	}
	wants := func(err error, kind Kind, text string) {
		t.Helper()
		if kindOf(err) != kind || err.Error() != text {
			t.Errorf("got %v, want %s", err, text)
		}
	}
	put(SettingVHostLimit, "v", "max-connections", "1")
	first, err := open("v", "a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = open("v", "b")
	wants(err, NotAllowed, "access to vhost 'v' refused for user 'b': connection limit (1) is reached")
	if s, err := w.b.OpenSession(SessionConfig{VHost: "v", User: "b", Unlisted: true}); err != nil {
		t.Errorf("the server's own session is refused: %v", err)
	} else {
		s.Close()
	}
	first.Close()
	second, err := open("v", "b")
	if err != nil {
		t.Fatalf("behind the end of the first: %v", err)
	}
	put(SettingVHostLimit, "v", "max-connections", "-1")
	put(SettingUserLimit, "", "b\x00max-connections", "1")
	_, err = open("/", "b")
	wants(err, NotAllowed, "connection refused for user 'b': user connection limit (1) is reached")
	put(SettingUserLimit, "", "c\x00max-connections", "0")
	_, err = open("/", "c")
	wants(err, NotAllowed, "connection refused for user 'c': user connection limit (0) is reached")

	put(SettingUserLimit, "", "b\x00max-channels", "2")
	one, _ := second.OpenChannel(1), second.OpenChannel(2)
	wants(second.MayOpenChannel(), NotAllowed, "number of channels opened for user 'b' has reached the maximum allowed user limit of (2)")
	one.Close()
	if err := second.MayOpenChannel(); err != nil {
		t.Errorf("behind the end of one: %v", err)
	}

	put(SettingVHostLimit, "v", "max-queues", "1")
	for range 2 {
		if _, err := second.DeclareQueue(QueueSpec{Name: "one"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = second.DeclareQueue(QueueSpec{Name: "two"})
	wants(err, PreconditionFailed, "cannot declare queue 'two': queue limit in vhost 'v' (1) is reached")
	if found, err := w.b.DeleteSetting(SettingVHostLimit, "v", "max-queues"); !found || err != nil {
		t.Fatal(found, err)
	}
	if _, err := second.DeclareQueue(QueueSpec{Name: "two"}); err != nil {
		t.Error(err)
	}
	second.Close()
	if len(w.b.users) != 0 || w.b.vhost("v").connections != 0 {
		t.Errorf("without connections there are %v, %d", w.b.users, w.b.vhost("v").connections)
	}

	for _, test := range []struct {
		kind, name, value, want string
	}{
		{SettingVHostLimit, "foo", "1", "Validation failed\n\nUnrecognised terms [{<<\"foo\">>,1}] in limits\n"},
		{SettingVHostLimit, "max-queues", `"a"`, "Validation failed\n\nmax-queues should be a number, actually was <<\"a\">>\n"},
		{SettingUserLimit, "u\x00foo", "1", "Unrecognised terms [{<<\"foo\">>,1}] in user-limits"},
		{SettingUserLimit, "u\x00max-channels", `"a"`, "max-channels should be a number, actually was <<\"a\">>"},
	} {
		vhost := ""
		if test.kind == SettingVHostLimit {
			vhost = "v"
		}
		wants(w.b.PutSetting(Setting{test.kind, vhost, test.name, []byte(test.value)}), Invalid, test.want)
	}
}

func TestAQueueIsOfItsVirtualHostsKind(t *testing.T) {
	w := newWorld(t)
	if err := w.b.AddVHost("v"); err != nil {
		t.Fatal(err)
	}
	c := w.in("v")
	c.queue("before", true)
	put := func(kind string) {
		t.Helper()
		if err := w.b.PutSetting(Setting{SettingVHost, "", "v", []byte(`{"default_queue_type":"` + kind + `"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	put("quorum")
	for range 2 {
		c.queue("before", true)
		c.queue("quorum", true)
		c.queue("transient", false)
		if _, err := c.DeclareQueue(QueueSpec{Name: "said", Durable: true, Args: args{"x-queue-type": "classic"}.list()}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.DeclareQueue(QueueSpec{Name: "quorum", Durable: true, Args: args{"x-queue-type": "quorum"}.list()}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.DeclareQueue(QueueSpec{Name: "quorum", Durable: true, Args: args{"x-queue-type": "classic"}.list()})
	if kindOf(err) != PreconditionFailed {
		t.Errorf("a quorum queue was declared as a classic one: %v", err)
	}
	c.Close()
	check := func() {
		t.Helper()
		for name, want := range map[string]bool{"before": false, "quorum": true, "said": false} {
			if q := w.b.vhost("v").queues[name]; q.rules.quorum != want {
				t.Errorf("%s is a quorum queue: %v", name, q.rules.quorum)
			}
		}
		if kind := w.b.vhost("v").defaultKind(); kind != "quorum" {
			t.Errorf("a queue is %s", kind)
		}
	}
	check()
	w.restart()
	check()
	put("classic")
	c = w.in("v")
	c.queue("new", true)
	if w.b.vhost("v").queues["new"].rules.quorum {
		t.Error("it is a quorum queue still")
	}
	c.Close()
}

func TestADeletedVirtualHostIsGoneForAStandby(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		first := s.node("first")
		first.up(time.Minute)
		second := s.node("second")
		var told []string
		second.standby.WatchSettings(func(s Setting) { told = append(told, s.Kind) })
		for i := range 2 {
			if err := first.b.AddVHosts("v", fmt.Sprint("v", i)); err != nil {
				t.Fatal(err)
			}
			if err := first.b.PutSetting(Setting{SettingPermission, "v", "u", []byte(`{}`)}); err != nil {
				t.Fatal(err)
			}
			c, err := first.b.OpenSession(SessionConfig{VHost: "v"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true}); err != nil {
				t.Fatal(err)
			}
			c.Close()
			time.Sleep(testLease / 2) // of the test's own clock: the standby reads
			synctest.Wait()
			if err := first.b.DeleteVHost("v"); err != nil {
				t.Fatal(err)
			}
		}
		first.stop()
		second.up(time.Minute)
		if second.b.vhost("v") != nil || second.b.vhost("v0") == nil || len(second.b.Settings("")) != 0 {
			t.Errorf("there is %v, %v, %v", second.b.vhost("v"), second.b.vhost("v0"), second.b.Settings(""))
		}
		if n := len(told); n != 4 {
			t.Errorf("told %v, want of two that came and went", told)
		}
	})
}

// After a crash a virtual host is there with all that is in it, or not at all, and
// what was set of a policy is in force.
func TestACrashWhileAVirtualHostIsDeleted(t *testing.T) {
	m := vfs.NewMem()
	m.Record()
	w := &world{t: t, fs: m, wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}
	w.start(tiny)
	if err := w.b.AddVHost("v"); err != nil {
		t.Fatal(err)
	}
	c := w.in("v").confirming()
	c.queue("q", true)
	c.publish("", "q", "m", true)
	c.next(EventConfirm)
	if err := w.b.PutSetting(Setting{SettingPolicy, "v", "p", []byte(`{"pattern":"q","definition":{"max-length":9}}`)}); err != nil {
		t.Fatal(err)
	}
	begun := len(m.History())
	if err := w.b.DeleteVHost("v"); err != nil {
		t.Fatal(err)
	}
	sure := len(m.History())
	if err := w.b.takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	if err := w.b.AddVHost("v"); err != nil {
		t.Fatal(err)
	}
	made := len(m.History())
	c.Close()
	w.stop()
	states := map[string]int{}
	for at := begun; at <= len(m.History()); at++ {
		for _, percent := range []int{0, 50, 100} {
			left := &world{t: t, fs: m.Cut(at, 0, percent, rand.New(rand.NewPCG(uint64(at), 0)))}
			left.start(tiny)
			state := "gone"
			if v := left.b.vhost("v"); v != nil {
				state = "empty"
				if q := v.queues["q"]; q != nil {
					state = fmt.Sprintf("%d message, length %d", q.ready, q.rules.maxLength)
				}
			}
			state += fmt.Sprintf(", %d settings", len(left.b.Settings("")))
			states[state]++
			switch {
			case state == "1 message, length 9, 1 settings" && at < sure:
			case state == "gone, 0 settings" && at < made:
			case state == "empty, 0 settings" && at >= sure:
			default:
				t.Errorf("a crash at change %d (deleted from %d to %d, made again until %d), %d %% kept, leaves %s", at, begun, sure, made, percent, state)
			}
			left.stop()
		}
	}
	if len(states) != 3 {
		t.Errorf("crashes left %v", states)
	}
}

func TestAThousandVirtualHosts(t *testing.T) {
	w := newWorld(t)
	var names []string
	var list []Setting
	for i := range 1000 {
		name := fmt.Sprint("v", i)
		names = append(names, name)
		list = append(
			list, Setting{SettingPermission, name, "guest", []byte(`{"configure":".*","write":".*","read":".*"}`)},
			Setting{SettingPolicy, name, "p", []byte(`{"pattern":"^q","definition":{"max-length":10}}`)},
		)
	}
	if err := w.b.AddVHosts(names...); err != nil {
		t.Fatal(err)
	}
	if err := w.b.PutSettings(list...); err != nil {
		t.Fatal(err)
	}
	if err := w.b.AddVHosts("v1", "", "v1001"); kindOf(err) != Invalid {
		t.Errorf("a virtual host without a name: %v", err)
	}
	if err := w.b.PutSettings(list[0], Setting{SettingPolicy, "v1", "p", []byte(`{}`)}); kindOf(err) != Invalid {
		t.Errorf("a policy that is none: %v", err)
	}
	w.restart()
	for _, name := range []string{"v0", "v999"} {
		c := w.in(name)
		c.queue("q", true)
		if n := w.b.vhost(name).queues["q"].rules.maxLength; n != 10 {
			t.Errorf("in %s the length is limited to %d", name, n)
		}
		c.Close()
	}
	if n := len(w.b.VHosts()); n != 1001 {
		t.Errorf("there are %d virtual hosts", n)
	}
}
