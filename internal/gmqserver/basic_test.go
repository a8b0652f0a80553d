package gmqserver

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// The session of GMQ's README, byte for byte.
func TestOriginalClientGetsTheOriginalsReplies(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ operation, payload, want string }{
		{"L", "", "0"},
		{"S", "", ""},
		{"P", "aGVsbG8=", "aGVsbG8="},
		{"P", "", ""},
		{"P", "AP8K", "AP8K"},
		{"L", "", "3"},
		{"S", "", "aGVsbG8="},
		{"S", "", ""},
		{"S", "", "AP8K"},
		{"S", "", ""},
		{"L", "ignored", "0"},
		{"SYNC", "", ""},
	} {
		got := f.once(original(c.operation, "myqueue", c.payload))
		if want := originalReply(c.operation, "myqueue", c.want); got != want {
			t.Errorf("%s %q:\ngot  %s\nwant %s", c.operation, c.payload, got, want)
		}
	}
}

// Requests that end with a newline are answered one after the other, in their
// order, on a connection that stays; the one without ends it.
func TestConnectionStaysAfterANewline(t *testing.T) {
	f := newFixture(t)
	p := f.dial()
	p.write("\n \r\n" + original("P", "q", "MQ==") + "\n" + // white space is nothing
		original("P", "q", "Mg==") + "  \r\n" + original("L", "q", "") + // an object right behind
		original("S", "q", "") + "\n\n")
	p.expect(originalReply("P", "q", ""))
	p.expect(originalReply("P", "q", ""))
	p.expect(originalReply("L", "q", "2"))
	p.expect(originalReply("S", "q", "MQ=="))
	p.nc.Close()

	p = f.connect()
	p.line(`{"operation":"S","queue":"q"}`)
	p.expect(originalReply("S", "q", "Mg=="))
	p.write(`{"operation":"L","queue":"q"}`)
	if got, want := p.all(), originalReply("L", "q", "0")+"\n"; got != want {
		t.Errorf("got %q, want %q and the end", got, want)
	}
}

// TCP may cut between an object and its newline: a connection that has had one
// waits for it a little.
func TestNewlineMayComeLate(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	for range 3 {
		p.write(`{"operation":"L","queue":"q"}`)
		p.expect(originalReply("L", "q", "0")) // it does not wait for the newline
		p.write("\n")
	}
	p.line(`{"operation":"S","queue":"q"}`)
	p.expect(originalReply("S", "q", ""))
}

func TestMessagesKeepTheirOrderAndTheirBytes(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	var all []byte
	for i := range 256 {
		all = append(all, byte(i))
	}
	var bodies [][]byte
	for i := range 300 {
		bodies = append(bodies, append([]byte(strconv.Itoa(i)+"\n"), all[:i%257]...))
	}
	large := bytes.Repeat(all, 1<<9) // 128 KiB
	bodies = append(bodies, large, nil, large[1:], large[2:])

	var in strings.Builder
	for _, b := range bodies {
		in.Write(gmqwire.AppendRequest(nil, &gmqwire.Request{Operation: "P", Queue: "q", Body: b}))
		in.WriteByte('\n')
	}
	go p.write(in.String())
	for i := range bodies {
		if r := p.reply(); !r.Confirmed || r.Operation != "P" {
			t.Fatalf("%d: %+v", i, r)
		}
	}
	go p.write(strings.Repeat(`{"operation":"S","queue":"q"}`+"\n", len(bodies)+1))
	for i, want := range bodies {
		r := p.reply()
		if got := body(t, r); !r.Confirmed || got != string(want) {
			t.Fatalf("%d: got %d bytes, %v, want %d", i, len(got), r.Confirmed, len(want))
		}
	}
	p.expect(originalReply("S", "q", ""))
}

// Wherever the network cuts it, a request is the same. Where it is cut before the
// newline it may have been the last, and the reply has the payload, as GMQ's has.
func TestRequestsInPieces(t *testing.T) {
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		request := `{"operation":"P","queue":"q","payload":"` + b64("hello") + `",` + someoneAuth + "}\n" + `{"operation":"S","queue":"q"}` + "\n"
		for _, size := range []int{1, 7, 64, len(request) - 1} {
			p := dial()
			for rest := request; rest != ""; rest = rest[min(size, len(rest)):] {
				p.write(rest[:min(size, len(rest))])
			}
			if r := p.reply(); !r.Confirmed || r.Operation != "P" || len(r.Payload) > 0 && body(t, r) != "hello" {
				t.Errorf("%d bytes each: %+v", size, r)
			}
			p.expect(originalReply("S", "q", b64("hello")))
			p.nc.Close()
		}
	})
}

