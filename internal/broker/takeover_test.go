package broker

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

// A dbNode is a node over a database.
type dbNode struct {
	*siteNode
	sql *sqldb.Journal
}

func nodeInDatabase(t *testing.T, url, name string, length time.Duration) *dbNode {
	t.Helper()
	j, err := sqldb.Open(t.Context(), url, sqldb.Options{Lease: length, Logger: discard})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	n := &siteNode{t: t, done: make(chan struct{})}
	n.standby = NewStandby(Config{Journal: j, Node: name, Lease: length})
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() {
		defer close(n.done)
		n.b, n.err = n.standby.Await(ctx)
	}()
	d := &dbNode{n, j}
	t.Cleanup(d.kill)
	return d
}

// kill ends the node without a word, as far as its journal is concerned.
func (d *dbNode) kill() {
	d.cancel()
	<-d.done
	if d.b != nil {
		d.b.fail(fmt.Errorf("killed"))
		_ = d.b.Close(context.Background())
	}
	_ = d.sql.Close()
}

func TestTakeoverInADatabase(t *testing.T) {
	t.Parallel()
	const length = time.Second
	dbtest.Each(t, func(t *testing.T, url string) {
		a := nodeInDatabase(t, url, "a", length)
		a.up(10 * time.Second)
		c := a.client().confirming()
		c.queue("q", true)
		var want []string
		post := func(c *client, n int) {
			for range n {
				text := noteText(len(want), 100)
				want = append(want, text)
				c.publish("", "q", text, true)
			}
			c.confirmed()
		}
		post(c, 500)
		b := nodeInDatabase(t, url, "b", length)
		post(c, 500)

		// The owner is gone: nobody says so.
		a.kill()
		if took := b.up(10 * time.Second); took > length+time.Second {
			t.Errorf("taken over after %v, with a lease of %v", took, length)
		}
		d := b.client().confirming()
		post(d, 100)

		// The next one is told.
		e := nodeInDatabase(t, url, "e", length)
		post(d, 100)
		d.Close()
		if !e.follows() {
			t.Fatalf("took over from an owner that is alive: %v", e.err)
		}
		began := time.Now()
		if err := b.b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.up(10 * time.Second)
		if took := time.Since(began); took > length/2 {
			t.Errorf("handing over took %v", took)
		}
		f := e.client()
		if got := f.drain("q"); !slices.Equal(got, want) {
			t.Errorf("%d messages are there, %d were confirmed", len(got), len(want))
		}
		f.Close()
		if st := e.b.Status(); st.Epoch != 3 {
			t.Errorf("status %+v", st)
		}
		if err := e.b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkTakeOver is the time from the owner's last word to the next one's
// first, with a million messages in a queue.
func BenchmarkTakeOver(b *testing.B) {
	log := newSharedLog()
	head := ownerRecord(&Config{Node: "a", Lease: time.Second})
	head = append(append(head, recQueue), (&Queue{v: &VHost{name: "/"}, name: "q", num: 1, spec: QueueSpec{Name: "q", Durable: true}}).record()...)
	first := log.open()
	defer first.Close()
	done := make(chan error, 1)
	pos, seq := uint64(0), uint64(0)
	add := func(epoch uint64, head []byte, body []byte) {
		pos++
		first.Append(journal.Batch{Position: pos, Epoch: epoch, Segment: 1, Head: head, Body: [][]byte{body}}, func(err error) { done <- err })
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	add(1, append([]byte{recVHost, 1, '/'}, head...), nil)
	for range 1000 {
		run := nums(recRun, 1, seq, 1000)
		for range 1000 {
			run = append(run, 20)
		}
		seq += 1000
		add(1, run, make([]byte, 20*1000))
	}
	for b.Loop() {
		b.StopTimer()
		j := log.open()
		s := NewStandby(Config{Journal: j, Lease: time.Minute})
		up := make(chan *Broker, 1)
		go func() {
			n, err := s.Await(context.Background())
			if err != nil {
				b.Error(err)
			}
			up <- n
		}()
		for s.Status().Messages < int(seq) {
			time.Sleep(time.Millisecond)
		}
		b.StartTimer()
		log.mu.Lock()
		last := log.epoch
		log.mu.Unlock()
		head, _ := j.Head(b.Context())
		pos = head
		w := log.open()
		w.Append(journal.Batch{Position: pos + 1, Epoch: last, Segment: 1, Head: []byte{recHandover}}, func(err error) { done <- err })
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		n := <-up
		b.StopTimer()
		_ = w.Close()
		if n != nil {
			_ = n.Close(context.Background())
		}
		_ = j.Close()
		b.StartTimer()
	}
}
