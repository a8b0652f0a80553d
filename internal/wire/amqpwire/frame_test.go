package amqpwire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// wantError asserts that err carries the code and says text.
func wantError(t *testing.T, err error, code uint16, text string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want %s", err, ReplyName(code))
	}
	if e.Code != code || !strings.Contains(e.Text, text) {
		t.Fatalf("got %q, want %s with %q", e, ReplyName(code), text)
	}
}

func TestParseFrameTakesOneFrame(t *testing.T) {
	b := []byte{FrameBody, 1, 2, 0, 0, 0, 3, 'a', 'b', 'c', FrameEnd, FrameHeartbeat}
	f, n, err := ParseFrame(b, MinFrameSize)
	if err != nil || n != 11 || f.Type != FrameBody || f.Channel != 0x0102 || string(f.Payload) != "abc" {
		t.Fatalf("%+v %d %v", f, n, err)
	}
	if cap(f.Payload) != len(f.Payload) {
		t.Error("an append to the payload would write into the next frame")
	}
}

func TestParseFrameWaitsForMore(t *testing.T) {
	b := []byte{FrameMethod, 0, 1, 0, 0, 0, 4, 0, 10, 0, 51, FrameEnd}
	for i := range b {
		if f, n, err := ParseFrame(b[:i], MinFrameSize); n != 0 || err != nil {
			t.Fatalf("%d bytes: %+v %d %v", i, f, n, err)
		}
	}
	if _, n, err := ParseFrame(b, MinFrameSize); n != len(b) || err != nil {
		t.Fatalf("whole: %d %v", n, err)
	}
}

func TestParseFrameRefuses(t *testing.T) {
	for _, c := range []struct {
		name     string
		in       []byte
		frameMax uint32
		text     string
	}{
		{"type 0", []byte{0}, 4096, "unknown frame type 0"},
		{"type 4 (0-8's trace)", []byte{4, 0, 0}, 4096, "unknown frame type 4"},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), 4096, "unknown frame type 71"},
		{"TLS", []byte{0x16, 3, 1}, 4096, "unknown frame type 22"},
		{"one over the limit, no payload yet", []byte{3, 0, 1, 0, 0, 0x0F, 0xF9}, 4096, "4089 bytes, at most 4088"},
		{"largest length", []byte{3, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF}, 0xFFFFFFFF, "at most 4294967287"},
		{"limit below the overhead", []byte{3, 0, 1, 0, 0, 0, 1}, 7, "at most 0"},
		{"wrong end", []byte{3, 0, 1, 0, 0, 0, 1, 'x', 0}, 4096, "ends in 0x00, not in 0xCE"},
		{"heartbeat with a payload", []byte{8, 0, 0, 0, 0, 0, 2}, 4096, "heartbeat has a payload"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, n, err := ParseFrame(c.in, c.frameMax)
			wantError(t, err, FrameError, c.text)
			if n != 0 {
				t.Errorf("took %d bytes", n)
			}
		})
	}
}

func TestParseFrameTakesTheLargestAllowed(t *testing.T) {
	b := AppendBody(nil, 1, make([]byte, MinFrameSize-FrameOverhead), MinFrameSize)
	if len(b) != MinFrameSize {
		t.Fatalf("one frame of %d bytes", len(b))
	}
	if _, n, err := ParseFrame(b, MinFrameSize); n != len(b) || err != nil {
		t.Fatal(n, err)
	}
}