// Requests that come together are answered together, whatever they are.
func TestRepliesAreInTheOrderOfRequests(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	var in strings.Builder
	var want []string
	for i := range 3000 {
		q := fmt.Sprintf("q%d", i%7)
		switch i % 5 {
		case 0, 1, 2:
			fmt.Fprintf(&in, `{"operation":"P","queue":%q,"payload":%q}`+"\n", q, b64("x"))
			want = append(want, "P "+q+" true")
		case 3:
			fmt.Fprintf(&in, `{"operation":"S","queue":%q}`+"\n", q)
			want = append(want, "S "+q+" true")
		case 4:
			fmt.Fprintf(&in, `{"operation":"?","queue":%q}`+"\n", q)
			want = append(want, "? "+q+" false")
		}
	}
	go p.write(in.String())
	for i := range want {
		r := p.reply()
		if got := fmt.Sprintf("%s %s %v", r.Operation, r.Queue, r.Confirmed); got != want[i] {
			t.Fatalf("reply %d: got %s, want %s", i, got, want[i])
		}
	}
}

func TestManualAcknowledgement(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	for _, text := range []string{"one", "two", "three"} {
		p.ask(`{"operation":"P","queue":"q","payload":"` + b64(text) + `"}`)
	}
	const manual = `{"operation":"S","queue":"q","ack":"manual"}`
	one, two, three := p.ask(manual), p.ask(manual), p.ask(manual)
	if one.ID == "" || one.ID == two.ID || body(t, two) != "two" || two.Redelivered {
		t.Fatalf("got %+v, %+v", one, two)
	}
	if none := p.ask(manual); none.ID != "" || !none.Confirmed || len(none.Payload) > 0 {
		t.Fatalf("from an empty queue: %+v", none)
	}
	if r := p.ask(`{"operation":"A","id":"` + one.ID + `"}`); !r.Confirmed {
		t.Fatalf("A: %+v", r)
	}
	if r := p.ask(`{"operation":"A","id":"` + one.ID + `"}`); r.Confirmed || !strings.HasPrefix(r.ErrorText, "PRECONDITION_FAILED - unknown id") {
		t.Fatalf("A for the second time: %+v", r)
	}
	if r := p.ask(`{"operation":"N","id":` + two.ID + `}`); !r.Confirmed { // as a number, too
		t.Fatalf("N: %+v", r)
	}
	if again := p.ask(manual); body(t, again) != "two" || !again.Redelivered {
		t.Fatalf("what was returned: %+v", again)
	}
	if r := p.ask(`{"operation":"N","id":"` + three.ID + `","requeue":false}`); !r.Confirmed {
		t.Fatalf("N without requeue: %+v", r)
	}
	// two is held still: the end of the connection, however it comes, gives it back.
	p.nc.Close()
	p = f.connect()
	r := p.ask(`{"operation":"S","queue":"q","ack":"auto","wait_msec":9000}`)
	if body(t, r) != "two" || !r.Redelivered || r.ID == "" {
		t.Fatalf("after the client's end: %+v", r)
	}
	if r := p.ask(`{"operation":"L","queue":"q"}`); string(r.Payload) != "0" {
		t.Fatalf("%s are left", r.Payload)
	}
}

func TestUnknownIDs(t *testing.T) {
	p := newFixture(t).connect()
	for _, id := range []string{`"0"`, `0`, `"x"`, `-1`, `""`, `"18446744073709551616"`, `99`} {
		for _, operation := range []string{"A", "N"} {
			r := p.ask(`{"operation":"` + operation + `","id":` + id + `}`)
			if r.Confirmed || !strings.HasPrefix(r.ErrorText, "PRECONDITION_FAILED - unknown id") {
				t.Errorf("%s %s: %+v", operation, id, r)
			}
		}
	}
}

