package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
)

// makeStore is a file store with a little of everything.
func makeStore(t *testing.T) (dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(t.TempDir(), "data")
	j, err := file.Open(vfs.OS{}, dir, file.Options{})
	must(err)
	b, err := broker.Open(t.Context(), broker.Config{Journal: j})
	must(err)
	s, err := b.OpenSession(broker.SessionConfig{VHost: "/", User: "guest"})
	must(err)
	// Each declaration returns when all before it is durable.
	_, err = s.DeclareQueue(broker.QueueSpec{Name: "orders", Durable: true})
	must(err)
	_, err = s.DeclareQueue(broker.QueueSpec{Name: "copies", Durable: true, AutoDelete: true, Args: []byte("\x0dx-message-ttlI\x00\x00\xea\x60")})
	must(err)
	must(s.DeclareExchange(broker.ExchangeSpec{Name: "log", Type: "topic", Durable: true}))
	must(s.BindQueue("orders", "log", "order.*", nil))
	must(s.BindQueue("copies", "log", "#", nil))
	ch := s.OpenChannel(1)
	for _, body := range []string{"first", "second"} {
		must(ch.Publish(&broker.Publish{Key: []byte("orders"), Persistent: true, Body: []byte(body)}))
	}
	must(ch.Publish(&broker.Publish{
		Exchange: []byte("log"), Key: []byte("order.new"), Persistent: true,
		Properties: []byte("\x01\x0atext/plain\x08\x02id"), Body: []byte("to both, and longer than is shown"),
	}))
	s.Flush()
	must(s.DeclareExchange(broker.ExchangeSpec{Name: "gone", Type: "fanout", Durable: true}))
	_, err = s.PurgeQueue("copies")
	must(err)
	must(s.DeleteExchange("gone", false))
	_, err = s.DeleteQueue("copies", false, false)
	must(err)
	s.Close()
	must(b.Close(t.Context()))
	must(j.Close())
	return dir
}

// What is in batches, in words. How records are gathered in batches is a matter
// of time, and not shown here.
const dumped = `    a new owner begins
    virtual host "/"
    queue 1 "orders" in "/", durable
    queue 2 "copies" in "/", durable, auto-delete, arguments x-message-ttl=60000
    topic exchange "log" in "/", durable
    bind queue "orders" to exchange "log" in "/", key "order.*"
    bind queue "copies" to exchange "log" in "/", key "#"
    publish to queue 1 "orders": 2 messages, numbers 0 to 1, 39 bytes
      exchange "", key "orders", body of 5 bytes: "first"
      exchange "", key "orders", body of 6 bytes: "second"
    publish to queue 1 "orders" as 2, queue 2 "copies" as 0: 1 message, 69 bytes; 1: no attributes; 2: expires TIME, head of 36 bytes
      exchange "log", key "order.new", content-type="text/plain" message-id="id", body of 33 bytes: "to both, "…
    fanout exchange "gone" in "/", durable
    settle in queue 2 "copies": number 0
    exchange "gone" in "/" is deleted
    queue 2 "copies" is deleted
`

