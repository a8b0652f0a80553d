package history

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// Two brokers: a owns the log in epoch 1 and b takes over in epoch 2. Connections 1
// (publishes) and 2 (receives two at a time) are to a, 3 and 4 the same to b. m1 is
// stored, delivered and acknowledged under a; m2 is settled before it is written; m3
// is stored under a and delivered by both; m4 is never confirmed; m5 is stored under b.
func sound() (History, Log) {
	h := History{
		{Kind: Connected, Conn: 1, Node: "a", Epoch: 1},
		{Kind: Connected, Conn: 2, Node: "a", Epoch: 1, Prefetch: 2},
		{Kind: Sent, Conn: 1, ID: "m1"},
		{Kind: Confirmed, Conn: 1, ID: "m1"},
		{Kind: Delivered, Conn: 2, ID: "m1"},
		{Kind: Acknowledged, Conn: 2, ID: "m1"},
		{Kind: Sent, Conn: 1, ID: "m2"},
		{Kind: Delivered, Conn: 2, ID: "m2"},
		{Kind: Acknowledged, Conn: 2, ID: "m2"},
		{Kind: Confirmed, Conn: 1, ID: "m2"},
		{Kind: Sent, Conn: 1, ID: "m3"},
		{Kind: Confirmed, Conn: 1, ID: "m3"},
		{Kind: Delivered, Conn: 2, ID: "m3"},
		{Kind: Sent, Conn: 1, ID: "m4"},
		// a is paused, and b takes over.
		{Kind: Connected, Conn: 3, Node: "b", Epoch: 2},
		{Kind: Connected, Conn: 4, Node: "b", Epoch: 2, Prefetch: 2},
		{Kind: Delivered, Conn: 4, ID: "m3", Redelivered: true},
		{Kind: Acknowledged, Conn: 4, ID: "m3"},
		{Kind: Sent, Conn: 3, ID: "m5"},
		{Kind: Confirmed, Conn: 3, ID: "m5"},
		{Kind: Disconnected, Conn: 1},
		{Kind: Disconnected, Conn: 2},
		{Kind: Delivered, Conn: 4, ID: "m5"},
		{Kind: Acknowledged, Conn: 4, ID: "m5"},
		{Kind: Disconnected, Conn: 3},
		{Kind: Disconnected, Conn: 4},
	}
	log := Log{
		{Position: 1, Epoch: 1, Writer: "w1", Owner: "a"},
		{Position: 2, Epoch: 1, Writer: "w1", IDs: []string{"m1"}},
		{Position: 3, Epoch: 1, Writer: "w1", IDs: []string{"m3"}},
		{Position: 4, Epoch: 1, Writer: "w1", IDs: []string{"m4"}},
		{Position: 5, Epoch: 2, Writer: "w2", Owner: "b"},
		{Position: 6, Epoch: 2, Writer: "w2", IDs: []string{"m5"}},
	}
	return timed(h), log
}

// timed gives the events times, a second apart.
func timed(h History) History {
	for i := range h {
		h[i].At = time.Duration(i) * time.Second
	}
	return h
}

// A draft is a history and a log that are made wrong.
type draft struct {
	h   History
	log Log
}

// find is the place of an event.
func (d *draft) find(t *testing.T, k Kind, conn int, id string) int {
	t.Helper()
	at := slices.IndexFunc(d.h, func(e Event) bool { return e.Kind == k && e.Conn == conn && e.ID == id })
	if at < 0 {
		t.Fatalf("no event %s %d %s", k, conn, id)
	}
	return at
}

func (d *draft) remove(t *testing.T, k Kind, conn int, id string) {
	t.Helper()
	at := d.find(t, k, conn, id)
	d.h = slices.Delete(d.h, at, at+1)
}

// behind inserts events behind one.
func (d *draft) behind(t *testing.T, k Kind, conn int, id string, events ...Event) {
	t.Helper()
	d.h = slices.Insert(d.h, d.find(t, k, conn, id)+1, events...)
}

