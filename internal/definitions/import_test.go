package definitions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
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

func newStore(t testing.TB) Store {
	t.Helper()
	b, err := broker.Open(t.Context(), broker.Config{Journal: memory.New(memory.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return Store{b, auth.New(settings{b})}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func load(t testing.TB, to Store, text []byte, o ImportOptions) *Report {
	t.Helper()
	r, err := Import(t.Context(), to, text, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func dump(t testing.TB, of Store, vhost string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Export(&out, of, vhost, About{"4.1.0", "Ferry", "0", "here"}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestDefinitionsOfARabbitMQLoad loads what a RabbitMQ 3.10 exported, twice.
func TestDefinitionsOfARabbitMQLoad(t *testing.T) {
	s := newStore(t)
	for range 2 {
		r := load(t, s, read(t, "testdata/rabbitmq-3.10.json"), ImportOptions{})
		if len(r.Failed) != 1 || !strings.Contains(r.Failed[0], `queue "a stream" in virtual host "shop"`) {
			t.Errorf("failed: %q", r.Failed)
		}
		if len(r.Warnings) != 2 || !strings.Contains(r.Warnings[0], `policy "ha" in virtual host "shop": its key "ha-mode" has no effect`) {
			t.Errorf("warnings: %q", r.Warnings)
		}
		if r.Made != 32 {
			t.Errorf("%d are made", r.Made)
		}
	}
	here := netip.MustParseAddr("127.0.0.1")
	for _, c := range []struct {
		name, password string
		ok             bool
	}{
		{"alice", "wonderland", true},
		{"bob", "builder", true},
		{"guest", "guest", true},
		{"alice", "builder", false},
		{"nopass", "", false},
		{"nopass", "x", false},
	} {
		_, err := s.Users.Login(t.Context(), auth.Login{Name: c.name, Password: c.password, Peer: here})
		if (err == nil) != c.ok {
			t.Errorf("%s with %q: %v", c.name, c.password, err)
		}
	}
	if a, ok := s.Users.Access("bob", "shop"); !ok || a.May(auth.Configure, "orders") || !a.May(auth.Write, "orders.eu") || a.May(auth.Read, "orders.eu") {
		t.Error("bob may do something else than in RabbitMQ")
	}
	if a, _ := s.Users.Access("bob", "shop"); !a.MayTopic(auth.Write, "amq.topic", "a.b") || a.MayTopic(auth.Write, "amq.topic", "b") {
		t.Error("bob may write other keys than in RabbitMQ")
	}
	q, ok := s.Broker.Queue("shop", "orders")
	if !ok || q.Policy != "ttl" || q.OperatorPolicy != "limit" || !strings.Contains(string(q.EffectivePolicy), `"message-ttl":60000`) {
		t.Errorf("%+v %s", q, q.EffectivePolicy)
	}
	if q, ok := s.Broker.Queue("shop", "invoices"); !ok || q.Type != "quorum" || Args(q.Args)["x-delivery-limit"] != int64(3) {
		t.Errorf("%+v", q)
	}
	if x, ok := s.Broker.Exchange("shop", "dead"); !ok || !x.Internal || !x.Durable || x.Type != "direct" {
		t.Errorf("%+v", x)
	}
	source := "heads"
	want := map[string]any{"x-match": "any", "kind": "order", "n": int64(1), "f": 1.5, "b": true}
	if l := s.Broker.Bindings("shop", broker.BindingFilter{Source: &source}); len(l) != 1 || !reflect.DeepEqual(Args(l[0].Args), want) {
		t.Errorf("%+v", l)
	}
	for _, c := range []broker.Setting{
		{Kind: broker.SettingVHostLimit, VHost: "shop", Name: "max-queues", Value: []byte("100000")},
		{Kind: broker.SettingUserLimit, Name: "bob\x00max-connections", Value: []byte("10")},
	} {
		if v, ok := s.Broker.Setting(c.Kind, c.VHost, c.Name); !ok || !bytes.Equal(v, c.Value) {
			t.Errorf("%s %q: %s %v", c.Kind, c.Name, v, ok)
		}
	}
}

// TestWhatIsExportedIsImported compares what a broker exports with what another one
// does that has imported it: of everything, and of one virtual host.
func TestWhatIsExportedIsImported(t *testing.T) {
	first, second := newStore(t), newStore(t)
	load(t, first, read(t, "testdata/rabbitmq-3.10.json"), ImportOptions{})
	password := "a password of here"
	if _, err := first.Users.PutUser(t.Context(), "carol", auth.UserSpec{Password: &password, Tags: &auth.Tags{}}); err != nil {
		t.Fatal(err)
	}
	put := func(s broker.Setting) {
		t.Helper()
		if err := first.Broker.PutSetting(s); err != nil {
			t.Fatal(err)
		}
	}
	put(broker.Setting{Kind: broker.SettingVHost, Name: "shop", Value: []byte(`{"description":"d","tags":["a"],"default_queue_type":"classic"}`)})
	put(broker.Setting{Kind: broker.SettingParameter, VHost: "shop", Name: "shovel\x00s", Value: []byte(`{"a":1}`)})
	exported := dump(t, first, "")
	if r := load(t, second, exported, ImportOptions{}); len(r.Failed) != 0 || len(r.Warnings) != 3 {
		t.Errorf("%+v", r)
	}
	if again := dump(t, second, ""); !bytes.Equal(exported, again) {
		t.Errorf("exported:\n%s\nand then:\n%s", exported, again)
	}
	if _, err := second.Users.Login(t.Context(), auth.Login{Name: "carol", Password: password}); err != nil {
		t.Error(err)
	}

	shop := dump(t, first, "shop")
	if err := second.Broker.AddVHost("other"); err != nil {
		t.Fatal(err)
	}
	if r := load(t, second, shop, ImportOptions{VHost: "other"}); len(r.Failed) != 0 {
		t.Errorf("%+v", r)
	}
	want := strings.NewReplacer(`"vhost":"shop"`, `"vhost":"other"`, `"original_vhost_name": "shop"`, `"original_vhost_name": "other"`).Replace(string(shop))
	if got := string(dump(t, second, "other")); got != want {
		t.Errorf("exported:\n%s\nand then:\n%s", want, got)
	}
	if r := load(t, second, read(t, "testdata/rabbitmq-3.10-shop.json"), ImportOptions{VHost: "other"}); len(r.Failed) != 1 { // the stream
		t.Errorf("%+v", r)
	}
}

// TestQueuesStayOfTheirKind imports queues into a virtual host where those that do
// not say what they are become another kind.
func TestQueuesStayOfTheirKind(t *testing.T) {
	s := newStore(t)
	r := load(t, s, []byte(`{"vhosts":[{"name":"v","default_queue_type":"quorum"}], "queues":[
	  {"name":"c","vhost":"v","type":"classic","durable":true}, {"name":"q","vhost":"v","type":"quorum","durable":true}, {"name":"d","vhost":"v","durable":true}]}`), ImportOptions{})
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	for name, typ := range map[string]string{"c": "classic", "q": "quorum", "d": "quorum"} {
		if q, ok := s.Broker.Queue("v", name); !ok || q.Type != typ {
			t.Errorf("%s is %+v", name, q)
		}
	}
}

// TestWhatCannotBeMadeIsNamed imports items that are wrong among one that is not.
func TestWhatCannotBeMadeIsNamed(t *testing.T) {
	s := newStore(t)
	doc := `{
	  "rabbit_version": "3.10.8", "nonsense": [],
	  "users": [{"name":"no tags","password":"x"}, {"name":"","tags":""}, 1, {"name":"both","tags":"","password":"x","password_hash":"eA=="}, {"name":"h","tags":"","password_hash":"?"}],
	  "vhosts": [{"name":""}, {"name":["x"]}, {"name":"good"}],
	  "permissions": [{"user":"nobody","vhost":"good","configure":"","write":"","read":""}],
	  "topic_permissions": {"a":1},
	  "parameters": [{"component":"nothing","vhost":"good","name":"x","value":1}, {"component":"vhost-limits","vhost":"good","name":"limits","value":{"max-nothing":1}},
	    {"component":"vhost-limits","vhost":"good","name":"limits","value":[]}],
	  "policies": [{"vhost":"good","name":"p","pattern":"(","definition":{"max-length":1}}, {"vhost":"good","name":"p2","pattern":"x","definition":{"nonsense":1}}],
	  "queues": [{"name":"q","vhost":"nowhere"}, {"name":"q"}, {"name":"q","vhost":"good","arguments":{"x-max-length":"x"}}, {"name":"q","vhost":"good","durable":"x"},
	    {"name":"q","vhost":"good","arguments":{"a":null}}, {"name":"good","vhost":"good","durable":true}, {"name":"good","vhost":"good","durable":false},
	    {"name":"amq.q","vhost":"good"}, {"name":"` + strings.Repeat("x", 300) + `\u001b[31m","vhost":"good"}],
	  "exchanges": [{"name":"x","vhost":"good","type":"nonsense"}],
	  "bindings": [{"source":"x","vhost":"good","destination":"good","destination_type":"queue"}, {"source":"amq.topic","vhost":"good","destination":"good","destination_type":"thing"}]
	}`
	r := load(t, s, []byte(doc), ImportOptions{})
	want := []string{
		`user "no tags": `, `user "": `, `users, item 3: `, `user "both": `, `user "h": `,
		`virtual host "": `, `vhosts, item 2: "name" must not be a JSON array`,
		`permissions of user "nobody" in virtual host "good": `, `topic_permissions: it is no list`,
		`parameter "x" of component "nothing" in virtual host "good": there is no component "nothing"`,
		`parameter "limits" of component "vhost-limits" in virtual host "good": limit "max-nothing": `,
		`policy "p" in virtual host "good": `, `policy "p2" in virtual host "good": `,
		`queue "q" in virtual host "": it does not say in which`, // of all virtual hosts: those of none come first
		`queue "q" in virtual host "nowhere": there is no virtual host "nowhere"`,
		`queue "q" in virtual host "good": invalid arg 'x-max-length'`, `queues, item 2: "durable" must not be a JSON string`,
		`queue "q" in virtual host "good": argument "a": null is no value`, `queue "good" in virtual host "good": inequivalent arg 'durable'`,
		`queue "amq.q" in virtual host "good": `, `queue "` + strings.Repeat("x", nameMost) + `…" in virtual host "good": its name must have`,
		`exchange "x" in virtual host "good": `,
		`binding of queue "good" to exchange "x" with key "" in virtual host "good": no exchange 'x'`, `bindings, item 2: the destination of a binding is no "thing"`,
	}
	slices.Sort(want)
	slices.Sort(r.Failed)
	for i := range max(len(want), len(r.Failed)) {
		switch {
		case i >= len(want):
			t.Errorf("also failed: %s", r.Failed[i])
		case i >= len(r.Failed):
			t.Errorf("not failed: %s", want[i])
		case !strings.HasPrefix(r.Failed[i], want[i]):
			t.Errorf("failed: %s, want %s", r.Failed[i], want[i])
		}
	}
	if !reflect.DeepEqual(r.Warnings, []string{`section "nonsense": it is not known here, and was left out`}) {
		t.Errorf("warnings: %q", r.Warnings)
	}
	if r.Made != 3 { // the virtual host, its limits, of which there are none, and its queue
		t.Errorf("%d are made", r.Made)
	}
	if _, ok := s.Broker.Queue("good", "good"); !ok {
		t.Error("the good queue was not made")
	}
}

func TestWhatIsNoDocumentIsRefused(t *testing.T) {
	s := newStore(t)
	for _, text := range []string{"", "null", "[]", "1", `{"a":`, "{}x", "{\"queues\":[\xff]}", strings.Repeat(`{"a":`, 20000)} {
		if r, err := Import(t.Context(), s, []byte(text), ImportOptions{}); !errors.Is(err, ErrDocument) {
			t.Errorf("%.20q: %+v %v", text, r, err)
		}
	}
	if r := load(t, s, []byte("\xef\xbb\xbf{\"queues\":[]}"), ImportOptions{}); r.Err() != nil {
		t.Error("a byte order mark is no fault")
	}
}

// TestManyQueuesAndBindingsAreImported imports as many as a large installation has.
func TestManyQueuesAndBindingsAreImported(t *testing.T) {
	n := 2000
	if os.Getenv("FERRY_LONG") != "" {
		n = 50_000
	}
	text := manyQueues(n)
	s := newStore(t)
	began := time.Now()
	r := load(t, s, text, ImportOptions{})
	t.Logf("%d queues with a binding each: %v", n, time.Since(began))
	if r.Err() != nil || r.Made != 2*n+1 {
		t.Fatalf("%d are made: %v", r.Made, r.Err())
	}
	if info, _ := s.Broker.VHost("/"); info.Queues != n {
		t.Errorf("there are %d queues", info.Queues)
	}
	source := "x"
	if l := s.Broker.Bindings("/", broker.BindingFilter{Source: &source}); len(l) != n {
		t.Errorf("there are %d bindings", len(l))
	}
}

func manyQueues(n int) []byte {
	queues := make([]queueItem, n)
	bindings := make([]bindingItem, n)
	for i := range queues {
		name := fmt.Sprintf("queue.%05d", i)
		queues[i] = queueItem{Name: name, VHost: "/", Durable: true, Arguments: map[string]any{"x-max-length": 1000}}
		bindings[i] = bindingItem{Source: "x", VHost: "/", Destination: name, DestinationType: "queue", RoutingKey: name}
	}
	text, _ := json.Marshal(map[string]any{ // of what it can be made
		"queues": queues, "bindings": bindings,
		"exchanges": []exchangeItem{{Name: "x", VHost: "/", Type: "topic", Durable: true}},
	})
	return text
}

// FuzzImport feeds documents that are wrong in every way: nothing fails but the
// import, and what it says is bounded and can be printed.
func FuzzImport(f *testing.F) {
	f.Add(read(f, "testdata/rabbitmq-3.10.json"))
	f.Add([]byte(`{"queues":[{"name":"q","vhost":"/","arguments":{"x-dead-letter-exchange":"x"}}],"bindings":[{}],"users":[null]}`))
	s := newStore(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Contains(text, []byte(`"password"`)) {
			return // to hash it takes its time
		}
		r, err := Import(t.Context(), s, text, ImportOptions{})
		if err != nil {
			if !errors.Is(err, ErrDocument) {
				t.Fatal(err)
			}
			return
		}
		for _, item := range append(r.Failed, r.Warnings...) {
			if len(item) > 4096 || strings.ContainsAny(item, "\x00\x1b\n\r") {
				t.Fatalf("%q", item)
			}
		}
		if out := dump(t, s, ""); !json.Valid(out) {
			t.Fatalf("the export is no JSON: %s", out)
		}
	})
}
