package endpoint

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// with is the endpoint that a URL with nothing in it gives, changed.
func with(change func(*Endpoint)) Endpoint {
	e := Endpoint{
		Scheme: "amqp", Host: "localhost", Port: 5672, VHost: "/", User: "guest", Password: "guest",
		Heartbeat: -1, Verify: VerifyPeer,
	}
	if change != nil {
		change(&e)
	}
	return e
}

func TestURLs(t *testing.T) {
	for _, c := range []struct {
		url    string
		want   func(*Endpoint)
		string string // empty: not looked at
	}{
		// The AMQP URI specification, appendix A. Where it leaves a part
		// undefined the default stands, and so it does for an empty host or
		// virtual host.
		{"amqp://user:pass@host:10000/vhost", func(e *Endpoint) {
			e.User, e.Password, e.Host, e.Port, e.VHost = "user", "pass", "host", 10000, "vhost"
		}, "amqp://user@host:10000/vhost"},
		{"amqp://user%61:%61pass@ho%61st:10000/v%2fhost", func(e *Endpoint) {
			e.User, e.Password, e.Host, e.Port, e.VHost = "usera", "apass", "hoast", 10000, "v/host"
		}, "amqp://usera@hoast:10000/v%2Fhost"},
		{"amqp://", nil, "amqp://guest@localhost:5672/"},
		{"amqp://:@/", func(e *Endpoint) { e.User, e.Password = "", "" }, "amqp://@localhost:5672/"},
		{"amqp://user@", func(e *Endpoint) { e.User = "user" }, ""},
		{"amqp://user:pass@", func(e *Endpoint) { e.User, e.Password = "user", "pass" }, ""},
		{"amqp://host", func(e *Endpoint) { e.Host = "host" }, "amqp://guest@host:5672/"},
		{"amqp://:10000", func(e *Endpoint) { e.Port = 10000 }, ""},
		{"amqp:///vhost", func(e *Endpoint) { e.VHost = "vhost" }, ""},
		{"amqp://host/", func(e *Endpoint) { e.Host = "host" }, ""},
		{"amqp://host/%2f", func(e *Endpoint) { e.Host = "host" }, ""},
		{"amqp://[::1]", func(e *Endpoint) { e.Host = "::1" }, "amqp://guest@[::1]:5672/"},

		// What clients in use make of others.
		{"amqp://host/%2F%2F", func(e *Endpoint) { e.Host, e.VHost = "host", "//" }, ""},
		{"amqp://host/%2Fslash%2F", func(e *Endpoint) { e.Host, e.VHost = "host", "/slash/" }, ""},
		{"amqp://192.168.1.1:1000/", func(e *Endpoint) { e.Host, e.Port = "192.168.1.1", 1000 }, ""},
		{"amqp://[::1]:1000", func(e *Endpoint) { e.Host, e.Port = "::1", 1000 }, ""},
		{"amqp://[fe80::1%25en0]", func(e *Endpoint) { e.Host = "fe80::1%en0" }, "amqp://guest@[fe80::1%25en0]:5672/"},
		{"amqps:///", func(e *Endpoint) { e.Scheme, e.Port = "amqps", 5671 }, "amqps://guest@localhost:5671/"},
		{"amqps://host:1000/", func(e *Endpoint) { e.Scheme, e.Host, e.Port = "amqps", "host", 1000 }, ""},
		{"amqp://guest@host:", func(e *Endpoint) { e.Host = "host" }, ""},
		{"amqp://u:a:b@c@host", func(e *Endpoint) { e.User, e.Password, e.Host = "u", "a:b@c", "host" }, ""},
		{"amqp://u:%2C%2F%3F%23%40%25%20+@host", func(e *Endpoint) { e.User, e.Password, e.Host = "u", ",/?#@% +", "host" }, ""},
		{"amqp://a_b.svc.cluster.local", func(e *Endpoint) { e.Host = "a_b.svc.cluster.local" }, ""},
		{"AMQP://Host", func(e *Endpoint) { e.Host = "Host" }, ""},
		{"amqp://host?heartbeat=10", func(e *Endpoint) { e.Host, e.Heartbeat = "host", 10*time.Second }, ""},
		{"amqp://host/%40%3F?", func(e *Endpoint) { e.Host, e.VHost = "host", "@?" }, "amqp://guest@host:5672/%40%3F"},

		// Without a scheme.
		{"host:5673", func(e *Endpoint) { e.Host, e.Port = "host", 5673 }, ""},
		{"amqp:5673", func(e *Endpoint) { e.Host, e.Port = "amqp", 5673 }, ""},
		{"[::1]:5673", func(e *Endpoint) { e.Host, e.Port = "::1", 5673 }, ""},
		{"host", func(e *Endpoint) { e.Host = "host" }, ""},

		// The other schemes.
		{"stomp://h", func(e *Endpoint) { e.Scheme, e.Host, e.Port = "stomp", "h", 61613 }, ""},
		{"stomps://h", func(e *Endpoint) { e.Scheme, e.Host, e.Port = "stomps", "h", 61614 }, ""},
		{"stomp+ssl://h", func(e *Endpoint) { e.Scheme, e.Host, e.Port = "stomps", "h", 61614 }, "stomps://guest@h:61614/"},
		{"gmq://h", func(e *Endpoint) { e.Scheme, e.Host, e.Port = "gmq", "h", 4567 }, ""},
		{"gmqs://u:p@h/?verify=verify_none&heartbeat=5", func(e *Endpoint) {
			e.Scheme, e.User, e.Password, e.Host, e.Port = "gmqs", "u", "p", "h", 4568
			e.Verify, e.Heartbeat = VerifyNone, 5*time.Second
		}, "gmqs://u@h:4568/?heartbeat=5&verify=verify_none"},
		{"stomp://h/v?heart-beat=10000,20000&heartbeat=0", func(e *Endpoint) {
			e.Scheme, e.Host, e.Port, e.VHost, e.Heartbeat = "stomp", "h", 61613, "v", 0
			e.Params = map[string]string{"heart-beat": "10000,20000"}
		}, "stomp://guest@h:61613/v?heartbeat=0&heart-beat=10000%2C20000"},

		// Each parameter.
		{"amqp://h?heartbeat=0&connection_timeout=1500&channel_max=64&frame_max=8192&auth_mechanism=external&auth_mechanism=Plain", func(e *Endpoint) {
			e.Host, e.Heartbeat, e.ConnectTimeout, e.ChannelMax, e.FrameMax = "h", 0, 1500*time.Millisecond, 64, 8192
			e.AuthMechanisms = []string{"EXTERNAL", "PLAIN"}
		}, "amqp://guest@h:5672/?heartbeat=0&connection_timeout=1500&channel_max=64&frame_max=8192&auth_mechanism=EXTERNAL&auth_mechanism=PLAIN"},
		{"amqps://h/?cacertfile=/etc/ca+x.pem&certfile=c%20d.pem&keyfile=k.pem&password=hush&verify=verify_none&server_name_indication=mq.example", func(e *Endpoint) {
			e.Scheme, e.Host, e.Port = "amqps", "h", 5671
			e.CACertFile, e.CertFile, e.KeyFile, e.KeyPassword = "/etc/ca+x.pem", "c d.pem", "k.pem", "hush"
			e.Verify, e.ServerName = VerifyNone, "mq.example"
		}, "amqps://guest@h:5671/?cacertfile=%2Fetc%2Fca%2Bx.pem&certfile=c%20d.pem&keyfile=k.pem&verify=verify_none&server_name_indication=mq.example"},
		{"amqps://h?verify=verify_peer", func(e *Endpoint) { e.Scheme, e.Host, e.Port = "amqps", "h", 5671 }, "amqps://guest@h:5671/"},
	} {
		l, err := Parse(c.url)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		if want := []Endpoint{with(c.want)}; !reflect.DeepEqual(l.Endpoints, want) {
			t.Errorf("%s is\n%#v, want\n%#v", c.url, fields(l.Endpoints[0]), fields(want[0]))
		}
		if s := l.Endpoints[0].String(); c.string != "" && s != c.string {
			t.Errorf("%s prints as %s, want %s", c.url, s, c.string)
		}
	}
}

