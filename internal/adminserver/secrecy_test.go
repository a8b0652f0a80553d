package adminserver

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/definitions"
	"github.com/ferrymq/ferry/internal/message"
)

// Who gets a message by the API sees no more of it than who consumes it.
func TestBlindCopiesAreNotShown(t *testing.T) {
	o := newOwn(t)
	for _, q := range []string{"to", "hidden"} {
		o.get("PUT", "/api/queues/%2F/"+q, `{"durable":true}`, http.StatusCreated, nil)
	}
	o.get("POST", "/api/exchanges/%2F/amq.default/publish",
		`{"properties":{"headers":{"BCC":["hidden"],"a":"b"}},"routing_key":"to","payload":"","payload_encoding":"string"}`, http.StatusOK, nil)
	for _, q := range []string{"to", "hidden"} {
		got := o.call("guest", "guest", "POST", "/api/queues/%2F/"+q+"/get", `{"count":1,"ackmode":"ack_requeue_false","encoding":"auto"}`)
		if text := string(got.body); !strings.Contains(text, `"a":"b"`) || strings.Contains(text, "BCC") {
			t.Errorf("%s: %s", q, text)
		}
	}
}

// Limits of a virtual host are an administrator's, whatever the path they are set by.
func TestLimitsAreNoPolicymakers(t *testing.T) {
	o := newOwn(t)
	password := "p"
	if _, err := o.users.PutUser(t.Context(), "pm", auth.UserSpec{Password: &password, Tags: &auth.Tags{auth.TagPolicymaker}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.users.PutPermission(auth.Permissions{User: "pm", VHost: "/"}); err != nil {
		t.Fatal(err)
	}
	o.get("PUT", "/api/parameters/vhost-limits/%2F/limits", `{"value":{"max-queues":5}}`, http.StatusNoContent, nil)
	for _, r := range []request{
		{"PUT", "/api/parameters/vhost-limits/%2F/limits", `{"value":{"max-connections":0}}`},
		{"DELETE", "/api/parameters/vhost-limits/%2F/limits", ""},
		{"PUT", "/api/parameters/operator_policy/%2F/p", `{"value":{"pattern":"","definition":{"max-length":1}}}`},
		{"DELETE", "/api/parameters/operator_policy/%2F/p", ""},
		{"PUT", "/api/global-parameters/cluster_name", `{"value":"mine"}`},
	} {
		if got := o.call("pm", "p", r.method, r.path, r.body); got.status != http.StatusUnauthorized {
			t.Errorf("%s %s: %d %s", r.method, r.path, got.status, got.body)
		}
	}
}

// What is gathered for one answer is bounded, also where it is not in payloads.
func TestOneRequestGetsNoMoreThanItMay(t *testing.T) {
	o := newOwn(t)
	o.get("PUT", "/api/queues/%2F/q", `{}`, http.StatusCreated, nil)
	c, err := o.b.OpenSession(broker.SessionConfig{VHost: "/", User: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const each = 8 << 20 // bytes of headers
	headers, err := definitions.AppendArgs(nil, map[string]any{"h": strings.Repeat("a", each)})
	if err != nil {
		t.Fatal(err)
	}
	ch, list := c.OpenChannel(1), message.AppendField(nil, message.Headers, headers)
	for range gotMost/each + 4 {
		if err := ch.Publish(&broker.Publish{Key: []byte("q"), Properties: list}); err != nil {
			t.Fatal(err)
		}
	}
	c.Flush()
	got := o.call("guest", "guest", "POST", "/api/queues/%2F/q/get", `{"count":1000000,"ackmode":"ack_requeue_false","encoding":"auto"}`)
	if n := bytes.Count(got.body, []byte(`"payload_bytes"`)); got.status != http.StatusOK || n != gotMost/each {
		t.Errorf("%d: %d messages of %d bytes were got at once", got.status, n, each)
	}
}

// A request of a few megabytes must not take gigabytes when it is decoded.
func TestRequestsOfVeryManyValuesAreRefused(t *testing.T) {
	o := newOwn(t)
	o.get("PUT", "/api/queues/%2F/q", `{}`, http.StatusCreated, nil)
	publish := func(headers string, status int) {
		t.Helper()
		got := o.call("guest", "guest", "POST", "/api/exchanges/%2F/amq.default/publish",
			`{"properties":{"headers":{"h":`+headers+`}},"routing_key":"q","payload":"[[[,,,","payload_encoding":"string"}`)
		if got.status != status {
			t.Errorf("%.20s…: %d %s", headers, got.status, cutTo(string(got.body), 200))
		}
	}
	publish("["+strings.Repeat("1,", 60_000)+"1]", http.StatusOK)
	publish("["+strings.Repeat("1,", valuesMost)+"1]", http.StatusBadRequest)
	publish("["+strings.Repeat("[],", valuesMost)+"1]", http.StatusBadRequest)
	publish(`"`+strings.Repeat(",", valuesMost)+`"`, http.StatusOK)
}
