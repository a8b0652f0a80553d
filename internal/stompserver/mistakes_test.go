package stompserver

import (
	"runtime"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
)

// mistake is what a peer does wrong, and what it is told: header message and body
// of the ERROR. Each is the last of the frames.
type mistake struct {
	name    string
	in      string
	message string
	body    string
	receipt string // receipt-id of the ERROR
}

func mistakes() []mistake {
	return []mistake{
		{"second CONNECT", text("CONNECT", "login:guest", "passcode:guest"), "Already connected", "A connection is opened by one CONNECT\n", ""},
		{"a frame of a server's", text("MESSAGE", "destination:/queue/a"), "Bad command", "Could not interpret command \"MESSAGE\"\n", ""},
		{"no command", text("HELLO"), "Bad command", "Could not interpret command \"HELLO\"\n", ""},
		{"lower case", text("send", "destination:/queue/a"), "Bad command", "Could not interpret command \"send\"\n", ""},
		{"a header without a colon", text("SEND", "destination"), "Malformed frame", "expected a header, name:value, found \"destination\"\n", ""},
		{"an escape that is none", text("SEND", `destination:/queue/\t`), "Malformed frame", "STOMP 1.2 has no escape \"\\\\t\"\n", ""},
		{"a header line of 16 KiB", text("SEND", "destination:/queue/a", "receipt:"+strings.Repeat("x", 16<<10)), "Malformed frame", "a header's line is more than 16384 bytes, it begins \"receipt:\"\n", ""},
		{"a receipt of a megabyte", "SEND\nreceipt:" + strings.Repeat("x", 1<<20), "Malformed frame", "a header's line is more than 16384 bytes, it begins \"receipt:\"\n", ""},
		{"101 headers", "SEND\n" + strings.Repeat("a:b\n", 101), "Malformed frame", "a frame has more than 100 headers\n", ""},
		{"headers without an end", "SEND\n" + strings.Repeat("a:"+strings.Repeat("b", 8<<10)+"\n", 9), "Malformed frame", "a frame's command and headers are more than 65536 bytes\n", ""},
		{"content-length below zero", text("SEND", "destination:/queue/a", "content-length:-1", "receipt:r"), "Malformed frame", "expected a content-length, a number of bytes, found \"-1\"\n", ""},
		{"content-length with a sign", text("SEND", "destination:/queue/a", "content-length:+1"), "Malformed frame", "expected a content-length, a number of bytes, found \"+1\"\n", ""},
		{"two content-lengths", text("SEND", "destination:/queue/a", "content-length:1", "content-length:2"), "Malformed frame", "two content-lengths, 1 and 2\n", ""},
		{
			"content-length over the limit", "SEND\ndestination:/queue/a\ncontent-length:1000001\nreceipt:big\n\n", "precondition_failed",
			"PRECONDITION_FAILED - message size 1000001 is larger than configured max size 1000000", "big",
		},
		{
			"content-length of 2^64", "SEND\ndestination:/queue/a\ncontent-length:18446744073709551616\nreceipt:big\n\n", "precondition_failed",
			"PRECONDITION_FAILED - message size 9223372036854775807 is larger than configured max size 1000000", "big",
		},
		{
			"a body without an end", "SEND\ndestination:/queue/a\nreceipt:big\n\n" + strings.Repeat("x", 1_000_001), "precondition_failed",
			"PRECONDITION_FAILED - message size is larger than configured max size 1000000", "big",
		},
		{"something behind the body", text("SEND", "destination:/queue/a", "content-length:1", "receipt:7", "", "ab"), "Malformed frame", "expected NUL behind a body of 1 bytes, its content-length, found \"b\"\n", "7"},
		{
			"something behind a large body",
			text("SEND", "destination:/queue/a", "content-length:20000", "receipt:7", "", strings.Repeat("x", 20001)),
			"Malformed frame", "expected NUL behind a body of 20000 bytes, its content-length, found \"x\"\n", "7",
		},
		{"a large body where none may be", text("BEGIN", "transaction:t", "receipt:r", "", strings.Repeat("x", 64<<10+1)), "Malformed frame", "the body of a BEGIN frame is more than 65536 bytes\n", "r"},

		{"SEND without a destination", text("SEND", "receipt:1"), "Missing destination", "\"SEND\" must include a 'destination' header\n", "1"},
		{"SEND to nothing", text("SEND", "destination:"), "Invalid destination", "Destination cannot be blank", ""},
		{"SEND to no queue", text("SEND", "destination:/queue/"), "Invalid destination", "'/' is not a valid queue destination\n", ""},
		{"SEND to a temporary queue", text("SEND", "destination:/temp-queue/a"), "Invalid destination", "'/temp-queue/a' is not a valid destination for 'SEND'\n", ""},
		{"SEND with a message-id", text("SEND", "destination:/queue/a", "message-id:1"), "Invalid header", "'message-id' is not allowed on 'SEND'.\n", ""},
		{"SEND with another type", text("SEND", "destination:a", "destination-type:multicast"), "Invalid header", "destination-type must be ANYCAST or MULTICAST, not \"multicast\"\n", ""},
		{"SEND with a priority", text("SEND", "destination:/queue/a", "priority:high", "receipt:2"), "Invalid header", "header priority is \"high\": a number from 0 to 255 is expected\n", "2"},
		{"SEND to no exchange", text("SEND", "destination:/exchange/no/k", "receipt:3"), "not_found", "NOT_FOUND - no exchange 'no' in vhost '/'", "3"},
		{"SEND to a name that is kept", text("SEND", "destination:/queue/amq.x", "receipt:3"), "access_refused", "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'", "3"},
		{"SEND with another argument", text("SEND", "destination:/queue/a", "x-max-length:many"), "Invalid header", "x-max-length must be a number, not \"many\"\n", ""},
		{
			"SEND to a queue that is otherwise", text("SEND", "destination:/queue/other", "receipt:4", "x-max-length:10"), "precondition_failed",
			"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'other' in vhost '/': received the value '10' of type 'long' but current is none", "4",
		},
		{"SEND to a queue that is not there", text("SEND", "destination:/amq/queue/no", "receipt:5"), "no_route", "NO_ROUTE - no queue 'no' in vhost '/'", "5"},
		{"SEND in no transaction", text("SEND", "destination:/queue/a", "transaction:t"), "Bad transaction", "Invalid transaction identifier: \"t\"\n", ""},
		{"SEND as another user", text("SEND", "destination:/queue/a", "user-id:root", "receipt:6"), "precondition_failed", "PRECONDITION_FAILED - user_id property set to 'root' but authenticated user was 'guest'", "6"},
		{"a name of 256 bytes", text("SEND", "destination:/queue/"+strings.Repeat("x", 256)), "Invalid destination", "a name of 256 bytes: at most 255 are allowed: \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"...\n", ""},
		{"a name that is no text", text("SEND", "destination:/queue/a%FF"), "Invalid destination", "\"/queue/a%FF\" is not UTF-8\n", ""},

		{"SUBSCRIBE without a destination", text("SUBSCRIBE", "id:1", "receipt:1"), "Missing destination", "\"SUBSCRIBE\" must include a 'destination' header\n", "1"},
		{"SUBSCRIBE to a temporary queue", text("SUBSCRIBE", "destination:/temp-queue/a", "id:1"), "Invalid destination", "'/temp-queue/a' is not a valid destination for 'SUBSCRIBE'\n", ""},
		{"SUBSCRIBE with its name", text("SUBSCRIBE", "destination:/queue/a", "id:/temp-queue/a"), "Invalid id", "SUBSCRIBE 'id' may not start with /temp-queue/\n", ""},
		{"SUBSCRIBE to no queue", text("SUBSCRIBE", "destination:/amq/queue/no", "id:1", "receipt:1"), "not_found", "NOT_FOUND - no queue 'no' in vhost '/'", "1"},
		{"SUBSCRIBE to no exchange", text("SUBSCRIBE", "destination:/exchange/no/k", "id:1"), "not_found", "NOT_FOUND - no exchange 'no' in vhost '/'", ""},
		{"SUBSCRIBE with another ack", text("SUBSCRIBE", "destination:/queue/a", "id:1", "ack:never"), "Invalid header", "ack must be auto, client or client-individual, not \"never\"\n", ""},
		{"SUBSCRIBE with another prefetch", text("SUBSCRIBE", "destination:/queue/a", "id:1", "prefetch-count:x"), "Invalid header", "prefetch-count must be a number, not \"x\"\n", ""},
		{
			"SUBSCRIBE with a selector", text("SUBSCRIBE", "destination:/queue/a", "id:1", "selector:a = 1"), "not_implemented",
			"NOT_IMPLEMENTED - selectors are not supported: bind a queue to an exchange of type headers or topic, and subscribe to that", "",
		},
		{"SUBSCRIBE without its own", text("SUBSCRIBE", "destination:/topic/a", "id:1", "no-local:true"), "not_implemented", "NOT_IMPLEMENTED - no-local=true is not supported", ""},
		{"SUBSCRIBE durably without an id", text("SUBSCRIBE", "destination:/topic/a", "durable:true"), "Missing Header", "Header 'id' is required for durable subscriptions", ""},
		{"SUBSCRIBE durably without a client", text("SUBSCRIBE", "destination:/topic/a", "id:1", "durable-subscription-name:n"), "Missing header", "A durable subscription needs a client-id header on CONNECT\n", ""},
		{
			"SUBSCRIBE twice", text("SUBSCRIBE", "destination:/queue/a", "id:1") + text("SUBSCRIBE", "destination:/queue/b", "id:1", "receipt:x"),
			"Duplicated subscription identifier", "A subscription identified by 'T_1' already exists.", "x",
		},
		{"UNSUBSCRIBE without an id", text("UNSUBSCRIBE"), "Missing destination or id", "UNSUBSCRIBE must include a 'destination' or 'id' header", ""},
		{"UNSUBSCRIBE a temporary queue", text("UNSUBSCRIBE", "id:/temp-queue/a"), "Invalid id", "UNSUBSCRIBE 'id' may not start with /temp-queue/\n", ""},
		{"UNSUBSCRIBE from nothing", text("UNSUBSCRIBE", "id:1"), "No subscription found", "UNSUBSCRIBE must refer to an existing subscription.\nSubscription to \"id='1'\" not found.\n", ""},

		{"ACK without an id", text("ACK", "message-id:1"), "Missing header", "\"ACK\" must include the \"id\" header\n", ""},
		{"NACK without an id", text("NACK"), "Missing header", "\"NACK\" must include the \"id\" header\n", ""},
		{"ACK of no message", text("ACK", "id:1"), "Invalid header", "\"ACK\" must include a valid \"id\" header\n", ""},
		{"ACK of tag 0", text("ACK", "id:T_1@@session-x@@1-0"), "Invalid header", "\"ACK\" must include a valid \"id\" header\n", ""},
		{"ACK of another connection's", text("ACK", "id:T_1@@session-x@@1-1", "receipt:9"), "Subscription not found", "Message with id \"T_1@@session-x@@1-1\" has no subscription", "9"},

		{"BEGIN nothing", text("BEGIN", "receipt:1"), "Missing transaction", "\"BEGIN\" must include a 'transaction' header\n", "1"},
		{"BEGIN twice", text("BEGIN", "transaction:t") + text("BEGIN", "transaction:t", "receipt:1"), "Bad transaction", "Transaction identifier in use: \"t\"\n", "1"},
		{"COMMIT nothing", text("COMMIT", "transaction:t"), "Bad transaction", "Invalid transaction identifier: \"t\"\n", ""},
		{"ABORT nothing", text("ABORT", "transaction:t"), "Bad transaction", "Invalid transaction identifier: \"t\"\n", ""},
		{"COMMIT twice", text("BEGIN", "transaction:t") + text("COMMIT", "transaction:t") + text("COMMIT", "transaction:t"), "Bad transaction", "Invalid transaction identifier: \"t\"\n", ""},
	}
}

// Every mistake ends the connection with one ERROR, and no other connection.
func TestMistakesAreAnsweredWithAnError(t *testing.T) {
	f := newFixture(t, func(_ *Config, bc *broker.Config) { bc.MaxMessage = 1_000_000 })
	if _, err := f.session().DeclareQueue(broker.QueueSpec{Name: "other", Durable: true}); err != nil {
		t.Fatal(err)
	}
	for _, row := range mistakes() {
		t.Run(row.name, func(t *testing.T) {
			p := f.connect()
			p.t = t
			go p.write(row.in + text("SEND", "destination:/queue/ignored", "", "ignored"))
			e := p.expectError(row.message)
			if e.body != row.body {
				t.Errorf("the body is %q, want %q", e.body, row.body)
			}
			if e.get("receipt-id") != row.receipt || e.has("receipt-id") != (row.receipt != "") {
				t.Errorf("receipt-id is %q, want %q", e.get("receipt-id"), row.receipt)
			}
			if e.get("content-type") != "text/plain" || e.get("version") != "1.0,1.1,1.2" || e.get("content-length") != itoa(len(e.body)) {
				t.Errorf("got %v", e)
			}
			// What the broker finds out by itself it does not find out at once.
			if n := f.ready("ignored"); n > 0 && row.message != "no_route" {
				t.Errorf("what came behind was not ignored: %d", n)
			}
			if _, err := f.session().DeleteQueue("ignored", false, false); err != nil {
				t.Error(err)
			}
		})
	}
	f.connect().ping()
}

// What is wrong before the login is told too, and no more than 64 KiB is kept of
// it.
func TestConnectIsRefused(t *testing.T) {
	f := newFixture(t)
	credentials := "login:guest\npasscode:guest\n"
	for _, row := range []struct{ name, in, message, body string }{
		{"another frame", text("SEND", "destination:/queue/a"), "Illegal command", "You must log in using CONNECT first"},
		{"another protocol", "GET / HTTP/1.1\r\n\r\n", "Illegal command", "You must log in using CONNECT first"},
		{"no version", text("CONNECT", "accept-version:3.0", "login:guest", "passcode:guest"), "Version mismatch", "Supported versions are 1.0,1.1,1.2\n"},
		{"no login", text("CONNECT", "passcode:guest"), "Bad CONNECT", "Missing login or passcode header(s)"},
		{"no passcode", text("CONNECT", "login:guest"), "Bad CONNECT", "Missing login or passcode header(s)"},
		{"another passcode", text("CONNECT", "login:guest", "passcode:x"), "Bad CONNECT", "Access refused for user 'guest'\n"},
		{"another user", text("CONNECT", "login:root", "passcode:x"), "Bad CONNECT", "Access refused for user 'root'\n"},
		{"another host", text("CONNECT", "login:guest", "passcode:guest", "host:nowhere"), "Bad CONNECT", "Virtual host 'nowhere' access denied\nThe header host names a virtual host here: leave it out for '/'.\n"},
		{"no heart-beat", text("CONNECT", "login:guest", "passcode:guest", "heart-beat:soon"), "Bad CONNECT", "expected a heart-beat, two numbers of milliseconds as in 1000,1000, found \"soon\"\n"},
		{"a large head", "CONNECT\n" + credentials + strings.Repeat("a:"+strings.Repeat("b", 8<<10)+"\n", 9), "Malformed frame", "a frame's command and headers are more than 65536 bytes\n"},
		{"many headers", "CONNECT\n" + strings.Repeat("a:b\n", 101), "Malformed frame", "a frame has more than 100 headers\n"},
		{"a body", text("CONNECT", "login:guest", "passcode:guest", "content-length:99999"), "Malformed frame", "the body of a CONNECT frame is more than 1024 bytes\n"},
		{"line ends without an end", strings.Repeat("\n", 1<<20), "Malformed frame", "the frame is larger than may be\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := f.dial()
			p.t = t
			go p.write(row.in)
			if e := p.expectError(row.message); e.body != row.body || e.get("version") != "1.0,1.1,1.2" {
				t.Errorf("got %v", e)
			}
		})
	}
	f.connect().ping()
}

