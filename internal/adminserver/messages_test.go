package adminserver

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
)

// refusal is the body of an answer that is one.
type refusal struct {
	Error  string
	Reason any
}

func (o *own) refused(method, path, body string, status int, kind, reason string) {
	o.t.Helper()
	var got refusal
	o.get(method, path, body, status, &got)
	text, err := json.Marshal(got.Reason)
	if err != nil {
		o.t.Fatal(err)
	}
	if s, ok := got.Reason.(string); ok {
		text = []byte(s)
	}
	if got.Error != kind || !strings.HasPrefix(string(text), reason) {
		o.t.Errorf("%s %s %.200s: %q %s, want %q %s…", method, path, body, got.Error, text, kind, reason)
	}
}

type gotten struct {
	PayloadBytes    int `json:"payload_bytes"`
	Redelivered     bool
	Exchange        string
	RoutingKey      string `json:"routing_key"`
	MessageCount    int    `json:"message_count"`
	Properties      map[string]any
	Payload         string
	PayloadEncoding string `json:"payload_encoding"`
}

const getPath = "/api/queues/%2F/q/get"

func (o *own) take(count, mode, encoding string) []gotten {
	o.t.Helper()
	var got []gotten
	o.get("POST", getPath, `{"count":`+count+`,"ackmode":"`+mode+`","encoding":"`+encoding+`"}`, 200, &got)
	return got
}

func TestPublishesAndGets(t *testing.T) {
	o := newOwn(t)
	o.do("PUT", "/api/queues/%2F/q", `{"durable":true}`)
	publish := func(key, payload, encoding, props string, routed bool) {
		t.Helper()
		var got struct{ Routed bool }
		body := `{"properties":` + props + `,"routing_key":"` + key + `","payload":"` + payload + `","payload_encoding":"` + encoding + `"}`
		o.get("POST", "/api/exchanges/%2F/amq.default/publish", body, 200, &got)
		if got.Routed != routed {
			t.Errorf("%s: routed %v", body, got.Routed)
		}
	}
	publish("nowhere", "x", "string", "{}", false)
	publish("q", "first", "string", `{"delivery_mode":2,"headers":{"a":1,"b":[1,"x",1.5]},"content_type":"t","priority":3,"timestamp":123,"expiration":"100000","message_id":"m"}`, true)
	publish("q", "AP8=", "base64", `[]`, true)

	for _, mode := range []string{"ack_requeue_true", "reject_requeue_true", "ack_requeue_false"} {
		got := o.take("5", mode, "auto")
		if len(got) != 2 {
			t.Fatalf("%s: %+v", mode, got)
		}
		first, second := got[0], got[1]
		props, err := json.Marshal(first.Properties)
		want := `{"content_type":"t","delivery_mode":2,"expiration":"100000","headers":{"a":1,"b":[1,"x",1.5]},"message_id":"m","priority":3,"timestamp":123}`
		if err != nil || string(props) != want {
			t.Errorf("%s: properties %s", mode, props)
		}
		if first.Payload != "first" || first.PayloadEncoding != "string" || first.RoutingKey != "q" || first.Exchange != "" || first.PayloadBytes != 5 || first.MessageCount != 1 {
			t.Errorf("%s: %+v", mode, first)
		}
		if second.Payload != "AP8=" || second.PayloadEncoding != "base64" || second.PayloadBytes != 2 || len(second.Properties) != 0 {
			t.Errorf("%s: %+v", mode, second)
		}
		if again := mode != "ack_requeue_true"; first.Redelivered != again || second.Redelivered != again {
			t.Errorf("%s: redelivered %v and %v", mode, first.Redelivered, second.Redelivered)
		}
	}
	if got := o.take("5", "ack_requeue_true", "auto"); len(got) != 0 {
		t.Errorf("left: %+v", got)
	}
	publish("q", "straße", "string", "{}", true)
	var cut []gotten
	o.get("POST", getPath, `{"count":"1","ackmode":"reject_requeue_false","encoding":"auto","truncate":4}`, 200, &cut)
	if len(cut) != 1 || cut[0].Payload != "stra" || cut[0].PayloadBytes != 7 {
		t.Errorf("%+v", cut)
	}
	if q, _ := o.b.Queue("/", "q"); q.Depth.Messages() != 0 {
		t.Errorf("%+v", q.Depth)
	}
	publish("q", "x", "string", "{}", true)
	o.get("DELETE", "/api/queues/%2F/q/contents", "", 204, nil)
	if q, _ := o.b.Queue("/", "q"); q.Depth.Messages() != 0 {
		t.Errorf("%+v", q.Depth)
	}
}