func TestASoundHistoryIsClean(t *testing.T) {
	h, log := sound()
	r := Check(h, log, Options{Drained: true})
	if !r.Clean() {
		t.Errorf("%s", r)
	}
	want := Report{
		Connections: 4, Epochs: 2, Sent: 5, Confirmed: 4, Delivered: 5, Acknowledged: 4,
		Stored: 3, Elided: 1, Batches: 6, Repeats: 1, Marked: 1,
	}
	if !reflect.DeepEqual(*r, want) {
		t.Errorf("%+v\nwant %+v", *r, want)
	}
}

// Nothing to judge is not a success.
func TestAnEmptyHistoryIsNotClean(t *testing.T) {
	_, log := sound()
	if r := Check(nil, log, Options{}); r.Clean() {
		t.Errorf("%s", r)
	}
}

// A history that is wrong in any one way is found, under the rule that it breaks.
func TestWrongHistoriesAreFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		rule  Rule
		wrong func(t *testing.T, d *draft)
	}{
		{"a confirmed message is not in the log", Unwritten, func(_ *testing.T, d *draft) {
			d.log[5].IDs = nil
		}},
		{"nobody acknowledged what was not written", Unwritten, func(t *testing.T, d *draft) {
			d.remove(t, Acknowledged, 2, "m2")
		}},
		{"it was acknowledged after its confirm only", Unwritten, func(t *testing.T, d *draft) {
			d.remove(t, Acknowledged, 2, "m2")
			d.behind(t, Confirmed, 1, "m2", Event{Kind: Acknowledged, Conn: 2, ID: "m2"})
		}},
		{"it was acknowledged to another epoch's broker", Unwritten, func(t *testing.T, d *draft) {
			// b delivers, before m2 is confirmed by a, what a had never written.
			d.remove(t, Acknowledged, 2, "m2")
			d.remove(t, Confirmed, 1, "m2")
			d.behind(t, Acknowledged, 4, "m3",
				Event{Kind: Delivered, Conn: 4, ID: "m2", Redelivered: true},
				Event{Kind: Acknowledged, Conn: 4, ID: "m2"},
				Event{Kind: Confirmed, Conn: 1, ID: "m2"})
		}},
		{"what a confirmed b wrote", Foreign, func(_ *testing.T, d *draft) {
			d.log[2].IDs = nil
			d.log[5].IDs = append(d.log[5].IDs, "m3")
		}},
		{"a superseded owner's batch landed, and was confirmed", Superseded, func(_ *testing.T, d *draft) {
			d.log[2].IDs = nil
			d.log = append(d.log, Batch{Position: 7, Epoch: 1, Writer: "w1", IDs: []string{"m3"}})
		}},
		{"a superseded owner's batch landed", Order, func(_ *testing.T, d *draft) {
			d.log = append(d.log, Batch{Position: 7, Epoch: 1, Writer: "w1"})
		}},
		{"what was sent after the takeover is confirmed by the old owner", Superseded, func(t *testing.T, d *draft) {
			d.behind(t, Confirmed, 3, "m5", Event{Kind: Sent, Conn: 1, ID: "m6"}, Event{Kind: Confirmed, Conn: 1, ID: "m6"})
			d.log[3].IDs = append(d.log[3].IDs, "m6")
		}},
		{"two wrote in one epoch", Writers, func(_ *testing.T, d *draft) {
			d.log[3].Writer = "w2"
		}},
		{"an epoch has two owners", Identity, func(_ *testing.T, d *draft) {
			d.log[3].Owner = "b"
		}},
		{"a broker calls itself the owner of another's epoch", Identity, func(_ *testing.T, d *draft) {
			d.h[14].Node = "c"
		}},
		{"a broker serves in an epoch that the log does not know", Identity, func(_ *testing.T, d *draft) {
			d.log = d.log[:4]
		}},
		{"a confirmed message never came", Lost, func(t *testing.T, d *draft) {
			d.remove(t, Delivered, 4, "m5")
			d.remove(t, Acknowledged, 4, "m5")
		}},
		{"a message has two holders in one epoch", Holders, func(t *testing.T, d *draft) {
			d.h = slices.Insert(d.h, 2, Event{Kind: Connected, Conn: 5, Node: "a", Epoch: 1, Prefetch: 2})
			d.behind(t, Delivered, 2, "m1", Event{Kind: Delivered, Conn: 5, ID: "m1"})
		}},
		{"a superseded owner delivers what was sent after the takeover", Stale, func(t *testing.T, d *draft) {
			d.behind(t, Confirmed, 3, "m5",
				Event{Kind: Sent, Conn: 1, ID: "m6"},
				Event{Kind: Delivered, Conn: 2, ID: "m6"})
		}},
		{"a superseded owner confirms what it settled after the takeover", Stale, func(t *testing.T, d *draft) {
			d.behind(t, Confirmed, 3, "m5",
				Event{Kind: Sent, Conn: 1, ID: "m6"},
				Event{Kind: Delivered, Conn: 2, ID: "m6"},
				Event{Kind: Acknowledged, Conn: 2, ID: "m6"},
				Event{Kind: Confirmed, Conn: 1, ID: "m6"})
		}},
		{"a superseded owner takes acknowledgements", Stale, func(t *testing.T, d *draft) {
			// Of m1, m2 and m3 two were acknowledged before, and two may be out.
			d.behind(t, Confirmed, 3, "m5",
				Event{Kind: Delivered, Conn: 2, ID: "m4"},
				Event{Kind: Acknowledged, Conn: 2, ID: "m4"},
				Event{Kind: Delivered, Conn: 2, ID: "m1", Redelivered: true})
		}},
		{"a batch is missing", Malformed, func(_ *testing.T, d *draft) {
			d.log = slices.Delete(d.log, 3, 4)
		}},
		{"the first batches are missing", Malformed, func(_ *testing.T, d *draft) {
			d.log = d.log[1:]
		}},
		{"a position comes twice", Malformed, func(_ *testing.T, d *draft) {
			d.log = slices.Insert(d.log, 4, d.log[3])
		}},
		{"an id was used twice", Malformed, func(t *testing.T, d *draft) {
			d.behind(t, Sent, 3, "m5", Event{Kind: Sent, Conn: 3, ID: "m4"})
		}},
		{"a confirm came after the end of its connection", Malformed, func(t *testing.T, d *draft) {
			d.behind(t, Disconnected, 1, "", Event{Kind: Confirmed, Conn: 1, ID: "m4"})
		}},
		{"a confirm came on another connection", Malformed, func(t *testing.T, d *draft) {
			d.behind(t, Confirmed, 3, "m5", Event{Kind: Confirmed, Conn: 3, ID: "m4"})
		}},
		{"a message was delivered that nobody sent", Unsent, func(t *testing.T, d *draft) {
			d.behind(t, Delivered, 4, "m5", Event{Kind: Delivered, Conn: 4, ID: "m9"})
		}},
		{"a message is in the log that nobody sent", Unsent, func(_ *testing.T, d *draft) {
			d.log[5].IDs = append(d.log[5].IDs, "m9")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d draft
			d.h, d.log = sound()
			c.wrong(t, &d)
			r := Check(timed(d.h), d.log, Options{Drained: true})
			if r.Clean() || !slices.ContainsFunc(r.Faults, func(f Fault) bool { return f.Rule == c.rule }) {
				t.Errorf("nothing is found under %q: %s", c.rule, r)
			}
		})
	}
}

