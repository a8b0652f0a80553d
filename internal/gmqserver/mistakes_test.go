package gmqserver

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// A mistake is what a peer sends, and how it is answered.
type mistake struct {
	in    string
	want  string // how error_text begins
	stays bool   // the connection, where in ends with a newline
	halt  bool   // the peer ends its direction
}

// mistakes are of who has authenticated.
func mistakes() map[string]mistake {
	return map[string]mistake{
		"no JSON":                 {in: "hello\n", want: "SYNTAX_ERROR - this is not JSON: found \"h\" at byte 1"},
		"HTTP":                    {in: "GET / HTTP/1.1\r\n\r\n", want: "SYNTAX_ERROR - "},
		"an array":                {in: `[{"operation":"P"}]` + "\n", want: "SYNTAX_ERROR - "},
		"a text":                  {in: `"P"` + "\n", want: "SYNTAX_ERROR - "},
		"NULs":                    {in: "\x00\x00\x00\x00", want: "SYNTAX_ERROR - "},
		"a NUL in a text":         {in: "{\"queue\":\"a\x00\"}\n", want: "SYNTAX_ERROR - "},
		"damaged":                 {in: `{"operation":"P","queue":"q" "payload":""}` + "\n", want: "SYNTAX_ERROR - "},
		"no quotes":               {in: `{operation:"P"}` + "\n", want: "SYNTAX_ERROR - "},
		"single quotes":           {in: `{'operation':'P'}` + "\n", want: "SYNTAX_ERROR - "},
		"cut":                     {in: `{"operation":"P","queue":"q","payload":"aGVs`, want: "SYNTAX_ERROR - the connection ended within a request", halt: true},
		"cut and a newline":       {in: `{"operation":"P"` + "\n", want: "SYNTAX_ERROR - the connection ended within a request", halt: true},
		"something behind":        {in: `{"operation":"L","queue":"q"}x` + "\n", want: "SYNTAX_ERROR - found \"x\" behind the request"},
		"a closing brace":         {in: `{"operation":"L","queue":"q"}}` + "\n", want: "SYNTAX_ERROR - found \"}\" behind the request"},
		"nested too deep":         {in: `{"x":` + strings.Repeat("[", 1000), want: "CONTENT_TOO_LARGE - objects and arrays nest"},
		"nested objects too deep": {in: strings.Repeat(`{"x":`, 1000), want: "CONTENT_TOO_LARGE - objects and arrays nest"},
		"queue is a number":       {in: `{"operation":"P","queue":5}` + "\n", want: `SYNTAX_ERROR - "queue" must be a text, not a number`, stays: true},
		"payload is an object":    {in: `{"operation":"P","queue":"q","payload":{"a":1}}` + "\n", want: `SYNTAX_ERROR - "payload" must be a text`, stays: true},
		"auth is a text":          {in: `{"operation":"SYNC","auth":"me"}` + "\n", want: `SYNTAX_ERROR - "auth" must be an object`, stays: true},
		"bad base64":              {in: `{"operation":"P","queue":"q","payload":"%%%"}` + "\n", want: "COMMAND_INVALID - the payload is not base64", stays: true},
		"base64 without padding":  {in: `{"operation":"P","queue":"q","payload":"aGVsbG8"}` + "\n", want: "COMMAND_INVALID - the payload is not base64", stays: true},
		"no operation":            {in: `{}` + "\n", want: "NOT_IMPLEMENTED - operation not yet implemented: \"\"", stays: true},
		"unknown operation":       {in: `{"operation":"p","queue":"q"}` + "\n", want: "NOT_IMPLEMENTED - operation not yet implemented: \"p\"", stays: true},
		"P without a queue":       {in: `{"operation":"P"}` + "\n", want: "COMMAND_INVALID - the request has no queue", stays: true},
		"S without a queue":       {in: `{"operation":"S","queue":""}` + "\n", want: "COMMAND_INVALID - the request has no queue", stays: true},
		"L without a queue":       {in: `{"operation":"L"}` + "\n", want: "COMMAND_INVALID - the request has no queue", stays: true},
		"a long name":             {in: `{"operation":"P","queue":"` + strings.Repeat("x", 256) + `"}` + "\n", want: "COMMAND_INVALID - the name of a queue has at most 255 bytes", stays: true},
		"a reserved name":         {in: `{"operation":"P","queue":"amq.mine"}` + "\n", want: "ACCESS_REFUSED - queue name 'amq.mine'", stays: true},
		"S of replies":            {in: `{"operation":"S","queue":"amq.rabbitmq.reply-to"}` + "\n", want: "NOT_FOUND - ", stays: true},
		"an exclusive queue":      {in: `{"operation":"S","queue":"locked"}` + "\n", want: "RESOURCE_LOCKED - ", stays: true},
		"unknown ack":             {in: `{"operation":"S","queue":"q","ack":"later"}` + "\n", want: `COMMAND_INVALID - ack must be "manual" or "auto"`, stays: true},
		"a property too long":     {in: `{"operation":"P","queue":"q","properties":{"type":"` + strings.Repeat("x", 256) + `"}}` + "\n", want: "COMMAND_INVALID - type has 256 bytes", stays: true},
		"another user":            {in: `{"operation":"SYNC","auth":{"user":"gmq","password":"gmqpass"}}` + "\n", want: "ACCESS_REFUSED - this connection is of user \"guest\""},
		"another password":        {in: `{"operation":"SYNC","auth":{"user":"guest","password":"x"}}` + "\n", want: "ACCESS_REFUSED - authentication failed"},
		"too large":               {in: `{"operation":"P","queue":"q","payload":"` + strings.Repeat("A", 2000) + `"}` + "\n", want: "CONTENT_TOO_LARGE - message size 1500 is larger than configured max size 1000", stays: true},
		"far too large":           {in: `{"operation":"P","queue":"q","payload":"` + strings.Repeat("A", 200_000) + `"}` + "\n", want: "CONTENT_TOO_LARGE - the request has more than 66872 bytes"},
		"endless":                 {in: `{"operation":"P","queue":"` + strings.Repeat("A", 200_000), want: "CONTENT_TOO_LARGE - the request has more than"},
		"endless white space":     {in: `{"operation":"P"` + strings.Repeat(" ", 200_000), want: "CONTENT_TOO_LARGE - the request has more than"},
	}
}

