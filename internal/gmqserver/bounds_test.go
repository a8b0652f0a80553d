package gmqserver

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// A reply repeats the operation and the queue of its request, but not the megabytes
// that may stand in their places, six bytes for each.
func TestWhatIsTooLongForANameIsNotRepeated(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	long := strings.Repeat("<", 2<<20)
	for request, want := range map[string]string{
		`{"operation":"` + long + `"}`:                                "NOT_IMPLEMENTED - ",
		`{"operation":"L","queue":"` + long + `"}`:                    "COMMAND_INVALID - the name of a queue has at most",
		`{"operation":"S","queue":"q","ack":"` + long + `"}`:          "COMMAND_INVALID - ack must be",
		`{"operation":"A","queue":"q","id":"` + long + `"}`:           "PRECONDITION_FAILED - unknown id",
		`{"operation":"N","id":"` + strings.Repeat("0", 2<<20) + `"}`: "PRECONDITION_FAILED - unknown id",
	} {
		p.line(request)
		text := p.read()
		if r := parse(t, text); !strings.HasPrefix(r.ErrorText, want) || len(text) > 8<<10 {
			t.Errorf("%.30s: %d bytes: %.300s", request, len(text), text)
		}
	}
}

// A connection that is idle keeps nothing of the requests that it has had.
func TestIdleConnectionKeepsNoLargeTexts(t *testing.T) {
	c := &conn{}
	request := `{"operation":"` + strings.Repeat("o", 10_000) + `","id":"1","properties":{"headers":{"a":"b"}}}`
	if err := gmqwire.ParseRequest([]byte(request), &c.req); err != nil {
		t.Fatal(err)
	}
	c.settles = make([]uint64, 0, 1000)
	c.idle()
	if c.req.Operation != "" || c.req.Properties.Headers != nil || c.req.ID != "" || c.settles != nil {
		t.Errorf("it keeps %.100v and room for %d", c.req, cap(c.settles))
	}
}

// What AMQP's consumers cannot take in one frame is not published.
func TestPropertiesAreBounded(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	var many strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&many, `"%x":true,`, i)
	}
	for name, headers := range map[string]string{
		"a large one": `"a":"` + strings.Repeat("x", 130_000) + `"`,
		"many":        many.String() + `"last":true`,
	} {
		r := p.ask(`{"operation":"P","queue":"q","properties":{"headers":{` + headers + `}}}`)
		if r.Confirmed || !strings.Contains(r.ErrorText, "130000") && !strings.Contains(r.ErrorText, "32500") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := p.ask(`{"operation":"P","queue":"q","properties":{"headers":{"a":"` + strings.Repeat("x", 129_000) + `"}}}`); !r.Confirmed {
		t.Errorf("%+v", r)
	}
	if n := f.ready("q"); n != 1 {
		t.Errorf("there are %d messages, want the one", n)
	}
}

// Publishes that were sent at once are answered one after the other while publishers
// are blocked, and what was confirmed before is told first.
func TestBlockedPublishesDoNotHoldUpEarlierReplies(t *testing.T) {
	var used atomic.Int64
	inBubble(t, func(t *testing.T, dial func() *testPeer) {
		p := dial()
		p.login()
		used.Store(101)
		time.Sleep(time.Second)
		start := time.Now()
		p.write(`{"operation":"L","queue":"q"}` + "\n" + strings.Repeat(`{"operation":"P","queue":"q","payload":"eA=="}`+"\n", 3))
		p.expect(originalReply("L", "q", "0"))
		for i := range 3 {
			at := time.Since(start)
			if at > time.Duration(i)*blockedTimeout+time.Second {
				t.Errorf("reply %d came after %v", i, at)
			}
			if r := p.reply(); r.Confirmed {
				t.Errorf("%+v", r)
			}
		}
		p.nc.Close()
	}, func(bc *broker.Config) {
		bc.Alarms.Memory = func() (int64, int64) { return used.Load(), 100 }
	})
}

// Who waits at a queue that is deleted is answered then: the next of this name is
// another, whose messages would not come.
func TestWaitEndsWithTheQueue(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.line(`{"operation":"S","queue":"w","ack":"manual","wait_msec":30000}`)
	s := f.session()
	for until := time.Now().Add(patience); ; runtime.Gosched() {
		if q, err := s.CheckQueue("w"); err == nil && q.Consumers == 1 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("nobody waits")
		}
	}
	if _, err := s.DeleteQueue("w", false, false); err != nil {
		t.Fatal(err)
	}
	p.expect(originalReply("S", "w", ""))
	if r := p.ask(`{"operation":"P","queue":"w","payload":"` + b64("again") + `"}`); !r.Confirmed {
		t.Errorf("%+v", r)
	}
	if r := p.ask(`{"operation":"S","queue":"w","ack":"manual","wait_msec":30000}`); body(t, r) != "again" {
		t.Errorf("%+v", r)
	}
}

// What was taken from a queue that is deleted is gone with it, or dropped: settling it
// harms nobody.
func TestSettlingWithoutAQueue(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	for _, settle := range []string{`"operation":"N"`, `"operation":"A"`, `"operation":"N","requeue":false`} {
		p.ask(`{"operation":"P","queue":"gone","payload":"eA=="}`)
		id := p.ask(`{"operation":"S","queue":"gone","ack":"manual"}`).ID
		if _, err := f.session().DeleteQueue("gone", false, false); err != nil || id == "" {
			t.Fatal(id, err)
		}
		p.ask(`{` + settle + `,"id":"` + id + `"}`)
		if r := p.ask(`{` + settle + `,"id":"` + id + `"}`); r.Confirmed {
			t.Errorf("%s: settled twice: %+v", settle, r)
		}
		if r := p.ask(`{"operation":"L","queue":"gone"}`); string(r.Payload) != "0" {
			t.Errorf("%s: %+v", settle, r)
		}
	}
}

// The limit of queues holds whoever comes at the same moment.
func TestTheLimitOfQueuesIsNotRacedOver(t *testing.T) {
	f := newFixture(t, func(c *Config, _ *broker.Config) { c.Limits.Queues = 3 })
	var made atomic.Int32
	var asking sync.WaitGroup
	for i := range 12 {
		p := f.connect()
		asking.Go(func() {
			for j := range 5 {
				p.write(fmt.Sprintf(`{"operation":"P","queue":"q%d-%d","payload":""}`+"\n", i, j))
				text, err := p.in.ReadString('\n')
				if err != nil {
					t.Error(err)
					return
				}
				if strings.Contains(text, `"confirmation":"Y"`) {
					made.Add(1)
				} else if !strings.Contains(text, "max_queue_number") {
					t.Error(text)
				}
			}
		})
	}
	asking.Wait()
	if n := made.Load(); n != 3 {
		t.Errorf("%d queues were made, the limit is 3", n)
	}
}