// What is not wrong is not found: a message that was under way when the owner
// changed, one that is copied in a later epoch, one that a stopped owner had sent
// off, one that a stopped owner serves for no longer than the grace.
func TestHistoriesThatAreSound(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(t *testing.T, d *draft)
	}{
		{"a confirm that was on its way", func(t *testing.T, d *draft) {
			d.behind(t, Confirmed, 3, "m5", Event{Kind: Confirmed, Conn: 1, ID: "m4"})
			d.behind(t, Delivered, 4, "m5", Event{Kind: Delivered, Conn: 4, ID: "m4"})
		}},
		{"a message that cleaning copies under another epoch", func(_ *testing.T, d *draft) {
			d.log[5].IDs = append(d.log[5].IDs, "m1", "m3")
		}},
		{"a delivery that was on its way", func(t *testing.T, d *draft) {
			d.behind(t, Confirmed, 3, "m5", Event{Kind: Delivered, Conn: 2, ID: "m4"})
		}},
		{"a message that was refused", func(t *testing.T, d *draft) {
			d.behind(t, Sent, 3, "m5", Event{Kind: Sent, Conn: 3, ID: "m7"}, Event{Kind: Refused, Conn: 3, ID: "m7"})
		}},
		{"a stopped owner that finds out", func(t *testing.T, d *draft) {
			at := d.find(t, Disconnected, 1, "")
			d.h = slices.Insert(d.h, at,
				Event{Kind: Sent, Conn: 1, ID: "m6"},
				Event{Kind: Delivered, Conn: 2, ID: "m6"})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d draft
			d.h, d.log = sound()
			c.edit(t, &d)
			if r := Check(timed(d.h), d.log, Options{Drained: true, Grace: 3 * time.Second}); !r.Clean() {
				t.Errorf("%s", r)
			}
		})
	}
}

