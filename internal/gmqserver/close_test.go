package gmqserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// slowJournal holds what is appended while it is told to.
type slowJournal struct {
	journal.Journal
	begun chan struct{} // one slot: an append is held

	mu    sync.Mutex // guards what follows
	holds bool
	held  []heldAppend
}

type heldAppend struct {
	batch journal.Batch
	done  func(error)
}

func newSlowJournal() *slowJournal {
	return &slowJournal{Journal: memory.New(memory.Options{}), begun: make(chan struct{}, 1)}
}

func (j *slowJournal) Append(b journal.Batch, done func(error)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.holds {
		j.Journal.Append(b, done)
		return
	}
	j.held = append(j.held, heldAppend{b, done})
	select {
	case j.begun <- struct{}{}:
	default:
	}
}

func (j *slowJournal) hold() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.holds = true
}

// release appends what was held, or fails it with err.
func (j *slowJournal) release(err error) {
	j.mu.Lock()
	held := j.held
	j.held, j.holds = nil, false
	j.mu.Unlock()
	for _, a := range held {
		if err != nil {
			a.done(err)
		} else {
			j.Journal.Append(a.batch, a.done)
		}
	}
}

// The confirmation waits for the journal (P1).
func TestConfirmationComesWithTheJournal(t *testing.T) {
	j := newSlowJournal()
	f := newFixture(t, func(_ *Config, b *broker.Config) { b.Journal = j })
	p := f.connect()
	p.ask(`{"operation":"L","queue":"q"}`)
	j.hold()
	p.line(`{"operation":"P","queue":"q","payload":"eA=="}`)
	p.line(`{"operation":"SYNC"}`)
	<-j.begun
	if n := p.in.Buffered(); n > 0 {
		t.Errorf("%d bytes came before the journal had the message", n)
	}
	j.release(nil)
	p.expect(originalReply("P", "q", ""))
	p.expect(originalReply("SYNC", "", ""))
}

// A broker that stops confirms what is under way, and closes who asks for nothing
// without a word; who comes later is closed.
func TestShutdownFinishesWhatIsUnderWay(t *testing.T) {
	f := newFixture(t)
	idle, half, stranger := f.connect(), f.connect(), f.dial()
	half.write(`{"operation":"P",`)
	busy := f.connect()
	var in strings.Builder
	const n = 500
	for range n {
		in.WriteString(`{"operation":"P","queue":"q","payload":"eA=="}` + "\n")
	}
	busy.write(in.String())
	if r := busy.reply(); !r.Confirmed {
		t.Fatalf("%+v", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.server.Shutdown(ctx, "shutdown") }()

	confirmed := 1
	for _, line := range strings.Split(strings.TrimSpace(busy.all()), "\n") {
		if line == "" {
			break
		}
		if r := parse(t, line); r.Confirmed {
			confirmed++
		} else if !strings.HasPrefix(r.ErrorText, "CONNECTION_FORCED - ") {
			t.Errorf("%+v", r)
		}
	}
	busy.nc.Close()
	idle.expectEnd()
	idle.nc.Close()
	if text := half.all(); text != "" && !strings.HasPrefix(parse(t, strings.TrimSpace(text)).ErrorText, "CONNECTION_FORCED - ") {
		t.Errorf("half a request is answered with %q", text)
	}
	half.nc.Close()
	stranger.nc.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := f.ready("q"); got < confirmed {
		t.Errorf("%d messages, %d were confirmed", got, confirmed)
	}
	if text := f.once(original("SYNC", "", "")); text != "" {
		t.Errorf("after the end: %s", text)
	}
}

// When the broker fails, who waits for a confirmation is told that nothing is
// known, and who is idle is closed (P5).
func TestBrokerThatFailsClosesEverybody(t *testing.T) {
	j := newSlowJournal()
	f := newFixture(t, func(_ *Config, b *broker.Config) { b.Journal = j })
	f.fails = true
	idle, p := f.connect(), f.connect()
	p.ask(`{"operation":"L","queue":"q"}`)
	j.hold()
	p.line(`{"operation":"P","queue":"q","payload":"eA=="}`)
	<-j.begun
	j.release(errors.New("the disk is gone"))
	if r := p.reply(); r.Confirmed || !strings.HasPrefix(r.ErrorText, "INTERNAL_ERROR - ") || !strings.Contains(r.ErrorText, "not known whether the message is stored") {
		t.Errorf("%+v", r)
	}
	_, _ = io.Copy(io.Discard, p.in)
	p.nc.Close()
	idle.expectEnd()
}

// Idle connections hold little, and leave nothing behind.
func TestIdleConnectionsAreSmall(t *testing.T) {
	f := newFixture(t)
	const n = 200
	before := inUse()
	goroutines := runtime.NumGoroutine()
	peers := make([]*testPeer, n)
	for i := range peers {
		peers[i] = f.dial()
		peers[i].line(original("P", fmt.Sprintf("q%d", i%10), b64(strings.Repeat("x", 5000))))
	}
	for _, p := range peers {
		if r := p.reply(); !r.Confirmed {
			t.Fatalf("%+v", r)
		}
	}
	// The peers' own readers, and the messages, are here as well.
	if each := (inUse() - before) / n; each > 40<<10 {
		t.Errorf("%d bytes a connection", each)
	}
	if more := runtime.NumGoroutine() - goroutines; more > n+5 {
		t.Errorf("%d goroutines for %d connections", more, n)
	}
	var ending sync.WaitGroup
	for _, p := range peers {
		ending.Go(func() {
			p.write(`{"operation":"SYNC"}`)
			_, _ = io.Copy(io.Discard, p.in)
			p.nc.Close()
		})
	}
	ending.Wait()
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// FuzzServer sends anything on an open connection. Whatever it is, the server
// answers in JSON, ends the connection or waits for more, and serves others.
func FuzzServer(f *testing.F) {
	for _, m := range mistakes() {
		if len(m.in) < 4096 {
			f.Add(m.in)
		}
	}
	f.Add(original("P", "q", "eA==") + "\n" + `{"operation":"S","queue":"q","ack":"manual"}` + "\n" + `{"operation":"A","id":1}` + `{"operation":"N","id":"1"}`)
	f.Add(`{"operation":"S","queue":"q","wait_msec":1}` + "\n")
	f.Fuzz(func(t *testing.T, in string) {
		fix := newFixture(t, small)
		p := fix.connect()
		p.write(in)
		_ = p.nc.(*net.TCPConn).CloseWrite()
		all, err := io.ReadAll(p.in)
		if err != nil && isTimeout(err) {
			t.Fatal("the connection does not end")
		}
		for rest := all[gmqwire.Blank(all):]; len(rest) > 0; rest = rest[gmqwire.Blank(rest):] {
			var s gmqwire.Scanner
			n, err := s.Scan(rest)
			if err != nil {
				t.Fatalf("%q is answered with %q: %v", in, rest, err)
			}
			if n == 0 {
				break // cut by our own close
			}
			var r gmqwire.Reply
			if err := gmqwire.ParseReply(rest[:n], &r); err != nil {
				t.Fatalf("%q is answered with %q: %v", in, rest[:n], err)
			}
			rest = rest[n:]
		}
		if got, want := fix.once(original("SYNC", "", "")), originalReply("SYNC", "", ""); got != want {
			t.Errorf("afterwards: %s", got)
		}
	})
}
