package adminserver

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
)

// roles are the tags that users of the matrix have, each one alone; "none" has none,
// and is like a user of AMQP.
var roles = []string{"administrator", "monitoring", "policymaker", "management", "none"}

// A cell's request, in which {v} stands for the virtual host, {other} for a user of
// both, {self} for who asks, {conn} and {chan} for the name of a connection and of
// its channel: in the own virtual host one of who asks, in the foreign one another's.
type request struct{ method, path, body string }

// requests has at least one of each route that RabbitMQ 3.10 has, too: what it
// answers is in testdata/authorisation.json.
var requests = []request{
	{"GET", "/api/overview", ""},
	{"GET", "/api/whoami", ""},
	{"GET", "/api/cluster-name", ""},
	{"PUT", "/api/cluster-name", `{"name":"a name"}`},
	{"GET", "/api/nodes", ""},
	{"GET", "/api/nodes/{node}", ""},
	{"GET", "/api/nodes/{node}/memory", ""},
	{"GET", "/api/extensions", ""},
	{"GET", "/api/feature-flags", ""},
	{"GET", "/api/auth/attempts/{node}", ""},
	{"GET", "/api/auth/attempts/{node}/source", ""},
	{"DELETE", "/api/auth/attempts/{node}", ""},
	{"DELETE", "/api/auth/attempts/{node}/source", ""},

	{"GET", "/api/definitions", ""},
	{"POST", "/api/definitions", `{"queues":[]}`},
	{"GET", "/api/definitions/{v}", ""},
	{"POST", "/api/definitions/{v}", `{"queues":[]}`},

	{"GET", "/api/connections", ""},
	{"GET", "/api/vhosts/{v}/connections", ""},
	{"GET", "/api/connections/{conn}", ""},
	{"GET", "/api/connections/{conn}/channels", ""},
	{"DELETE", "/api/connections/{conn}", ""},
	{"GET", "/api/connections/username/{other}", ""},
	{"GET", "/api/connections/username/{self}", ""},
	{"DELETE", "/api/connections/username/{other}", ""},
	{"GET", "/api/channels", ""},
	{"GET", "/api/channels/{chan}", ""},
	{"GET", "/api/vhosts/{v}/channels", ""},
	{"GET", "/api/consumers", ""},
	{"GET", "/api/consumers/{v}", ""},

	{"GET", "/api/exchanges", ""},
	{"GET", "/api/exchanges/{v}", ""},
	{"GET", "/api/exchanges/{v}/x", ""},
	{"PUT", "/api/exchanges/{v}/new", `{"type":"direct"}`},
	{"DELETE", "/api/exchanges/{v}/x", ""},
	{"GET", "/api/exchanges/{v}/x/bindings/source", ""},
	{"GET", "/api/exchanges/{v}/x/bindings/destination", ""},
	{"POST", "/api/exchanges/{v}/x/publish", `{"properties":{},"routing_key":"k","payload":"","payload_encoding":"string"}`},

	{"GET", "/api/queues", ""},
	{"GET", "/api/queues/{v}", ""},
	{"GET", "/api/queues/{v}/q", ""},
	{"PUT", "/api/queues/{v}/new", `{}`},
	{"DELETE", "/api/queues/{v}/q", ""},
	{"GET", "/api/queues/{v}/q/bindings", ""},
	{"DELETE", "/api/queues/{v}/q/contents", ""},
	{"POST", "/api/queues/{v}/q/actions", `{"action":"sync"}`},
	{"POST", "/api/queues/{v}/q/get", `{"count":1,"ackmode":"ack_requeue_true","encoding":"auto"}`},

	{"GET", "/api/bindings", ""},
	{"GET", "/api/bindings/{v}", ""},
	{"GET", "/api/bindings/{v}/e/x/q/q", ""},
	{"POST", "/api/bindings/{v}/e/x/q/q", `{"routing_key":"new"}`},
	{"GET", "/api/bindings/{v}/e/x/q/q/k", ""},
	{"DELETE", "/api/bindings/{v}/e/x/q/q/k", ""},
	{"GET", "/api/bindings/{v}/e/x/e/amq.fanout", ""},
	{"POST", "/api/bindings/{v}/e/x/e/amq.fanout", `{"routing_key":"new"}`},
	{"GET", "/api/bindings/{v}/e/x/e/amq.fanout/k", ""},
	{"DELETE", "/api/bindings/{v}/e/x/e/amq.fanout/k", ""},

	{"GET", "/api/vhosts", ""},
	{"GET", "/api/vhosts/{v}", ""},
	{"PUT", "/api/vhosts/{v}", `{"description":"d"}`},
	{"PUT", "/api/vhosts/new", ""},
	{"DELETE", "/api/vhosts/{v}", ""},
	{"GET", "/api/vhosts/{v}/permissions", ""},
	{"GET", "/api/vhosts/{v}/topic-permissions", ""},
	{"POST", "/api/vhosts/{v}/start/{node}", ""},

	{"GET", "/api/users", ""},
	{"GET", "/api/users/without-permissions", ""},
	{"POST", "/api/users/bulk-delete", `{"users":["other"]}`},
	{"GET", "/api/users/{other}", ""},
	{"GET", "/api/users/{self}", ""},
	{"PUT", "/api/users/new", `{"password":"p","tags":""}`},
	{"PUT", "/api/users/{self}", `{"password":"p","tags":"administrator"}`},
	{"DELETE", "/api/users/{other}", ""},
	{"GET", "/api/users/{other}/permissions", ""},
	{"GET", "/api/users/{self}/permissions", ""},
	{"GET", "/api/users/{other}/topic-permissions", ""},
	{"GET", "/api/user-limits", ""},
	{"GET", "/api/user-limits/{other}", ""},
	{"PUT", "/api/user-limits/{other}/max-channels", `{"value":100}`},
	{"DELETE", "/api/user-limits/{other}/max-channels", ""},

	{"GET", "/api/permissions", ""},
	{"GET", "/api/permissions/{v}/{other}", ""},
	{"PUT", "/api/permissions/{v}/{other}", `{"configure":"","write":"","read":""}`},
	{"DELETE", "/api/permissions/{v}/{other}", ""},
	{"GET", "/api/topic-permissions", ""},
	{"GET", "/api/topic-permissions/{v}/{other}", ""},
	{"PUT", "/api/topic-permissions/{v}/{other}", `{"exchange":"amq.topic","write":"","read":""}`},
	{"DELETE", "/api/topic-permissions/{v}/{other}", ""},

	{"GET", "/api/parameters", ""},
	{"GET", "/api/parameters/vhost-limits", ""},
	{"GET", "/api/parameters/vhost-limits/{v}", ""},
	{"GET", "/api/parameters/vhost-limits/{v}/limits", ""},
	{"PUT", "/api/parameters/vhost-limits/{v}/limits", `{"value":{"max-queues":100}}`},
	{"DELETE", "/api/parameters/vhost-limits/{v}/limits", ""},
	{"GET", "/api/global-parameters", ""},
	{"GET", "/api/global-parameters/g", ""},
	{"PUT", "/api/global-parameters/new", `{"value":1}`},
	{"DELETE", "/api/global-parameters/g", ""},
	{"GET", "/api/policies", ""},
	{"GET", "/api/policies/{v}", ""},
	{"GET", "/api/policies/{v}/p", ""},
	{"PUT", "/api/policies/{v}/new", `{"pattern":"^new","definition":{"max-length":9}}`},
	{"DELETE", "/api/policies/{v}/p", ""},
	{"GET", "/api/operator-policies", ""},
	{"GET", "/api/operator-policies/{v}", ""},
	{"GET", "/api/operator-policies/{v}/op", ""},
	{"PUT", "/api/operator-policies/{v}/new", `{"pattern":"^new","definition":{"max-length":9}}`},
	{"DELETE", "/api/operator-policies/{v}/op", ""},
	{"GET", "/api/vhost-limits", ""},
	{"GET", "/api/vhost-limits/{v}", ""},
	{"PUT", "/api/vhost-limits/{v}/max-connections", `{"value":100}`},
	{"DELETE", "/api/vhost-limits/{v}/max-connections", ""},

	{"GET", "/api/aliveness-test/{v}", ""},
	{"GET", "/api/health/checks/alarms", ""},
	{"GET", "/api/health/checks/local-alarms", ""},
	{"GET", "/api/health/checks/certificate-expiration/1/days", ""},
	{"GET", "/api/health/checks/port-listener/1", ""},
	{"GET", "/api/health/checks/protocol-listener/mqtt", ""},
	{"GET", "/api/health/checks/virtual-hosts", ""},
	{"GET", "/api/health/checks/node-is-mirror-sync-critical", ""},
	{"GET", "/api/health/checks/node-is-quorum-critical", ""},
	{"POST", "/api/rebalance/queues", ""},
}

