package gmqlink

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/pipenet"
)

// counting is a source that counts what was settled.
type counting struct{ settled, told uint64 }

func (*counting) Next(int) []link.Outgoing { return nil }
func (*counting) Written(uint64)           {}
func (c *counting) Settled(tag uint64, multiple, _ bool) {
	if multiple {
		c.told += tag - c.settled
		c.settled = tag
		return
	}
	c.Refused(tag, nil)
}

func (c *counting) Refused(tag uint64, _ *link.Error) {
	c.told++
	c.settled = tag
}
func (*counting) Returned(string, *link.Error) {}
func (*counting) Closed(error)                 {}

// Whatever a server answers: nothing is confirmed that was not sent, each message once
// and in order, and nothing is delivered that has no id.
func FuzzReplies(f *testing.F) {
	for _, text := range []string{
		yes("P", "") + yes("P", "") + refuse("P", "NOT_FOUND - no queue") + refuse("P", "NACKED - full"),
		yes("P", "") + refuse("P", "INTERNAL_ERROR - no") + yes("P", ""),
		message("body", `,"redelivered":true,"message_id":"p-1","properties":{"priority":7,"headers":{"a":1}}`) + none(),
		yes("SYNC", "") + yes("A", "") + yes("L", `,"payload":"7"`), "{}\n\n", "HTTP/1.1 400\r\n", `{"operation":"S","payload":"%"}` + "\n",
	} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, input []byte, sends bool) {
		near, far := pipenet.Pipe()
		defer near.Close()
		defer far.Close()
		s := newSession(&conn{Group: transport.NewGroup(link.Options{})})
		s.Line = transport.NewLine(near, nil)
		const sent = 5
		src, in := new(counting), new(sink)
		if sends {
			s.sender = &sender{session: s, src: src, gate: transport.NewGate(src.Closed), confirm: true}
			s.sender.gate.Open()
			s.waiting.push(ofPublish, sent, nil)
			s.unproven = sent
		} else {
			s.receiver = &receiver{session: s, queue: "q", sink: in, gate: transport.NewGate(in.Closed), burst: 1, stopped: true}
			s.receiver.ledger.ids = make(map[uint64]string)
			s.receiver.gate.Open()
			s.waiting.push(ofFetch, 2, nil)
			s.waiting.push(ofSettle, 1, nil)
		}
		s.waiting.push(ofCall, 1, &call{operation: "SYNC", done: make(chan struct{})})
		from := bytes.NewReader(input)
		for {
			violated := s.lines()
			s.settleRun()
			s.deliverAll()
			if violated != nil || s.deaf {
				break
			}
			if err := s.In.Fill(from); errors.Is(err, io.EOF) {
				break
			}
		}
		if src.settled > sent || src.told != src.settled {
			t.Errorf("of %d messages %d were settled, up to %d", sent, src.told, src.settled)
		}
		for _, d := range in.Got {
			if s.receiver.ledger.ids[d.Tag] == "" {
				t.Errorf("%+v has no id", d)
			}
		}
	})
}
