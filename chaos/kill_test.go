package chaos

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// everything starts publishers and consumers of every kind.
func everything(t *testing.T, l *load) {
	t.Helper()
	queues := []string{"shared", "single", "large", "tx", "fan.each", "fan.some", "fan.parked"}
	for _, q := range queues {
		l.queue(q, q != "shared")
	}
	c := mustConnect(t, l.addr)
	defer c.cut()
	ch := mustDeclare(t, c, queues...)
	if err := ch.ExchangeDeclare("fan", "fanout", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	fan := []string{"fan.each", "fan.some", "fan.parked"}
	for _, q := range fan {
		if err := ch.QueueBind(q, "", "fan", false, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.consume(consumer{queue: "shared", prefetch: 100, settle: nackSome})
	l.consume(consumer{queue: "shared", prefetch: 20, settle: ackEach})
	l.consume(consumer{queue: "single", prefetch: 200, settle: ackMultiple})
	l.consume(consumer{queue: "large", prefetch: 4, settle: ackMultiple})
	l.consume(consumer{queue: "tx", prefetch: 50, settle: ackInTx})
	l.consume(consumer{queue: "fan.each", prefetch: 50, settle: ackEach})
	l.consume(consumer{queue: "fan.some", prefetch: 100, settle: nackSome})
	// fan.parked gets its consumer at the end.
	l.publish(publisher{key: "shared", queues: []string{"shared"}, window: 200, size: 2000})
	l.publish(publisher{key: "shared", queues: []string{"shared"}, window: 20, size: 200})
	l.publish(publisher{key: "single", queues: []string{"single"}, window: 500, size: 1000})
	l.publish(publisher{key: "large", queues: []string{"large"}, window: 4, size: 1 << 20, fixed: true, pause: 5 * time.Millisecond})
	l.publish(publisher{key: "tx", queues: []string{"tx"}, window: 30, size: 500, tx: true})
	l.publish(publisher{exchange: "fan", queues: fan, window: 100, size: 500, pause: time.Millisecond})
}

// Killed at any moment, also while it recovers, a broker has lost nothing that
// it confirmed when it is back.
func TestKill(t *testing.T) {
	rounds := pick(5, 50)
	s := setup{dir: t.TempDir(), watched: !long()}
	p := start(t, s)
	l := newLoad(t, p.addr)
	everything(t, l)
	var slowest time.Duration
	recoveries := 0
	for range rounds {
		before := l.totals()
		time.Sleep(100*time.Millisecond + rand.N(pick(1200*time.Millisecond, 2400*time.Millisecond)))
		p.kill()
		if now := l.totals(); now.confirmed == before.confirmed {
			t.Log("nothing was confirmed in this round")
		}
		for rand.IntN(4) == 0 { // killed while it recovers, or soon after
			p = launch(t, l.addr, s)
			time.Sleep(rand.N(60 * time.Millisecond))
			p.kill()
			recoveries++
		}
		p = startAt(t, l.addr, s)
		slowest = max(slowest, p.took)
	}
	time.Sleep(200 * time.Millisecond)
	l.consume(consumer{queue: "fan.parked", prefetch: 1000, settle: ackMultiple})
	n := l.finish()
	l.empty()
	p.terminate()
	t.Logf("\n%s", table(
		"rounds", rounds, "killed while recovering", recoveries, "confirmed", n.confirmed, "received", n.received,
		"resent", n.resent, "redelivered", n.redelivered, "lost", n.lost, "duplicated", n.duplicated,
		"reordered", n.reordered, "returned", n.returned, "damaged", n.damaged,
		"slowest start to ready", slowest.Round(time.Millisecond)))
	if n.resent == 0 || n.redelivered == 0 {
		t.Error("no message was ever unknown, or none was redelivered: the kills came at idle moments")
	}
}

// table aligns names and values.
func table(cells ...any) (text string) {
	for i := 0; i+1 < len(cells); i += 2 {
		text += fmt.Sprintf("  %-26s %v\n", cells[i], cells[i+1])
	}
	return text
}