// A world is a broker with an API, in which things are put so that every request of
// the matrix has something to act on.
type world struct {
	t                    testing.TB
	base, user, password string
	node                 string
	// connect makes that a user has a connection to a virtual host, with a channel and
	// a consumer of the queue q.
	connect func(user, vhost string)
	// missing is called when something that belongs to a user in a virtual host is not
	// in a list (yet). It tells whether to look again.
	missing func(list, user, vhost string) bool
}

// secret is everybody's password, but guest's.
const secret = "secret"

// hashOf is the hash of a password as RabbitMQ has it, which is soon checked: a salt of
// zeros and the SHA-256 of it and the password.
func hashOf(password string) string {
	salted := make([]byte, 4, 4+sha256.Size)
	sum := sha256.Sum256(append(salted, password...))
	return base64.StdEncoding.EncodeToString(append(salted, sum[:]...))
}

var secretHash = hashOf(secret)

// answered is what a request was answered with.
type answered struct {
	status int
	header http.Header
	body   []byte
}

// call makes a request.
func (w *world) call(user, password, method, path, body string) answered {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.base+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		w.t.Fatal(err)
	}
	return answered{resp.StatusCode, resp.Header, got}
}

// do makes a request as the first user, which must succeed.
func (w *world) do(method, path, body string) []byte {
	w.t.Helper()
	got := w.call(w.user, w.password, method, path, body)
	if got.status/100 != 2 {
		w.t.Fatalf("%s %s %s: %d %s", method, path, body, got.status, got.body)
	}
	return got.body
}