func TestDump(t *testing.T) {
	dir := makeStore(t)
	before := contents(t, dir)
	got := runFerry(t, nil, "dump", dir, "--bodies=9")
	if got.code != 0 || got.errors != "" {
		t.Fatalf("exit code %d: %s", got.code, got.errors)
	}
	var records strings.Builder
	batches := 0
	for line := range strings.Lines(got.out) {
		switch {
		case strings.HasPrefix(line, "    "):
			records.WriteString(line)
		case strings.HasPrefix(line, "  batch "):
			batches++
			if !regexp.MustCompile(fmt.Sprintf(`^  batch %d  offset \d+, epoch 1, checkpoint 0, durable before it \d+, head \d+ bytes, body \d+ bytes\n$`, batches)).MatchString(line) {
				t.Errorf("batch %d: %q", batches, line)
			}
		case !regexp.MustCompile(`^(segment 1  0000000000000001\.seg, \d+ bytes, from position 1, epoch before it 0, checkpoint before it 0|  mark  offset \d+: all up to position \d+ is durable|  zeros  offset \d+, \d+ bytes: .*)\n$`).MatchString(line):
			t.Errorf("unexpected: %q", line)
		}
	}
	if got := regexp.MustCompile(`expires [0-9-]+T[0-9:.]+Z`).ReplaceAllString(records.String(), "expires TIME"); got != dumped {
		t.Errorf("got:\n%s\nwant:\n%s", got, dumped)
	}
	if contents(t, dir) != before {
		t.Error("the dump has changed the store")
	}
	if got := runFerry(t, nil, "dump", "file:"+dir); strings.Contains(got.out, "body of") {
		t.Errorf("bodies are shown without being asked for:\n%s", got.out)
	}
}

func TestDumpAsJSON(t *testing.T) {
	got := runFerry(t, nil, "dump", "--json", "--bodies", makeStore(t))
	if got.code != 0 {
		t.Fatalf("exit code %d: %s", got.code, got.errors)
	}
	byType := map[string][]map[string]any{}
	for lines := bufio.NewScanner(strings.NewReader(got.out)); lines.Scan(); {
		var o map[string]any
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatalf("not JSON: %s", lines.Text())
		}
		kind, _ := o["type"].(string)
		byType[kind] = append(byType[kind], o)
	}
	for kind, n := range map[string]int{
		"segment": 1, "epoch": 1, "vhost": 1, "queue": 2, "exchange": 2, "bind": 2, "publish": 1, "publish-to-many": 1,
		"message": 3, "settle": 1, "exchange-deleted": 1, "queue-deleted": 1,
	} {
		if len(byType[kind]) != n {
			t.Errorf("%d objects of type %s, want %d", len(byType[kind]), kind, n)
		}
	}
	if len(byType["message"]) == 3 {
		m := byType["message"][2]
		properties, _ := m["properties"].(map[string]any)
		if m["exchange"] != "log" || m["persistent"] != true || m["body"] != "dG8gYm90aCwgYW5kIGxvbmdlciB0aGFuIGlzIHNob3du" || properties["message-id"] != "id" {
			t.Errorf("message %v", m)
		}
	}
}

func TestDumpOfAttributesAndPriorities(t *testing.T) {
	at := time.UnixMilli(1700000000123).UTC()
	for _, x := range []struct {
		r           broker.RecordInfo
		words, json string
	}{
		{
			broker.RecordInfo{Kind: "publish", Queue: 3, First: 7, Count: 3, Sizes: []uint64{1, 2, 3}, Attributes: []broker.MessageAttributes{
				{Expires: at}, {Expires: at}, {Waits: at, Count: 1, HeadBytes: 9},
			}},
			`publish to queue 3: 3 messages, numbers 7 to 9, 6 bytes; 1: expires 2023-11-14T22:13:20.123Z; 3: waits until 2023-11-14T22:13:20.123Z, 1 delivery in vain, head of 9 bytes`,
			`"attributes":[{"expires":"2023-11-14T22:13:20.123Z"},{"expires":"2023-11-14T22:13:20.123Z"},{"waits":"2023-11-14T22:13:20.123Z","deliveries":1,"head_bytes":9}]`,
		},
		{
			broker.RecordInfo{Kind: "attributes", Queue: 3, First: 7, Count: 1, Attributes: []broker.MessageAttributes{{Count: 2}}},
			`attributes in queue 3: number 7, 2 deliveries in vain`,
			`"attributes":[{"deliveries":2}]`,
		},
		{
			broker.RecordInfo{Kind: "queue-state", Queue: 3, Name: "q", VHost: "/", Lanes: []broker.LaneInfo{
				{Priority: 9, Tail: 20, Floor: 10, SettledRun: []broker.SettledRun{{First: 12, Count: 2}}}, {Tail: 5, Floor: 5},
			}},
			`queue 3 "q" in "/"; priority 9: next message 20, settled: all below 10, 12 to 13; priority 0: next message 5, settled: all below 5`,
			`"lanes":[{"priority":9,"tail":20,"floor":10,"settled":[[12,2]]},{"priority":0,"tail":5,"floor":5}]`,
		},
	} {
		if got := (&people{queues: map[uint64]string{}}).words(&x.r); got != x.words {
			t.Errorf("%s\nwant %s", got, x.words)
		}
		var out strings.Builder
		if err := (machines{json.NewEncoder(&out)}).record(&file.Part{}, &x.r); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), x.json) {
			t.Errorf("%s\nwant in it %s", out.String(), x.json)
		}
	}
}

