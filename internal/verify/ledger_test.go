package verify

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func mustSend(l *ledger, producer, n int) {
	for range n {
		l.settle(producer, l.submit(producer, time.Now()), confirmed, time.Now())
	}
}

func at(producer int, sequence uint64) stamp {
	return stamp{producer: uint32(producer), sequence: sequence}
}

func TestLedgerCounts(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		name string
		do   func(l *ledger)
		want Counts
	}{
		{"all is well", func(l *ledger) {
			mustSend(l, 0, 3)
			for s := range uint64(3) {
				l.arrive(0, at(0, s+1), marks{}, now)
			}
		}, Counts{Sent: 3, Confirmed: 3, Received: 3}},
		{"a confirmed message does not arrive", func(l *ledger) {
			mustSend(l, 0, 3)
			l.arrive(0, at(0, 1), marks{}, now)
			l.arrive(0, at(0, 3), marks{}, now)
		}, Counts{Sent: 3, Confirmed: 3, Received: 2, Lost: 1}},
		{"an unmarked repeat", func(l *ledger) {
			mustSend(l, 0, 1)
			l.arrive(0, at(0, 1), marks{}, now)
			l.arrive(0, at(0, 1), marks{}, now)
		}, Counts{Sent: 1, Confirmed: 1, Received: 1, Duplicated: 1}},
		{"a repeat that had to be sent again", func(l *ledger) {
			mustSend(l, 0, 2)
			l.arrive(0, at(0, 1), marks{}, now)
			l.arrive(0, at(0, 2), marks{resent: true}, now)
			l.arrive(0, at(0, 1), marks{resent: true}, now)
			l.arrive(0, at(0, 1), marks{redelivered: true, resent: true}, now)
		}, Counts{Sent: 2, Confirmed: 2, Received: 2, Duplicated: 1, Resent: 1, Redelivered: 1}},
		{"a marked repeat", func(l *ledger) {
			mustSend(l, 0, 1)
			l.arrive(0, at(0, 1), marks{}, now)
			l.arrive(0, at(0, 1), marks{redelivered: true}, now)
		}, Counts{Sent: 1, Confirmed: 1, Received: 1, Redelivered: 1}},
		{"marked at its first arrival", func(l *ledger) {
			mustSend(l, 0, 1)
			l.arrive(0, at(0, 1), marks{redelivered: true}, now)
		}, Counts{Sent: 1, Confirmed: 1, Received: 1, Redelivered: 1}},
		{"two change places", func(l *ledger) {
			mustSend(l, 0, 4)
			for _, s := range []uint64{1, 3, 2, 4} {
				l.arrive(0, at(0, s), marks{}, now)
			}
		}, Counts{Sent: 4, Confirmed: 4, Received: 4, Reordered: 1}},
		{"a repeat is not out of order", func(l *ledger) {
			mustSend(l, 0, 2)
			for _, s := range []uint64{1, 2, 1} {
				l.arrive(0, at(0, s), marks{redelivered: true}, now)
			}
		}, Counts{Sent: 2, Confirmed: 2, Received: 2, Redelivered: 3}},
		{"each producer has an order of its own", func(l *ledger) {
			mustSend(l, 0, 2)
			mustSend(l, 1, 2)
			l.arrive(0, at(0, 2), marks{}, now)
			l.arrive(0, at(1, 1), marks{}, now)
			l.arrive(0, at(1, 2), marks{}, now)
			l.arrive(0, at(0, 1), marks{}, now)
		}, Counts{Sent: 4, Confirmed: 4, Received: 4, Reordered: 1}},
		{"between consumers there is no order", func(l *ledger) {
			mustSend(l, 0, 2)
			l.arrive(0, at(0, 2), marks{}, now)
			l.arrive(1, at(0, 1), marks{}, now)
		}, Counts{Sent: 2, Confirmed: 2, Received: 2}},
		{"refused, unknown, and neither is lost", func(l *ledger) {
			l.settle(0, l.submit(0, now), refused, now)
			l.settle(0, l.submit(0, now), unknown, now)
			l.submit(0, now)
		}, Counts{Sent: 3, Refused: 1, Unknown: 2}},
		{"unknown arrives", func(l *ledger) {
			l.settle(0, l.submit(0, now), unknown, now)
			l.arrive(0, at(0, 1), marks{}, now)
		}, Counts{Sent: 1, Unknown: 1, Received: 1}},
		{"it arrives before its confirm", func(l *ledger) {
			s := l.submit(0, now)
			l.arrive(0, at(0, s), marks{}, now)
			l.settle(0, s, confirmed, now)
		}, Counts{Sent: 1, Confirmed: 1, Received: 1}},
		{"not accepted", func(l *ledger) {
			mustSend(l, 0, 1)
			l.submit(0, now)
			l.withdraw(0)
		}, Counts{Sent: 1, Confirmed: 1, Lost: 1}},
		{"numbers that were never given", func(l *ledger) {
			mustSend(l, 0, 1)
			l.arrive(0, at(0, 1), marks{}, now)
			l.arrive(0, at(0, 2), marks{}, now)
			l.arrive(0, at(0, 0), marks{}, now)
			l.arrive(0, at(7, 1), marks{}, now)
		}, Counts{Sent: 1, Confirmed: 1, Received: 1, Damaged: 3}},
	} {
		l := newLedger(2, 2, now)
		row.do(l)
		if got := l.counts(); got != row.want {
			t.Errorf("%s:\n got %+v\nwant %+v", row.name, got, row.want)
		}
	}
}