// fields is an endpoint that shows its secrets.
func fields(e Endpoint) any {
	type bare Endpoint
	return bare(e)
}

func TestLists(t *testing.T) {
	none := List{MaxAttempts: -1, StartupMaxAttempts: -1}
	for _, c := range []struct {
		texts []string
		urls  string // of List.String
		want  func(*List)
	}{
		{[]string{"amqp://a,amqps://b/v,c:1,[::1]:2"}, "amqp://guest@a:5672/,amqps://guest@b:5671/v,amqp://guest@c:1/,amqp://guest@[::1]:2/", nil},
		{
			[]string{"amqp://a", "b:1,c", "failover:(stomp://d)?timeout=1"},
			"amqp://guest@a:5672/,amqp://guest@b:1/,amqp://guest@c:5672/,stomp://guest@d:61613/", func(l *List) { l.Timeout = time.Millisecond },
		},
		{[]string{"stomp://a?heart-beat=1,2,b:3"}, "stomp://guest@a:61613/?heart-beat=1%2C2,amqp://guest@b:3/", nil},
		{[]string{"stomp://a?heart-beat=1,2&heartbeat=5,stomp://b"}, "stomp://guest@a:61613/?heartbeat=5&heart-beat=1%2C2,stomp://guest@b:61613/", nil},
		{[]string{"failover:(amqp://a,amqp://b)"}, "amqp://guest@a:5672/,amqp://guest@b:5672/", nil},
		{[]string{"failover://(amqp://a,stomp://b)"}, "amqp://guest@a:5672/,stomp://guest@b:61613/", nil},
		{[]string{"FailOver:amqp://a,amqp://b?heartbeat=3"}, "amqp://guest@a:5672/,amqp://guest@b:5672/?heartbeat=3", nil},
		{[]string{"failover:(amqp://u:a)b%40@h)"}, "amqp://u@h:5672/", nil},
		{
			[]string{"failover:(amqp://a)?randomize=true&failback=TRUE&initialReconnectDelay=20&maxReconnectDelay=5000&maxReconnectAttempts=0&startupMaxReconnectAttempts=7&timeout=3000"},
			"amqp://guest@a:5672/", func(l *List) {
				l.Randomize, l.Failback = true, true
				l.InitialDelay, l.MaxDelay, l.Timeout = 20*time.Millisecond, 5*time.Second, 3*time.Second
				l.MaxAttempts, l.StartupMaxAttempts = 0, 7
			},
		},
		{
			[]string{"failover:(amqp://a)?priorityBackup=true&randomize=false&timeout=-1&maxReconnectAttempts=-1", "failover:(amqp://b)?failback=true"},
			"amqp://guest@a:5672/,amqp://guest@b:5672/", func(l *List) { l.Failback = true },
		},
		// ActiveMQ's options that ask for what is the case anyway.
		{
			[]string{"failover:(stomp://a)?useExponentialBackOff=true&trackMessages=TRUE&updateURIsSupported=false&rebalanceClusterClients=false&backup=false&reconnectDelayExponent=2.0"},
			"stomp://guest@a:61613/", nil,
		},
		// Nested options win over those of a URL, and go where they fit.
		{
			[]string{"failover:(amqp://a?heartbeat=3&auth_mechanism=plain,stomp://b,amqps://c)?nested.heartbeat=5&nested.auth_mechanism=external&nested.auth_mechanism=amqplain&nested.cacertfile=ca&nested.heart-beat=1,2"},
			"amqp://guest@a:5672/?heartbeat=5&auth_mechanism=EXTERNAL&auth_mechanism=AMQPLAIN," +
				"stomp://guest@b:61613/?heartbeat=5&heart-beat=1%2C2," +
				"amqps://guest@c:5671/?heartbeat=5&auth_mechanism=EXTERNAL&auth_mechanism=AMQPLAIN&cacertfile=ca", nil,
		},
	} {
		got, err := ParseAll(c.texts)
		if err != nil {
			t.Errorf("%q: %v", c.texts, err)
			continue
		}
		if s := got.String(); s != c.urls {
			t.Errorf("%q has\n%s, want\n%s", c.texts, s, c.urls)
		}
		want := none
		if c.want != nil {
			c.want(&want)
		}
		if want.Endpoints = got.Endpoints; !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %+v, want %+v", c.texts, got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		text string
		want string // part of the error
	}{
		{"", "is empty"},
		{"amqp://" + strings.Repeat("a", maxText), "is longer than 32768 bytes"},
		{"amqp://a,,amqp://b", "broker URL 2 of 3: is empty"},
		{"amqp://a,", "broker URL 2 of 2: is empty"},
		{"amqp://host/ -http_port=8080", "space or a control character, at byte 13"},
		{"amqp://host\n", "space or a control character"},
		{"ampq://host", `unknown scheme "ampq"; did you mean amqp?; known are amqp://, amqps://`},
		{"tls://host", "did you mean amqps?"},
		{"failover:(tcp://a:61616,tcp://b:61616)", `broker URL 2 of 2: unknown scheme "tcp"; did you mean stomp (ActiveMQ, Artemis) or amqp (RabbitMQ)?`},
		{"nio://host", "did you mean stomp (ActiveMQ, Artemis) or amqp (RabbitMQ)?"},
		{"ssl://host", "did you mean stomps (ActiveMQ, Artemis) or amqps (RabbitMQ)?"},
		{"nio+ssl://host", "did you mean stomps (ActiveMQ, Artemis) or amqps (RabbitMQ)?"},
		{"ws://host:15672/ws", "WebSockets are for browsers: the broker's port of STOMP is meant by stomp;"},
		{"wss://host/ws", "meant by stomps;"},
		{"mqtt://host", `unknown scheme "mqtt"`},
		{"amqp:/host", "begins with no scheme"},
		{"user:pass@host:5672", "begins with no scheme"},
		{"host:5672/vhost", "begins with no scheme"},
		{"amqp:", "begins with no scheme"},
		{"amqp://u:a,b@host", "holds a comma before its @: in a user or password it is written %2C"},
		{"amqp://ok,amqp://u:a,b,c@host,amqp://fine?x=1", "broker URL 2 of 3: holds a comma"},
		{"amqp://u:a,b@c,d@host", "broker URL: holds a comma"},
		{"amqp://ok,b,c@d,e,f@g,h:1?x,", "broker URL 1 of 3: holds a comma"},
		{"amqp://u:a#b@host", "holds a #, which is written %23"},
		{"amqp://u:a?b@host", "holds a @ behind the host: in a user or password , / ? # @ and % are written"},
		{"amqp://u:a/b@host", "holds a @ behind the host"},
		{"amqp://u:1/b@host", "holds a @ behind the host"},
		{"amqp://u:a%b@host", "the password holds a % without two hexadecimal digits"},
		{"amqp://%zz@host", "the user holds a %"},
		{"amqp://u:%00@host", "zero byte"},
		{"amqp://host:0", "the port is no number from 1 to 65535"},
		{"amqp://host:65536", "the port is no number"},
		{"amqp://host:+1", "the port is no number"},
		{"amqp://::1", "an IPv6 address stands in brackets"},
		{"amqp://[::1", "is written [address]"},
		{"amqp://[::1]1", "is written [address]"},
		{"amqp://[host]", "no IPv6 address"},
		{"amqp://[127.0.0.1]", "no IPv6 address"},
		{"amqp://[fe80::1%en0]", "begins with %25"},
		{"amqp://ho!st", "the host may have"},
		{"amqp://host%20", "the host may have"},
		{"amqp://host/a/b", "one segment: a / in it is written %2F"},
		{"amqp://host/vhost/", "one segment"},
		{"amqp://host/%zz", "the virtual host holds a %"},
		{"amqp://host/" + strings.Repeat("v", 256), "longer than 255 bytes"},
		{"amqp://host?heartbeet=5", `unknown parameter "heartbeet"; did you mean heartbeat?`},
		{"amqp://host?connectTimeout=5", `did you mean connection_timeout?`},
		{"amqp://host?colour=5", "known are heartbeat, connection_timeout, channel_max, frame_max, auth_mechanism"},
		{"amqp://host?heart-beat=1,2", "parameter heart-beat: is for stomp:// and stomps://; elsewhere it is heartbeat, in seconds"},
		{"stomp://host?hertbeat=3", `unknown parameter "hertbeat"; did you mean heartbeat?`},
		{"stomp://host?heart-beet=3", `did you mean heartbeat?`},
		{"stomp://host?colour=3", "known are heartbeat, connection_timeout, heart-beat, dialect, host, version, client-id"},
		{"stomps://host?wireFormat.maxInactivityDuration=3", `unknown parameter "wireFormat.maxInactivityDuration"; known are`},
		{"stomp://host?heart-beat=5", "parameter heart-beat: must be two numbers of milliseconds, as 10000,10000"},
		{"stomp://host?heart-beat=5%2C-1", "parameter heart-beat: must be two numbers"},
		{"stomp://host?dialect=rabbit", "parameter dialect: must be rabbitmq, ferry, artemis or activemq; did you mean rabbitmq?"},
		{"stomp://host?version=1.3", "parameter version: must be 1.0, 1.1 or 1.2"},
		{"stomp://host?host=a&host=b", "parameter host: is given twice"},
		{"amqp://host?dialect=ferry", "parameter dialect: is for stomp:// and stomps://"},
		{"amqp://host?login=x", "user:password@host"},
		{"stomp://a,stomp://b?randomize=false", `unknown parameter "randomize"; it is an option of the whole list: failover:(…)?randomize=…`},
		{"amqp://a?priorityBackup=true", "failover:(…)?priorityBackup=…"},
		{"stomp://a?trackMessages=true", "failover:(…)?trackMessages=…"},
		{"amqp://host?=5", "a parameter has no name"},
		{"amqp://host?a%zz=5", `a parameter "a%zz" holds %`},
		{"amqp://host?heartbeat=5&heartbeat=5", "parameter heartbeat: is given twice"},
		{"gmq://host?a=5&a=5", `unknown parameter "a"; known are heartbeat, connection_timeout`},
		{"gmq://host/vhost", "the virtual host: GMQ has none"},
		{"gmq://host?cacertfile=x", "is for amqps://, stomps:// and gmqs://"},
		{"amqp://host?heartbeat=-1", "parameter heartbeat: must be a whole number of seconds from 0 to 65535"},
		{"amqp://host?heartbeat=10s", "parameter heartbeat: must be"},
		{"amqp://host?connection_timeout=0", "from 1 to 2147483647"},
		{"amqp://host?channel_max=65536", "from 0 to 65535"},
		{"amqp://host?frame_max=4095", "at least 4096"},
		{"amqp://host?auth_mechanism=", "SASL"},
		{"stomp://host?channel_max=5", "is for amqp:// and amqps://"},
		{"amqp://host?cacertfile=x", "parameter cacertfile: is for amqps://, stomps:// and gmqs://"},
		{"amqp://host?verify=verify_none", "the link would not be encrypted"},
		{"amqp://host?password=x", "user:password@host"},
		{"stomp://host?passcode=x", "user:password@host"},
		{"amqps://host?cacertfile=", "must be the name of a file"},
		{"amqps://host?certfile=x", "needs keyfile"},
		{"amqps://host?keyfile=x", "needs certfile"},
		{"amqps://host?verify=no", "must be verify_peer or verify_none"},
		{"amqps://host?server_name_indication=disable", "cannot be disabled"},
		{"amqps://host?server_name_indication=a/b", "is not the name of a host"},
		{"stomp://host?to=a,b", "broker URL 2 of 2: is a name without a port behind parameters"},
		{"failover:", "is empty"},
		{"failover:()", "is empty"},
		{"failover:(amqp://a", "does not end with )"},
		{"failover:(amqp://a)x=1", "only ?options may stand"},
		{"amqp://a,failover:(amqp://b)", "failover: stands before the whole list"},
		{"failover:(amqp://a)?randomise=true", `unknown option "randomise"; did you mean randomize?`},
		{"failover:(amqp://a)?colour=5", "known are randomize, failback"},
		{"failover:(amqp://a)?randomize=1", "failover option randomize: must be true or false"},
		{"failover:(amqp://a)?failback=true&priorityBackup=false", "failover option priorityBackup: is given twice, with different values"},
		{"failover:(amqp://a)?maxReconnectAttempts=-2", "from -1"},
		{"failover:(amqp://a)?maxReconnectDelay=0", "from 1"},
		{"failover:(amqp://a)?timeout=-2", "or -1 for none"},
		{"failover:(amqp://a)?initialReconnectDelay=2&maxReconnectDelay=1", "is more than maxReconnectDelay"},
		{"failover:(amqp://a)?trackMessages=false", "leave it out: what is not confirmed is always kept"},
		{"failover:(amqp://a)?backup=true", "leave it out: no second connection"},
		{"failover:(amqp://a)?reconnectDelayExponent=3", "leave it out: delays double"},
		{"failover:(amqp://a)?soTimeout=3", "leave it out: heart-beats find a broker that is dead"},
		{"failover:(stomp://a)?nested.wireFormat.maxInactivityDuration=3", "no URL of the list understands the nested option"},
		{"failover:(stomp://a)?nested.dialekt=ferry", "did you mean dialect?"},
		{"failover:(amqp://a)?nested.heartbeet=1", `no URL of the list understands the nested option "nested.heartbeet"; did you mean heartbeat?`},
		{"failover:(amqp://a)?nested.cacertfile=x", "no URL of the list understands"},
		{"failover:(amqp://a)?nested.=x", "no URL of the list understands"},
		{"failover:(amqp://a)?nested.heartbeat=x", "broker URL: parameter heartbeat: must be"},
	} {
		l, err := Parse(c.text)
		if err == nil {
			t.Errorf("%q: no error", c.text)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v\nwant an error with %s", c.text, err, c.want)
		}
		if !reflect.DeepEqual(l, List{}) {
			t.Errorf("%q: a list beside the error", c.text)
		}
	}
	if _, err := ParseAll(nil); err == nil || !strings.Contains(err.Error(), "no broker URL is given") {
		t.Errorf("no URLs: %v", err)
	}
}