func small(_ *Config, b *broker.Config) { b.MaxMessage = 1000 }

// Whatever is wrong with a request gets a JSON error; the connection goes on where
// it is known where the next request begins; others are served.
func TestMistakes(t *testing.T) {
	f := newFixture(t, small)
	if _, err := f.session().DeclareQueue(broker.QueueSpec{Name: "locked", Exclusive: true}); err != nil {
		t.Fatal(err)
	}
	for name, m := range mistakes() {
		t.Run(name, func(t *testing.T) {
			p := f.connect()
			p.t = t
			p.write(m.in)
			if m.halt {
				_ = p.nc.(*net.TCPConn).CloseWrite()
			}
			r := p.reply()
			if r.Confirmed || !strings.HasPrefix(r.ErrorText, m.want) {
				t.Errorf("got %+v, want %q", r, m.want)
			}
			if m.stays {
				p.line(`{"operation":"SYNC"}`)
				p.expect(originalReply("SYNC", "", ""))
			} else {
				p.expectEnd()
			}
			p.nc.Close()
		})
	}
	if got, want := f.once(original("SYNC", "", "")), originalReply("SYNC", "", ""); got != want {
		t.Errorf("afterwards: %s", got)
	}
	if n := f.ready("q"); n > 0 {
		t.Errorf("%d messages were published by mistake", n)
	}
}

// The same before it is known who asks: nothing is done for who has no password.
func TestMistakesBeforeTheLogin(t *testing.T) {
	f := newFixture(t, small)
	wrong := `"auth":{"user":"` + gmqwire.Token("guest") + `","password":"` + gmqwire.Token("wrong") + `"}`
	rows := map[string]mistake{
		"no auth":            {in: `{"operation":"P","queue":"q","payload":""}`, want: "ACCESS_REFUSED - authentication failed: the request has no auth"},
		"an empty auth":      {in: `{"operation":"P","queue":"q","auth":{}}`, want: "ACCESS_REFUSED - authentication failed: the request has no auth"},
		"a wrong password":   {in: `{"operation":"P","queue":"q",` + wrong + `}`, want: "ACCESS_REFUSED - authentication failed: wrong user or password"},
		"an unknown user":    {in: `{"operation":"P","queue":"q","auth":{"user":"nobody","password":"guest"}}`, want: "ACCESS_REFUSED - authentication failed: wrong user or password"},
		"one token":          {in: `{"operation":"P","queue":"q","auth":{"user":"guest","password":"` + gmqwire.Token("guest") + `"}}`, want: "ACCESS_REFUSED - authentication failed"},
		"a token of nothing": {in: `{"operation":"P","queue":"q","auth":{"user":"` + gmqwire.Token("guest") + `","password":"` + gmqwire.Token("") + `"}}`, want: "ACCESS_REFUSED - authentication failed"},
		"mistyped":           {in: `{"operation":5}`, want: "ACCESS_REFUSED - authentication failed: the request has no auth"},
		"a payload over 64 KiB": {
			in:   original("P", "q", strings.Repeat("A", 64<<10)),
			want: "CONTENT_TOO_LARGE - the request has more than 65536 bytes",
		},
	}
	for name, m := range mistakes() {
		if !m.stays && !strings.Contains(m.want, "another") && !strings.HasPrefix(m.want, "ACCESS") {
			m.want = m.want[:strings.Index(m.want, " - ")] // where it is too large differs
			rows["as later: "+name] = m
		}
	}
	for name, m := range rows {
		t.Run(name, func(t *testing.T) {
			p := f.dial()
			p.t = t
			p.write(m.in)
			if m.halt {
				_ = p.nc.(*net.TCPConn).CloseWrite()
			}
			text := p.all()
			if r := parse(t, text); r.Confirmed || !strings.HasPrefix(r.ErrorText, m.want) && !strings.HasPrefix(r.ErrorText, "ACCESS_REFUSED") {
				t.Errorf("got %+v, want %q", r, m.want)
			}
			if strings.Contains(text, gmqwire.Token("")[:20]) {
				t.Errorf("a token is repeated: %s", text)
			}
			p.nc.Close()
		})
	}
	if n := f.ready("q"); n != -1 {
		t.Errorf("somebody unknown made a queue, with %d messages", n)
	}
}