// A queue of Ferry's is one for all protocols: what others publish is taken, with
// its properties for who asks, and what is published is theirs to take.
func TestQueuesAreThoseOfOthers(t *testing.T) {
	f := newFixture(t)
	s := f.session()
	// One that is not as GMQ would make it.
	if _, err := s.DeclareQueue(broker.QueueSpec{Name: "theirs", AutoDelete: true}); err != nil {
		t.Fatal(err)
	}
	p := f.connect()
	r := p.ask(`{"operation":"P","queue":"theirs","payload":"` + b64("body") + `","message_id":"me-1","properties":{"content_type":"text/plain","expiration":60000,"headers":{"k":"v","n":5,"b":true}}}`)
	if !r.Confirmed {
		t.Fatalf("%+v", r)
	}
	ch := s.OpenChannel(1)
	if found, err := ch.Get("theirs", true); !found || err != nil {
		t.Fatal(found, err)
	}
	v, err := message.Parse(s.Take(nil)[0].Data)
	if err != nil || string(v.Body) != "body" || !v.Persistent || string(v.Key) != "theirs" || string(message.Field(v.Properties, message.ContentType)) != "text/plain" {
		t.Fatalf("%+v, %v", v, err)
	}
	if id, _ := message.Header(message.Field(v.Properties, message.Headers), "x-ferry-id"); id != "me-1" {
		t.Errorf("x-ferry-id is %v", id)
	}

	list := message.AppendFieldString(nil, message.ContentType, "application/json")
	if err := ch.Publish(&broker.Publish{Key: []byte("theirs"), Properties: list, Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	s.Flush()
	got := p.ask(`{"operation":"S","queue":"theirs","ack":"auto"}`)
	if body(t, got) != "{}" || got.Properties.ContentType != "application/json" {
		t.Fatalf("%+v", got)
	}
	p.ask(`{"operation":"L","queue":"mine"}`)
	if _, err := s.DeclareQueue(broker.QueueSpec{Name: "mine", Durable: true}); err != nil {
		t.Errorf("a queue of GMQ's is not a durable one: %v", err)
	}
}

func TestSyncTellsWhoAnswers(t *testing.T) {
	f := newFixture(t, func(c *Config, _ *broker.Config) {
		c.Node, c.Epoch = "host-1", func() uint64 { return 7 }
	})
	p := f.connect()
	if r := p.ask(`{"operation":"SYNC","server":""}`); r.Server != "Ferry/0.0-test" || r.Node != "host-1" || r.Epoch != 7 {
		t.Errorf("%+v", r)
	}
	p.line(`{"operation":"SYNC"}`) // who did not ask is told nothing
	p.expect(originalReply("SYNC", "", ""))
}

// The queue of a publisher is deleted by somebody else: it is made again, and the
// message is in it.
func TestQueueThatSomebodyDeletesIsMadeAgain(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	s := f.session()
	for i, operation := range []string{"P", "S", "L"} {
		p.ask(`{"operation":"P","queue":"q"}`)
		if _, err := s.DeleteQueue("q", false, false); err != nil {
			t.Fatal(err)
		}
		if r := p.ask(`{"operation":"` + operation + `","queue":"q","payload":"eA=="}`); !r.Confirmed {
			t.Errorf("%d: %+v", i, r)
		}
	}
	p.ask(`{"operation":"P","queue":"q"}`)
	if n := f.ready("q"); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
	if r := p.ask(`{"operation":"L","queue":"none","passive":true}`); r.Confirmed || !strings.HasPrefix(r.ErrorText, "NOT_FOUND - ") {
		t.Errorf("passive: %+v", r)
	}
	if n := f.ready("none"); n != -1 {
		t.Error("a queue was made by looking")
	}
}

func TestLimitsOfTheConfiguration(t *testing.T) {
	f := newFixture(t, func(c *Config, _ *broker.Config) {
		c.Limits = Limits{Queues: 2, QueueMessages: 3, Message: 10}
	})
	p := f.connect()
	publish := func(queue string, size int) gmqwire.Reply {
		t.Helper()
		return p.ask(fmt.Sprintf(`{"operation":"P","queue":%q,"payload":%q}`, queue, base64.StdEncoding.EncodeToString(make([]byte, size))))
	}
	var errs []string
	for _, c := range []struct {
		queue string
		size  int
	}{{"a", 10}, {"a", 11}, {"a", 1}, {"a", 1}, {"a", 1}, {"b", 1}, {"c", 1}} {
		errs = append(errs, publish(c.queue, c.size).ErrorText)
	}
	want := []string{
		"",
		"CONTENT_TOO_LARGE - the message has 11 bytes, the limit is 10 (max_message_length)",
		"", "",
		`RESOURCE_ERROR - queue "a" is full: 3 messages wait in it, the limit is 3 (max_queue_capacity)`,
		"",
		"RESOURCE_ERROR - there are 2 queues already, which is the limit (max_queue_number)",
	}
	if !slices.Equal(errs, want) {
		t.Errorf("got  %q\nwant %q", errs, want)
	}
	// One that is gone makes room.
	if _, err := f.session().DeleteQueue("a", false, false); err != nil {
		t.Fatal(err)
	}
	if r := publish("c", 1); !r.Confirmed {
		t.Errorf("%+v", r)
	}
}
