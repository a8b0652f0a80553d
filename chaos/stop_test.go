package chaos

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Asked to stop under load, a broker tells every client why, and has everything
// that it confirmed when it starts again.
func TestStopUnderLoad(t *testing.T) {
	s := setup{dir: t.TempDir(), watched: !long()}
	p := start(t, s)
	l := newLoad(t, p.addr)
	everything(t, l)
	const clients = 13 // that everything starts
	rounds := pick(2, 20)
	var slowest time.Duration
	for range rounds {
		time.Sleep(pick(600*time.Millisecond, time.Second))
		idle := mustConnect(t, l.addr)
		before := l.closedWith()[amqp.ConnectionForced]
		began := time.Now()
		p.terminate()
		slowest = max(slowest, time.Since(began))
		select {
		case e := <-idle.closed:
			if e == nil || e.Code != amqp.ConnectionForced {
				t.Errorf("an idle connection was closed with %v, want 320", e)
			}
		case <-time.After(5 * time.Second):
			t.Error("an idle connection is still open")
		}
		p = startAt(t, l.addr, s)
		if !until(5*time.Second, func() bool { return l.closedWith()[amqp.ConnectionForced]-before >= clients }) {
			t.Errorf("%d of %d clients were told 320 CONNECTION_FORCED", l.closedWith()[amqp.ConnectionForced]-before, clients)
		}
	}
	l.consume(consumer{queue: "fan.parked", prefetch: 1000, settle: ackMultiple})
	n := l.finish()
	l.empty()
	p.terminate()
	t.Logf("\n%s", table("rounds", rounds, "confirmed", n.confirmed, "received", n.received, "resent", n.resent,
		"lost", n.lost, "duplicated", n.duplicated, "reordered", n.reordered, "returned", n.returned,
		"closed, by code", l.closedWith(), "slowest stop", slowest.Round(time.Millisecond)))
}
