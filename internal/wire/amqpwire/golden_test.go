package amqpwire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

const goldenChannel = 0x0102

func methodName(m Method) string { return reflect.TypeOf(m).Elem().Name() }

// The golden files hold what RabbitMQ's own codec reads and writes as the same
// fields. A line that changes is a peer that no longer understands us.
func checkGolden(t *testing.T, file string, lines []string) {
	t.Helper()
	path := "testdata/golden/" + file
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	old := strings.Split(strings.TrimSpace(string(want)), "\n")
	for i := range max(len(old), len(lines)) {
		var w, g string
		if i < len(old) {
			w = old[i]
		}
		if i < len(lines) {
			g = lines[i]
		}
		if w != g {
			t.Errorf("%s line %d:\n got %s\nwant %s", path, i+1, g, w)
		}
	}
}

func TestMethodsAreTheirGoldenBytes(t *testing.T) {
	var lines []string
	for _, m := range samples() {
		b, err := AppendMethod(nil, goldenChannel, m)
		if err != nil {
			t.Fatalf("%s: %v", methodName(m), err)
		}
		lines = append(lines, fmt.Sprintf("%s %x", methodName(m), b))
	}
	checkGolden(t, "methods.txt", lines)
}

func TestGoldenBytesAreTheirMethods(t *testing.T) {
	file, err := os.ReadFile("testdata/golden/methods.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(file)), "\n")
	want := samples()
	if len(lines) != len(want) {
		t.Fatalf("%d lines for %d methods", len(lines), len(want))
	}
	for i, line := range lines {
		name, text, _ := strings.Cut(line, " ")
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		f, n, err := ParseFrame(b, DefaultFrameMax)
		if err != nil || n != len(b) || f.Type != FrameMethod || f.Channel != goldenChannel {
			t.Fatalf("%s: ParseFrame: %+v %d %v", name, f, n, err)
		}
		got, err := ParseMethod(f.Payload)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, want[i]) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want[i])
		}
	}
}

// Every method that ParseMethod knows is in samples, with every field set: a
// golden line with a zero in it proves little.
func TestSamplesAreComplete(t *testing.T) {
	have := map[[2]uint16]bool{}
	for _, m := range samples() {
		class, method := m.ID()
		have[[2]uint16{class, method}] = true
		if got := newMethod(class, method); reflect.TypeOf(got) != reflect.TypeOf(m) {
			t.Errorf("%d.%d is %T, and newMethod says %T", class, method, m, got)
		}
		v := reflect.ValueOf(m).Elem()
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s.%s is zero", methodName(m), v.Type().Field(i).Name)
			}
		}
	}
	for class := range uint16(256) {
		for method := range uint16(256) {
			if newMethod(class, method) != nil && !have[[2]uint16{class, method}] {
				t.Errorf("method %d.%d has no sample", class, method)
			}
		}
	}
	v := reflect.ValueOf(sampleProperties())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("Properties.%s is zero", v.Type().Field(i).Name)
		}
	}
}

func TestContentIsItsGoldenBytes(t *testing.T) {
	p := sampleProperties()
	raw, err := AppendProperties(nil, &p)
	if err != nil {
		t.Fatal(err)
	}
	table, err := AppendTable(nil, sampleTable())
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "content.txt", []string{
		fmt.Sprintf("Table %x", table),
		fmt.Sprintf("Properties %x", raw),
		fmt.Sprintf("ContentHeader %x", AppendContentHeader(nil, goldenChannel, 0x0102030405060708, raw)),
		fmt.Sprintf("Body %x", AppendBody(nil, goldenChannel, []byte("body"), 0)),
		fmt.Sprintf("Heartbeat %x", AppendHeartbeat(nil)),
		fmt.Sprintf("ProtocolHeader %x", ProtocolHeader[:]),
	})
}

// Bits that share an octet must not be mistaken for each other: set one at a
// time.
func TestEachBitIsItsOwn(t *testing.T) {
	for _, m := range samples() {
		class, method := m.ID()
		typ := reflect.TypeOf(m).Elem()
		for i := range typ.NumField() {
			if typ.Field(i).Type.Kind() != reflect.Bool {
				continue
			}
			one := newMethod(class, method)
			reflect.ValueOf(one).Elem().Field(i).SetBool(true)
			b, err := AppendMethod(nil, 1, one)
			if err != nil {
				t.Fatal(err)
			}
			f, _, err := ParseFrame(b, 0)
			if err != nil {
				t.Fatal(err)
			}
			back, err := ParseMethod(f.Payload)
			if err != nil {
				t.Fatal(err)
			}
			again, err := AppendMethod(nil, 1, back)
			if err != nil || !bytes.Equal(b, again) {
				t.Errorf("%s.%s: %x became %x (%v)", typ.Name(), typ.Field(i).Name, b, again, err)
			}
			for j := range typ.NumField() {
				if typ.Field(j).Type.Kind() == reflect.Bool && reflect.ValueOf(back).Elem().Field(j).Bool() != (i == j) {
					t.Errorf("%s: only %s was set, but %s came back", typ.Name(), typ.Field(i).Name, typ.Field(j).Name)
				}
			}
		}
	}
}
