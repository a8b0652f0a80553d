package cli

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/app"
	"github.com/ferrymq/ferry/internal/auth"
)

// given is what a command line, an environment and a file say.
type given struct {
	flags, env map[string]string
	file       string // text; "": there is none
}

func (g given) configure(t *testing.T) (*serveConfig, error) {
	t.Helper()
	flags := map[string]string{}
	for k, v := range g.flags {
		flags[k] = v
	}
	if g.file != "" {
		flags["config"] = write(t, "ferry.toml", g.file)
	}
	return configure(sources{flags: flags, getenv: func(name string) string { return g.env[name] }})
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	flag := map[string]string{"amqp": "127.0.0.1:1"}
	env := map[string]string{"FERRY_AMQP": "127.0.0.1:2"}
	empty := map[string]string{"FERRY_AMQP": ""}
	file := `amqp = "127.0.0.1:3"`
	for _, row := range []struct {
		name string
		given
		want string
	}{
		{"nothing", given{}, ":5672"},
		{"file", given{file: file}, "127.0.0.1:3"},
		{"environment", given{env: env}, "127.0.0.1:2"},
		{"environment before file", given{env: env, file: file}, "127.0.0.1:2"},
		{"an empty variable is none", given{env: empty, file: file}, "127.0.0.1:3"},
		{"flag", given{flags: flag}, "127.0.0.1:1"},
		{"flag before environment", given{flags: flag, env: env}, "127.0.0.1:1"},
		{"flag before file", given{flags: flag, file: file}, "127.0.0.1:1"},
		{"flag before all", given{flags: flag, env: env, file: file}, "127.0.0.1:1"},
		{"off", given{flags: map[string]string{"amqp": "off"}, env: env, file: file}, ""},
	} {
		c, err := row.configure(t)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if c.app.AMQP != row.want {
			t.Errorf("%s: %q, want %q", row.name, c.app.AMQP, row.want)
		}
	}
}

func TestConfigFileCanBeNamedByTheEnvironment(t *testing.T) {
	name := write(t, "ferry.toml", `user = "ada"`)
	c, err := given{env: map[string]string{"FERRY_CONFIG": name}}.configure(t)
	if err != nil || c.app.User != "ada" {
		t.Errorf("user %q, %v; want ada", c.app.User, err)
	}
}

// Every option can be given in each way, and arrives.
func TestEveryOptionArrives(t *testing.T) {
	cert, key, ca := write(t, "cert", "x"), write(t, "key", "x"), write(t, "ca", "x")
	values := map[string]string{
		"store": "file:elsewhere", "amqp": ":1", "stomp": ":4", "gmq": ":5", "gmq-token-auth": "off", "http": ":2", "ws-origins": "https://a.example",
		"user": "ada", "password": "lovelace", "tls-cert": cert, "tls-key": key, "tls-ca": ca, "tls-clients": "optional", "tls-user": "distinguished_name", "vhost": "v",
		"memory-limit": "1GiB", "disk-free-limit": "1MB,10%", "log-level": "debug", "log-format": "json",
		"node": "n", "lease": "3s", "standby": "proxy", "advertise": "h", "pprof": ":3", "definitions": "d.json",
	}
	refused := map[string]bool{"password-file": true, "peers": true, "config": true}
	var g [2]given
	g[0].flags, g[1].env = map[string]string{}, map[string]string{}
	var file strings.Builder
	for _, o := range serveOptions() {
		v, ok := values[o.name]
		if !ok && !refused[o.name] {
			t.Errorf("option %s is not tested", o.name)
		}
		if ok {
			g[0].flags[o.name] = v
			g[1].env[environmentName(o.name)] = v
			file.WriteString(o.name + " = '" + v + "'\n")
		}
	}
	want := app.Config{
		Store: "file:elsewhere", AMQP: ":1", STOMP: ":4", GMQ: ":5", GMQNoTokens: true, HTTP: ":2", WSOrigins: "https://a.example", PProf: ":3", User: "ada", Password: "lovelace", VHost: "v",
		Definitions: "d.json", CertificateFrom: auth.FromDistinguishedName, TLSClientsOptional: true, TLSCert: cert, TLSKey: key, TLSCA: ca, Node: "n", Advertise: "h", Lease: 3 * time.Second, Standby: app.StandbyProxy,
		MemoryLimit: app.Limit{Bytes: 1 << 30}, DiskFreeLimit: app.Limit{Bytes: 1e6, Share: 0.1},
	}
	for i, g := range append(g[:], given{file: file.String()}) {
		c, err := g.configure(t)
		if err != nil {
			t.Errorf("way %d: %v", i, err)
			continue
		}
		if c.app != want || c.logLevel != slog.LevelDebug || !c.logJSON {
			t.Errorf("way %d:\n got %+v\nwant %+v", i, c, want)
		}
	}
}