func TestDumpOfDuplicateIDs(t *testing.T) {
	r := &broker.RecordInfo{Kind: "ids", VHost: "/", Key: "q", IDs: [][]byte{[]byte("0123456789abcdef"), []byte("ghijklmnopqrstuv")}}
	if got, want := (&people{}).words(r), `2 duplicate ids at exchange "", key "q" in "/"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	r.Whole, r.IDs = true, r.IDs[:1]
	if got, want := (&people{}).words(r), `1 duplicate id at exchange "", key "q" in "/", all there are`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var out strings.Builder
	if err := (machines{json.NewEncoder(&out)}).record(&file.Part{}, r); err != nil {
		t.Fatal(err)
	}
	if want := `{"type":"ids","position":0,"vhost":"/","name":"","key":"q","ids":["30313233343536373839616263646566"],"whole":true}` + "\n"; out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
}

// Damage is told of with its place, and what is behind it is shown.
func TestDumpOfADamagedStore(t *testing.T) {
	const head = 64 + 64 // of the first batch
	dir := makeStore(t)
	name := filepath.Join(dir, "0000000000000001.seg")
	text := []byte(contents(t, dir))
	text[head] ^= 1
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	got := runFerry(t, nil, "dump", dir)
	if got.code != 1 || !strings.Contains(got.errors, name+": damaged at offset 64: ") {
		t.Errorf("exit code %d:\n%s", got.code, got.errors)
	}
	if !strings.Contains(got.out, "NOT WHOLE  offset 64") || !strings.Contains(got.out, `queue 2 "copies"`) {
		t.Errorf("it shows:\n%s", got.out)
	}
	if got := runFerry(t, nil, "dump", "--json", dir); got.code != 1 || !strings.Contains(got.out, `"type":"damage"`) {
		t.Errorf("as JSON: exit code %d:\n%s", got.code, got.out)
	}
}

// What a crash leaves at the end is no damage.
func TestDumpOfATornTail(t *testing.T) {
	dir := makeStore(t)
	last := regexp.MustCompile(`batch \d+  offset (\d+)`)
	all := last.FindAllStringSubmatch(runFerry(t, nil, "dump", dir).out, -1)
	var offset int
	if _, err := fmt.Sscan(all[len(all)-1][1], &offset); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "0000000000000001.seg"), int64(offset)+30); err != nil {
		t.Fatal(err)
	}
	got := runFerry(t, nil, "dump", dir)
	if got.code != 0 || !strings.Contains(got.errors, fmt.Sprintf("offset %d", offset)) || !strings.Contains(got.errors, "a crash left this") {
		t.Errorf("exit code %d:\n%s", got.code, got.errors)
	}
}

func TestQuoted(t *testing.T) {
	for in, want := range map[string]string{
		"":                   `""`,
		"text":               `"text"`,
		"two\nlines":         `"two\nlines"`,
		"Grüße":              `"Grüße"`,
		"Gr\xc3":             `"Gr"`, // cut within a letter
		"\x00\x01":           "0001",
		"a\xff\xff\xff\xffb": "61ffffffff62",
	} {
		if got := quoted([]byte(in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func contents(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "0000000000000001.seg"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
