package broker

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"testing"
	"time"
)

// args are the arguments of a declaration, for tests: values are int (signedint),
// int64 (long), string (longstr), bool and float64 (double).
type args map[string]any

// list encodes them, sorted by name.
func (a args) list() []byte {
	var list []byte
	for _, name := range slices.Sorted(maps.Keys(a)) {
		list = append(append(list, byte(len(name))), name...)
		switch v := a[name].(type) {
		case int:
			list = binary.BigEndian.AppendUint32(append(list, 'I'), uint32(int32(v)))
		case int64:
			list = binary.BigEndian.AppendUint64(append(list, 'l'), uint64(v))
		case float64:
			list = binary.BigEndian.AppendUint64(append(list, 'd'), math.Float64bits(v))
		case string:
			list = append(binary.BigEndian.AppendUint32(append(list, 'S'), uint32(len(v))), v...)
		case bool:
			n := byte(0)
			if v {
				n = 1
			}
			list = append(list, 't', n)
		}
	}
	return list
}

// The texts are those of RabbitMQ 3.10, but for the arguments that it does not have.
func TestArgumentsOfQueuesAreRefusedInRabbitMQsWords(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	for _, test := range []struct {
		args args
		want string // behind "invalid arg 'NAME' for queue 'q' in vhost '/': "; empty: it is taken
	}{
		{args{"x-queue-version": 3}, `"unsupported queue version '3'"`},
		{args{"x-queue-version": "2"}, `"expected integer, got longstr"`},
		{args{"x-queue-version": 2}, ""},
		{args{"x-dead-letter-strategy": "foo"}, "invalid_dlx_strategy"},
		{args{"x-dead-letter-strategy": "at-least-once"}, ""},
		{args{"x-quorum-initial-group-size": 0}, "{value_zero,0}"},
		{args{"x-quorum-initial-group-size": "a"}, `"expected integer, got longstr"`},
		{args{"x-quorum-initial-group-size": 3}, ""},
		{args{"x-queue-leader-locator": "foo"}, "invalid_queue_locator_arg"},
		{args{"x-queue-leader-locator": "balanced"}, ""},
		{args{"x-max-in-memory-length": "foo"}, `"expected integer, got longstr"`},
		{args{"x-max-priority": 256}, "{max_value_exceeded,256}"},
		{args{"x-max-priority": -1}, "{value_negative,-1}"},
		{args{"x-max-priority": "1"}, `"expected integer, got longstr"`},
		{args{"x-max-priority": 255}, ""},
		{args{"x-max-length": -1}, "{value_negative,-1}"},
		{args{"x-max-length-bytes": int64(1) << 40}, ""},
		{args{"x-overflow": "foo"}, "invalid_overflow"},
		{args{"x-overflow": 1}, "{unacceptable_type,signedint}"},
		{args{"x-overflow": "reject-publish-dlx"}, ""},
		{args{"x-expires": 0}, "{value_zero,0}"},
		{args{"x-expires": int64(315360000001)}, "{value_too_large,315360000001}"},
		{args{"x-expires": int64(315360000000)}, ""},
		{args{"x-message-ttl": -1}, "{value_negative,-1}"},
		{args{"x-message-ttl": int64(315360000001)}, "{value_too_large,315360000001}"},
		{args{"x-message-ttl": 1.0}, `"expected integer, got double"`},
		{args{"x-message-ttl": 0}, ""},
		{args{"x-single-active-consumer": "true"}, "{unacceptable_type,longstr}"},
		{args{"x-single-active-consumer": true}, ""},
		{args{"x-queue-type": "foo"}, `"unsupported queue type 'foo'"`},
		{args{"x-queue-type": 1}, "{unacceptable_type,signedint}"},
		{args{"x-queue-type": "quorum"}, ""},
		{args{"x-queue-mode": "foo"}, `"unsupported queue mode 'foo'"`},
		{args{"x-queue-mode": "lazy"}, ""},
		{args{"x-dead-letter-routing-key": 5}, "{unacceptable_type,signedint}"},
		{args{"x-dead-letter-routing-key": "k"}, "routing_key_but_no_dlx_defined"},
		{args{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k"}, ""},
		{args{"x-consumer-timeout": "1s"}, `"expected integer, got longstr"`},
		{args{"x-consumer-timeout": -1}, "{value_negative,-1}"},
		{args{"x-consumer-timeout": 60000}, ""},
		{args{"x-delivery-limit": "no"}, `"expected integer, got longstr"`},
		{args{"x-delivery-limit": -1}, ""},
		{args{"x-delayed-retry-type": "some"}, "invalid_delayed_retry_type"},
		{args{"x-delayed-retry-min": -1}, "{value_negative,-1}"},
		{args{"x-delayed-retry-type": "all", "x-delayed-retry-min": 10, "x-delayed-retry-max": 100}, ""},
		{args{"x-of-nobody": 1.5}, ""},
	} {
		_, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, Args: test.args.list()})
		if test.want == "" {
			if err != nil {
				t.Errorf("%v: %v", test.args, err)
			}
			if _, err := c.DeleteQueue("q", false, false); err != nil {
				t.Fatal(err)
			}
			continue
		}
		name := slices.Collect(maps.Keys(test.args))[0]
		want := "invalid arg '" + name + "' for queue 'q' in vhost '/': " + test.want
		if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != PreconditionFailed || e.Text != want {
			t.Errorf("%v: got %v, want %s", test.args, err, want)
		}
	}
	_, err := c.DeclareQueue(QueueSpec{Name: "q", Args: args{"x-dead-letter-exchange": 5}.list()})
	if want := "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAQuorumQueueIsDurableAndNobodysOwn(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	quorum := args{"x-queue-type": "quorum"}.list()
	for _, test := range []struct {
		spec QueueSpec
		want string
	}{
		{QueueSpec{Name: "q"}, "non-durable"},
		{QueueSpec{Name: "q", Durable: true, AutoDelete: true}, "auto-delete"},
		{QueueSpec{Name: "q", Durable: true, Exclusive: true}, "exclusive-owner"},
		{QueueSpec{Name: "q", AutoDelete: true, Exclusive: true}, "auto-delete"},
	} {
		test.spec.Args = quorum
		_, err := c.DeclareQueue(test.spec)
		if want := "invalid property '" + test.want + "' for queue 'q' in vhost '/'"; err == nil || err.Error() != want {
			t.Errorf("%+v: got %v, want %s", test.spec, err, want)
		}
	}
	if _, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, Args: quorum}); err != nil {
		t.Error(err)
	}
}