// An owner that is stopped has a moment to find out, and no more.
func TestGraceEnds(t *testing.T) {
	var d draft
	d.h, d.log = sound()
	d.h = slices.Insert(d.h, d.find(t, Disconnected, 1, ""),
		Event{Kind: Sent, Conn: 1, ID: "m6"},
		Event{Kind: Delivered, Conn: 2, ID: "m6"})
	d.h = timed(d.h)
	for _, c := range []struct {
		grace time.Duration
		late  int
		clean bool
	}{{time.Second, 0, false}, {2 * time.Second, 1, true}} {
		if r := Check(d.h, d.log, Options{Grace: c.grace}); r.Clean() != c.clean || r.Late != c.late {
			t.Errorf("within %v: %s", c.grace, r)
		}
	}
}

// Where something is left in queues nothing counts as lost.
func TestNothingIsLostThatIsNotTakenYet(t *testing.T) {
	var d draft
	d.h, d.log = sound()
	d.remove(t, Delivered, 4, "m5")
	d.remove(t, Acknowledged, 4, "m5")
	if r := Check(timed(d.h), d.log, Options{}); !r.Clean() {
		t.Errorf("%s", r)
	}
}

// A report stays readable however much is wrong.
func TestFaultsAreBounded(t *testing.T) {
	h, log := sound()
	for range 10 * maxFaults {
		log = append(log, log[0])
	}
	if r := Check(h, log, Options{}); len(r.Faults) != maxFaults || r.More == 0 {
		t.Errorf("%d faults are told, and %d more", len(r.Faults), r.More)
	}
}

func TestRecorder(t *testing.T) {
	r := NewRecorder()
	p := r.Connected("a", 1, 0)
	c := r.Connected("a", 1, 10)
	r.Sent(p, "m")
	r.Delivered(c, "m", true)
	r.Acknowledged(c, "m")
	r.Confirmed(p, "m")
	r.Refused(p, "n")
	r.Disconnected(c)
	want := History{
		{Kind: Connected, Conn: 1, Node: "a", Epoch: 1},
		{Kind: Connected, Conn: 2, Node: "a", Epoch: 1, Prefetch: 10},
		{Kind: Sent, Conn: 1, ID: "m"},
		{Kind: Delivered, Conn: 2, ID: "m", Redelivered: true},
		{Kind: Acknowledged, Conn: 2, ID: "m"},
		{Kind: Confirmed, Conn: 1, ID: "m"},
		{Kind: Refused, Conn: 1, ID: "n"},
		{Kind: Disconnected, Conn: 2},
	}
	got := slices.Clone(r.History())
	var text bytes.Buffer
	if err := got.Write(&text); err != nil {
		t.Fatal(err)
	}
	read, err := Read(&text)
	if err != nil || !reflect.DeepEqual(read, got) {
		t.Errorf("%v, %v; want %v", read, err, got)
	}
	for i := range got {
		if i > 0 && got[i].At < got[i-1].At {
			t.Errorf("event %d is before the one before it", i)
		}
		got[i].At = 0
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := Read(strings.NewReader(`{"kind":"sent"}` + "\n{")); err == nil {
		t.Error("half a history is taken for a whole one")
	}
}
