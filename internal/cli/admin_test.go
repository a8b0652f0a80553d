package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeAPI answers like a management API: by what answers says for a method and a
// path, else with 204. It keeps what it was asked.
type fakeAPI struct {
	*httptest.Server
	answers map[string]string // an answer of 404 or more begins with its number
	asked   []string
}

func newFakeAPI(t *testing.T, answers map[string]string) *fakeAPI {
	f := &fakeAPI{answers: answers}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		what := r.Method + " " + r.URL.EscapedPath()
		if q := r.URL.Query(); q.Get("page") == "" && len(q) > 0 {
			what += "?" + r.URL.RawQuery
		}
		asked := what
		if len(body) > 0 {
			asked += " " + string(body)
		}
		f.asked = append(f.asked, asked)
		if page := r.URL.Query().Get("page"); page != "" {
			what += " " + page
		}
		answer, ok := f.answers[what]
		if !ok {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		var code int
		if _, err := fmt.Sscanf(answer, "%d ", &code); err == nil {
			w.WriteHeader(code)
			_, answer, _ = strings.Cut(answer, " ")
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(f.Close)
	return f
}

const notFound = `404 {"error":"Object Not Found","reason":"Not Found"}`

// What each command asks of the broker.
func TestAdministrationCommandsAsk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "definitions.json")
	if err := os.WriteFile(file, []byte(`{"queues":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		command string
		stdin   string
		want    []string
	}{
		{"queue declare a/b --vhost shop --arg x-max-length=5 --arg x-overflow=drop-head --arg x-single-active-consumer=true", "", []string{
			`PUT /api/queues/shop/a%2Fb {"arguments":{"x-max-length":5,"x-overflow":"drop-head","x-single-active-consumer":true},"auto_delete":false,"durable":true}`,
		}},
		{"queue declare q --transient --auto-delete", "", []string{`PUT /api/queues/%2F/q {"arguments":{},"auto_delete":true,"durable":false}`}},
		{"queue delete q --if-empty --if-unused", "", []string{"DELETE /api/queues/%2F/q?if-empty=true&if-unused=true"}},
		{"queue purge q", "", []string{"DELETE /api/queues/%2F/q/contents"}},
		{"queue bind q -e x -k a.#", "", []string{`POST /api/bindings/%2F/e/x/q/q {"arguments":{},"routing_key":"a.#"}`}},
		{"exchange declare x --type topic --arg alternate-exchange=lost", "", []string{
			`PUT /api/exchanges/%2F/x {"arguments":{"alternate-exchange":"lost"},"auto_delete":false,"durable":true,"internal":false,"type":"topic"}`,
		}},
		{"exchange delete x --if-unused", "", []string{"DELETE /api/exchanges/%2F/x?if-unused=true"}},
		{"user add app --tags monitoring,management", "secret\nmore\n", []string{
			"GET /api/users/app", `PUT /api/users/app {"password":"secret","tags":"monitoring,management"}`,
		}},
		{"user add app --no-password", "", []string{"GET /api/users/app", `PUT /api/users/app {"password_hash":"","tags":""}`}},
		{"user password known", "new\r\n", []string{
			"GET /api/users/known", `PUT /api/users/known {"password":"new","tags":"monitoring","hashing_algorithm":"h"}`,
		}},
		{"user tags known administrator", "", []string{
			"GET /api/users/known", `PUT /api/users/known {"password_hash":"aGFzaA==","tags":"administrator","hashing_algorithm":"h"}`,
		}},
		{"user delete app", "", []string{"DELETE /api/users/app"}},
		{"user permit app --configure ^a --read .* --vhost shop", "", []string{`PUT /api/permissions/shop/app {"configure":"^a","read":".*","write":""}`}},
		{"user permit app --topic events --write ^a", "", []string{`PUT /api/topic-permissions/%2F/app {"exchange":"events","read":"","write":"^a"}`}},
		{"user forbid app --topics", "", []string{"DELETE /api/topic-permissions/%2F/app"}},
		{"user limit app --max-connections 5", "", []string{`PUT /api/user-limits/app/max-connections {"value":5}`}},
		{"vhost add shop --description sales", "", []string{`PUT /api/vhosts/shop {"description":"sales","tags":""}`}},
		{"vhost delete shop", "", []string{"DELETE /api/vhosts/shop"}},
		{"vhost limit shop --max-queues -1", "", []string{"DELETE /api/vhost-limits/shop/max-queues"}},
		{"policy set p ^q max-length=3 overflow=reject-publish --priority 2 --apply-to queues", "", []string{
			`PUT /api/policies/%2F/p {"apply-to":"queues","definition":{"max-length":3,"overflow":"reject-publish"},"pattern":"^q","priority":2}`,
			`GET /api/policies/%2F/p`,
		}},
		{`policy set p ^q {"max-length":3} --operator`, "", []string{
			`PUT /api/operator-policies/%2F/p {"apply-to":"queues","definition":{"max-length":3},"pattern":"^q","priority":0}`,
			`GET /api/operator-policies/%2F/p`,
		}},
		{"policy delete p --operator", "", []string{"DELETE /api/operator-policies/%2F/p"}},
		{"definitions import " + file, "", []string{`POST /api/definitions {"queues":[]}`}},
		{"definitions import - --vhost shop", `{"queues":[]}`, []string{`POST /api/definitions/shop {"queues":[]}`}},
	} {
		f := newFakeAPI(t, map[string]string{
			"GET /api/users/app":   notFound,
			"GET /api/users/known": `{"name":"known","password_hash":"aGFzaA==","hashing_algorithm":"h","tags":["monitoring"]}`,
		})
		args := append(strings.Fields(row.command), "--admin", f.URL)
		got := runReading(t, nil, row.stdin, args...)
		if got.code != exitDone || got.out != "" {
			t.Errorf("%s: exit code %d\n%s%s", row.command, got.code, got.out, got.errors)
		}
		if a, w := strings.Join(f.asked, "\n"), strings.Join(row.want, "\n"); a != w {
			t.Errorf("%s asked\n%s\nwant\n%s", row.command, a, w)
		}
		if strings.Contains(got.errors, "secret") {
			t.Errorf("%s shows the password: %s", row.command, got.errors)
		}
	}
}

func TestQueueListAsksPageByPage(t *testing.T) {
	f := newFakeAPI(t, map[string]string{
		"GET /api/queues/%2F 1": `{"page_count":2,"items":[{"name":"a","vhost":"/","messages":7,"messages_ready":4,"messages_unacknowledged":3,"consumers":1,"durable":true,"arguments":{"x-message-ttl":5}}]}`,
		"GET /api/queues/%2F 2": `{"page_count":2,"items":[{"name":"b\u001b[2J","vhost":"/","policy":"p"}]}`,
	})
	got := runFerry(t, nil, "queue", "list", "--admin", f.URL)
	want := "VHOST  NAME  READY  UNACKED  MESSAGES  CONSUMERS  POLICY  FEATURES\n" +
		"/      a     4      3        7         1          -       D TTL\n" +
		"/      b[2J  0      0        0         0          p       -\n"
	if got.code != exitDone || got.out != want {
		t.Errorf("exit code %d\n%s%s\nwant\n%s", got.code, got.out, got.errors, want)
	}
	got = runFerry(t, nil, "queue", "list", "--json", "--admin", f.URL)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	var second struct{ Name string }
	if len(lines) != 2 || strings.Contains(got.out, "\x1b") || json.Unmarshal([]byte(lines[1]), &second) != nil || second.Name != "b\x1b[2J" {
		t.Errorf("--json: %q", got.out)
	}
}

func TestQueueGetPrintsBodies(t *testing.T) {
	f := newFakeAPI(t, map[string]string{
		"POST /api/queues/%2F/q/get": `[{"payload":"one","payload_encoding":"string"},{"payload":"/w==","payload_encoding":"base64"}]`,
	})
	got := runFerry(t, nil, "queue", "get", "q", "-n", "2", "--admin", f.URL)
	if got.code != exitDone || got.out != "one\n/w==\n" || f.asked[0] != `POST /api/queues/%2F/q/get {"ackmode":"ack_requeue_true","count":2,"encoding":"auto"}` {
		t.Errorf("exit code %d, %q %s, asked %q", got.code, got.out, got.errors, f.asked)
	}
}

func TestUnbindUndoesWhatHasTheKey(t *testing.T) {
	f := newFakeAPI(t, map[string]string{
		"GET /api/bindings/%2F/e/x/q/q": `[{"routing_key":"a","properties_key":"a"},{"routing_key":"a","properties_key":"a~h1"},{"routing_key":"b","properties_key":"b"}]`,
	})
	got := runFerry(t, nil, "queue", "unbind", "q", "-e", "x", "-k", "a", "--admin", f.URL)
	want := "GET /api/bindings/%2F/e/x/q/q\nDELETE /api/bindings/%2F/e/x/q/q/a\nDELETE /api/bindings/%2F/e/x/q/q/a~h1"
	if asked := strings.Join(f.asked, "\n"); got.code != exitDone || asked != want {
		t.Errorf("exit code %d, %s, asked\n%s", got.code, got.errors, asked)
	}
	if got := runFerry(t, nil, "queue", "unbind", "q", "-e", "x", "-k", "c", "--admin", f.URL); got.code != exitFailed || !strings.Contains(got.errors, "is not bound") {
		t.Errorf("exit code %d, %s", got.code, got.errors)
	}
}

func TestDefinitionsAreWrittenForTheirOwner(t *testing.T) {
	f := newFakeAPI(t, map[string]string{"GET /api/definitions": `{"users":[]}`})
	file := filepath.Join(t.TempDir(), "d.json")
	got := runFerry(t, nil, "definitions", "export", file, "--admin", f.URL)
	text, err := os.ReadFile(file)
	if err != nil || got.code != exitDone || string(text) != "{\"users\":[]}\n" {
		t.Errorf("exit code %d, %s, %q, %v", got.code, got.errors, text, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if got := runFerry(t, nil, "definitions", "export", "--admin", f.URL); got.out != "{\"users\":[]}\n" {
		t.Errorf("%q", got.out)
	}
}

func TestAdministrationRefused(t *testing.T) {
	f := newFakeAPI(t, map[string]string{
		"PUT /api/queues/%2F/q":           `400 {"error":"bad_request","reason":"inequivalent\narg"}`,
		"DELETE /api/queues/%2F/q":        notFound,
		"PUT /api/vhosts/v":               `401 {"error":"not_authorized","reason":"Not administrator user"}`,
		"GET /api/users/taken":            `{"name":"taken"}`,
		"GET /api/users/app":              notFound,
		"GET /api/users":                  "500 oops",
		"GET /api/policies/%2F":           "no JSON",
		"POST /api/definitions":           `400 {"error":"bad_request","reason":["queue q: x","user u: y"]}`,
		"DELETE /api/permissions/%2F/app": notFound,
	})
	file := filepath.Join(t.TempDir(), "d.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		command string
		code    int
		text    string
	}{
		{"queue declare q", exitRefused, "refuses it: inequivalent arg\n"},
		{"queue delete q", exitFailed, `there is no queue "q"`},
		{"vhost add v", exitRefused, `refuses the user "guest": Not administrator user`},
		{"user add taken", exitFailed, "there is a user \"taken\" already"},
		{"user add app", exitFailed, "the standard input has no password"},
		{"user add app --generate --no-password", exitUsage, "exclude each other"},
		{"user list", exitFailed, "500"},
		{"user forbid app", exitFailed, `user "app" has no permissions`},
		{"user limit app", exitUsage, "at least one limit"},
		{"user permit app --topic t --configure x", exitUsage, "--configure means nothing"},
		{"policy list", exitFailed, "does not answer like a broker"},
		{"policy set p q", exitUsage, "give a name, a pattern"},
		{"policy set p q colour", exitUsage, `"colour" is no argument`},
		{"policy set p q {", exitUsage, "is no JSON object"},
		{"definitions import " + file, exitRefused, "refuses it:\n  queue q: x\n  user u: y\n"},
		{"definitions import " + file + ".no", exitFailed, "no such file"},
		{"queue get q -n 0", exitUsage, "not at least 1"},
		{"queue get", exitUsage, "give the name of a queue"},
		{"queue lst", exitUsage, "did you mean list?"},
		{"queue list --filter a --regexp b", exitUsage, "exclude each other"},
		{"queue bind q", exitUsage, "exchange"},
		{"user", exitDone, ""},
	} {
		got := runFerry(t, map[string]string{"FERRY_ADMIN": f.URL}, strings.Fields(row.command)...)
		if got.code != row.code || !strings.Contains(got.errors, row.text) {
			t.Errorf("%s: exit code %d, want %d\n%s%s", row.command, got.code, row.code, got.out, got.errors)
		}
	}
	if got := runFerry(t, nil, "queue", "purge", "q", "--admin", "http://"+freePort(t)); got.code != exitNoBroker {
		t.Errorf("exit code %d, %s", got.code, got.errors)
	}
}

// What the broker keeps and does nothing with is named.
func TestWhatHasNoEffectIsTold(t *testing.T) {
	f := newFakeAPI(t, map[string]string{
		"POST /api/definitions":     `{"made":1,"warnings":["section \"colour\": it is not known\u001b[2J","policy \"p\": no effect"]}`,
		"GET /api/policies/%2F/p":   `{"name":"p","without_effect":["ha-mode","ha-params"]}`,
		"GET /api/policies/%2F/all": `{"name":"all"}`,
	})
	for _, row := range []struct{ command, want string }{
		{"definitions import -", "section \"colour\": it is not known[2J\npolicy \"p\": no effect\nthe standard input is imported\n"},
		{"policy set p q ha-mode=all", "policy \"p\" is set\nwithout effect on this broker: ha-mode, ha-params\n"},
		{"policy set all q max-length=1", "policy \"all\" is set\n"},
	} {
		args := append(strings.Fields(row.command), "--admin", f.URL)
		if got := runReading(t, nil, "{}", args...); got.code != exitDone || got.errors != row.want {
			t.Errorf("%s: exit code %d, %q, want %q", row.command, got.code, got.errors, row.want)
		}
	}
}

func TestGeneratedPasswordsDiffer(t *testing.T) {
	f := newFakeAPI(t, map[string]string{"GET /api/users/app": notFound})
	var made [2]string
	for i := range made {
		made[i] = runFerry(t, nil, "user", "add", "app", "--generate", "--admin", f.URL).out
		if len(made[i]) < 20 || !strings.Contains(f.asked[len(f.asked)-1], strings.TrimSpace(made[i])) {
			t.Errorf("%q, asked %q", made[i], f.asked)
		}
	}
	if made[0] == made[1] {
		t.Error("two passwords are the same")
	}
}