// TestWhatIsWrongIsToldAsRabbitMQTellsIt has rows of requests and of what a RabbitMQ
// 3.10 answers, unless they say otherwise.
func TestWhatIsWrongIsToldAsRabbitMQTellsIt(t *testing.T) {
	o := newOwn(t)
	o.do("PUT", "/api/queues/%2F/q", `{"durable":true,"arguments":{"x-max-length":10}}`)
	o.do("PUT", "/api/exchanges/%2F/x", `{"type":"topic"}`)
	const publishPath = "/api/exchanges/%2F/amq.default/publish"
	for _, c := range []struct {
		method, path, body string
		status             int
		kind, reason       string
	}{
		{"GET", "/api/nothere", "", 404, "Object Not Found", "Not Found"},
		{"GET", "/api/queues/%2F/nope", "", 404, "Object Not Found", "Not Found"},
		{"GET", "/api/queues/nope", "", 404, "Object Not Found", "Not Found"},
		{"PUT", "/api/queues/%2F/q", `{"durable":false}`, 400, "bad_request", "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'"},
		{"PUT", "/api/queues/%2F/q", `{"durable":"maybe"}`, 400, "bad_request", `["not_boolean","maybe"]`},
		{"PUT", "/api/queues/%2F/q", `notjson`, 400, "bad_request", "not_json"},
		{"PUT", "/api/queues/%2F/q", `[1]`, 400, "bad_request", "not_json"},
		{"PUT", "/api/queues/%2F/q", `{} {}`, 400, "bad_request", "not_json"},
		{"PUT", "/api/queues/%2F/amq.x", `{}`, 401, "not_authorised", "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'"}, // RabbitMQ: Access refused.
		{"PUT", "/api/exchanges/%2F/x", `{"type":"nonsense"}`, 400, "bad_request", "invalid exchange type 'nonsense'"},                        // RabbitMQ: unknown exchange type
		{"POST", "/api/bindings/%2F/e/x/q/none", `{"routing_key":"a.b"}`, 404, "not_found", "no queue 'none' in vhost '/'"},
		{"GET", "/api/bindings/%2F/e/x/q/q/nope", "", 404, "Object Not Found", "Not Found"},
		{"DELETE", "/api/bindings/%2F/e/x/q/q/nope", "", 404, "Object Not Found", "Not Found"},
		{"POST", publishPath, `{"properties":{},"routing_key":"q","payload":"!!","payload_encoding":"base64"}`, 400, "bad_request", `["not_base64","!!"]`},
		{"POST", publishPath, `{"properties":{},"routing_key":"q","payload":"!!","payload_encoding":"b"}`, 400, "bad_request", `["unsupported_encoding","b"]`},
		{"POST", publishPath, `{"properties":{"priority":"x"},"routing_key":"q","payload":"!!","payload_encoding":"string"}`, 400, "bad_request", `["not_int","priority"]`},
		{"POST", publishPath, `{"routing_key":"q1"}`, 400, "bad_request", "[{key_missing,properties},\n {key_missing,payload},\n {key_missing,payload_encoding}]"},
		{"POST", "/api/exchanges/%2F/nope/publish", `{"properties":{},"routing_key":"q","payload":"!!","payload_encoding":"string"}`, 400, "bad_request", "404 NOT_FOUND - no exchange 'nope' in vhost '/'"},
		{"POST", getPath, `{"count":5,"ackmode":"x","encoding":"auto"}`, 400, "bad_request", `["unknown_ackmode","x"]`}, // RabbitMQ: 500
		{"POST", getPath, `{"count":5,"ackmode":"ack_requeue_true","encoding":"x"}`, 400, "bad_request", "Unsupported encoding. Please use auto or base64."},
		{"POST", getPath, `{"count":5,"encoding":"auto"}`, 400, "bad_request", "[{key_missing,ackmode}]"},
		{"POST", getPath, `{"count":"x","ackmode":"ack_requeue_true","encoding":"auto"}`, 400, "bad_request", `["not_integer","x"]`},
		{"POST", "/api/queues/%2F/none/get", `{"count":1,"ackmode":"ack_requeue_true","encoding":"auto"}`, 404, "not_found", "NOT_FOUND - no queue 'none' in vhost '/'"},
		{"DELETE", "/api/queues/%2F/none/contents", "", 404, "Object Not Found", "Not Found"},
		{"DELETE", "/api/queues/%2F/none", "", 404, "Object Not Found", "Not Found"},
		{"GET", "/api/queues?page=0", "", 400, "invalid_pagination_parameters", "Invalid pagination parameters: page number 0, page size undefined"},
		{"GET", "/api/queues?page=9", "", 400, "page_out_of_range", "Page out of range, page: 9 page size: 100, len: 1"},
		{"GET", "/api/queues?page=1&page_size=501", "", 400, "invalid_pagination_parameters", "Invalid pagination parameters: page number 1, page size 501"},
		{"PUT", "/api/users/u", `{"password":"p"}`, 400, "bad_request", "tags_not_present"},
		{"PUT", "/api/users/u", `{"password":"p","password_hash":"eA==","tags":""}`, 400, "bad_request", "both_password_and_password_hash_are_provided"},
		{"GET", "/api/users/nope", "", 404, "Object Not Found", "Not Found"},
		{"DELETE", "/api/users/nope", "", 404, "Object Not Found", "Not Found"},
		{"GET", "/api/users/nope/permissions", "", 404, "Object Not Found", "Not Found"},
		{"PUT", "/api/permissions/%2F/guest", `{"configure":".*","write":".*"}`, 400, "bad_request", "[{key_missing,read}]"},
		{"PUT", "/api/permissions/%2F/nope", `{"configure":"","write":"","read":""}`, 400, "bad_request", "vhost_or_user_not_found"},
		{"PUT", "/api/permissions/nope/guest", `{"configure":"","write":"","read":""}`, 400, "bad_request", "vhost_or_user_not_found"},
		{"PUT", "/api/permissions/%2F/guest", `{"configure":"(","write":"","read":""}`, 400, "bad_request", "invalid_regexp"},
		{"PUT", "/api/policies/%2F/p", `{"pattern":"^a","definition":{"nonsense":5}}`, 400, "bad_request", "Validation failed\n\n[{<<\"nonsense\">>,5}] are not recognised policy settings\n"},
		{"PUT", "/api/policies/%2F/p", `{"definition":{"max-length":5}}`, 400, "bad_request", "[{key_missing,pattern}]"},
		{"PUT", "/api/policies/%2F/p", `{"pattern":"(","definition":{"max-length":5}}`, 400, "bad_request", "Validation failed\n\npattern should be regular expression but is invalid"},
		{"PUT", "/api/operator-policies/%2F/p", `{"pattern":"^a","definition":{"dead-letter-exchange":"x"}}`, 400, "bad_request", "Validation failed\n\n[{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings\n"},
		{"PUT", "/api/vhost-limits/%2F/nonsense", `{"value":5}`, 400, "bad_request", "Validation failed\n\nUnrecognised terms [{<<\"nonsense\">>,5}] in limits\n"},
		{"PUT", "/api/vhost-limits/%2F/max-queues", `{"value":"x"}`, 400, "bad_request", "Validation failed\n\nmax-queues should be a number, actually was <<\"x\">>\n"},
		{"PUT", "/api/vhost-limits/%2F/max-queues", `{}`, 400, "bad_request", "[{key_missing,value}]"},
		{"PUT", "/api/user-limits/nope/max-channels", `{"value":5}`, 400, "bad_request", `["no_such_user","nope"]`},
		{"PUT", "/api/user-limits/guest/nonsense", `{"value":5}`, 400, "bad_request", `Unrecognised terms [{<<"nonsense">>,5}] in user-limits`},
		{"PUT", "/api/parameters/nonsense/%2F/x", `{"value":{}}`, 400, "bad_request", "Validation failed\n\ncomponent nonsense not found\n"},
		{"PUT", "/api/global-parameters/y", `{}`, 400, "bad_request", "[{key_missing,value}]"},
		{"DELETE", "/api/global-parameters/nope", "", 404, "Object Not Found", "Not Found"},
		{"GET", "/api/health/checks/port-listener/x", "", 400, "bad_request", "Invalid port"},
		{"GET", "/api/health/checks/certificate-expiration/1/x", "", 400, "bad_request", "Time unit not recognised. Supported units: days, weeks, months, years."},
		{"GET", "/api/aliveness-test/nope", "", 404, "Object Not Found", "Not Found"},
		{"POST", "/api/definitions", `x`, 400, "bad_request", "not_json"},
	} {
		o.refused(c.method, c.path, c.body, c.status, c.kind, c.reason)
	}
}