// Who has authenticated may send more than before.
func TestLargeMessagesNeedALoginBefore(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	large := strings.Repeat("A", 1<<20)
	if r := p.ask(original("P", "q", large)); !r.Confirmed || len(r.Payload) > 0 {
		t.Fatalf("%+v", r)
	}
	if r := p.ask(`{"operation":"S","queue":"q"}`); string(r.Payload) != large {
		t.Errorf("%d bytes of base64", len(r.Payload))
	}
}

func TestWaysToSayWhoAsks(t *testing.T) {
	for _, c := range []struct {
		tokens         bool
		user, password string
		ok             bool
	}{
		{true, gmqwire.Token("gmq"), gmqwire.Token("gmqpass"), true},
		{true, strings.ToUpper(gmqwire.Token("gmq")), gmqwire.Token("gmqpass"), true},
		{true, "gmq", "gmqpass", true},
		{false, "gmq", "gmqpass", true},
		{false, gmqwire.Token("gmq"), gmqwire.Token("gmqpass"), false},
	} {
		f := newFixture(t, func(s *Config, _ *broker.Config) { s.TokenAuth = c.tokens })
		r := parse(t, f.once(fmt.Sprintf(`{"operation":"SYNC","auth":{"user":%q,"password":%q}}`, c.user, c.password)))
		if r.Confirmed != c.ok {
			t.Errorf("tokens %v, %.8s...: %+v", c.tokens, c.user, r)
		}
	}
}

func TestRefusedServerSaysWhy(t *testing.T) {
	f := newFixture(t, func(c *Config, _ *broker.Config) { *c = Config{Refuse: "GMQ is switched off", Logger: c.Logger} })
	r := parse(t, f.once(original("P", "q", "eA==")))
	if r.Confirmed || r.Queue != "q" || r.ErrorText != "NOT_IMPLEMENTED - GMQ is switched off" {
		t.Errorf("%+v", r)
	}
	if r := parse(t, f.once(`{"operation`[:1]+"}")); r.Confirmed || r.ErrorText == "" {
		t.Errorf("%+v", r)
	}
	if r := parse(t, f.once("[")); r.Confirmed || r.ErrorText == "" {
		t.Errorf("%+v", r)
	}
}

func TestServerThatRefusesForNowSaysSo(t *testing.T) {
	f := newFixture(t, func(c *Config, _ *broker.Config) {
		*c = Config{Refuse: "a standby", RefuseNow: true, Logger: c.Logger}
	})
	if r := parse(t, f.once(original("P", "q", "eA=="))); r.Confirmed || r.ErrorText != "CONNECTION_FORCED - a standby" {
		t.Errorf("%+v", r)
	}
}

// Every kind of error of the broker's has a name.
func TestEveryKindHasAName(t *testing.T) {
	for _, k := range broker.Kinds() {
		if names[k] == "" {
			t.Errorf("kind %d has none", k)
		}
	}
}

func TestProtocolIsRecognised(t *testing.T) {
	match := New(Config{}).Protocol().Match
	for prefix, want := range map[string][2]bool{
		"{":             {true, false},
		" \r\n\t{\"":    {true, false},
		"\n":            {false, true},
		"[":             {false, false},
		"STOMP\n":       {false, false},
		"AMQP\x00":      {false, false},
		"\x16\x03\x01{": {false, false},
	} {
		got, more := match([]byte(prefix))
		if got != want[0] || more != want[1] {
			t.Errorf("%q: %v, %v", prefix, got, more)
		}
	}
}