// Frames however they arrive are the same frames.
func TestFramesInPieces(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	in := "\n\r\n\n" + text("SEND", "destination:/queue/a", "receipt:1", "", "no length") + "\r\n" +
		text("SEND", "destination:/queue/a", "receipt:2", "content-length:3", "", "a\x00b") +
		"SUBSCRIBE\r\ndestination:/queue/a\r\nid:1\r\n\r\n\x00" + text("BEGIN", "transaction:t", "receipt:3")
	for i := range len(in) {
		p.write(in[i : i+1])
	}
	seen := map[string]bool{}
	for range 5 {
		m := p.receive()
		seen[m.get("receipt-id")+m.body] = true
	}
	for _, want := range []string{"1", "2", "3", "no length", "a\x00b"} {
		if !seen[want] {
			t.Errorf("%q did not come", want)
		}
	}
}

func TestHeadersOfOnePointZeroMayHaveSpaces(t *testing.T) {
	f := newFixture(t)
	p := f.dial()
	p.send("CONNECT", "login: guest", "passcode: guest")
	p.expect("CONNECTED")
	p.call("SEND", "destination: /queue/a", "", "x")
	p.call("SUBSCRIBE", "destination: /queue/a", "ack: client")
	m := p.expectMessage("x")
	if m.has("subscription") || m.has("ack") || m.get("destination") != "/queue/a" {
		t.Errorf("got %v", m)
	}
	p.call("ACK", "message-id: "+m.get("message-id"))
	p.call("UNSUBSCRIBE", "destination: /queue/a")
}