// The texts are those of RabbitMQ 3.10.
func TestADeclarationIsComparedWithTheQueueThatIsThere(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	for _, test := range []struct {
		first, then args
		want        string
	}{
		{args{"x-message-ttl": 5}, args{"x-message-ttl": int64(5)}, ""},
		{args{"x-message-ttl": 5}, args{"x-message-ttl": int64(6)}, "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received '6' but current is '5'"},
		{args{"x-message-ttl": 5}, nil, "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current is the value '5' of type 'signedint'"},
		{nil, args{"x-message-ttl": 5}, "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '5' of type 'signedint' but current is none"},
		{args{"x-queue-type": "classic"}, nil, ""},
		{nil, args{"x-queue-type": "classic"}, ""},
		{nil, args{"x-queue-type": "quorum"}, "inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received the value 'quorum' of type 'longstr' but current is none"},
		{args{"x-queue-type": "quorum"}, nil, "inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received none but current is the value 'quorum' of type 'longstr'"},
		{args{"x-of-nobody": "a"}, args{"x-of-nobody": "b"}, ""},
		{args{"x-queue-version": 1}, args{"x-queue-version": 2}, "inequivalent arg 'x-queue-version' for queue 'q' in vhost '/': received '2' but current is '1'"},
	} {
		if _, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, Args: test.first.list()}); err != nil {
			t.Fatal(err)
		}
		_, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, Args: test.then.list()})
		if got := ""; err != nil || test.want != "" {
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("%v, then %v: got %s, want %s", test.first, test.then, got, test.want)
			}
		}
		if _, err := c.DeleteQueue("q", false, false); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRulesAreMadeOfArgumentsAndPolicies(t *testing.T) {
	const ms = time.Millisecond
	r := rulesOf(args{
		"x-message-ttl": 100, "x-expires": 5000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k",
		"x-max-length": 7, "x-max-length-bytes": 8, "x-overflow": "reject-publish", "x-max-priority": 9,
		"x-single-active-consumer": true, "x-queue-type": "quorum", "x-delivery-limit": 3, "x-consumer-timeout": 11,
		"x-delayed-retry-type": "failed", "x-delayed-retry-min": 12, "x-delayed-retry-max": 13,
		"x-message-deduplication": true, "x-cache-size": 14, "x-cache-ttl": 15,
	}.list(), nil, nil)
	if r.deadTo == nil || *r.deadTo != "" || r.deadKey == nil || *r.deadKey != "k" {
		t.Errorf("dead letters go to %v %v", r.deadTo, r.deadKey)
	}
	r.deadTo, r.deadKey = nil, nil
	want := rules{
		ttl: 100, expires: 5 * time.Second, maxLength: 7, maxBytes: 8, overflow: rejectPublish, priorities: 9,
		single: true, quorum: true, deliveries: 3, timeout: 11 * ms,
		retry: retryRule{failed: true, least: 12 * ms, most: 13 * ms},
		dedup: dedupRule{on: true, size: 14, age: 15 * ms},
	}
	if *r != want {
		t.Errorf("got  %+v\nwant %+v", *r, want)
	}

	own := args{"x-message-ttl": 100, "x-overflow": "drop-head", "x-dead-letter-exchange": "mine"}.list()
	r = rulesOf(own,
		definition{"message-ttl": int64(50), "overflow": "reject-publish", "dead-letter-exchange": "theirs", "max-length": int64(10), "dead-letter-routing-key": "k"},
		definition{"message-ttl": int64(70), "max-length": int64(5), "expires": int64(9)})
	if r.ttl != 50 || r.overflow != dropHead || *r.deadTo != "mine" || *r.deadKey != "k" || r.maxLength != 5 || r.expires != 9*ms || r.maxBytes != none {
		t.Errorf("got %+v", *r)
	}
	if r := rulesOf(nil, nil, nil); r != noRules {
		t.Errorf("a queue without arguments has %+v", *r)
	}
	for _, test := range []struct {
		args             args
		policy, operator definition
		want             int64
	}{
		{args: args{"x-queue-type": "quorum"}, want: 20},
		{args: args{"x-queue-type": "quorum", "x-delivery-limit": -1}, want: none},
		{args: args{"x-queue-type": "quorum"}, policy: definition{"delivery-limit": int64(50)}, want: 50},
		{args: args{"x-queue-type": "quorum", "x-delivery-limit": -1}, operator: definition{"delivery-limit": int64(50)}, want: 50},
		{args: args{"x-queue-type": "classic"}, want: none},
		{args: args{"x-delivery-limit": 0}, want: 0},
	} {
		if r := rulesOf(test.args.list(), test.policy, test.operator); r.deliveries != test.want {
			t.Errorf("%+v: %d deliveries, want %d", test, r.deliveries, test.want)
		}
	}
}

func TestAQueueKeepsItsRulesOverARestartAndACheckpoint(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	if _, err := c.DeclareQueue(QueueSpec{Name: "q", Durable: true, Args: args{"x-max-length": 5}.list()}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	check := func() {
		t.Helper()
		if n := w.b.vhost("/").queues["q"].rules.maxLength; n != 5 {
			t.Fatalf("its length is limited to %d, want 5", n)
		}
	}
	check()
	w.restart()
	check()
	if err := w.b.takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	w.restart()
	check()
}
