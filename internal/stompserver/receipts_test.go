package stompserver

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// Confirms in any order give the receipts of the tags they name, each once.
func TestReceiptsByTag(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var q receipts
		added, settled := 0, map[int]bool{}
		id := func(tag int) []byte { return bytes.Repeat([]byte(itoa(tag)), 1+tag%5) }
		wanted := func(tag int) bool { return tag%3 != 0 }
		check := func(tag int, multiple bool) {
			var want []byte
			for k := 1; k <= tag; k++ {
				if !settled[k] && (multiple || k == tag) {
					settled[k] = true
					if wanted(k) {
						want, _ = appendReceipt(want, stompwire.V12, id(k))
					}
				}
			}
			got, err := q.take(nil, stompwire.V12, uint64(tag), multiple)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("seed %d: confirm of %d (%v): got %q (%v), want %q", seed, tag, multiple, got, err, want)
			}
		}
		for range 300 {
			switch {
			case added == 0 || rnd.IntN(2) == 0:
				added++
				if wanted(added) {
					q.add(id(added), true)
				} else {
					q.add(nil, false)
				}
			default:
				check(1+rnd.IntN(added), rnd.IntN(4) == 0)
			}
		}
		drained := q.drained(0)
		check(added, true)
		if q.n != 0 || len(q.text) != 0 || q.held() != 0 {
			t.Fatalf("seed %d: %d are held, with %d bytes", seed, q.n, len(q.text))
		}
		if drained != nil {
			<-drained
		}
		if q.drained(0) != nil {
			t.Fatal("it waits for nothing")
		}
	}
}

// What is held for confirms that come out of order does not grow with what went
// through.
func TestReceiptsKeepNoMoreThanTheyHold(t *testing.T) {
	var q receipts
	id := bytes.Repeat([]byte("x"), 100)
	for tag := range uint64(100_000) {
		q.add(id, true)
		if tag > 100 {
			if _, err := q.take(nil, stompwire.V12, tag-99, false); err != nil {
				t.Fatal(err)
			}
		}
		if tag == 101 {
			if _, err := q.take(nil, stompwire.V12, 2, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if cap(q.text) > 100*len(id)*8 || len(q.ring) > 1024 {
		t.Errorf("%d bytes and %d places are kept", cap(q.text), len(q.ring))
	}
	if _, err := q.take(nil, stompwire.V12, 1<<40, true); err != nil {
		t.Fatal(err)
	}
	q.idle()
	if q.text != nil || q.ring != nil {
		t.Error("an idle connection keeps room for receipts")
	}
}

// A publisher that does not read its receipts is not read either, once they are
// too much, and goes on when they are fewer.
func TestReceiptsThatWaitAreBounded(t *testing.T) {
	f, j := heldFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/a")
	j.hold()
	long := string(bytes.Repeat([]byte("r"), 10_000))
	const n = 3 * receiptsMost / 10_000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range n {
			p.send("SEND", "destination:/queue/a", "persistent:true", "receipt:"+long)
		}
	}()
	watcher := f.connect()
	<-j.arrived
	for f.ready("a") < receiptsMost/10_000 {
		watcher.ping()
	}
	for range 20 {
		watcher.ping()
	}
	if got := f.ready("a"); got > 2*receiptsMost/10_000 {
		t.Errorf("%d messages were read", got)
	}
	j.release()
	for range n {
		p.expectReceipt(long)
	}
	<-sent
}
