package stomplink

import (
	"strconv"
	"testing"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// reading is a session whose reader is driven by hand.
func reading(dialect dialect) *session {
	s := newSession(&conn{Group: transport.NewGroup(link.Options{}), dialect: dialect})
	s.version, s.found.decoder.Version, s.Opened = stompwire.V12, stompwire.V12, true
	return s
}

type script struct {
	frame []byte
}

// Read gives whole frames, as many as there is room for.
func (r *script) Read(p []byte) (int, error) {
	n := 0
	for n+len(r.frame) <= len(p) {
		n += copy(p[n:], r.frame)
	}
	return n, nil
}

type nothing struct{ n int }

func (n *nothing) Deliver(ds []*link.Delivery)        { n.n += len(ds) }
func (*nothing) Cancelled(*link.Error)                {}
func (*nothing) Closed(error)                         {}
func (*nothing) Next(int) []link.Outgoing             { return nil }
func (*nothing) Written(uint64)                       {}
func (*nothing) Returned(string, *link.Error)         {}
func (*nothing) Refused(uint64, *link.Error)          {}
func (n *nothing) Settled(tag uint64, _ bool, _ bool) { n.n = int(tag) }

// BenchmarkReceive reads messages of 100 bytes and acknowledges them.
func BenchmarkReceive(b *testing.B) {
	s := reading(rabbitmq)
	l := newLedger(true)
	in := &inbox{sink: new(nothing), gate: transport.NewGate(func(error) {}), ledger: l, taking: transport.NewGate(func(error) {})}
	in.gate.Open()
	in.taking.Open()
	s.receiver = &receiver{session: s, ledger: l}
	s.inbox = in
	body := make([]byte, 100)
	frame := "MESSAGE\nsubscription:1\ndestination:/queue/bench\nmessage-id:T_1@@session-x@@1\nredelivered:false\nack:T_1@@session-x@@1\n" +
		"x-ferry-id:abcdefghijklmnop-1234567\npersistent:true\ncontent-length:100\n\n" + string(body) + "\x00\n"
	r := &script{frame: []byte(frame)}
	var out []byte
	b.ReportAllocs()
	for done := 0; done < b.N; done = in.sink.(*nothing).n {
		if err := s.In.Fill(r); err != nil {
			b.Fatal(err)
		}
		if err := s.frames(); err != nil {
			b.Fatal(err)
		}
		s.deliverAll()
		for tag := l.low; tag < l.next; tag++ {
			_, _ = l.settle(tag, acked)
		}
		out, _ = l.appendFrames(out[:0], stompwire.V12, rabbitmq)
	}
}

// BenchmarkReceipts reads receipts.
func BenchmarkReceipts(b *testing.B) {
	s := reading(rabbitmq)
	k := &sender{session: s, confirm: true, src: new(nothing), gate: transport.NewGate(func(error) {})}
	k.gate.Open()
	k.sent.Store(1 << 62)
	s.sender = k
	b.ReportAllocs()
	var batch []byte
	for tag := 1; tag <= b.N; {
		batch = batch[:0]
		for ; tag <= b.N && len(batch) < 60<<10; tag++ {
			batch = append(strconv.AppendInt(append(batch, "RECEIPT\nreceipt-id:"...), int64(tag), 10), "\n\n\x00\n"...)
		}
		if err := s.In.Fill(&whole{batch}); err != nil {
			b.Fatal(err)
		}
		if err := s.frames(); err != nil {
			b.Fatal(err)
		}
		s.settleRun()
	}
	if k.src.(*nothing).n != b.N {
		b.Fatalf("settled up to %d of %d", k.src.(*nothing).n, b.N)
	}
}

type whole struct{ b []byte }

func (w *whole) Read(p []byte) (int, error) {
	n := copy(p, w.b)
	w.b = w.b[n:]
	return n, nil
}

// BenchmarkSend encodes messages of 100 bytes.
func BenchmarkSend(b *testing.B) {
	s := &sender{confirm: true, session: &session{version: stompwire.V12, conn: &conn{dialect: rabbitmq}}}
	var e encoder
	o := link.Outgoing{Message: &link.Message{Key: "bench", Body: make([]byte, 100)}, Producer: "abcdefghijklmnop", Attempt: 1}
	dst := make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		o.Seq++
		if _, err := e.appendHead(dst, s, &o, o.Seq); err != nil {
			b.Fatal(err)
		}
	}
}
