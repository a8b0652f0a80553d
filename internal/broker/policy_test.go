package broker

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// setPolicy sets a policy of the virtual host "/", and waits until it is in force.
func setPolicy(t testing.TB, b *Broker, kind, name, value string) {
	t.Helper()
	if err := b.PutSetting(Setting{Kind: kind, VHost: "/", Name: name, Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
	if err := b.AwaitPolicies(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func clearPolicy(t testing.TB, b *Broker, kind, name string) {
	t.Helper()
	if found, err := b.DeleteSetting(kind, "/", name); err != nil || !found {
		t.Fatalf("%v %v", found, err)
	}
	if err := b.AwaitPolicies(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// rulesNow are the rules of a queue.
func (b *Broker) rulesNow(t testing.TB, queue string) rules {
	t.Helper()
	v := b.vhost("/")
	v.mu.RLock()
	q := v.queues[queue]
	v.mu.RUnlock()
	if q == nil {
		t.Fatalf("there is no queue %s", queue)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return *q.rules
}

// The texts are those of RabbitMQ 3.10, but for what it does not have.
func TestPoliciesAreRefusedInRabbitMQsWords(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		value    string
		operator bool
		want     string // what the validation says, or all where nothing was validated; empty: it is taken
	}{
		{value: `{"pattern":"^a","definition":{"max-length":10},"priority":1,"apply-to":"queues"}`},
		{value: `{"pattern":"^a","definition":{"max-length":10}}`},
		{value: `{"pattern":"^(?!amq\\.).*","definition":{"max-length":10}}`},
		{value: `{"pattern":"(","definition":{"max-length":10}}`, want: "pattern should be regular expression but is invalid: "},
		{value: `{"pattern":"^a","definition":{"foo":10,"bar":1}}`, want: `[{<<"bar">>,1},{<<"foo">>,10}] are not recognised policy settings`},
		{value: `{"pattern":"^a","definition":{}}`, want: "no policy provided"},
		{value: `{"pattern":"^a","definition":[]}`, want: "definition must be a dictionary: []"},
		{value: `{"pattern":"^a","definition":null}`, want: "definition must be a dictionary: null"},
		{value: `{"pattern":"^a"}`, want: "[{key_missing,definition}]"},
		{value: `{"definition":{"max-length":1}}`, want: "[{key_missing,pattern}]"},
		{value: `{"pattern":1,"definition":{"max-length":1}}`, want: "pattern should be a binary but was 1"},
		{value: `{"pattern":"a","definition":{"max-length":1},"priority":"a"}`, want: `priority should be a number, actually was <<"a">>`},
		{value: `{"pattern":"a","definition":{"max-length":1},"priority":1.5}`},
		{value: `{"pattern":"a","definition":{"max-length":1},"apply-to":"foo"}`, want: "apply-to 'foo' unrecognised; should be one of: 'queues', 'exchanges', 'classic_queues', 'quorum_queues', 'streams' or 'all'"},
		{value: `{"pattern":"a","definition":{"max-length":1},"apply-to":"quorum_queues"}`},
		{value: `{"pattern":"a","definition":{"max-length":1},"other":1}`},
		{value: `{"pattern":"a","definition":{"max-length":"a"}}`, want: `<<"a">> is not a valid maximum length`},
		{value: `{"pattern":"a","definition":{"max-length":-1}}`, want: "-1 is not a valid maximum length"},
		{value: `{"pattern":"a","definition":{"max-length":1.0}}`, want: "1.0 is not a valid maximum length"},
		{value: `{"pattern":"a","definition":{"max-length":1.5}}`, want: "1.5 is not a valid maximum length"},
		{value: `{"pattern":"a","definition":{"max-length":[1,"a",{"b":null}]}}`, want: `[1,<<"a">>,#{<<"b">> => null}] is not a valid maximum length`},
		{value: `{"pattern":"a","definition":{"message-ttl":-1}}`, want: "-1 is not a valid message TTL"},
		{value: `{"pattern":"a","definition":{"expires":0}}`, want: "0 is not a valid queue expiry"},
		{value: `{"pattern":"a","definition":{"max-length-bytes":"x"}}`, want: `<<"x">> is not a valid maximum length in bytes`},
		{value: `{"pattern":"a","definition":{"overflow":"x"}}`, want: `<<"x">> is not a valid overflow value`},
		{value: `{"pattern":"a","definition":{"dead-letter-exchange":1}}`, want: "1 is not a valid dead letter exchange name"},
		{value: `{"pattern":"a","definition":{"dead-letter-routing-key":1}}`, want: "1 is not a valid dead letter routing key"},
		{value: `{"pattern":"a","definition":{"dead-letter-routing-key":"k"}}`},
		{value: `{"pattern":"a","definition":{"alternate-exchange":1}}`, want: "1 is not a valid alternate exchange name"},
		{value: `{"pattern":"a","definition":{"queue-mode":"x"}}`, want: `<<"x">> is not a valid queue-mode value`},
		{value: `{"pattern":"a","definition":{"queue-version":3}}`, want: "3 is not a valid queue-version value"},
		{value: `{"pattern":"a","definition":{"delivery-limit":"a"}}`, want: `<<"a">> is not a valid delivery limit`},
		{value: `{"pattern":"a","definition":{"queue-leader-locator":"x"}}`, want: `<<"x">> is not a valid queue leader locator value`},
		{value: `{"pattern":"a","definition":{"initial-cluster-size":"x"}}`, want: `<<"x">> is not a valid cluster size`},
		{value: `{"pattern":"a","definition":{"dead-letter-strategy":"x"}}`, want: `<<"x">> is not a valid dead letter strategy`},
		{value: `{"pattern":"a","definition":{"ha-mode":"all"}}`},
		{value: `{"pattern":"a","definition":{"ha-mode":"foo"}}`, want: `<<"foo">> is not a valid ha-mode value`},
		{value: `{"pattern":"a","definition":{"ha-mode":"exactly"}}`, want: `ha-mode="exactly" takes an integer, none given`},
		{value: `{"pattern":"a","definition":{"ha-mode":"exactly","ha-params":2,"ha-sync-mode":"automatic"}}`},
		{value: `{"pattern":"a","definition":{"ha-mode":"nodes","ha-params":["a"]}}`},
		{value: `{"pattern":"a","definition":{"ha-sync-mode":"automatic"}}`, want: "ha-mode must be specified to specify ha-params, ha-sync-mode or ha-promote-on-shutdown"},
		{value: `{"pattern":"a","definition":{"federation-upstream-set":"all"}}`},
		{value: `{"pattern":"a","definition":{"queue-master-locator":"min-masters"}}`},
		{value: `{"pattern":"a","definition":{"max-length":1,"max-length-bytes":-1,"expires":"a"}}`, want: `<<"a">> is not a valid queue expiry`},
		{value: `nonsense`, want: "not_json"},
		{value: `[]`, want: "not_json"},
		{value: `null`, want: "not_json"},
		{value: `{"pattern":"^a","definition":{"max-length":10}}`, operator: true},
		{value: `{"pattern":"^a","definition":{"dead-letter-exchange":"a"}}`, operator: true, want: `[{<<"dead-letter-exchange">>,<<"a">>}] are not recognised policy settings`},
	} {
		kind := SettingPolicy
		if test.operator {
			kind = SettingOperatorPolicy
		}
		err := w.b.PutSetting(Setting{Kind: kind, VHost: "/", Name: "p", Value: []byte(test.value)})
		e := (*Error)(nil)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.value, err)
		case test.want == "":
		case !errors.As(err, &e) || e.Kind != Invalid:
			t.Errorf("%s: got %v", test.value, err)
		case e.Text != test.want && !strings.HasPrefix(e.Text, "Validation failed\n\n"+test.want):
			t.Errorf("%s: got %q, want %q", test.value, e.Text, test.want)
		}
	}
	err := w.b.PutSetting(Setting{Kind: SettingPolicy, VHost: "none", Name: "p", Value: []byte(`{"pattern":"a","definition":{"max-length":1}}`)})
	if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != NotFound {
		t.Errorf("a policy of no virtual host: %v", err)
	}
	value, _ := w.b.Setting(SettingPolicy, "/", "p")
	if got, want := string(value), `{"pattern":"a","definition":{"queue-master-locator":"min-masters"},"priority":0,"apply-to":"all"}`; got != want {
		t.Errorf("it is kept as %s, want %s", got, want)
	}
}

func TestPolicyKeysWithoutEffectAreNamed(t *testing.T) {
	got := PolicyWithoutEffect([]byte(`{"ha-mode":"all","max-length":1,"federation-upstream-set":"all","message-ttl":5,"queue-mode":"lazy"}`))
	if want := "[federation-upstream-set ha-mode queue-mode]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	for key, k := range policyKeys {
		if k.what == "" || k.check == nil {
			t.Errorf("%s: %+v", key, k)
		}
	}
}

func TestAPolicyAppliesToWhatIsThereAndToWhatComes(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("a1", true)
	c.queue("b1", true)
	if _, err := c.DeclareQueue(QueueSpec{Name: "a2", Durable: true, Args: args{"x-max-length": 7, "x-queue-type": "quorum"}.list()}); err != nil {
		t.Fatal(err)
	}
	lengths := func(want string) {
		t.Helper()
		var got []string
		for _, q := range []string{"a1", "a2", "b1"} {
			if n := w.b.rulesNow(t, q).maxLength; n == none {
				got = append(got, "none")
			} else {
				got = append(got, fmt.Sprint(n))
			}
		}
		if fmt.Sprint(got) != want {
			t.Fatalf("lengths are limited to %v, want %s", got, want)
		}
	}
	lengths("[none 7 none]")
	setPolicy(t, w.b, SettingPolicy, "low", `{"pattern":"^a","definition":{"max-length":10}}`)
	lengths("[10 7 none]")
	setPolicy(t, w.b, SettingPolicy, "high", `{"pattern":"1$","definition":{"max-length":5},"priority":1}`)
	lengths("[5 7 5]")
	setPolicy(t, w.b, SettingPolicy, "quorum", `{"pattern":"","definition":{"max-length":6},"priority":9,"apply-to":"quorum_queues"}`)
	lengths("[5 6 5]")
	setPolicy(t, w.b, SettingPolicy, "classic", `{"pattern":"a","definition":{"max-length":4},"priority":9,"apply-to":"classic_queues"}`)
	lengths("[4 6 5]")
	setPolicy(t, w.b, SettingPolicy, "exchanges", `{"pattern":"","definition":{"max-length":1},"priority":99,"apply-to":"exchanges"}`)
	lengths("[4 6 5]")
	setPolicy(t, w.b, SettingOperatorPolicy, "most", `{"pattern":"","definition":{"max-length":5,"expires":60000}}`)
	lengths("[4 5 5]")
	setPolicy(t, w.b, SettingPolicy, "classic", `{"pattern":"^b","definition":{"max-length":4},"priority":9}`)
	lengths("[5 5 4]")
	c.queue("b2", true)
	if r := w.b.rulesNow(t, "b2"); r.maxLength != 4 || r.expires != time.Minute {
		t.Errorf("what was declared behind it has %+v", r)
	}
	view, _ := w.b.Queue("/", "b2")
	if view.Policy != "classic" || view.OperatorPolicy != "most" || string(view.EffectivePolicy) != `{"expires":60000,"max-length":4}` {
		t.Errorf("it is shown with %q, %q, %s", view.Policy, view.OperatorPolicy, view.EffectivePolicy)
	}
	for _, name := range []string{"low", "high", "quorum", "classic", "exchanges"} {
		clearPolicy(t, w.b, SettingPolicy, name)
	}
	lengths("[5 5 5]")
	clearPolicy(t, w.b, SettingOperatorPolicy, "most")
	lengths("[none 7 none]")
	if view, _ := w.b.Queue("/", "a1"); view.Policy != "" || view.OperatorPolicy != "" || view.EffectivePolicy != nil {
		t.Errorf("without policies it is shown with %q, %q, %s", view.Policy, view.OperatorPolicy, view.EffectivePolicy)
	}
}

func TestAPolicyDropsWhatIsTooMuch(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	for i := range 10 {
		c.publish("", "q", fmt.Sprint(i), true)
	}
	setPolicy(t, w.b, SettingPolicy, "p", `{"pattern":"q","definition":{"max-length":3}}`)
	c.ready("q", 3)
	c.consume("q", "t", true)
	c.expect("7", false)
}

func TestAnExchangeHasItsAlternateByPolicy(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	c.exchange("x", "direct")
	c.exchange("other", "fanout")
	if err := c.BindQueue("q", "other", "", nil); err != nil {
		t.Fatal(err)
	}
	c.publish("x", "k", "lost", true)
	setPolicy(t, w.b, SettingPolicy, "p", `{"pattern":"^x$","definition":{"alternate-exchange":"other"},"apply-to":"exchanges"}`)
	c.publish("x", "k", "kept", true)
	c.ready("q", 1)
	clearPolicy(t, w.b, SettingPolicy, "p")
	c.publish("x", "k", "lost", true)
	c.ready("q", 1)
	setPolicy(t, w.b, SettingPolicy, "p", `{"pattern":"^y$","definition":{"alternate-exchange":"other"}}`)
	c.exchange("y", "direct")
	c.publish("y", "k", "kept", true)
	c.ready("q", 2)
}

func TestPoliciesAreInForceAfterARestartAndATakeover(t *testing.T) {
	check := func(t *testing.T, b *Broker) {
		t.Helper()
		for q, want := range map[string]int64{"before": 5, "behind": 5, "other": none} {
			if n := b.rulesNow(t, q).maxLength; n != want {
				t.Errorf("the length of %s is limited to %d, want %d", q, n, want)
			}
		}
		v := b.vhost("/")
		v.mu.RLock()
		defer v.mu.RUnlock()
		if to, _ := v.exchanges["amq.topic"].alternate(); to != "amq.fanout" {
			t.Errorf("the alternate exchange is %q", to)
		}
	}
	begin := func(t *testing.T, b *Broker, c *client) {
		t.Helper()
		c.queue("before", true)
		c.queue("other", true)
		setPolicy(t, b, SettingPolicy, "gone", `{"pattern":".","definition":{"max-length":1},"priority":5}`)
		setPolicy(t, b, SettingPolicy, "p", `{"pattern":"^be","definition":{"max-length":6}}`)
		setPolicy(t, b, SettingOperatorPolicy, "o", `{"pattern":"^be","definition":{"max-length":5}}`)
		setPolicy(t, b, SettingPolicy, "x", `{"pattern":"^amq","definition":{"alternate-exchange":"amq.fanout"},"apply-to":"exchanges"}`)
		clearPolicy(t, b, SettingPolicy, "gone")
		c.queue("behind", true)
	}
	t.Run("restart", func(t *testing.T) {
		w := newWorld(t)
		c := w.client()
		begin(t, w.b, c)
		c.Close()
		check(t, w.b)
		w.restart()
		check(t, w.b)
		if err := w.b.takeCheckpoint(); err != nil {
			t.Fatal(err)
		}
		w.restart()
		check(t, w.b)
	})
	t.Run("takeover", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			first := s.node("first")
			first.up(time.Minute)
			second := s.node("second")
			c := first.client()
			begin(t, first.b, c)
			time.Sleep(testLease / 2) // of the test's own clock: the standby reads
			synctest.Wait()
			c.Close()
			first.stop()
			second.up(time.Minute)
			check(t, second.b)
		})
	})
}

