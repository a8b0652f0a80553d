package gmqserver

import (
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
)

// A publish that its queue refuses is answered so, and the connection goes on.
func TestARefusedPublishIsAnsweredSo(t *testing.T) {
	f := newFixture(t)
	args := append([]byte("\x0cx-max-lengthB\x01"), "\x0ax-overflowS\x00\x00\x00\x0ereject-publish"...)
	if _, err := f.session().DeclareQueue(broker.QueueSpec{Name: "full", Durable: true, Args: args}); err != nil {
		t.Fatal(err)
	}
	p := f.connect()
	p.line(original("P", "full", b64("1")) + original("P", "full", b64("2")) + original("P", "other", b64("3")))
	for i, want := range []bool{true, false, true} {
		r := p.reply()
		if r.Confirmed != want || !want && r.ErrorText != "NACKED - a queue refused the message" {
			t.Errorf("the %dth is answered %+v", i, r)
		}
	}
	if n := f.ready("full"); n != 1 {
		t.Errorf("%d messages are there", n)
	}
}