// furnish puts everything there, wherever it was taken away.
func (w *world) furnish() {
	w.t.Helper()
	for _, role := range append([]string{"other"}, roles...) {
		w.do("PUT", "/api/users/"+role, `{"password_hash":"`+secretHash+`","tags":"`+strings.TrimPrefix(strings.TrimPrefix(role, "none"), "other")+`"}`)
	}
	w.do("PUT", "/api/user-limits/other/max-channels", `{"value":100}`)
	w.do("PUT", "/api/global-parameters/g", `{"value":1}`)
	for _, v := range []string{"own", "foreign"} {
		all := `{"configure":".*","write":".*","read":".*"}`
		w.do("PUT", "/api/vhosts/"+v, "")
		w.do("PUT", "/api/permissions/"+v+"/"+w.user, all)
		w.do("PUT", "/api/permissions/"+v+"/other", all)
		if v == "own" {
			for _, role := range roles {
				w.do("PUT", "/api/permissions/"+v+"/"+role, all)
			}
		}
		w.do("PUT", "/api/topic-permissions/"+v+"/other", `{"exchange":"amq.topic","write":".*","read":".*"}`)
		w.do("PUT", "/api/queues/"+v+"/q", `{"durable":true}`)
		w.do("PUT", "/api/exchanges/"+v+"/x", `{"type":"topic","durable":true}`)
		w.do("POST", "/api/bindings/"+v+"/e/x/q/q", `{"routing_key":"k"}`)
		w.do("POST", "/api/bindings/"+v+"/e/x/e/amq.fanout", `{"routing_key":"k"}`)
		w.do("PUT", "/api/policies/"+v+"/p", `{"pattern":"^nothing$","definition":{"max-length":9}}`)
		w.do("PUT", "/api/operator-policies/"+v+"/op", `{"pattern":"^nothing$","definition":{"max-length":9}}`)
		w.do("PUT", "/api/vhost-limits/"+v+"/max-connections", `{"value":100}`)
		for _, q := range []string{"/api/queues/" + v + "/new", "/api/exchanges/" + v + "/new", "/api/policies/" + v + "/new", "/api/operator-policies/" + v + "/new"} {
			w.call(w.user, w.password, "DELETE", q, "")
		}
	}
	w.call(w.user, w.password, "DELETE", "/api/vhosts/new", "")
	w.call(w.user, w.password, "DELETE", "/api/users/new", "")
	w.call(w.user, w.password, "DELETE", "/api/global-parameters/new", "")
	w.connect("other", "foreign")
	w.connect("other", "own")
	for _, role := range roles {
		w.connect(role, "own")
	}
}

