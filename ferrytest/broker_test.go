package ferrytest

import (
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

func TestABrokerInOneLine(t *testing.T) {
	b := Start(t)
	if want := "amqp://guest:guest@" + b.Addr() + "/"; b.URL() != want {
		t.Errorf("URL %q, want %q", b.URL(), want)
	}
	p := login(t, b.Addr())
	p.declare("q")
	p.publish("q", "hello")
	if got := p.get("q"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if b.Connections() != 1 {
		t.Errorf("%d connections", b.Connections())
	}
}

func TestBrokersDoNotMeet(t *testing.T) {
	a, b := Start(t), Start(t)
	login(t, a.Addr()).declare("q")
	p := login(t, b.Addr())
	p.send(&amqpwire.QueueDeclare{Queue: "q", Passive: true})
	expect[*amqpwire.ChannelClose](p)
}

func TestStopTellsClientsAndKillDoesNot(t *testing.T) {
	b := Start(t)
	url := b.URL()
	p := login(t, b.Addr())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.Stop()
	}()
	if c := expect[*amqpwire.ConnectionClose](p); c.ReplyCode != amqpwire.ConnectionForced {
		t.Errorf("%+v", c)
	}
	p.sendOn(0, &amqpwire.ConnectionCloseOk{})
	p.nc.Close()
	<-stopped
	if _, err := net.Dial("tcp", b.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("while stopped: %v", err)
	}
	if b.DirectURL() != "" {
		t.Errorf("a stopped broker is at %q", b.DirectURL())
	}
	b.Heal() // does not start it
	if _, err := net.Dial("tcp", b.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Heal: %v", err)
	}
	b.Start()
	b.Start()
	p = login(t, b.Addr())
	b.Kill()
	if n := b.Connections(); n != 0 {
		t.Errorf("%d connections to a broker that was killed", n)
	}
	mustBeReset(t, p.nc)
	b.Kill()
	b.Stop()
	b.Start()
	login(t, b.Addr())
	if b.URL() != url {
		t.Errorf("the URL is %q, and was %q", b.URL(), url)
	}
}

func TestWhatIsConfirmedSurvives(t *testing.T) {
	for name, end := range map[string]func(*Broker){"Stop": (*Broker).Stop, "Kill": (*Broker).Kill} {
		t.Run(name, func(t *testing.T) {
			b := Start(t, Dir(filepath.Join(t.TempDir(), "data")))
			total := 0
			for round := range 3 {
				p := login(t, b.Addr())
				if n := p.declare("q"); n != total {
					t.Fatalf("round %d: %d messages, want %d", round, n, total)
				}
				p.confirms()
				bodies := strings.Split(strings.Repeat("x ", 49)+"x", " ")
				p.publish("q", bodies...)
				p.outcomes(len(bodies))
				total += len(bodies)
				p.nc.Close()
				end(b)
				b.Start()
			}
		})
	}
}

// A broker that is killed while it takes messages has kept those that it had
// confirmed, and what it has kept is in order.
func TestAKillWhilePublishingLosesNothingConfirmed(t *testing.T) {
	b := Start(t, Dir(t.TempDir()))
	p := login(t, b.Addr())
	p.declare("q")
	p.confirms()
	var all []byte
	for n := range 20000 {
		all = append(all, message(t, 1, "q", strconv.Itoa(n))...)
	}
	var publisher sync.WaitGroup
	publisher.Go(func() { _, _ = p.nc.Write(all) }) // until it is cut
	var confirmed uint64
	for {
		f, err := p.next()
		if err != nil {
			break
		}
		ack, err := amqpwire.ParseAck(f.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if confirmed = max(confirmed, ack.DeliveryTag); confirmed >= 500 {
			publisher.Go(b.Kill)
			for {
				if f, err = p.next(); err != nil {
					break
				}
				if ack, err = amqpwire.ParseAck(f.Payload); err == nil {
					confirmed = max(confirmed, ack.DeliveryTag)
				}
			}
			break
		}
	}
	publisher.Wait()
	b.Start()
	p = login(t, b.Addr())
	kept := p.declare("q")
	if kept < int(confirmed) {
		t.Errorf("%d messages were confirmed, %d are kept", confirmed, kept)
	}
	for n := range 500 {
		if got := p.get("q"); got != strconv.Itoa(n) {
			t.Fatalf("message %d is %q", n, got)
		}
	}
}

// A journal that is closed ends with a mark. Who is killed does not write it.
func TestKillDoesNotTidyUp(t *testing.T) {
	for _, killed := range []bool{true, false} {
		dir := t.TempDir()
		b := Start(t, Dir(dir))
		p := login(t, b.Addr())
		p.declare("q")
		p.nc.Close()
		if killed {
			b.Kill()
		} else {
			b.Stop()
		}
		var kinds []string
		if err := file.Dump(vfs.OS{}, dir, func(part file.Part) error {
			kinds = append(kinds, part.Kind)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if marked := slices.Contains(kinds, "mark"); marked == killed {
			t.Errorf("killed: %v, and the journal holds %q", killed, kinds)
		}
	}
}

// A connection past the proxy ends with a killed broker, too.
func TestKillCutsDirectConnections(t *testing.T) {
	b := Start(t, Dir(t.TempDir()))
	p := login(t, strings.TrimSuffix(strings.Split(b.DirectURL(), "@")[1], "/"))
	if b.Connections() != 0 {
		t.Errorf("%d connections through the proxy", b.Connections())
	}
	b.Kill()
	mustBeReset(t, p.nc)
}

func TestWithoutADirectoryNothingSurvives(t *testing.T) {
	b := Start(t)
	p := login(t, b.Addr())
	p.declare("q")
	p.publish("q", "gone")
	p.declare("q") // the publish is taken
	p.nc.Close()
	b.Restart()
	if n := login(t, b.Addr()).declare("q"); n != 0 {
		t.Errorf("%d messages", n)
	}
}

// recorder is a test that is watched. It fails without ending.
type recorder struct {
	testing.TB
	failed   bool
	cleanups []func()
	logged   strings.Builder
}

func (r *recorder) Helper()          {}
func (r *recorder) Failed() bool     { return r.failed }
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Logf(format string, args ...any) {
	for _, a := range args {
		if s, ok := a.(string); ok {
			r.logged.WriteString(s)
		}
	}
}

func (r *recorder) end() {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
}

func TestTheLogIsShownWhereATestFails(t *testing.T) {
	for _, failed := range []bool{false, true} {
		r := &recorder{TB: t, failed: failed}
		b := Start(r)
		login(t, b.Addr())
		r.end()
		if got := r.logged.String(); strings.Contains(got, "kept in memory only") != failed {
			t.Errorf("failed: %v, the log shown: %q", failed, got)
		}
	}
}

func TestALongLogKeepsItsEnd(t *testing.T) {
	var l tail
	for range 3 {
		if _, err := l.Write([]byte(strings.Repeat("a line\n", logKept/7))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Write([]byte("the last\n")); err != nil {
		t.Fatal(err)
	}
	got := l.String()
	if len(got) > 2*logKept || !strings.HasPrefix(got, "a line\n") || !strings.HasSuffix(got, "a line\nthe last\n") {
		t.Errorf("%d bytes kept, from %q to %q", len(got), got[:10], got[len(got)-10:])
	}
}