func TestLedgerNamesTheMissing(t *testing.T) {
	l := newLedger(2, 1, time.Now())
	mustSend(l, 0, 100_000)
	mustSend(l, 1, 10)
	for s := uint64(1); s <= 100_000; s++ {
		if s != 1 && s != 2 && s != 65_536 && s != 65_537 && s != 100_000 {
			l.arrive(0, at(0, s), marks{}, time.Now())
		}
	}
	for s := uint64(1); s <= 9; s++ {
		l.arrive(0, at(1, s), marks{}, time.Now())
	}
	want := []Range{{1, 1, 2}, {1, 65_536, 65_537}, {1, 100_000, 100_000}, {2, 10, 10}}
	got := l.missing(10)
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("range %d: got %v, want %v", i, got[i], want[i])
		}
	}
	if got := l.missing(2); len(got) != 2 || got[1] != want[1] {
		t.Errorf("of two: %v", got)
	}
	if unsettled, missing := l.pending(); unsettled != 0 || missing != 6 {
		t.Errorf("pending: %d unsettled, %d missing", unsettled, missing)
	}
}

// A random history is counted as a map would.
func TestSetIsASet(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var a, b set
	inA, inB := map[uint64]bool{}, map[uint64]bool{}
	for range 300_000 {
		n := random.Uint64N(100_000)
		if a.add(n) == inA[n] {
			t.Fatalf("add(%d) of one that is in the set: %v", n, inA[n])
		}
		inA[n] = true
		if n = random.Uint64N(100_000); random.IntN(2) == 0 {
			b.add(n)
			inB[n] = true
		}
	}
	for n := range uint64(pageBits) { // a full page
		a.add(n)
		inA[n] = true
	}
	if a.pages[0] != full {
		t.Error("a full page is kept")
	}
	for n := range uint64(300_000) {
		if a.has(n) != inA[n] {
			t.Fatalf("has(%d) = %v", n, a.has(n))
		}
	}
	if a.count != uint64(len(inA)) {
		t.Errorf("it counts %d, there are %d", a.count, len(inA))
	}
	difference, last := 0, int64(-1)
	a.without(&b, func(n uint64) bool {
		if inB[n] || !inA[n] || int64(n) <= last {
			t.Fatalf("%d is in the difference, after %d", n, last)
		}
		last = int64(n)
		difference++
		return true
	})
	for n := range inA {
		if !inB[n] {
			difference--
		}
	}
	if difference != 0 {
		t.Errorf("the difference has %d numbers too many", difference)
	}
}