// What containers of RabbitMQ are given serves, and what is Ferry's own goes before it.
func TestTheFirstUserIsGivenAsToRabbitMQ(t *testing.T) {
	password := write(t, "password", "lovelace\n")
	rabbit := map[string]string{"RABBITMQ_DEFAULT_USER": "ada", "RABBITMQ_DEFAULT_PASS": "lovelace", "RABBITMQ_DEFAULT_VHOST": "v"}
	for _, row := range []struct {
		name string
		given
		user, password, vhost string
	}{
		{"nothing", given{}, "", "", ""},
		{"RabbitMQ's", given{env: rabbit}, "ada", "lovelace", "v"},
		{"Ferry's goes before", given{env: map[string]string{"RABBITMQ_DEFAULT_USER": "x", "FERRY_USER": "ada"}}, "ada", "", ""},
		{"a flag goes before", given{env: rabbit, flags: map[string]string{"vhost": "w"}}, "ada", "lovelace", "w"},
		{"RabbitMQ's goes before a file", given{env: rabbit, file: "user = 'bob'"}, "ada", "lovelace", "v"},
		{"a file with the password", given{env: map[string]string{"FERRY_PASSWORD_FILE": password}}, "", "lovelace", ""},
	} {
		c, err := row.configure(t)
		if err != nil || c.app.User != row.user || c.app.Password != row.password || c.app.VHost != row.vhost {
			t.Errorf("%s: %v %+v", row.name, err, c)
		}
	}
	for _, g := range []given{
		{flags: map[string]string{"password": "x", "password-file": password}},
		{flags: map[string]string{"password-file": write(t, "empty", "\n")}},
		{flags: map[string]string{"password-file": "/nowhere"}},
		{flags: map[string]string{"tls-user": "nobody"}},
		{flags: map[string]string{"tls-clients": "some"}},
	} {
		if c, err := g.configure(t); err == nil {
			t.Errorf("%v: %+v", g, c)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := given{}.configure(t)
	if err != nil {
		t.Fatal(err)
	}
	want := app.Config{
		Store: app.DefaultStore, AMQP: app.DefaultAMQP, STOMP: app.DefaultSTOMP, GMQ: app.DefaultGMQ, HTTP: app.DefaultHTTP,
		CertificateFrom: auth.FromCommonName, Lease: app.DefaultLease, Standby: app.StandbyRefuse,
		MemoryLimit: app.DefaultMemoryLimit, DiskFreeLimit: app.DefaultDiskFreeLimit,
	}
	if c.app != want {
		t.Errorf("got %+v\nwant %+v", c.app, want)
	}
	if len(c.notes) > 0 {
		t.Errorf("notes %v, want none", c.notes)
	}
}

// Each fault is found, says where it is and what would be right; all are
// reported together.
func TestFaults(t *testing.T) {
	for _, row := range []struct {
		name string
		given
		want []string
	}{
		{"unknown key", given{file: "stor = 'memory:'"}, []string{`ferry.toml:1: unknown key "stor"; did you mean "store"?`}},
		{"underscore", given{file: "tls_cert = 'x'"}, []string{`did you mean "tls-cert"?`}},
		{"table", given{file: "[tls]\ncert = 'x'"}, []string{`unknown key "tls.cert"; did you mean "tls-cert"?`}},
		{"swapped letters", given{file: "amqp = ':1'\nsotre = 'memory:'"}, []string{`ferry.toml:2: unknown key "sotre"; did you mean "store"?`}},
		{"nothing is near", given{file: "quux = 1"}, []string{`unknown key "quux"`}},
		{"config within a file", given{file: "config = 'x'"}, []string{`a file cannot name another`}},
		{"not TOML", given{file: "store = \n"}, []string{`ferry.toml:1:`, `not TOML`}},
		{"type", given{file: "stomp = true"}, []string{`ferry.toml:1: stomp: a text is expected here, not true`}},
		{"list of numbers", given{file: "peers = [1]"}, []string{`peers: a list must be of texts`}},
		{"time", given{file: "lease = 2020-01-01"}, []string{`lease: a time is not expected here`}},
		{"value in a file", given{file: "\namqp = 5672"}, []string{`ferry.toml:2: amqp: "5672" is not an address`, `did you mean :5672?`}},
		{"value in the environment", given{env: map[string]string{"FERRY_LOG_LEVEL": "loud"}}, []string{`$FERRY_LOG_LEVEL: "loud" is not a level; there are debug`}},
		{"store", given{flags: map[string]string{"store": "nats://x"}}, []string{`--store: a store in nats is not in this version yet`}},
		{"database", given{flags: map[string]string{"store": "postgres://u:secret@h:port/db"}}, []string{`--store: `, `port`}},
		{"store without a kind", given{flags: map[string]string{"store": "data"}}, []string{`write file:data`}},
		{"port", given{flags: map[string]string{"http": "localhost:x"}}, []string{`--http: "x" is not a port`}},
		{"format", given{flags: map[string]string{"log-format": "xml"}}, []string{`--log-format: "xml" is not a format; there are text and json`}},
		{"size", given{flags: map[string]string{"memory-limit": "1 parsec"}}, []string{`--memory-limit: "1 parsec" is not a size`}},
		{"percent", given{flags: map[string]string{"memory-limit": "140%"}}, []string{`"140%" is not a percentage`}},
		{"user", given{flags: map[string]string{"user": ""}}, []string{`--user: it must not be empty`}},
		{"file", given{flags: map[string]string{"tls-cert": "nowhere", "tls-key": "nowhere"}}, []string{`--tls-cert: cannot read the file`, `--tls-key: cannot read`}},
		{"no config file", given{flags: map[string]string{"config": "nowhere"}}, []string{`--config: cannot read the file`}},
		{"authority alone", given{flags: map[string]string{"tls-ca": os.Args[0]}}, []string{`--tls-ca is about TLS, which needs --tls-cert and --tls-key`}},
		{"certificate alone", given{flags: map[string]string{"tls-cert": os.Args[0]}}, []string{`--tls-cert and --tls-key go together`}},
		{"everything is off", given{flags: map[string]string{"amqp": "off", "stomp": "off", "gmq": "off", "http": "off"}}, []string{`nobody could reach the broker`}},
		{"origin", given{flags: map[string]string{"ws-origins": "https://a.example,b.example"}}, []string{`--ws-origins: "b.example" is not an origin; write scheme://host`}},
		{"peers", given{flags: map[string]string{"peers": "a,b"}}, []string{`--peers: clusters are not in this version yet`}},
		{"lease", given{flags: map[string]string{"lease": "soon"}}, []string{`--lease: "soon" is not a duration`}},
		{"short lease", given{flags: map[string]string{"lease": "999ms"}}, []string{`--lease: 999ms is less than 1s`}},
		{"node", given{flags: map[string]string{"node": "a b"}}, []string{`--node: "a b" has something in it`}},
		{"long node", given{flags: map[string]string{"node": strings.Repeat("a", nodeMax+1)}}, []string{`--node: it has 129 bytes`}},
		{"advertised port", given{flags: map[string]string{"advertise": "h:5672"}}, []string{`--advertise: "h:5672" has a port`}},
		{"advertised URL", given{flags: map[string]string{"advertise": "amqp://h"}}, []string{`--advertise: `, `not a host`}},
		{"tokens", given{flags: map[string]string{"gmq-token-auth": "maybe"}}, []string{`--gmq-token-auth: "maybe" is neither on nor off`}},
		{"standby", given{flags: map[string]string{"standby": "dance"}}, []string{`--standby: "dance" is neither refuse nor proxy`}},
		{
			"all together",
			given{
				flags: map[string]string{"amqp": "x", "peers": "a"},
				env:   map[string]string{"FERRY_HTTP": "y"},
				file:  "stor = 'z'\nlog-level = 'loud'",
			},
			[]string{"5 things are wrong", "--amqp:", "--peers:", "$FERRY_HTTP:", ":1: unknown key", ":2: log-level:"},
		},
	} {
		_, err := row.configure(t)
		var wrong *faults
		if !errors.As(err, &wrong) {
			t.Errorf("%s: got %v, want faults", row.name, err)
			continue
		}
		for _, text := range row.want {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error does not say %q:\n%v", row.name, text, err)
			}
		}
	}
}

// What is about shared stores says so with others, and only if it was given.
func TestWhatHasNoEffectIsWarnedOf(t *testing.T) {
	for name, v := range map[string]string{"lease": "1s", "standby": "proxy", "advertise": "h"} {
		for store, want := range map[string]int{"memory:": 1, "file:x": 1, "postgres://u@h/db": 0, "mysql://u@h/db": 0} {
			c, err := given{flags: map[string]string{name: v, "store": store}}.configure(t)
			if err != nil {
				t.Errorf("--%s with %s: %v", name, store, err)
				continue
			}
			if len(c.notes) != want || want > 0 && (c.notes[0].level != slog.LevelWarn || !strings.Contains(c.notes[0].text, "--"+name)) {
				t.Errorf("--%s with %s: notes %v, want %d", name, store, c.notes, want)
			}
		}
	}
}

func TestSetLimit(t *testing.T) {
	for text, want := range map[string]app.Limit{
		"off":        {},
		"1":          {Bytes: 1},
		"1000000":    {Bytes: 1e6},
		"512MiB":     {Bytes: 512 << 20},
		"512 MiB":    {Bytes: 512 << 20},
		"1.5GB":      {Bytes: 15e8},
		"7B":         {Bytes: 7},
		"2kB":        {Bytes: 2000},
		"60%":        {Share: 0.6},
		"2GiB,5%":    {Bytes: 2 << 30, Share: 0.05},
		"5%, 2GiB":   {Bytes: 2 << 30, Share: 0.05},
		"":           {Bytes: -1},
		"0":          {Bytes: -1},
		"-1":         {Bytes: -1},
		"0%":         {Bytes: -1},
		"x%":         {Bytes: -1},
		"1GiB,2GiB":  {Bytes: -1},
		"5%,6%":      {Bytes: -1},
		"1e300TiB":   {Bytes: -1},
		"NaN":        {Bytes: -1},
		"1GiB,":      {Bytes: -1},
		"9999999TiB": {Bytes: -1},
	} {
		got := app.Limit{Bytes: -1} // an error leaves it
		if err := setLimit(&got, text); got != want || (err != nil) != (want.Bytes < 0) {
			t.Errorf("%q: %+v %v, want %+v", text, got, err, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"store", "store", 0}, {"stor", "store", 1}, {"sotre", "store", 1}, {"stroe", "store", 1}, {"amqp", "gmq", 2}, {"kitten", "sitting", 3}} {
		if got := distance(row.a, row.b); got != row.want {
			t.Errorf("%q to %q: %d, want %d", row.a, row.b, got, row.want)
		}
	}
}
