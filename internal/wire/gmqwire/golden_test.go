package gmqwire

import (
	"crypto/sha512"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// original is GMQ's message, as its client and its server marshal it.
type original struct {
	Operation string `json:"operation"`
	Queue     string `json:"queue"`
	Payload   string `json:"payload"`
	Confirmed string `json:"confirmation"`
	Error     error  `json:"error"`
	Auth      struct {
		User     string `json:"user"`
		Password string `json:"password"`
	} `json:"auth"`
}

func everything() Properties {
	return Properties{
		ContentType: "text/plain", ContentEncoding: "gzip", CorrelationID: "c-1", ReplyTo: "answers",
		MessageID: "m-1", Type: "order", UserID: "guest", AppID: "shop", Expiration: "60000", Priority: 4, Timestamp: 1700000000,
		Headers: map[string]any{"b": true, "f": false, "n": int64(-7), "t": "text", "x": int64(1 << 40)},
	}
}

const (
	goldenProperties = `"properties":{"content_type":"text/plain","content_encoding":"gzip","correlation_id":"c-1","reply_to":"answers",` +
		`"message_id":"m-1","type":"order","user_id":"guest","app_id":"shop","priority":4,"expiration":60000,"timestamp":1700000000,` +
		`"headers":{"b":true,"f":false,"n":-7,"t":"text","x":1099511627776}}`
	goldenRequest = `{"operation":"P","queue":"myqueue","payload":"aGVsbG8=","confirmation":"","error":null,"auth":{"user":"u","password":"p"},` +
		`"ack":"manual","id":"7","wait_msec":250,"requeue":false,"transient":true,"passive":true,"message_id":"producer-1","attempt":2,` +
		goldenProperties + `,"server":""}`
	goldenReply = `{"operation":"S","queue":"myqueue","payload":"aGVsbG8=","confirmation":"Y","error":null,"auth":{"user":"","password":""},` +
		`"id":"7","redelivered":true,"message_id":"producer-1",` + goldenProperties + `,"properties_incomplete":true,"server":"Ferry/1.0","node":"host-1","epoch":3}`
)

func fullRequest() Request {
	return Request{
		Operation: Publish, Queue: "myqueue", Payload: []byte("aGVsbG8="), User: "u", Password: "p", Ack: AckManual, ID: "7", WaitMsec: 250,
		NoRequeue: true, Transient: true, AskServer: true, Passive: true, MessageID: "producer-1", Attempt: 2, Properties: everything(),
	}
}

func fullReply() Reply {
	return Reply{
		Operation: Subscribe, Queue: "myqueue", Payload: []byte("aGVsbG8="), Confirmed: true, ID: "7", Redelivered: true,
		MessageID: "producer-1", Properties: everything(), Incomplete: true, Server: "Ferry/1.0", Node: "host-1", Epoch: 3,
	}
}

func TestGoldenRequest(t *testing.T) {
	want := fullRequest()
	if got := string(AppendRequest(nil, &want)); got != goldenRequest {
		t.Errorf("got  %s\nwant %s", got, goldenRequest)
	}
	var got Request
	if err := ParseRequest([]byte(goldenRequest), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parsed %+v, %v\nwant   %+v", got, err, want)
	}
}

func TestGoldenReply(t *testing.T) {
	want := fullReply()
	if got := string(AppendReply(nil, &want)); got != goldenReply {
		t.Errorf("got  %s\nwant %s", got, goldenReply)
	}
	var got Reply
	if err := ParseReply([]byte(goldenReply), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parsed %+v, %v\nwant   %+v", got, err, want)
	}
}

func TestGoldenErrors(t *testing.T) {
	for _, c := range []struct {
		reply Reply
		want  string
	}{
		{
			Reply{Operation: "P", Queue: "q", ErrorText: "NOT_FOUND - <none>"},
			`{"operation":"P","queue":"q","payload":"","confirmation":"N","error":{},"auth":{"user":"","password":""},"error_text":"NOT_FOUND - \u003cnone\u003e"}`,
		},
		{
			Reply{},
			`{"operation":"","queue":"","payload":"","confirmation":"N","error":null,"auth":{"user":"","password":""}}`,
		},
	} {
		if got := string(AppendReply(nil, &c.reply)); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
		var back Reply
		if err := ParseReply([]byte(c.want), &back); err != nil || back.ErrorText != c.reply.ErrorText || back.Confirmed {
			t.Errorf("parsed %+v, %v", back, err)
		}
	}
}

// Without anything of Ferry's the bytes are those that GMQ marshals.
func TestPlainMessagesAreTheOriginals(t *testing.T) {
	o := original{Operation: "P", Queue: "q <&> \u2028 \" \\ \x01 \xff é", Payload: "aGVsbG8="}
	o.Auth.User, o.Auth.Password = Token("gmq"), Token("gmqpass")
	want, err := json.Marshal(&o)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Operation: o.Operation, Queue: o.Queue, Payload: []byte(o.Payload), User: o.Auth.User, Password: o.Auth.Password}
	if got := AppendRequest(nil, &r); string(got) != string(want) {
		t.Errorf("request:\ngot  %s\nwant %s", got, want)
	}
	o.Auth.User, o.Auth.Password, o.Confirmed = "", "", "Y"
	if want, err = json.Marshal(&o); err != nil {
		t.Fatal(err)
	}
	reply := Reply{Operation: o.Operation, Queue: o.Queue, Body: []byte("hello"), Confirmed: true}
	if got := AppendReply(nil, &reply); string(got) != string(want) {
		t.Errorf("reply:\ngot  %s\nwant %s", got, want)
	}
}

// GMQ's server: what a client of Ferry's makes of an error without text.
func TestReplyOfTheOriginalsServer(t *testing.T) {
	var r Reply
	text := `{"operation":"S","queue":"q","payload":"","confirmation":"N","error":{},"auth":{"user":"aa","password":"bb"}}`
	if err := ParseReply([]byte(text), &r); err != nil || r.ErrorText != "error" || r.Confirmed {
		t.Errorf("parsed %+v, %v", r, err)
	}
}

func TestTokenIsTheOriginals(t *testing.T) {
	const want = "676d71cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
	if got := Token("gmq"); got != want {
		t.Errorf("got %s", got)
	}
	for _, token := range []string{want, strings.ToUpper(want)} {
		if plain, ok := DecodeToken(token); !ok || plain != "gmq" {
			t.Errorf("%s: got %q, %v", token, plain, ok)
		}
	}
	for _, bad := range []string{"", "gmq", want[1:], "6" + want, "zz" + tokenEnd, want + "00", tokenEnd[1:]} {
		if plain, ok := DecodeToken(bad); ok {
			t.Errorf("%s: got %q", bad, plain)
		}
	}
	// The first version with users sent the bytes of the sum as a text.
	old, err := json.Marshal(string(sha512.New().Sum([]byte("gmq"))))
	if err != nil {
		t.Fatal(err)
	}
	var r Request
	if err := ParseRequest([]byte(`{"auth":{"user":`+string(old)+`}}`), &r); err != nil {
		t.Fatal(err)
	}
	if plain, ok := DecodeToken(r.User); !ok || plain != "gmq" {
		t.Errorf("the old token: got %q, %v", plain, ok)
	}
	if plain, ok := DecodeToken(tokenEnd); !ok || plain != "" {
		t.Errorf("the token of nothing: %q, %v", plain, ok)
	}
}
