package amqpserver

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A client that has seen close-ok finds its exclusive queues gone and what it had
// not settled requeued.
func TestCloseOkComesWhenAllIsGivenBack(t *testing.T) {
	for name, row := range map[string]struct {
		close, ok amqpwire.Method
		channel   uint16
		exclusive uint16 // what declaring the exclusive queue gives
	}{
		"connection": {&amqpwire.ConnectionClose{ReplyCode: 200}, &amqpwire.ConnectionCloseOk{}, 0, amqpwire.NotFound},
		"channel":    {&amqpwire.ChannelClose{ReplyCode: 200}, &amqpwire.ChannelCloseOk{}, 1, amqpwire.ResourceLocked},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			other := f.open()
			other.declare(&amqpwire.QueueDeclare{Queue: "q"})
			for range 50 {
				other.publish("", "q", "x")
			}
			other.ping(1)
			p := f.open()
			p.declare(&amqpwire.QueueDeclare{Queue: "mine", Exclusive: true})
			p.call(1, &amqpwire.BasicConsume{Queue: "q"}, &amqpwire.BasicConsumeOk{})
			for range 50 {
				p.expect(1, &amqpwire.BasicDeliver{})
				p.body(1)
			}
			p.call(row.channel, row.close, row.ok)

			other.send(1, &amqpwire.QueueDeclare{Queue: "q", Passive: true})
			if m := expect[*amqpwire.QueueDeclareOk](other, 1); m.MessageCount != 50 || m.ConsumerCount != 0 {
				t.Errorf("got %+v", m)
			}
			other.send(1, &amqpwire.BasicGet{Queue: "q"})
			if m := expect[*amqpwire.BasicGetOk](other, 1); !m.Redelivered {
				t.Errorf("got %+v", m)
			}
			other.body(1)
			other.send(1, &amqpwire.QueueDeclare{Queue: "mine", Passive: true})
			if got := other.expectChannelClose(1); got.Code != row.exclusive {
				t.Errorf("got %+v, want %d", got, row.exclusive)
			}
		})
	}
}

// A connection that is cut gives everything back too.
func TestCutConnectionGivesEverythingBack(t *testing.T) {
	f := newFixture(t)
	other := f.open()
	other.declare(&amqpwire.QueueDeclare{Queue: "q"})
	other.publish("", "q", "x")
	p := f.open()
	p.call(1, &amqpwire.BasicConsume{Queue: "q"}, &amqpwire.BasicConsumeOk{})
	p.expect(1, &amqpwire.BasicDeliver{})
	other.call(1, &amqpwire.BasicConsume{Queue: "q"}, &amqpwire.BasicConsumeOk{})
	p.nc.Close()
	if m := expect[*amqpwire.BasicDeliver](other, 1); !m.Redelivered {
		t.Errorf("got %+v", m)
	}
}

