package broker

import (
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/message"
)

// args is a header list: {"x": "y"}.
const describedArgs = "\x01xS\x00\x00\x00\x01y"

func nums(kind recordKind, n ...uint64) []byte {
	return more([]byte{kind}, n...)
}

func texts(b []byte, s ...string) []byte {
	for _, s := range s {
		b = appendText(b, s)
	}
	return b
}

func more(b []byte, n ...uint64) []byte {
	for _, n := range n {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// with appends attributes, and numbers below 128.
func with(b []byte, list ...any) []byte {
	var c attrCoder
	for _, x := range list {
		switch x := x.(type) {
		case attrs:
			b = c.append(b, x)
		case int:
			b = append(b, byte(x))
		}
	}
	return b
}

func second(n int64) time.Time { return time.Unix(n, 0).UTC() }

// Every kind of record, with every field that it has.
var described = []struct {
	record []byte
	want   RecordInfo
}{
	{nums(recNone), RecordInfo{Kind: "nothing"}},
	{
		nums(recRun, 300, 7, 2, 40, 200),
		RecordInfo{Kind: "publish", Queue: 300, First: 7, Count: 2, Sizes: []uint64{40, 200}},
	},
	{
		nums(recMany, 2, 1, 8, 2, 9, 30),
		RecordInfo{Kind: "publish-to-many", Targets: []MessageRef{{1, 8}, {2, 9}}, Sizes: []uint64{30}},
	},
	{
		nums(recParts, 1, 1, 10, 2, 5, 6, 7, 8, 9, 10),
		RecordInfo{Kind: "publish-in-parts", Targets: []MessageRef{{1, 10}}, Parts: []journal.Ref{
			{Position: 5, Offset: 6, Length: 7}, {Position: 8, Offset: 9, Length: 10},
		}},
	},
	{nums(recPart, 1, 11, 500), RecordInfo{Kind: "part", Targets: []MessageRef{{1, 11}}, Sizes: []uint64{500}}},
	{nums(recSettle, 1, 2, 3), RecordInfo{Kind: "settle", Queue: 1, First: 2, Count: 3}},
	{nums(recTxBegin), RecordInfo{Kind: "transaction-begin"}},
	{nums(recTxEnd), RecordInfo{Kind: "transaction-end"}},
	{nums(recEpoch), RecordInfo{Kind: "epoch"}},
	{texts(nums(recVHost), "v"), RecordInfo{Kind: "vhost", VHost: "v"}},
	{
		texts(append(texts(nums(recExchange), "v", "x", "topic"), flags(true, true, true)), describedArgs),
		RecordInfo{
			Kind: "exchange", VHost: "v", Name: "x", Type: "topic", Args: map[string]any{"x": "y"},
			Durable: true, AutoDelete: true, Internal: true,
		},
	},
	{texts(nums(recExchangeGone), "v", "x"), RecordInfo{Kind: "exchange-deleted", VHost: "v", Name: "x"}},
	{
		texts(nums(recSetting), "policy", "v", "p", "\x01{}"),
		RecordInfo{Kind: "setting", Type: "policy", VHost: "v", Name: "p"},
	},
	{
		texts(nums(recSetting), "user", "", "u", ""),
		RecordInfo{Kind: "setting", Type: "user", Name: "u", Deleted: true},
	},
	{texts(nums(recVHostGone), "v"), RecordInfo{Kind: "vhost-deleted", VHost: "v"}},
	{
		texts(append(texts(nums(recQueue, 4), "v", "q"), flags(true, false, false)), describedArgs),
		RecordInfo{Kind: "queue", Queue: 4, VHost: "v", Name: "q", Args: map[string]any{"x": "y"}, Durable: true},
	},
	{nums(recQueueGone, 4), RecordInfo{Kind: "queue-deleted", Queue: 4}},
	{
		texts(append(texts(nums(recBind), "v", "x"), 0), "q", "key", describedArgs),
		RecordInfo{
			Kind: "bind", VHost: "v", Name: "x", Type: "queue", Destination: "q", Key: "key",
			Args: map[string]any{"x": "y"},
		},
	},
	{
		texts(append(texts(nums(recUnbind), "v", "x"), 1), "y", "key", ""),
		RecordInfo{
			Kind: "unbind", VHost: "v", Name: "x", Type: "exchange", Destination: "y", Key: "key",
			Args: map[string]any{},
		},
	},
	{nums(recCheckpoint, 17), RecordInfo{Kind: "checkpoint", LastQueue: 17}},
	{
		append(texts(append(texts(nums(recState, 4), "v", "q"), flags(true, true, false)), ""), 90, 10, 2, 5, 3, 1, 2),
		RecordInfo{
			Kind: "queue-state", Queue: 4, VHost: "v", Name: "q", Args: map[string]any{}, Durable: true, AutoDelete: true,
			Tail: 90, Floor: 10, SettledRun: []SettledRun{{15, 3}, {19, 2}},
		},
	},
	{nums(recCheckpointEnd, 33), RecordInfo{Kind: "checkpoint-end", Position: 33}},
	{
		append(texts(nums(recAccepted), "v", "p0"), 2, 5, 3, 1, 2),
		RecordInfo{Kind: "accepted", VHost: "v", Name: "p0", Accepted: []AcceptedRun{{5, 7}, {9, 10}}},
	},
	{
		append(texts(nums(recSeen), "v", "x"), "\x01\x020123456789abcdef\x00ghijklmnopqrstuv\x05"...),
		RecordInfo{Kind: "seen", VHost: "v", Name: "x", Whole: true, IDs: [][]byte{[]byte("0123456789abcdef"), []byte("ghijklmnopqrstuv")}},
	},
	{
		append(texts(nums(recIDs), "v", "x", "key"), "\x01\x020123456789abcdefghijklmnopqrstuv"...),
		RecordInfo{
			Kind: "ids", VHost: "v", Name: "x", Key: "key", Whole: true, IDs: [][]byte{[]byte("0123456789abcdef"), []byte("ghijklmnopqrstuv")},
		},
	},
	{append(texts(nums(recOwner), "node-a"), 0x88, 0x27), RecordInfo{Kind: "owner", Node: "node-a", Lease: 5 * time.Second}},
	{nums(recHandover), RecordInfo{Kind: "handover"}},
	{
		append(texts(nums(recSetting), "policy", "v", "p"), 3, 1, '{', '}'),
		RecordInfo{Kind: "setting", Type: "policy", VHost: "v", Name: "p"},
	},
	{
		with(nums(recRunWith, 300, 7, 2, 40), attrs{due: 1000, wake: 2000, count: 3, over: 4}, 41, attrs{due: 1001, wake: 2002, count: 5, over: 6}),
		RecordInfo{
			Kind: "publish", Queue: 300, First: 7, Count: 2, Sizes: []uint64{40, 41},
			Attributes: []MessageAttributes{{second(1), second(2), 3, 4}, {second(1).Add(time.Millisecond), second(2).Add(2 * time.Millisecond), 5, 6}},
		},
	},
	{
		with(nums(recManyWith, 2, 1, 8), attrs{due: 1000}, 2, 9, attrs{count: 1}, 30),
		RecordInfo{
			Kind: "publish-to-many", Targets: []MessageRef{{1, 8}, {2, 9}}, Sizes: []uint64{30},
			Attributes: []MessageAttributes{{Expires: second(1)}, {Count: 1}},
		},
	},
	{
		with(nums(recPartsWith, 1, 1, 10), attrs{wake: 3000}, 1, 5, 6, 7),
		RecordInfo{
			Kind: "publish-in-parts", Targets: []MessageRef{{1, 10}}, Parts: []journal.Ref{{Position: 5, Offset: 6, Length: 7}},
			Attributes: []MessageAttributes{{Waits: second(3)}},
		},
	},
	{
		with(nums(recAttrs, 1, 2, 2), attrs{count: 300}, attrs{}),
		RecordInfo{Kind: "attributes", Queue: 1, First: 2, Count: 2, Attributes: []MessageAttributes{{Count: 300}, {}}},
	},
	{
		more(append(texts(append(texts(nums(recLanes, 4), "v", "q"), flags(true, false, false)), ""), 2), 9<<laneShift+90, 9<<laneShift+10, 1, 5, 3, 20, 20, 0),
		RecordInfo{
			Kind: "queue-state", Queue: 4, VHost: "v", Name: "q", Args: map[string]any{}, Durable: true,
			Lanes: []LaneInfo{
				{9, 9<<laneShift + 90, 9<<laneShift + 10, []SettledRun{{9<<laneShift + 15, 3}}},
				{0, 20, 20, []SettledRun{}},
			},
		},
	},
}

func TestDescribeHeadKnowsEveryRecord(t *testing.T) {
	for kind, name := range recordNames {
		found := slices.ContainsFunc(described, func(d struct {
			record []byte
			want   RecordInfo
		},
		) bool {
			return int(d.record[0]) == kind && d.want.Kind == name
		})
		if name == "" || !found {
			t.Errorf("kind %d has the name %q and is tested: %v", kind, name, found)
		}
	}
	var head []byte
	var want []RecordInfo
	offset := uint64(0)
	for _, d := range described {
		head = append(head, d.record...)
		d.want.Offset = offset
		want = append(want, d.want)
		for _, n := range d.want.Sizes {
			offset += n
		}
	}
	var got []RecordInfo
	if err := DescribeHead(head, func(r RecordInfo) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	for i := range min(len(got), len(want)) {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("record %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
}

func TestDescribeHeadFindsFaults(t *testing.T) {
	for _, d := range described {
		for n := 1; n < len(d.record); n++ {
			if err := DescribeHead(d.record[:n], func(RecordInfo) {}); !errors.Is(err, errRecord) {
				t.Errorf("%s, cut after %d of %d bytes: %v", d.want.Kind, n, len(d.record), err)
			}
		}
	}
	seen := 0
	err := DescribeHead([]byte{recEpoch, byte(len(recordNames)), recEpoch}, func(RecordInfo) { seen++ })
	if !errors.Is(err, errRecord) || seen != 1 {
		t.Errorf("an unknown kind: %v after %d records, want %v after 1", err, seen, errRecord)
	}
}

// What a broker writes is described with nothing left over, and the messages
// stand where the records say.
func TestDescribeWhatABrokerWrites(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.queue("a", true)
	c.queue("b", true)
	if err := c.BindQueue("a", "amq.fanout", "", []byte(describedArgs)); err != nil {
		t.Fatal(err)
	}
	if err := c.BindQueue("b", "amq.fanout", "", nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"one", "two", string(make([]byte, 3*partSize)), "named", "in a transaction"}
	c.publish("", "a", want[0], true)
	c.publish("amq.fanout", "", want[1], true)
	c.publish("amq.fanout", "", want[2], true)
	c.bring("", "a", "p-1", want[3], true)
	if err := c.ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	c.publish("", "b", want[4], true)
	if err := c.ch.TxCommit(); err != nil {
		t.Fatal(err)
	}
	if err := w.b.takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteQueue("b", false, false); err != nil {
		t.Fatal(err)
	}
	c.Close()

	var found []string
	kinds := map[string]int{}
	bodies := map[uint64][]byte{}
	err := w.j.Replay(t.Context(), 0, 0, true, func(b journal.Batch) error {
		bodies[b.Position] = slices.Concat(b.Body...)
		return DescribeHead(b.Head, func(r RecordInfo) {
			kinds[r.Kind]++
			if r.Kind == "part" {
				return
			}
			var blocks [][]byte
			at := r.Offset
			for _, n := range r.Sizes {
				blocks = append(blocks, bodies[b.Position][at:at+n])
				at += n
			}
			var whole []byte
			for _, p := range r.Parts {
				whole = append(whole, bodies[p.Position][p.Offset:][:p.Length]...)
			}
			if whole != nil {
				blocks = append(blocks, whole)
			}
			for _, block := range blocks {
				m, err := DescribeMessage(block)
				if err != nil {
					t.Errorf("batch %d, %s: %v", b.Position, r.Kind, err)
				}
				found = append(found, string(m.Body))
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found, want) {
		t.Errorf("%d messages, want %d", len(found), len(want))
		for _, f := range found {
			t.Logf("%.20q", f)
		}
	}
	for _, kind := range []string{"vhost", "queue", "bind", "publish", "publish-to-many", "part", "publish-in-parts", "transaction-begin", "transaction-end", "checkpoint", "queue-state", "checkpoint-end", "queue-deleted", "accepted"} {
		if kinds[kind] == 0 {
			t.Errorf("there is no record of kind %s: %v", kind, kinds)
		}
	}
}

func TestDescribeMessageFindsDamage(t *testing.T) {
	block := append(message.AppendBlockHead(nil, true, nil, []byte("q"), nil), "hello"...)
	message.Seal(block)
	if m, err := DescribeMessage(block); err != nil || string(m.Body) != "hello" || m.Key != "q" {
		t.Errorf("got %+v, %v", m, err)
	}
	for i := range block {
		block[i] ^= 1
		if _, err := DescribeMessage(block); err == nil {
			t.Errorf("byte %d has changed, and nothing was found", i)
		}
		block[i] ^= 1
	}
}

func FuzzDescribeHead(f *testing.F) {
	for _, d := range described {
		f.Add(d.record)
	}
	f.Fuzz(func(_ *testing.T, head []byte) {
		_ = DescribeHead(head, func(RecordInfo) {})
	})
}