// 100 million messages, each 97th of which was lost, take a few tens of MB.
func TestLedgerIsSmall(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wasConfirmed, wasReceived set
	const n50th = 2_000_000
	for n := range uint64(n50th) {
		wasConfirmed.add(n)
		if n%97 != 0 {
			wasReceived.add(n)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := after.HeapAlloc - before.HeapAlloc; used > 1<<20 {
		t.Errorf("%d messages take %d bytes", n50th, used)
	}
	runtime.KeepAlive(&wasConfirmed)
	runtime.KeepAlive(&wasReceived)
}

func TestGap(t *testing.T) {
	start := time.Now()
	g := gap{start: start}
	after := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	g.mark(after(1)) // nothing is waited for yet
	if g.max() != 0 {
		t.Errorf("before the beginning: %v", g.max())
	}
	g = gap{start: start}
	g.begin(after(100))
	g.begin(after(200))
	for _, ms := range []int{110, 160, 155, 170} { // one of them is late in taking its turn
		g.mark(after(ms))
	}
	if g.max() != 50*time.Millisecond {
		t.Errorf("got %v, want 50ms", g.max())
	}
}

func TestLedgerAtOnce(t *testing.T) {
	l := newLedger(4, 4, time.Now())
	var all sync.WaitGroup
	for p := range 4 {
		all.Go(func() {
			for range 10_000 {
				s := l.submit(p, time.Now())
				l.arrive(p, at(p, s), marks{}, time.Now())
				l.settle(p, s, confirmed, time.Now())
				l.counts()
			}
		})
	}
	all.Wait()
	if got, want := l.counts(), (Counts{Sent: 40_000, Confirmed: 40_000, Received: 40_000}); got != want {
		t.Errorf("got %+v", got)
	}
}

func TestBody(t *testing.T) {
	for _, size := range []int{MinSize, 100, 5000} {
		s := stamp{run: 1<<63 + 5, producer: 3, sequence: 1 << 40, sent: 12345}
		body := appendBody([]byte("before"), s, size)[len("before"):]
		if len(body) != size {
			t.Fatalf("%d bytes of %d", len(body), size)
		}
		if got, err := parseBody(body, s.run, size, false); err != nil || got != s {
			t.Errorf("got %+v, %v", got, err)
		}
		if _, err := parseBody(body, s.run+1, size, false); !errors.Is(err, errForeign) {
			t.Errorf("of another run: %v", err)
		}
		if _, err := parseBody(append(body, 0), s.run, size, false); !errors.Is(err, errDamaged) {
			t.Errorf("too long: %v", err)
		}
		for i := range body {
			for _, flip := range []byte{1, 128} {
				broken := bytes.Clone(body)
				broken[i] ^= flip
				if _, err := parseBody(broken, s.run, size, true); !errors.Is(err, errDamaged) {
					t.Fatalf("byte %d of %d changed: %v", i, size, err)
				}
			}
		}
	}
}

func FuzzParseBody(f *testing.F) {
	f.Add(appendBody(nil, stamp{run: 7, sequence: 1}, 64), true)
	f.Add([]byte("FVFY"), false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, body []byte, marked bool) {
		s, err := parseBody(body, 7, 64, marked)
		if err == nil && !bytes.Equal(body[:checksumAt], appendBody(nil, s, 64)[:checksumAt]) {
			t.Errorf("%x was read as %+v", body, s)
		}
		if marked && errors.Is(err, errForeign) {
			t.Errorf("a marked body is %v", err)
		}
	})
}

func TestReportText(t *testing.T) {
	r := Report{Counts: Counts{Sent: 1234567, Confirmed: 1234567, Received: 1234560, Lost: 7, Redelivered: 12}, LongestGap: 310, Failovers: 2}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"   sent confirmed received lost duplicated redelivered reordered longest_gap_ms failovers\n" +
		"1234567   1234567  1234560    7          0          12         0            310         2\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	r.Unknown, r.Damaged = 3, 1
	b.Reset()
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if want += "unknown damaged\n      3       1\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	if got := (&Report{}); got.Broken() || !r.Broken() {
		t.Error("a promise is broken if something was lost, and only then")
	}
}
