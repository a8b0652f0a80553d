package broker

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/message"
)

// keyList is a header that is an array of texts.
func keyList(name string, keys ...string) []byte {
	var list []byte
	for _, k := range keys {
		list = append(binary.BigEndian.AppendUint32(append(list, 'S'), uint32(len(k))), k...)
	}
	b := append(append([]byte{byte(len(name))}, name...), 'A')
	return append(binary.BigEndian.AppendUint32(b, uint32(len(list))), list...)
}

// TestNobodySeesBCC: who consumes, gets, or has the message returned; CC is seen, and
// other messages are as they are.
func TestNobodySeesBCC(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	for _, q := range []string{"to", "cc", "bcc"} {
		c.queue(q, true)
	}
	publish := func(key string, large bool, headers ...[]byte) {
		var list []byte
		for _, h := range headers {
			list = append(list, h...)
		}
		props := message.AppendFieldString(nil, message.ContentType, "text/plain")
		props = message.AppendField(props, message.Headers, list)
		props = message.AppendFieldString(props, message.MessageID, "id")
		p := &Publish{Key: []byte(key), Persistent: true, Mandatory: true, Properties: props}
		if !large {
			p.Body = []byte("m")
			c.must(c.ch.Publish(p))
		} else {
			in, err := c.ch.PublishLarge(p, 1)
			c.must(err)
			in.Room(1)[0] = 'm'
			c.must(in.Finish())
		}
		c.Flush()
	}
	seen := func(e Event, want string) {
		t.Helper()
		v, err := message.ParseVisible(e.Data)
		if err != nil || string(v.Body) != "m" || string(message.Field(v.Properties, message.MessageID)) != "id" {
			t.Fatalf("%+v, %v", v, err)
		}
		var names []string
		for list := message.Field(v.Properties, message.Headers); ; {
			name, _, _, rest, ok := message.NextHeader(list)
			if !ok {
				break
			}
			names = append(names, string(name))
			list = rest
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("the headers are %q, want %q", got, want)
		}
	}
	got := func(q, want string) {
		t.Helper()
		if found, err := c.ch.Get(q, true); !found || err != nil {
			t.Fatalf("%s: %v %v", q, found, err)
		}
		seen(c.next(EventGot), want)
	}
	blind, copied, mine := keyList("BCC", "bcc"), keyList("CC", "cc"), longText("mine", "x")
	for _, large := range []bool{false, true} {
		publish("to", large, mine, blind, copied)
		got("to", "mine CC")
		got("cc", "mine CC")
		got("bcc", "mine CC")
		publish("to", large, blind)
		got("to", "")
		got("bcc", "")
		publish("to", large, mine)
		got("to", "mine")
		publish("nowhere", large, keyList("BCC", "nowhere either"), mine)
		seen(c.next(EventReturn), "mine")
		publish("to", large)
		got("to", "")
	}
	// A dead letter goes to the same keys, and they are not seen there either.
	c.declare("dying", args{"x-dead-letter-exchange": "", "x-message-ttl": 0})
	c.declare("copies", args{"x-max-length": 0, "x-dead-letter-exchange": "dead"})
	c.must(c.DeclareExchange(ExchangeSpec{Name: "dead", Type: "direct"}))
	c.must(c.BindQueue("bcc", "dead", "copies", nil))
	publish("to", false, keyList("BCC", "copies"), mine)
	got("to", "mine")
	c.consume("bcc", "t", true)
	e := c.next(EventDelivery)
	v, err := message.ParseVisible(e.Data)
	if err != nil || !v.Dead || !v.Blind || strings.Contains(string(v.Properties), "BCC") {
		t.Errorf("%q, %v", v.Properties, err)
	}
}

// TestNobodySeesBCCOfWhatIsStoredAnew: blocks that are made of others are of the same
// kind.
func TestNobodySeesBCCOfWhatIsStoredAnew(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.delays("x", "direct")
	c.declare("q", args{"x-queue-type": "quorum"})
	c.must(c.BindQueue("q", "x", "k", nil))
	blind := func(e Event) {
		t.Helper()
		if v, err := message.ParseVisible(e.Data); err != nil || strings.Contains(string(v.Properties), "BCC") {
			t.Errorf("%q, %v", v.Properties, err)
		}
	}
	c.delayed("x", "k", "m", 1, keyList("BCC", "nowhere"))
	got := c.fetch("q") // the queue shows how often it was delivered in vain
	blind(got)
	c.must(c.ch.Reject(got.Tag, true))
	c.consume("q", "t", false)
	blind(c.next(EventDelivery))
}