func TestAllFaultsAreReportedTogether(t *testing.T) {
	_, err := ParseAll([]string{"amqp://a:x,ampq://b,amqp://ok", "failover:(amqp://c?heartbeat=x&colour=1&verify=verify_none)?randomize=maybe&timeout=soon"})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{
		"broker URL 1 of 4: the port",
		"broker URL 2 of 4: unknown scheme",
		"broker URL 4 of 4: parameter heartbeat",
		"broker URL 4 of 4: unknown parameter",
		"broker URL 4 of 4: parameter verify",
		"failover option randomize",
		"failover option timeout",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("fault %d does not begin with %q:\n%v", i+1, want, err)
		}
	}
	if len(lines) != 7 {
		t.Errorf("%d faults, want 7:\n%v", len(lines), err)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	l, err := Parse("amqps://user:hush1@h?password=hush2&certfile=c&keyfile=k,gmq://u:hush1@h")
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	log := slog.New(slog.NewJSONHandler(&logged, nil))
	log.Info("connect", "list", l, "endpoint", l.Endpoints[0], "pointer", &l.Endpoints[1], "slice", l.Endpoints)
	marshalled, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{
		logged.String(), string(marshalled), l.String(),
		fmt.Sprintf("%v %+v %#v %s %q", l, l, l, l, l), fmt.Sprintf("%v %+v %#v", l.Endpoints, &l.Endpoints[0], l.Endpoints),
	} {
		if strings.Contains(shown, "hush") || !strings.Contains(shown, "user@h:5671") {
			t.Errorf("a secret or no host: %s", shown)
		}
	}
}