func TestLogQuotesWhatPeersSay(t *testing.T) {
	f := newFixture(t)
	evil := "a\\nlevel=ERROR msg=forged\x1b[31m\u2028"
	p := f.dial()
	p.send("CONNECT", "accept-version:1.2", "login:"+evil, "passcode:s3cret")
	p.expect("ERROR")
	q := f.connect()
	q.send("SEND", "destination:/exchange/"+evil+strings.Repeat("y", 100)+"/k")
	q.expect("ERROR")
	for line := range strings.SplitSeq(f.log.String(), "\n") {
		if strings.HasPrefix(line, "level=") || strings.ContainsAny(line, "\x1b\u2028") || len(line) > 1000 || strings.Contains(line, "s3cret") {
			t.Errorf("log line %q", line)
		}
	}
}

// Ferry's client declares queues that may be there already, otherwise: to be refused
// is no cause for concern.
func TestRefusedDeclarationsAreNoWarnings(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/other", "x-max-length:10")
	q := f.connect()
	q.send("SEND", "destination:/queue/other", "receipt:r")
	q.expectError("precondition_failed")
	q.expectEnd()
	if log := f.log.String(); !strings.Contains(log, `level=INFO msg="connection closed by the server"`) {
		t.Error(log)
	}
}

// Some clients end frames with a line more than there should be.
func TestBodiesWhereNoneMayBeAreIgnored(t *testing.T) {
	f := newFixture(t)
	p := f.dial()
	p.write("CONNECT\nlogin:guest\npasscode:guest\n\n\n\x00\n")
	p.expect("CONNECTED")
	p.call("BEGIN", "transaction:t", "", "a body")
	p.call("COMMIT", "transaction:t", "content-length:2", "", "\x00\x00")
}

// What peers cost that have not logged in is bounded by the input buffer.
func TestMemoryBeforeLoginIsBounded(t *testing.T) {
	f := newFixture(t)
	const peers = 200
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range peers {
		p := f.dial()
		// Just not too many headers, and just not too long.
		p.write("CONNECT\n" + strings.Repeat("n:"+strings.Repeat(string(rune('a'+i%26)), 600)+"\n", 99))
		p.buf = nil
	}
	f.connect().ping() // as good as all of it was read: it came last
	if each := (int64(heap()) - int64(before)) / peers; each > 160<<10 {
		t.Errorf("%d KiB a peer", each>>10)
	}
}