// named is the name of something in a list of the API that belongs to a user in a
// virtual host.
func (w *world) named(list, user, vhost string) string {
	w.t.Helper()
	for {
		var items []struct{ Name, User, VHost string }
		if err := json.Unmarshal(w.do("GET", list, ""), &items); err != nil {
			w.t.Fatal(err)
		}
		for _, item := range items {
			if item.User == user && item.VHost == vhost {
				return item.Name
			}
		}
		if w.missing == nil || !w.missing(list, user, vhost) {
			break
		}
	}
	w.t.Fatalf("%s has nothing of %s in %s", list, user, vhost)
	return ""
}

// A matrix has the status of each request, by "METHOD path", by "own" or "foreign",
// and by role.
type matrix map[string]map[string]map[string]int

func (r request) String() string { return r.method + " " + r.path }

// walk makes every request in every role.
func (w *world) walk(requests []request) matrix {
	w.t.Helper()
	m := matrix{}
	w.furnish()
	for _, r := range requests {
		m[r.String()] = map[string]map[string]int{}
		for _, v := range []string{"own", "foreign"} {
			if v == "foreign" && !strings.Contains(r.path, "{v}") && !strings.Contains(r.path, "{conn}") && !strings.Contains(r.path, "{chan}") {
				continue
			}
			m[r.String()][v] = map[string]int{}
			for _, role := range roles {
				path := r.path
				who := role
				if v == "foreign" {
					who = "other"
				}
				if strings.Contains(path, "{conn}") {
					path = strings.ReplaceAll(path, "{conn}", url.PathEscape(w.named("/api/connections", who, v)))
				}
				if strings.Contains(path, "{chan}") {
					path = strings.ReplaceAll(path, "{chan}", url.PathEscape(w.named("/api/channels", who, v)))
				}
				path = strings.NewReplacer("{v}", v, "{other}", "other", "{self}", role, "{node}", w.node).Replace(path)
				got := w.call(role, secret, r.method, path, r.body)
				m[r.String()][v][role] = got.status
				if r.method != "GET" && got.status/100 == 2 {
					w.furnish()
				}
			}
		}
	}
	return m
}

const authorisationFile = "testdata/authorisation.json"

func readMatrix(t *testing.T) matrix {
	t.Helper()
	text, err := os.ReadFile(authorisationFile)
	if err != nil {
		t.Fatal(err)
	}
	var m matrix
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}