// A channel whose error is told gives its deliveries back at once, before the
// peer answers.
func TestChannelErrorRequeuesAtOnce(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.declare(&amqpwire.QueueDeclare{Queue: "q"})
	p.publish("", "q", "x")
	p.call(2, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
	p.call(2, &amqpwire.BasicConsume{Queue: "q"}, &amqpwire.BasicConsumeOk{})
	p.expect(2, &amqpwire.BasicDeliver{})
	p.body(2)
	p.send(2, &amqpwire.BasicAck{DeliveryTag: 99})
	p.expectChannelClose(2)
	p.send(1, &amqpwire.BasicGet{Queue: "q"})
	if m := expect[*amqpwire.BasicGetOk](p, 1); !m.Redelivered {
		t.Errorf("got %+v", m)
	}
	p.body(1)
	// Both close at once.
	p.call(2, &amqpwire.ChannelClose{ReplyCode: 200}, &amqpwire.ChannelCloseOk{})
	p.send(2, &amqpwire.ChannelCloseOk{}, &amqpwire.ChannelOpen{})
	p.expect(2, &amqpwire.ChannelOpenOk{})
}

func TestBothSidesCloseTheConnectionAtOnce(t *testing.T) {
	p := newFixture(t).open()
	p.send(5, &amqpwire.QueueDeclare{})
	p.expectConnectionClose()
	p.call(0, &amqpwire.ConnectionClose{ReplyCode: 200}, &amqpwire.ConnectionCloseOk{})
	p.send(0, &amqpwire.ConnectionCloseOk{})
	p.expectEnd()
}

func TestConsumerIsToldThatItsQueueIsGone(t *testing.T) {
	f := newFixture(t)
	other := f.open()
	other.declare(&amqpwire.QueueDeclare{Queue: "q"})
	p := f.open()
	p.call(1, &amqpwire.BasicConsume{Queue: "q", ConsumerTag: "tag"}, &amqpwire.BasicConsumeOk{})
	quiet := f.dial()
	quiet.start()
	ok := startOk("guest", "guest")
	ok.ClientProperties = nil
	quiet.send(0, ok, &amqpwire.ConnectionTuneOk{ChannelMax: 1, FrameMax: 4096}, &amqpwire.ConnectionOpen{VirtualHost: "/"})
	quiet.expect(0, &amqpwire.ConnectionTune{})
	quiet.expect(0, &amqpwire.ConnectionOpenOk{})
	quiet.call(1, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
	quiet.call(1, &amqpwire.BasicConsume{Queue: "q"}, &amqpwire.BasicConsumeOk{})
	other.call(1, &amqpwire.QueueDelete{Queue: "q"}, &amqpwire.QueueDeleteOk{})
	if m := expect[*amqpwire.BasicCancel](p, 1); *m != (amqpwire.BasicCancel{ConsumerTag: "tag", NoWait: true}) {
		t.Errorf("got %+v", m)
	}
	p.send(1, &amqpwire.BasicCancelOk{ConsumerTag: "tag"}) // some clients answer all the same
	p.ping(1)
	quiet.ping(1) // it has not asked to be told
}

func TestShutdownTellsWhy(t *testing.T) {
	f := newFixture(t)
	idle, busy, early := f.open(), f.open(), f.dial()
	early.start()
	busy.write(join(frames(1, publishMethod()), header(1, 50_000), rawFrame(3, 1, "a part")))
	// A frame that has not come whole: its end cannot be waited for.
	busy.write(amqpwire.AppendFrameHeader(nil, 3, 1, 40_000))
	busy.write([]byte("more"))
	other := f.open() // answers: what came before was read
	other.ping(1)
	done := make(chan error, 1)
	go func() { done <- f.server.Shutdown(context.Background(), "going home") }()
	for _, p := range []*testPeer{idle, busy, other} {
		want := closed{320, "CONNECTION_FORCED - going home", 0, 0}
		if got := p.expectConnectionClose(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		p.send(0, &amqpwire.ConnectionCloseOk{})
		p.nc.Close()
	}
	early.expectEnd()
	if err := <-done; err != nil {
		t.Error(err)
	}
	late := f.dial()
	late.write(amqpwire.ProtocolHeader[:])
	late.expectEnd()
}

// TestOperatorClosesAConnection closes one of two by its name.
func TestOperatorClosesAConnection(t *testing.T) {
	f := newFixture(t)
	p, other := f.open(), f.open()
	p.ping(1)
	page, err := f.broker.Connections(broker.Filter{})
	if err != nil || len(page.Items) != 2 {
		t.Fatal(page, err)
	}
	for _, c := range page.Items {
		if c.Protocol != "AMQP 0-9-1" || c.Mechanism != "PLAIN" || c.FrameMax != DefaultFrameMax || c.ChannelMax != DefaultChannelMax ||
			c.Received == 0 || c.Sent == 0 || c.Client == nil || c.TLS {
			t.Errorf("it is told of as %+v", c)
		}
	}
	name := p.nc.LocalAddr().String() + " -> " + p.nc.RemoteAddr().String()
	if !f.broker.CloseConnection(name, "Closed via management plugin") {
		t.Fatalf("there is no %s among %+v", name, page.Items)
	}
	if got, want := p.expectConnectionClose(), (closed{320, "CONNECTION_FORCED - Closed via management plugin", 0, 0}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	other.ping(1)
}

func TestShutdownCutsWhoDoesNotAnswer(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	ctx, cancel := context.WithCancelCause(t.Context())
	patience := errors.New("patience is over")
	go func() {
		p.expectConnectionClose()
		cancel(patience)
	}()
	if err := f.server.Shutdown(ctx, "now"); !errors.Is(err, patience) {
		t.Errorf("got %v", err)
	}
}

// failing is a journal that fails when it is told to.
type failing struct {
	*memory.Journal
	broken atomic.Bool
}

func (j *failing) Append(b journal.Batch, done func(error)) {
	if j.broken.Load() {
		go done(errors.New("the disk is gone"))
		return
	}
	j.Journal.Append(b, done)
}

// When the journal fails nothing is known of what is pending: it is neither
// confirmed nor refused.
func TestFailedJournalClosesConnectionsWith541(t *testing.T) {
	j := &failing{Journal: memory.New(memory.Options{})}
	f := newFixture(t, func(_ *Config, bc *broker.Config) { bc.Journal = j })
	f.fails = true
	idle, p := f.open(), f.open()
	p.declare(&amqpwire.QueueDeclare{Queue: "q", Durable: true})
	p.call(1, &amqpwire.ConfirmSelect{}, &amqpwire.ConfirmSelectOk{})
	j.broken.Store(true)
	p.write(published(1, "", "q", amqpwire.Properties{DeliveryMode: amqpwire.Persistent}, "x"))
	for _, p := range []*testPeer{p, idle} {
		got := p.expectConnectionClose()
		if got.Code != amqpwire.InternalError || !strings.HasPrefix(got.Text, "INTERNAL_ERROR - ") {
			t.Errorf("got %+v", got)
		}
		p.send(0, &amqpwire.ConnectionCloseOk{})
		p.nc.Close()
	}
}

func TestBlockedPublishersAreTold(t *testing.T) {
	var used atomic.Int64
	f := newFixture(t, func(_ *Config, bc *broker.Config) {
		bc.Alarms.Every = 1e6 // ns
		bc.Alarms.Memory = func() (int64, int64) { return used.Load(), 100 }
	})
	p, consumer := f.open(), f.open()
	p.declare(&amqpwire.QueueDeclare{Queue: "q"})
	consumer.call(1, &amqpwire.BasicConsume{Queue: "q"}, &amqpwire.BasicConsumeOk{})
	used.Store(101)
	for f.broker.Blocked() == "" {
		p.ping(1)
	}
	p.publish("", "q", "x")
	if m := expect[*amqpwire.ConnectionBlocked](p, 0); m.Reason != "low on memory" {
		t.Errorf("got %+v", m)
	}
	consumer.expect(1, &amqpwire.BasicDeliver{}) // consumers drain
	consumer.body(1)
	consumer.send(1, &amqpwire.BasicAck{DeliveryTag: 1})
	consumer.ping(1)
	used.Store(0)
	p.expect(0, &amqpwire.ConnectionUnblocked{})
}

// A publisher that is held back by an alarm is still told of a shutdown.
func TestShutdownReachesBlockedPublishers(t *testing.T) {
	var used atomic.Int64
	f := newFixture(t, func(_ *Config, bc *broker.Config) {
		bc.Alarms.Every = 1e6 // ns
		bc.Alarms.Memory = func() (int64, int64) { return used.Load(), 100 }
	})
	p := f.open()
	p.declare(&amqpwire.QueueDeclare{Queue: "q"})
	used.Store(101)
	for f.broker.Blocked() == "" {
		p.ping(1)
	}
	go func() {
		for range 64 { // more than a blocked connection may still publish
			p.publish("", "q", strings.Repeat("x", 1<<20))
		}
	}()
	p.expect(0, &amqpwire.ConnectionBlocked{})
	done := make(chan error, 1)
	go func() { done <- f.server.Shutdown(context.Background(), "going home") }()
	if got := p.expectConnectionClose(); got.Code != amqpwire.ConnectionForced {
		t.Errorf("got %+v", got)
	}
	p.nc.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What a peer chooses appears quoted and bounded in the log, and a password not
// at all.
func TestLogQuotesWhatPeersSay(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	evil := "a\nlevel=ERROR msg=forged\x1b[31m\u2028"
	p.send(1, &amqpwire.QueueDeclare{Queue: "x" + evil + strings.Repeat("y", 150), Passive: true})
	p.expectChannelClose(1)
	p.send(0, &amqpwire.ConnectionClose{ReplyCode: 200, ReplyText: evil})
	p.expect(0, &amqpwire.ConnectionCloseOk{})
	q := f.dial()
	q.start()
	q.send(0, startOk(evil, "s3cret"))
	q.expectConnectionClose()
	log := f.log.String()
	for _, line := range strings.Split(log, "\n") {
		if strings.HasPrefix(line, "level=") || strings.ContainsAny(line, "\x1b\u2028") || len(line) > 1000 || strings.Contains(line, "s3cret") {
			t.Errorf("log line %q", line)
		}
	}
}
