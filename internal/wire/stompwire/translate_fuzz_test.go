package stompwire_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// FuzzAppendProperties: whatever a head holds, its property list is sound, and
// when it went out as a MESSAGE and came back it is the same.
func FuzzAppendProperties(f *testing.F) {
	for _, head := range []string{
		"SEND\ndestination:/queue/q\npersistent:true\npriority: 5 \nfoo:bar\nfoo:baz\nreply-to:/reply-queue/r\n\n",
		"SEND\nexpires:1700000000000\ntimestamp:1700000000000\nx-ferry-attempt:2\n_AMQ_DUPL_ID:a-1\ncorrelation-id:\\c\\n\n\n",
		"MESSAGE\nsubscription:1\nmessage-id:1\ndestination:/topic/k\nredelivered:false\napp-id:a\nuser-id:u\ntype:t\n\n",
		"SEND\ncontent-type:a\ncontent-encoding:b\nexpiration:1\namqp-message-id:m\ntimestamp:-1\n\n",
	} {
		for v := range byte(4) {
			f.Add([]byte(head), v)
		}
	}
	now := func() time.Time { return time.UnixMilli(1) }
	f.Fuzz(func(t *testing.T, head []byte, version byte) {
		v := stompwire.Version(version % 4)
		d := &stompwire.Decoder{Version: v}
		if n, err := d.Head(head); err != nil || n == 0 {
			return
		}
		list, persistent, err := d.AppendProperties(nil, now)
		if err != nil {
			return
		}
		want := properties(t, list)
		src, err := stompwire.AppendMessageHeaders([]byte("MESSAGE\n"), stompwire.V12, list, persistent)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		back, p, err := decode(t, stompwire.V12, append(src, '\n')).AppendProperties(nil, now)
		if err != nil || p != persistent {
			t.Fatalf("%q: %t, %v, of %q", head, p, err, src)
		}
		// A header without a name cannot be sent.
		delete(want, ".")
		if got := properties(t, back); !equalTexts(got, want) {
			t.Fatalf("%q: %q\nwas %q\nis  %q", head, src, want, got)
		}
	})
}

// equalTexts compares what properties gave, where nothing has a NUL: that cannot
// be sent.
func equalTexts(got, want map[string]string) bool {
	for name, value := range want {
		if bytes.ContainsRune([]byte(name), 0) || name != "priority" && name != "timestamp" && bytes.ContainsRune([]byte(value), 0) {
			delete(want, name)
		}
	}
	if len(got) != len(want) {
		return false
	}
	for name, value := range want {
		if got[name] != value {
			return false
		}
	}
	return true
}

// FuzzAppendMessageHeaders: any list, sound or not, gives whole header lines or
// an error, and never one that is the delivery's.
func FuzzAppendMessageHeaders(f *testing.F) {
	f.Add(list(header("foo", 'S', "bar"), header("destination", 'S', "evil"), header("t", 't', "\x01")), byte(3), true)
	f.Add(list(header("a", 'A', "t\x01b\x05"), header("d", 'D', "\x05\xff\xff\xff\xff"), header("x", 'x', "\xff")), byte(2), false)
	f.Add(nested(message.MaxNesting+1), byte(1), false)
	f.Add(message.AppendField(message.AppendFieldString(nil, message.ContentType, "a\nb"), message.Priority, []byte{1}), byte(1), false)
	f.Add(list([]byte("\x03a")), byte(1), false)
	f.Fuzz(func(t *testing.T, list []byte, version byte, persistent bool) {
		v := stompwire.V10 + stompwire.Version(version%3)
		src, err := stompwire.AppendMessageHeaders([]byte("MESSAGE\n"), v, list, persistent)
		if err != nil {
			if string(src) != "MESSAGE\n" {
				t.Fatalf("%q with %v", src, err)
			}
			return
		}
		d := &stompwire.Decoder{Version: v, Limits: stompwire.Limits{Line: 1 << 24, Headers: 1 << 24, Head: 1 << 24}}
		if n, err := d.Head(append(src, '\n')); err != nil || n != len(src)+1 {
			t.Fatalf("%q: %d, %v", src, n, err)
		}
		for _, name := range []string{"destination", "message-id", "subscription", "ack", "content-length", "redelivered", "receipt", "transaction"} {
			if value, ok := d.Get(name); ok {
				t.Fatalf("%q has %s: %q", src, name, value)
			}
		}
		if value, ok := d.Get("persistent"); ok != persistent || ok && string(value) != "true" {
			t.Fatalf("%q: persistent is %q", src, value)
		}
	})
}