// TestBindingsAreFoundByTheirProperties makes bindings and follows their Location.
func TestBindingsAreFoundByTheirProperties(t *testing.T) {
	o := newOwn(t)
	o.do("PUT", "/api/queues/%2F/a%20%2F%25%0D%0Aq", `{}`)
	const path = "/api/bindings/%2F/e/amq.topic/q/"
	for _, body := range []string{
		`{}`, `{"routing_key":"a.b"}`, `{"routing_key":"a.* b/ü~c"}`, `{"routing_key":"a.*/ü~ %2F\r\nX-Header: x"}`, `{"routing_key":"","arguments":{"z":1}}`, `{"routing_key":"a.b","arguments":{"z":1,"a":"b/c"}}`,
	} {
		got := o.call("guest", "guest", "POST", path+"a%20%2F%25%0D%0Aq", body)
		at := got.header.Get("Location")
		if got.status != 201 || at == "" || got.header.Get("X-Header") != "" {
			t.Fatalf("%s: %d %v", body, got.status, got.header)
		}
		var b struct {
			RoutingKey string `json:"routing_key"`
			Key        string `json:"properties_key"`
			Arguments  map[string]any
		}
		o.get("GET", path+at, "", 200, &b)
		var asked struct {
			RoutingKey string `json:"routing_key"`
		}
		if err := json.Unmarshal([]byte(body), &asked); err != nil {
			t.Fatal(err)
		}
		if b.RoutingKey != asked.RoutingKey || !strings.HasSuffix(at, "/"+strings.ReplaceAll(b.Key, "%", "%25")) {
			t.Errorf("%s: %+v at %s", body, b, at)
		}
		// As it is printed, without being quoted for the path, it is found, too.
		if !strings.Contains(b.RoutingKey, "%") {
			o.get("GET", path+"a%20%2F%25%0D%0Aq/"+b.Key, "", 200, nil)
		}
		o.get("DELETE", path+at, "", 204, nil)
		o.get("DELETE", path+at, "", 404, nil)
	}
	if left := o.b.Bindings("/", broker.BindingFilter{Source: new("amq.topic")}); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}