// TestErrorsHoldNoHiddenPassword is for what follows a key's password in a
// query, and for a broker's password that reads like two URLs.
func TestErrorsHoldNoHiddenPassword(t *testing.T) {
	for _, text := range []string{
		"amqp://u:x@b?hush,amqp://y@host",
		"amqp://u:x@b?heartbeat=x,hush://y@host",
		"amqps://h?password=a&hush=1&heartbeat=x",
		"amqps://h?password=a,hush://b",
		"amqps://h?password=a,hush,b?hush=1",
		"amqps://h?password=%zzhush&colour=1",
		"amqps://h?passwrd=a&hush=1",
		"amqps://h?p%61ssword=a&hush=1",
		"amqps://h/\u212a\u0130\u212a?Password=a&hush=1",
		"failover:(amqps://h)?nested.password=a&hush=1&randomize=hush",
		"failover:(amqps://h?password=a)?hush=1",
		"amqps://h?verify=hush&heartbeat=hush",
	} {
		if _, err := Parse(text); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"amqp://user%61:%61pass@ho%61st:10000/v%2fhost?heartbeat=10&auth_mechanism=plain",
		"failover:(amqp://a:b@c,stomp://d?heart-beat=1,2&token=x,[fe80::1%25en0]:5)?nested.heartbeat=5&randomize=true",
		"failover://amqps://a?cacertfile=a%20b&certfile=c&keyfile=d&password=e&verify=verify_none,gmq://x",
		"host:1,amqp://u:p,q@h", "amqp://[::ffff:1.2.3.4]/%ff", "stomp://h?%00=%0a&a%26b=c%3dd", "stomps://@?server_name_indication=a&x",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if err != nil {
			return
		}
		if len(l.Endpoints) == 0 {
			t.Fatalf("%q: no endpoint and no error", text)
		}
		for _, e := range l.Endpoints {
			if e.Host == "" || e.Port < 1 || e.Port > 65535 || e.VHost == "" {
				t.Fatalf("%q: %#v", text, fields(e))
			}
			again, err := Parse(e.String())
			if err != nil || len(again.Endpoints) != 1 {
				t.Fatalf("%q prints as %s: %v", text, e, err)
			}
			if got, want := public(again.Endpoints[0]), public(e); !reflect.DeepEqual(got, want) {
				t.Fatalf("%q prints as %s, which is\n%#v, want\n%#v", text, e, fields(got), fields(want))
			}
		}
	})
}