func TestAppendBodySplits(t *testing.T) {
	for _, size := range []int{0, 1, 4087, 4088, 4089, 8176, 8177, 20000} {
		for _, frameMax := range []uint32{0, 1, MinFrameSize, 5000} {
			body := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
			prefix := []byte("before")
			out := AppendBody(prefix, 7, body, frameMax)
			if !bytes.HasPrefix(out, prefix) {
				t.Fatal("what was in dst is gone")
			}
			wire := out[len(prefix):]
			if len(wire) != BodyWireSize(size, frameMax) {
				t.Errorf("size %d, frame_max %d: %d bytes, BodyWireSize says %d", size, frameMax, len(wire), BodyWireSize(size, frameMax))
			}
			most := max(frameMax, MinFrameSize)
			if frameMax == 0 {
				most = 1 << 20
			}
			var got []byte
			for len(wire) > 0 {
				f, n, err := ParseFrame(wire, most)
				if err != nil || n == 0 || len(f.Payload) == 0 || f.Channel != 7 || f.Type != FrameBody {
					t.Fatalf("size %d, frame_max %d: %d %v", size, frameMax, n, err)
				}
				got, wire = append(got, f.Payload...), wire[n:]
			}
			if !bytes.Equal(got, body) {
				t.Errorf("size %d, frame_max %d: the body is another", size, frameMax)
			}
		}
	}
}

func TestFrameFits(t *testing.T) {
	for _, c := range []struct {
		size     int
		frameMax uint32
		want     bool
	}{{4096, 4096, true}, {4097, 4096, false}, {1 << 30, 0, true}} {
		if got := FrameFits(c.size, c.frameMax); got != c.want {
			t.Errorf("FrameFits(%d, %d) = %t", c.size, c.frameMax, got)
		}
	}
}

func TestHeartbeatIsAFrame(t *testing.T) {
	f, n, err := ParseFrame(AppendHeartbeat(nil), MinFrameSize)
	if err != nil || n != 8 || f.Type != FrameHeartbeat || f.Channel != 0 || len(f.Payload) != 0 {
		t.Fatalf("%+v %d %v", f, n, err)
	}
}

func TestReplyCodes(t *testing.T) {
	hard := map[uint16]bool{320: true, 402: true, 501: true, 502: true, 503: true, 504: true, 505: true, 506: true, 530: true, 540: true, 541: true}
	names := map[uint16]string{
		200: "REPLY_SUCCESS", 311: "CONTENT_TOO_LARGE", 312: "NO_ROUTE", 313: "NO_CONSUMERS", 320: "CONNECTION_FORCED",
		402: "INVALID_PATH", 403: "ACCESS_REFUSED", 404: "NOT_FOUND", 405: "RESOURCE_LOCKED", 406: "PRECONDITION_FAILED",
		501: "FRAME_ERROR", 502: "SYNTAX_ERROR", 503: "COMMAND_INVALID", 504: "CHANNEL_ERROR", 505: "UNEXPECTED_FRAME",
		506: "RESOURCE_ERROR", 530: "NOT_ALLOWED", 540: "NOT_IMPLEMENTED", 541: "INTERNAL_ERROR",
	}
	for code := range uint16(1000) {
		if ReplyName(code) != names[code] || IsHard(code) != hard[code] {
			t.Errorf("%d: %q, hard %t", code, ReplyName(code), IsHard(code))
		}
	}
}

func TestReplyTextCanBeEncoded(t *testing.T) {
	for _, c := range []struct {
		code       uint16
		text, want string
	}{
		{404, "no queue 'q' in vhost '/'", "NOT_FOUND - no queue 'q' in vhost '/'"},
		{312, "", "NO_ROUTE"},
		{999, "text", "text"},
		{404, strings.Repeat("x", 243), "NOT_FOUND - " + strings.Repeat("x", 243)},
		{404, strings.Repeat("x", 244), "NOT_FOUND - " + strings.Repeat("x", 240) + "..."},
		{404, strings.Repeat("x", 239) + "é" + strings.Repeat("x", 9), "NOT_FOUND - " + strings.Repeat("x", 239) + "..."},
		{404, strings.Repeat("\x80", 300), "..."},
	} {
		got := ReplyText(c.code, c.text)
		if got != c.want && c.want != "..." {
			t.Errorf("%d %q: got %q", c.code, c.text, got)
		}
		if len(got) > MaxShortString {
			t.Errorf("%d bytes", len(got))
		}
		if utf8.ValidString(c.text) && !utf8.ValidString(got) {
			t.Errorf("%q is cut inside a character", got)
		}
	}
}