// Whatever happens at the same time, in the end all have what the policies say.
func TestPoliciesMeetWhatIsDeclaredMeanwhile(t *testing.T) {
	w := newWorld(t)
	const rounds, each = 20, 60
	var wg sync.WaitGroup
	for k := range 2 {
		wg.Go(func() {
			c := w.client()
			defer c.Close()
			for i := range rounds * each {
				name := fmt.Sprintf("q%d.%d", k, i)
				if _, err := c.DeclareQueue(QueueSpec{Name: name}); err != nil {
					t.Error(err)
					return
				}
				if i%3 == 0 {
					if _, err := c.DeleteQueue(fmt.Sprintf("q%d.%d", k, i/2), false, false); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range rounds {
			value := fmt.Sprintf(`{"pattern":"[%d-9]$","definition":{"max-length":%d}}`, i%5, i+1)
			if err := w.b.PutSetting(Setting{Kind: SettingPolicy, VHost: "/", Name: fmt.Sprint("p", i%2), Value: []byte(value)}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := w.b.AwaitPolicies(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := w.b.vhost("/")
	set := v.policies.Load()
	if len(set.user) != 2 {
		t.Fatalf("there are %d policies", len(set.user))
	}
	if len(v.queues) != len(v.listing.all) {
		t.Errorf("%d queues, %d listed", len(v.queues), len(v.listing.all))
	}
	for _, q := range v.queues {
		if want := set.ofQueue(&q.spec); q.policies != want || !q.rules.same(set.rulesOf(nil, want)) {
			t.Fatalf("%s has %+v with %+v, want %+v", q.name, q.policies, *q.rules, want)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	for _, value := range []string{
		`{"pattern":"^a","definition":{"max-length":10},"priority":1,"apply-to":"queues"}`,
		`{"pattern":"","definition":{"ha-mode":"nodes","ha-params":["a",{"b":[1.5,null,true]}]}}`,
		`{"pattern":"(","definition":[]}`, `{}`, `null`, ``,
	} {
		f.Add([]byte(value), true)
	}
	f.Fuzz(func(t *testing.T, value []byte, operator bool) {
		p, full, err := readPolicy("p", value, operator)
		if err != nil {
			return
		}
		again, same, err := readPolicy("p", full, operator)
		if err != nil || string(same) != string(full) || again.priority != p.priority {
			t.Fatalf("%s was read as %s, and then as %s, %v", value, full, same, err)
		}
		set := (&policySet{}).with("p", operator, p)
		set.rulesOf(nil, set.ofQueue(&QueueSpec{Name: "amq.gen"}))
		_ = set.ofExchange("x")
		_ = policies{user: p, operator: p}.effective()
	})
}

// Policies change while messages come and go: nothing is lost that no rule drops, and
// nothing is held twice.
func TestPoliciesChangeUnderTraffic(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("dead", true)
	const queues, each = 3, 400
	for k := range queues {
		c.queue(fmt.Sprint("q", k), true)
	}
	stop := make(chan struct{})
	var changing, publishing sync.WaitGroup
	changing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			def := []string{
				`{"max-length":5,"dead-letter-exchange":"","dead-letter-routing-key":"dead"}`,
				`{"max-length":5,"overflow":"reject-publish"}`,
				`{"max-length-bytes":50,"overflow":"reject-publish-dlx","dead-letter-exchange":"","dead-letter-routing-key":"dead"}`,
				`{"message-ttl":3600000,"expires":3600000,"consumer-timeout":3600000,"delivery-limit":5}`,
			}[i%4]
			value := []byte(`{"pattern":"^q","definition":` + def + `}`)
			if err := w.b.PutSetting(Setting{SettingPolicy, "/", "p", value}); err != nil {
				t.Error(err)
				return
			}
			if err := w.b.AwaitPolicies(t.Context()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	accepted := make([]int, queues)
	for k := range queues {
		publishing.Go(func() {
			c := w.client().confirming()
			defer c.Close()
			name := fmt.Sprint("q", k)
			for i := range each {
				c.publish("", name, fmt.Sprintf("%d.%d", k, i), true)
				if !c.next(EventConfirm).Nack {
					accepted[k]++
				}
			}
		})
	}
	publishing.Wait()
	close(stop)
	changing.Wait()
	v := w.b.vhost("/")
	total := 0
	for k, n := range accepted {
		total += n
		if _, err := w.b.awaitMoves(v.queues[fmt.Sprint("q", k)]); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, name := range []string{"dead", "q0", "q1", "q2"} {
		for _, text := range c.drain(name) {
			if seen[text] {
				t.Errorf("%s is there twice", text)
			}
			seen[text] = true
		}
	}
	if len(seen) < total {
		t.Errorf("%d were accepted, %d are there", total, len(seen))
	}
}
