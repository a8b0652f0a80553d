package outbox

import (
	"bytes"
	"encoding/hex"
	"flag"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/message"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample has every field, and a header of every type.
func sample() *link.Message {
	return &link.Message{
		Exchange: "orders", Key: "orders.new", Body: []byte("body"),
		Headers: map[string]any{
			"nil": nil, "bool": true, "no": false, "int8": int8(-8), "uint8": uint8(8), "int16": int16(-16),
			"uint16": uint16(16), "int32": int32(-32), "uint32": uint32(32), "int64": int64(-64),
			"float32": float32(1.5), "float64": math.Inf(1), "decimal": message.Decimal{Scale: 2, Value: -314},
			"text": "t\xffxt", "bytes": []byte{0, 1}, "none": []byte{}, "time": time.Unix(1_700_000_000, 0).UTC(),
			"array": []any{int32(1), "two", []any{}, map[string]any{"three": int8(3)}},
			"table": map[string]any{"inside": map[string]any{}, "n": int64(1)},
		},
		ContentType: "text/plain", ContentEncoding: "gzip", Priority: 7, Transient: true,
		CorrelationID: "corr", ReplyTo: "replies", Expiration: 90 * time.Second, MessageID: "m-1",
		Timestamp: time.Unix(1_700_000_001, 123_456_789).UTC(),
		Type:      "created", UserID: "guest", AppID: "shop", ID: "p-17", Attempt: 2,
	}
}

func mustEncode(t testing.TB, m *link.Message) []byte {
	t.Helper()
	b, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustDecode(t testing.TB, b []byte) *link.Message {
	t.Helper()
	block, rest, err := cutBlock(b)
	m := new(link.Message)
	if err == nil {
		err = decode(block, m, nil)
	}
	if err != nil || len(rest) > 0 {
		t.Fatalf("%v, %d bytes are left", err, len(rest))
	}
	return m
}

func TestMessageSurvives(t *testing.T) {
	all := sample()
	for i := range reflect.ValueOf(*all).NumField() {
		if reflect.ValueOf(*all).Field(i).IsZero() {
			t.Errorf("the sample has no %s", reflect.TypeOf(*all).Field(i).Name)
		}
	}
	for _, m := range []*link.Message{
		all,
		{Body: []byte{}},
		{Body: []byte{}, Headers: map[string]any{}},
		{Body: []byte("x"), Timestamp: time.Unix(-62135596800+1, 0).UTC(), Expiration: -1},
		{Body: []byte("x"), Timestamp: time.Unix(0, 0).UTC(), Exchange: strings.Repeat("e", 70_000)},
	} {
		if got := mustDecode(t, mustEncode(t, m)); !reflect.DeepEqual(got, m) {
			t.Errorf("got\n%#v\nwant\n%#v", got, m)
		}
	}
	// What is encoded as something else.
	m := &link.Message{Headers: map[string]any{"i": 5, "t": time.Unix(1, 999).In(time.FixedZone("", 3600))}}
	want := map[string]any{"i": int64(5), "t": time.Unix(1, 0).UTC()}
	if got := mustDecode(t, mustEncode(t, m)); !reflect.DeepEqual(got.Headers, want) {
		t.Errorf("got %#v", got.Headers)
	}
}

func nest(depth int, array bool) map[string]any {
	m := map[string]any{}
	var v any = "x"
	for range depth {
		if array {
			v = []any{v}
		} else {
			v = map[string]any{"n": v}
		}
	}
	m["n"] = v
	return m
}

func TestNestingIsLimited(t *testing.T) {
	for _, array := range []bool{false, true} {
		m := &link.Message{Body: []byte{}, Headers: nest(message.MaxNesting, array)}
		if got := mustDecode(t, mustEncode(t, m)); !reflect.DeepEqual(got, m) {
			t.Errorf("another message after %d levels", message.MaxNesting)
		}
		if _, err := encode(&link.Message{Headers: nest(message.MaxNesting+1, array)}); err == nil || !strings.Contains(err.Error(), "deeper than 32") {
			t.Errorf("got %v", err)
		}
	}
	loop := map[string]any{}
	loop["self"] = loop
	if _, err := encode(&link.Message{Headers: loop}); err == nil {
		t.Error("headers that hold themselves were encoded")
	}
}

// sampleHead has every record with every field.
func sampleHead() []byte {
	at := time.UnixMilli(1_700_000_000_123)
	head := appendState(nil, &state{
		producer: "abcdefghijklmnop", next: 1000, refused: 3,
		segments: []segmentState{{4, seqRun{100, 300}, at}, {6, seqRun{400, 1000}, at.Add(time.Second)}},
		settled:  seqSet{floor: 150, runs: []seqRun{{160, 170}, {420, 421}}},
	})
	head = appendSettle(head, seqRun{500, 600})
	head = appendSettle(head, seqRun{700, 701})
	head = appendRefused(head, 610)
	return appendContent(head, content{messages: seqRun{1000, 1002}, length: 77, time: at})
}

func samplePart() []byte {
	return appendContent(nil, content{messages: seqRun{9, 10}, offset: 4096, size: 10_000, length: 4096, time: time.UnixMilli(1_700_000_000_123)})
}

func TestGolden(t *testing.T) {
	for name, b := range map[string][]byte{"head": sampleHead(), "part": samplePart(), "message": mustEncode(t, sample())} {
		file := "testdata/" + name + ".golden"
		if *update {
			if err := os.WriteFile(file, []byte(hex.Dump(b)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.Dump(b); got != string(want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	var r records
	if err := r.parse(sampleHead()); err != nil || !bytes.Equal(r.append(nil), sampleHead()) {
		t.Errorf("%+v %v", r, err)
	}
	if err := r.parse(samplePart()); err != nil || !bytes.Equal(r.append(nil), samplePart()) {
		t.Errorf("%+v %v", r, err)
	}
}

// append is the inverse of parse.
func (r *records) append(dst []byte) []byte {
	if r.state != nil {
		dst = appendState(dst, r.state)
	}
	for _, s := range r.settled {
		dst = appendSettle(dst, s)
	}
	for _, seq := range r.refused {
		dst = appendRefused(dst, seq)
	}
	if r.content.messages != (seqRun{}) {
		dst = appendContent(dst, r.content)
	}
	return dst
}

func TestOtherVersionIsRefused(t *testing.T) {
	head := append([]byte{recState}, appendText(nil, formatMagic)...)
	var r records
	if err := r.parse(append(head, 2)); err == nil || !strings.Contains(err.Error(), "unknown version 2 of the format, this program reads version 1") {
		t.Errorf("got %v", err)
	}
	if err := r.parse(append([]byte{recState}, appendText(nil, "Other")...)); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("got %v", err)
	}
}

func TestRecordsCutShort(t *testing.T) {
	for _, whole := range [][]byte{sampleHead(), samplePart()} {
		var r, again records
		for n := range whole {
			// What ends between two records is whole.
			if err := r.parse(whole[:n]); err == nil && !bytes.Equal(r.append(nil), whole[:n]) {
				t.Errorf("%d bytes: %+v", n, r)
			}
		}
		if err := again.parse(append(whole, 99)); err == nil {
			t.Error("a record of an unknown kind was parsed")
		}
	}
}

func FuzzRecords(f *testing.F) {
	f.Add(sampleHead())
	f.Add(samplePart())
	f.Add([]byte{recSettle, 1, 0})
	f.Add([]byte{recRun, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 9, 9, 9})
	f.Fuzz(func(t *testing.T, head []byte) {
		var r, again records
		if err := r.parse(head); err != nil {
			return
		}
		b := r.append(nil)
		if err := again.parse(b); err != nil || !bytes.Equal(again.append(nil), b) {
			t.Fatalf("%x became %x: %v", head, b, err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(mustEncode(f, sample()))
	f.Add(mustEncode(f, &link.Message{Body: []byte("x")}))
	f.Add([]byte{3, 2, fieldHeaders, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		block, rest, err := cutBlock(b)
		if err != nil {
			return
		}
		if len(block)+len(rest) >= len(b) {
			t.Fatal("a length takes no bytes")
		}
		m := new(link.Message)
		if decode(block, m, nil) != nil {
			return
		}
		again := mustEncode(t, m)
		like := mustDecode(t, again)
		if !bytes.Equal(mustEncode(t, like), again) {
			t.Fatalf("%x became %x", b, again)
		}
		n := new(link.Message)
		if err := decode(block, n, like); err != nil || !bytes.Equal(mustEncode(t, n), again) {
			t.Fatalf("with texts of another: %v", err)
		}
	})
}
