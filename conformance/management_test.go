package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// api is a management API, and who uses it.
type api struct {
	t    *testing.T
	base *url.URL
}

func apiAt(t *testing.T, management string) api {
	t.Helper()
	u, err := url.Parse(management)
	if err != nil {
		t.Fatal(err)
	}
	return api{t, u}
}

// call asks, and returns the status and the body. A body that is not bytes is sent
// as JSON.
func (a api) call(method, path string, body any) (int, []byte) {
	a.t.Helper()
	send, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if send, err = json.Marshal(body); err != nil {
			a.t.Fatal(err)
		}
	}
	// Not that of the test: what a test made is deleted when it has ended.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+a.base.Host+path, bytes.NewReader(send))
	if err != nil {
		a.t.Fatal(err)
	}
	password, _ := a.base.User.Password()
	r.SetBasicAuth(a.base.User.Username(), password)
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer.StatusCode, text
}

// must is call that succeeds.
func (a api) must(method, path string, body any) []byte {
	a.t.Helper()
	status, text := a.call(method, path, body)
	if status >= http.StatusMultipleChoices {
		a.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	return text
}

// rabbitmqadmin is the program that RabbitMQ's management plugin serves.
func rabbitmqadmin(t *testing.T) string {
	t.Helper()
	rabbitMQURL(t)
	path := filepath.Join(t.TempDir(), "rabbitmqadmin")
	program := apiAt(t, rabbitMQ.management).must("GET", "/cli/rabbitmqadmin", nil)
	if err := os.WriteFile(path, program, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What rabbitmqadmin is asked to do, one after the other, and FILE is one that
// each broker has of its own. Exit codes and outputs are compared.
var adminCommands = []string{
	`declare vhost name=admin`,
	`declare permission vhost=admin user=guest configure=.* write=.* read=.*`,
	`--vhost=admin declare queue name=q durable=true arguments={"x-max-length":5,"x-queue-type":"classic"}`,
	`--vhost=admin declare queue name=q durable=true arguments={"x-max-length":6,"x-queue-type":"classic"}`,
	`--vhost=admin declare queue name=other durable=false auto_delete=true`,
	`--vhost=admin declare exchange name=x type=topic`,
	`--vhost=admin declare exchange name=y type=x-unheard-of`,
	`--vhost=admin declare binding source=x destination=q routing_key=a.#`,
	`--vhost=admin declare binding source=x destination=nobody routing_key=a.#`,
	`--vhost=admin publish exchange=x routing_key=a.b payload=hello properties={"delivery_mode":2,"headers":{"n":1}}`,
	`--vhost=admin publish exchange=x routing_key=nobody payload=lost`,
	`--vhost=admin publish exchange=amq.default routing_key=q payload=aGVsbG8= payload_encoding=base64 properties={"delivery_mode":1}`,
	`--vhost=admin -f tsv get queue=q count=1 ackmode=ack_requeue_true`,
	`--vhost=admin -f tsv get queue=q count=5 ackmode=ack_requeue_false encoding=base64`,
	`--vhost=admin -f tsv get queue=q`,
	`--vhost=admin -f tsv get queue=nobody`,
	`--vhost=admin publish exchange=amq.default routing_key=q payload=purged`,
	`--vhost=admin purge queue name=q`,
	`--vhost=admin -f tsv get queue=q`,
	`--vhost=admin -f tsv list queues name durable auto_delete arguments`,
	`--vhost=admin -f tsv list exchanges name type durable`,
	`--vhost=admin -f tsv list bindings source destination destination_type routing_key properties_key`,
	`--vhost=admin declare policy name=p pattern=^q definition={"max-length":3} apply-to=queues priority=2`,
	`--vhost=admin -f tsv list policies name pattern definition priority apply-to`,
	`--vhost=admin declare operator_policy name=o pattern=^q definition={"max-length":2} apply-to=queues`,
	`--vhost=admin -f tsv list operator_policies name pattern definition`,
	`declare vhost_limit vhost=admin name=max-queues value=3`,
	`--vhost=admin -f tsv list vhost_limits`,
	`declare user name=conf-admin password=secret tags=monitoring,policymaker`,
	`declare permission vhost=admin user=conf-admin configure=^q write= read=.*`,
	`-f tsv list users name tags`,
	`--vhost=admin -f tsv list permissions user vhost configure write read`,
	`-f tsv list vhosts name`,
	`-f tsv show overview product_name`,
	`--vhost=admin -u conf-admin -p secret -f tsv list queues name`,
	`--vhost=admin -u conf-admin -p secret declare queue name=new`,
	`--vhost=admin -u conf-admin -p wrong list queues name`,
	`--vhost=admin export FILE`,
	`--vhost=admin delete queue name=q`,
	`--vhost=admin delete exchange name=x`,
	`--vhost=admin -f tsv list queues name`,
	`--vhost=admin import FILE`,
	`--vhost=admin -f tsv list queues name arguments`,
	`--vhost=admin -f tsv list bindings source destination routing_key`,
	`--vhost=admin delete binding source=x destination_type=queue destination=q properties_key=a.%23`,
	`--vhost=admin -f tsv list bindings source destination routing_key`,
	`--vhost=admin delete policy name=p`,
	`--vhost=admin delete queue name=nobody`,
	`--vhost=admin -f tsv list consumers`,
	`delete user name=conf-admin`,
	`delete vhost name=admin`,
}

// What differs from broker to broker and means nothing, and what is of other tests
// on the same RabbitMQ. Ferry has no exchange for tracing.
var (
	productNames = regexp.MustCompile(`(?m)^(RabbitMQ|Ferry)$`)
	ofOthers     = regexp.MustCompile(`(?m)^(.*\t)?(shop|clerk|auditor|short|bound|conf\.[^\t\n]*|conf-[^a\t\n][^\t\n]*|conf-all|amq\.rabbitmq\.trace)(\t.*)?\n`)
)

// TestRabbitmqadminSeesFerryLikeRabbitMQ does the same to both with RabbitMQ's own
// program, and compares what it says.
func TestRabbitmqadminSeesFerryLikeRabbitMQ(t *testing.T) {
	t.Parallel()
	program := rabbitmqadmin(t)
	ferry := startManaged(t, anyPort)
	session := func(at broker) []string {
		u := apiAt(t, at.management).base
		file := filepath.Join(t.TempDir(), "definitions.json")
		var said []string
		for _, command := range adminCommands {
			args := []string{program, "-H", u.Hostname(), "-P", u.Port()}
			for _, word := range strings.Fields(command) {
				args = append(args, strings.Replace(word, "FILE", file, 1))
			}
			out, err := run(t.Context(), ".venv/bin/python", args...)
			if err != nil {
				// Behind the command line stands what the program said.
				_, text, _ := strings.Cut(err.Error(), "\n")
				out = append(out, "failed: "+text...)
			}
			text := strings.ReplaceAll(string(out), file, "FILE")
			text = strings.ReplaceAll(text, u.Host, "HOST")
			text = strings.ReplaceAll(text, u.Hostname(), "HOST")
			said = append(said, command+"\n"+productNames.ReplaceAllString(ofOthers.ReplaceAllString(text, ""), "PRODUCT"))
		}
		return said
	}
	compare(t, session(broker{rabbitMQ.url, rabbitMQ.management}), session(ferry))
}

// definitionsSetup makes in a broker what a definitions file may hold.
func definitionsSetup(a api) {
	a.must("PUT", "/api/vhosts/shop", nil)
	a.must("PUT", "/api/permissions/shop/guest", map[string]string{"configure": ".*", "write": ".*", "read": ".*"})
	for _, u := range []string{"clerk", "auditor"} {
		a.must("PUT", "/api/users/"+u, map[string]string{"password": u + "'s password", "tags": "management"})
	}
	a.must("PUT", "/api/permissions/shop/clerk", map[string]string{"configure": "^order", "write": ".*", "read": ".*"})
	a.must("PUT", "/api/permissions/shop/auditor", map[string]string{"configure": "", "write": "", "read": "^orders$"})
	a.must("PUT", "/api/topic-permissions/shop/clerk", map[string]string{"exchange": "amq.topic", "write": "^order", "read": ".*"})
	a.must("PUT", "/api/exchanges/shop/orders", map[string]any{"type": "topic", "durable": true, "arguments": map[string]any{"alternate-exchange": "lost"}})
	a.must("PUT", "/api/exchanges/shop/lost", map[string]any{"type": "fanout", "durable": true})
	a.must("PUT", "/api/queues/shop/orders", map[string]any{"durable": true, "arguments": map[string]any{"x-max-length": 1000, "x-queue-type": "classic"}})
	a.must("PUT", "/api/queues/shop/lost", map[string]any{"durable": true})
	a.must("POST", "/api/bindings/shop/e/orders/q/orders", map[string]any{"routing_key": "order.#", "arguments": map[string]any{"by": "me"}})
	a.must("POST", "/api/bindings/shop/e/lost/q/lost", map[string]any{"routing_key": ""})
	a.must("POST", "/api/bindings/shop/e/orders/e/lost", map[string]any{"routing_key": "all"})
	a.must("PUT", "/api/policies/shop/short", map[string]any{"pattern": "^lost$", "apply-to": "queues", "priority": 3, "definition": map[string]any{"message-ttl": 3600000}})
	a.must("PUT", "/api/operator-policies/shop/bound", map[string]any{"pattern": ".*", "apply-to": "queues", "definition": map[string]any{"max-length": 500}})
	a.must("PUT", "/api/vhost-limits/shop/max-connections", map[string]any{"value": 100})
	a.must("PUT", "/api/global-parameters/motto", map[string]any{"value": "across"})
}

// TestDefinitionsOfRabbitMQLoad takes the definitions of a real RabbitMQ into a
// Ferry that starts with them: everybody can log in with his password, messages go
// where they went, and what Ferry exports loads into RabbitMQ.
func TestDefinitionsOfRabbitMQLoad(t *testing.T) {
	t.Parallel()
	rabbitMQURL(t)
	rabbit := apiAt(t, rabbitMQ.management)
	definitionsSetup(rabbit)
	t.Cleanup(func() {
		for _, path := range []string{"/api/vhosts/shop", "/api/users/clerk", "/api/users/auditor", "/api/global-parameters/motto"} {
			_, _ = rabbit.call("DELETE", path, nil)
		}
	})
	exported := rabbit.must("GET", "/api/definitions", nil)
	file := filepath.Join(t.TempDir(), "definitions.json")
	if err := os.WriteFile(file, exported, 0o600); err != nil {
		t.Fatal(err)
	}
	address := serve(t, "--stomp", "off", "--http", anyPort, "--definitions", file)
	ferry := apiAt(t, "http://guest:guest@"+address["http"]+"/")
	for range 2 { // once more changes nothing
		checkShop(t, ferry, "amqp://%s@"+address["amqp"]+"/shop")
		if status, text := ferry.call("POST", "/api/definitions", exported); status != http.StatusNoContent && status != http.StatusCreated && status != http.StatusOK {
			t.Fatalf("import: %d %s", status, text)
		}
	}
	back := ferry.must("GET", "/api/definitions", nil)
	compareDefinitions(t, exported, back)
	if status, text := rabbit.call("POST", "/api/definitions", back); status != http.StatusNoContent {
		t.Errorf("RabbitMQ does not load what Ferry exported: %d %s", status, text)
	}
}

// checkShop uses what definitionsSetup has made.
func checkShop(t *testing.T, a api, amqpURL string) {
	t.Helper()
	login := func(user, password string) (*amqp.Connection, error) {
		return amqp.DialConfig(fmt.Sprintf(amqpURL, url.UserPassword(user, password).String()), amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	}
	if _, err := login("clerk", "auditor's password"); err == nil {
		t.Error("a wrong password was accepted")
	}
	conn, err := login("clerk", "clerk's password")
	if err != nil {
		t.Fatalf("clerk cannot log in: %v", err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"order.new", "nothing"} {
		c, err := ch.PublishWithDeferredConfirm("orders", key, true, false, amqp.Publishing{Body: []byte(key)})
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := c.WaitContext(t.Context()); err != nil || !ok {
			t.Fatalf("publish: %v, %v", ok, err)
		}
	}
	if d, ok, err := ch.Get("lost", true); err != nil || !ok || string(d.Body) != "nothing" {
		t.Errorf("lost has %q, %v, %v", d.Body, ok, err)
	}
	if _, err := ch.QueueDeclare("mine", true, false, false, false, nil); err == nil {
		t.Error("clerk declared a queue that is not clerk's to declare")
	}
	other, err := login("auditor", "auditor's password")
	if err != nil {
		t.Fatalf("auditor cannot log in: %v", err)
	}
	defer func() { _ = other.Close() }()
	och, err := other.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if d, ok, err := och.Get("orders", true); err != nil || !ok || string(d.Body) != "order.new" {
		t.Errorf("orders has %q, %v, %v", d.Body, ok, err)
	}
	var q struct {
		Policy    string         `json:"policy"`
		Effective map[string]any `json:"effective_policy_definition"`
	}
	if err := json.Unmarshal(a.must("GET", "/api/queues/shop/lost", nil), &q); err != nil {
		t.Fatal(err)
	}
	if want := map[string]any{"message-ttl": 3600000.0, "max-length": 500.0}; q.Policy != "short" || fmt.Sprint(q.Effective) != fmt.Sprint(want) {
		t.Errorf("lost has policy %q, %v", q.Policy, q.Effective)
	}
}

// compareDefinitions compares what two brokers export of the shop, item by item.
func compareDefinitions(t *testing.T, want, got []byte) {
	t.Helper()
	items := func(text []byte) map[string]bool {
		var d map[string][]map[string]any
		var whole map[string]json.RawMessage
		if err := json.Unmarshal(text, &whole); err != nil {
			t.Fatal(err)
		}
		d = map[string][]map[string]any{}
		for kind, list := range whole {
			var l []map[string]any
			if json.Unmarshal(list, &l) == nil {
				d[kind] = l
			}
		}
		all := map[string]bool{}
		for kind, list := range d {
			for _, item := range list {
				if v := item["vhost"]; v != nil && v != "shop" || kind == "users" && item["name"] == "guest" {
					continue
				}
				if name, _ := item["name"].(string); kind == "vhosts" && name != "shop" || kind == "global_parameters" && name != "motto" {
					continue
				}
				if kind == "queues" {
					delete(item, "type") // as newer versions have it
				}
				if kind == "vhosts" {
					item = map[string]any{"name": item["name"]} // what else there is depends on the version
				}
				text, err := json.Marshal(item)
				if err != nil {
					t.Fatal(err)
				}
				all[kind+" "+string(text)] = true
			}
		}
		return all
	}
	wanted, had := items(want), items(got)
	for item := range wanted {
		if !had[item] {
			t.Errorf("Ferry does not export %s", item)
		}
	}
	for item := range had {
		if !wanted[item] {
			t.Errorf("Ferry exports %s", item)
		}
	}
}