// public is the endpoint without what String leaves out.
func public(e Endpoint) Endpoint {
	e.Password, e.KeyPassword = "", ""
	return e
}

// FuzzPasswordsStaySecret writes a password that nobody has escaped into
// URLs. Its ends are words that no error has of itself.
func FuzzPasswordsStaySecret(f *testing.F) {
	for _, middle := range []string{
		"", ",", "/", "?", "#", "@", "%", "%zz", ":", ")", ")?", " ", "://", "&", "=", ",b:1", ",b?", "@b/", "@b?", "@b?x=1&", ",amqp:", "@[::1]", "?password=",
	} {
		f.Add(middle)
	}
	const begin, end = "QZXJW", "VKYQG"
	f.Fuzz(func(t *testing.T, middle string) {
		if strings.Contains(middle, "://") {
			return // that may make two URLs of it, of which one has half a password for its user
		}
		password := begin + middle + end
		for _, text := range []string{
			"amqp://user:" + password + "@host:5672/vhost",
			"amqp://one,stomps://user:" + password + "@host?colour=1&verify=x&heartbeet=2,ampq://b",
			"failover:(amqp://a,amqp://user:" + password + "@host)?colour=1&nested.colour=5&randomize=x",
			"user:" + password + "@host:1",
			"amqp://user:" + password + "@host:port",
			"amqp://user:" + password + "@ho!st/a/b",
		} {
			l, err := Parse(text)
			shown := l.String()
			if err != nil {
				shown = err.Error()
			}
			if strings.Contains(shown, begin) || strings.Contains(shown, end) {
				t.Fatalf("%q shows\n%s", text, shown)
			}
		}
	})
}

// TestLongTextsTakeNoTime would take minutes if work grew by more than the
// square of the length.
func TestLongTextsTakeNoTime(t *testing.T) {
	for _, unit := range []string{",", ",@", "&x", "1", "1,", "(", "failover:", "a://", ",a://@", "%", "%61", "@", "?heart-beat=1,1"} {
		for _, prefix := range []string{"", "amqp://a?", "failover:(a)?"} {
			text := prefix + unit
			text += strings.Repeat(unit, (maxText-len(text))/len(unit))
			if l, err := Parse(text); err == nil && len(l.Endpoints) == 0 {
				t.Errorf("%q and so on: neither an endpoint nor an error", prefix+unit)
			}
		}
	}
}

func TestNearestNames(t *testing.T) {
	for unknown, want := range map[string]string{
		"heart_beat": "heartbeat", "maxReconectDelay": "maxReconnectDelay", "x": "", "": "", strings.Repeat("heartbeat", 9): "",
	} {
		got := nearest(unknown, slices.Concat(optionNames(), []string{"heartbeat"}))
		if want != "" {
			want = "; did you mean " + want + "?"
		}
		if got != want {
			t.Errorf("nearest to %q: %q, want %q", unknown, got, want)
		}
	}
}
