package stompserver

import (
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// newTestReader is the reader of a connection that has no network.
func newTestReader(t testing.TB, f *fixture) *reader {
	t.Helper()
	s, err := f.broker.OpenSession(broker.SessionConfig{VHost: "/", User: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c := &conn{srv: f.server, session: s, nc: &netserve.Conn{}, version: stompwire.V12, name: "session-x", forced: make(chan struct{})}
	r := newReader(c)
	return &r
}

// handle handles the frame that b is.
func (r *reader) handle(t testing.TB, b []byte) {
	n, err := r.dec.Head(b)
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	body, _, err := r.dec.Body(b[n:])
	if err != nil {
		t.Fatal(err)
	}
	if err := r.command(body); err != nil {
		t.Fatal(err)
	}
}

// What this package does for a message costs no allocation; what is left is the
// broker's: less than one for each message.
func TestSendCostsNoAllocationHere(t *testing.T) {
	for name, lines := range map[string][]string{
		"plain":      {"destination:/topic/a"},
		"persistent": {"destination:/topic/a", "persistent:true", "content-length:30", "content-type:text/plain", "k:v", `escaped:\c`},
		"receipted":  {"destination:/topic/a", "persistent:true", "receipt:12345"},
	} {
		r := newTestReader(t, newFixture(t))
		b := []byte(text("SEND", append(lines, "", "a body of thirty bytes, or so.")...))
		scratch := make([]byte, 0, 1024)
		per := testing.AllocsPerRun(2000, func() {
			r.handle(t, b)
			var err error
			if scratch, err = r.receipts.take(scratch[:0], r.version, 1<<40, true); err != nil {
				t.Fatal(err)
			}
		})
		if per >= 1 {
			t.Errorf("%s: %v allocations a SEND", name, per)
		}
	}
}

func TestMessageIsEncodedWithoutAllocation(t *testing.T) {
	r := newTestReader(t, newFixture(t))
	if _, err := r.session.DeclareQueue(broker.QueueSpec{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	ch := r.openChannel()
	c, err := ch.Consume(broker.ConsumeSpec{Queue: "q", Tag: "tag"})
	if err != nil {
		t.Fatal(err)
	}
	s := &subscription{key: "T_1", id: "1", mode: ackClient}
	if err := s.encode(r.conn, 1); err != nil {
		t.Fatal(err)
	}
	r.subs.add(c, s)
	d := stompwire.Decoder{}
	if _, err := d.Head([]byte("SEND\ncontent-type:text/plain\nk:v\npriority:4\n\n")); err != nil {
		t.Fatal(err)
	}
	list, _, err := d.AppendProperties(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	block := append(message.AppendBlockHead(nil, true, []byte("e:1"), []byte("k/"), list), "body"...)
	message.Seal(block)
	w := &writer{conn: r.conn, out: &r.nc.Out, buf: make([]byte, 0, 4096)}
	events := []broker.Event{
		{Kind: broker.EventDelivery, Consumer: c, Tag: 7, Data: block},
		{Kind: broker.EventConfirm, Channel: ch, Tag: 1 << 40, Multiple: true},
		{Kind: broker.EventReply, Data: heartbeat},
	}
	per := testing.AllocsPerRun(100, func() {
		w.buf = w.buf[:0]
		for range 10 {
			r.receipts.add([]byte("12345"), true)
		}
		for i := range events {
			if f := w.encode(&events[i]); f != nil {
				t.Fatal(f)
			}
		}
	})
	if per != 0 {
		t.Errorf("%v allocations", per)
	}
	want := "MESSAGE\nsubscription:1\nmessage-id:T_1@@session-x@@1-7\nack:T_1@@session-x@@1-7\n" +
		"destination:/exchange/e\\c1/k%2F\nredelivered:false\ncontent-length:4\npersistent:true\n"
	if !strings.HasPrefix(string(w.buf), want) {
		t.Errorf("got %q, want %q", w.buf, want)
	}
}

func TestAckCostsNoAllocation(t *testing.T) {
	r := newTestReader(t, newFixture(t))
	const n = 4000
	b := []byte(text("SEND", "destination:/queue/q"))
	for range n {
		r.handle(t, b)
	}
	r.handle(t, []byte(text("SUBSCRIBE", "destination:/queue/q", "id:1", "ack:client-individual")))
	r.session.Flush()
	tag := 0
	var ids [n + 1][]byte
	for i := range ids {
		ids[i] = []byte(text("ACK", "id:T_1@@session-x@@1-"+itoa(i)))
	}
	per := testing.AllocsPerRun(n-100, func() {
		tag++
		r.handle(t, ids[tag])
	})
	if per >= 0.1 {
		t.Errorf("%v allocations an ack", per)
	}
}
