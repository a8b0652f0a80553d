package chaos

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// everythingSTOMP starts publishers and consumers over STOMP, and some that meet
// others over AMQP.
func everythingSTOMP(t *testing.T, l *load) {
	t.Helper()
	for _, q := range []string{"stomp", "stomp-amqp", "amqp-stomp", "stomp-tx", "durable", "mixed"} {
		l.queue(q, q != "mixed")
	}
	mustDeclare(t, mustConnect(t, l.addr), "stomp", "stomp-amqp", "amqp-stomp", "stomp-tx", "mixed")
	durable := stompConsumer{queue: "durable", destination: "/topic/news.#", prefetch: 100, settle: ackMultiple, headers: []string{
		"durable", "true", "auto-delete", "false", "x-queue-name", "durable",
	}}
	// It is there from the beginning, also while nobody is.
	p := mustSTOMP(t, l.addr)
	if err := p.subscribe(durable.destination, "s", 1, durable.headers...); err != nil {
		t.Fatal(err)
	}
	if err := p.disconnect(); err != nil {
		t.Fatal(err)
	}
	l.consumeSTOMP(durable)
	l.consumeSTOMP(stompConsumer{queue: "stomp", destination: "/queue/stomp", prefetch: 100, settle: ackEach})
	l.consume(consumer{queue: "stomp-amqp", prefetch: 200, settle: ackMultiple})
	l.consumeSTOMP(stompConsumer{queue: "amqp-stomp", destination: "/amq/queue/amqp-stomp", prefetch: 200, settle: ackMultiple})
	l.consumeSTOMP(stompConsumer{queue: "stomp-tx", destination: "stomp-tx", prefetch: 50, settle: ackInTx})
	l.consumeSTOMP(stompConsumer{queue: "mixed", destination: "/queue/mixed", prefetch: 50, settle: nackSome})
	l.consume(consumer{queue: "mixed", prefetch: 50, settle: nackSome})
	l.publishSTOMP(stompPublisher{destination: "/topic/news.today", queues: []string{"durable"}, window: 50, size: 1000})
	l.publishSTOMP(stompPublisher{destination: "/queue/stomp", queues: []string{"stomp"}, window: 500, size: 1000})
	l.publishSTOMP(stompPublisher{destination: "stomp-amqp", queues: []string{"stomp-amqp"}, window: 100, size: 60_000})
	l.publish(publisher{key: "amqp-stomp", queues: []string{"amqp-stomp"}, window: 100, size: 60_000})
	l.publishSTOMP(stompPublisher{destination: "/queue/stomp-tx", queues: []string{"stomp-tx"}, window: 30, size: 500, tx: true})
	l.publishSTOMP(stompPublisher{destination: "/amq/queue/mixed", queues: []string{"mixed"}, window: 20, size: 200})
	l.publish(publisher{key: "mixed", queues: []string{"mixed"}, window: 20, size: 200})
}

// Killed at any moment, a broker has all of which a receipt told, in its order, and
// marks what it delivers again, whichever protocol it came by.
func TestKillSTOMP(t *testing.T) {
	takeTurn(t)
	rounds := pick(4, 50)
	s := setup{dir: t.TempDir(), stomp: freeAddress(t)}
	p := start(t, s)
	l := newLoad(t, p.addr)
	everythingSTOMP(t, l)
	for range rounds {
		time.Sleep(100*time.Millisecond + rand.N(pick(800*time.Millisecond, 2400*time.Millisecond)))
		before := l.totals()
		p.kill()
		if now := l.totals(); now.confirmed == before.confirmed {
			t.Log("nothing was confirmed in this round")
		}
		for rand.IntN(4) == 0 { // killed while it recovers, or soon after
			p = launch(t, l.addr, s)
			time.Sleep(rand.N(60 * time.Millisecond))
			p.kill()
		}
		p = startAt(t, l.addr, s)
	}
	time.Sleep(200 * time.Millisecond)
	n := l.finish()
	l.empty()
	p.terminate()
	t.Logf("\n%s", table("rounds", rounds, "confirmed", n.confirmed, "received", n.received,
		"resent", n.resent, "redelivered", n.redelivered, "lost", n.lost, "duplicated", n.duplicated,
		"reordered", n.reordered, "returned", n.returned, "damaged", n.damaged))
	if n.resent == 0 || n.redelivered == 0 {
		t.Error("no message was ever unknown, or none was redelivered: the kills came at idle moments")
	}
}

// When a sync fails no receipt comes any more: each connection gets an ERROR that
// says why, and ends.
func TestFailedFsyncSTOMP(t *testing.T) {
	takeTurn(t)
	s := setup{dir: t.TempDir(), stomp: freeAddress(t)}
	p := start(t, s)
	fillSTOMP(t, p.addr, "q", 100, 200)
	sender, tx, bystander := mustSTOMP(t, p.addr), mustSTOMP(t, p.addr), mustSTOMP(t, p.addr)
	first := failSyncs(t, p)
	if err := tx.send(stompwire.Begin, nil, stompwire.HeaderTransaction, "t"); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(100) {
		_ = sender.send(stompwire.Send, body(0, 100+i, 200), stompwire.HeaderDestination, "/queue/q", // it may have ended
			stompwire.HeaderPersistent, "true", stompwire.HeaderReceipt, fmt.Sprint(i))
		_ = tx.send(stompwire.Send, body(1, i, 200), stompwire.HeaderDestination, "/queue/tx",
			stompwire.HeaderPersistent, "true", stompwire.HeaderTransaction, "t", stompwire.HeaderReceipt, fmt.Sprint(i))
	}
	_ = tx.send(stompwire.Commit, nil, stompwire.HeaderTransaction, "t", stompwire.HeaderReceipt, "commit")
	for name, peer := range map[string]*stompPeer{"sender": sender, "transaction": tx, "bystander": bystander} {
		f, err := peer.next(peerLimit)
		switch {
		case err != nil:
			t.Errorf("%s: the connection ended without an ERROR: %v", name, err)
		case f.command == stompwire.Receipt:
			t.Errorf("%s: receipt %q came, of what cannot be durable", name, f.headers[stompwire.HeaderReceiptID])
		case f.command != stompwire.Err || f.headers["message"] != "internal_error":
			t.Errorf("%s: got %s, want an ERROR internal_error", name, f)
		case !peer.ended():
			t.Errorf("%s: the connection goes on behind an ERROR", name)
		}
		peer.close()
	}
	p.awaitFailed()
	if _, failed := first(); !failed {
		t.Error("strace let no sync fail")
	}

	p = start(t, s)
	reader := mustSTOMP(t, p.addr)
	if err := reader.subscribe("/queue/q", "1", 0); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(100) {
		f := reader.reply(t)
		if _, seq, ok := parseBody(f.body); !ok || seq != i {
			t.Fatalf("message %d came in place of %d: %s", seq, i, f)
		}
	}
	reader.close()
	p.terminate()
}

// A failed sync under load loses nothing that was confirmed, time and again.
func TestFailedFsyncUnderSTOMPLoad(t *testing.T) {
	if !long() {
		t.Skip("FERRY_LONG=1")
	}
	s := setup{dir: t.TempDir(), stomp: freeAddress(t)}
	p := start(t, s)
	l := newLoad(t, p.addr)
	everythingSTOMP(t, l)
	const rounds = 20
	for range rounds {
		time.Sleep(time.Second)
		before := l.closedWith()
		failSyncs(t, p)
		p.awaitFailed()
		p = startAt(t, l.addr, s)
		if now := l.closedWith(); now[amqp.InternalError] == before[amqp.InternalError] {
			t.Errorf("no connection was closed with 541 or internal_error: %v", now)
		}
	}
	time.Sleep(200 * time.Millisecond)
	n := l.finish()
	l.empty()
	p.terminate()
	t.Logf("\n%s", table("rounds", rounds, "confirmed", n.confirmed, "received", n.received, "resent", n.resent,
		"lost", n.lost, "duplicated", n.duplicated, "reordered", n.reordered, "returned", n.returned,
		"closed, by code", l.closedWith()))
}

// A transaction of SENDs and ACKs is one: killed at any moment, a broker has each
// message either where it was or where it was moved to.
func TestTransactionsKilledSTOMP(t *testing.T) {
	takeTurn(t)
	const total, batch = 3000, 7
	rounds := pick(4, 40)
	s := setup{dir: t.TempDir(), stomp: freeAddress(t)}
	p := start(t, s)
	fillSTOMP(t, p.addr, "from", total, 300)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l := newLoad(t, p.addr)
	var moving sync.WaitGroup
	var mu sync.Mutex // guards what follows
	told := map[uint64]bool{}
	commits := 0
	moving.Go(func() {
		for ctx.Err() == nil {
			if c := l.dialSTOMP(ctx); c != nil {
				l.overSTOMP(c, "mover", moveSTOMP(ctx, c, batch, func(seqs []uint64) {
					mu.Lock()
					defer mu.Unlock()
					commits++
					for _, seq := range seqs {
						told[seq] = true
					}
				}))
			}
		}
	})
	for range rounds {
		time.Sleep(50*time.Millisecond + rand.N(200*time.Millisecond))
		p.kill()
		p = startAt(t, p.addr, s)
	}
	time.Sleep(100 * time.Millisecond)
	stop()
	moving.Wait()
	for _, fault := range l.faults {
		t.Error(fault)
	}
	from, to := takeSTOMP(t, p.addr, "from"), takeSTOMP(t, p.addr, "to")
	moved := 0
	for seq := range uint64(total) {
		if from[seq]+to[seq] != 1 {
			t.Errorf("message %d is %d times where it was and %d times where it was moved to", seq, from[seq], to[seq])
		}
		if told[seq] && to[seq] == 0 {
			t.Errorf("message %d was not moved, though a receipt said so", seq)
		}
		moved += to[seq]
	}
	if to[unmoved] > 0 {
		t.Errorf("%d messages of transactions that were aborted have come", to[unmoved])
	}
	t.Logf("\n%s", table("rounds", rounds, "messages", total, "commits with a receipt", commits,
		"moved with a receipt", len(told), "moved", moved))
	if len(told) == 0 || moved == total {
		t.Error("nothing was moved, or everything was before the last kill")
	}
	p.terminate()
}

// unmoved is the number of a message that must not come.
const unmoved = 1 << 40

// moveSTOMP moves messages in transactions until ctx ends, and tells of those whose
// receipt has come. One in ten is aborted, with a message more.
func moveSTOMP(ctx context.Context, p *stompPeer, batch int, told func([]uint64)) error {
	if err := p.subscribe("/queue/from", "1", batch); err != nil {
		return err
	}
	var came []stompFrame
	for ctx.Err() == nil {
		for len(came) < batch {
			f, err := p.answer(time.Second)
			if timedOut(err) {
				return nil // what is left is less than a batch
			}
			if err != nil {
				return err
			}
			came = append(came, f)
		}
		frames := came
		came = nil
		// What settles messages makes room for others.
		end := func(c stompwire.Command) error {
			err := p.send(c, nil, stompwire.HeaderTransaction, "m", stompwire.HeaderReceipt, "m")
			for err == nil {
				var f stompFrame
				if f, err = p.answer(confirmLimit); f.command != stompwire.Message {
					break
				}
				came = append(came, f)
			}
			return err
		}
		move := func() error {
			err := p.send(stompwire.Begin, nil, stompwire.HeaderTransaction, "m")
			for _, f := range frames {
				if err == nil {
					err = p.send(stompwire.Send, f.body, stompwire.HeaderDestination, "/queue/to", stompwire.HeaderPersistent, "true", stompwire.HeaderTransaction, "m")
				}
				if err == nil {
					err = p.send(stompwire.Ack, nil, stompwire.HeaderID, f.headers[stompwire.HeaderAck], stompwire.HeaderTransaction, "m")
				}
			}
			return err
		}
		err := error(nil)
		if rand.IntN(10) == 0 {
			if err = move(); err == nil {
				err = p.send(stompwire.Send, body(0, unmoved, 100), stompwire.HeaderDestination, "/queue/to", stompwire.HeaderTransaction, "m")
			}
			if err == nil {
				err = end(stompwire.Abort)
			}
		}
		if err == nil {
			err = move()
		}
		if err == nil {
			err = end(stompwire.Commit)
		}
		if err != nil {
			return err
		}
		var seqs []uint64
		for _, f := range frames {
			seqs = append(seqs, binary.BigEndian.Uint64(f.body[4:]))
		}
		told(seqs)
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// takeSTOMP takes all that a queue holds, and counts how often each number is there.
func takeSTOMP(t *testing.T, addr, queue string) map[uint64]int {
	t.Helper()
	ch := mustDeclare(t, mustConnect(t, addr), queue)
	state, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := mustSTOMP(t, addr)
	defer p.close()
	if err := p.subscribe("/queue/"+queue, "1", 0); err != nil {
		t.Fatal(err)
	}
	seqs := map[uint64]int{}
	for range state.Messages {
		f := p.reply(t)
		_, seq, ok := parseBody(f.body)
		if f.command != stompwire.Message || !ok {
			t.Fatalf("%s: got %s", queue, f)
		}
		seqs[seq]++
	}
	return seqs
}

// A durable subscription, in RabbitMQ's spelling and in Artemis's, is there when the
// broker has been killed, gathers messages while nobody reads them, and goes when it
// is told to.
func TestDurableSubscriptionKilledSTOMP(t *testing.T) {
	takeTurn(t)
	s := setup{dir: t.TempDir(), stomp: freeAddress(t)}
	p := start(t, s)
	subscriptions := []struct {
		name    string
		headers []string
	}{
		{"RabbitMQ", []string{"durable", "true", "auto-delete", "false"}},
		{"Artemis", []string{"durable-subscription-name", "news"}},
		{"ActiveMQ", []string{"activemq.subscriptionName", "old news"}},
	}
	login := func() *stompPeer {
		t.Helper()
		peer, err := dialSTOMP(p.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(peer.close)
		if err := peer.send(stompwire.Connect, nil, "accept-version", "1.2", "login", "guest", "passcode", "guest", "client-id", "reader"); err != nil {
			t.Fatal(err)
		}
		if f := peer.reply(t); f.command != stompwire.Connected {
			t.Fatalf("got %s", f)
		}
		peer.dec.Version = stompwire.V12
		return peer
	}
	sent := 0
	send := func() {
		t.Helper()
		peer := mustSTOMP(t, p.addr)
		for range 10 {
			if err := peer.ask(stompwire.Send, body(0, uint64(sent), 100), stompwire.HeaderDestination, "/topic/news", stompwire.HeaderPersistent, "true"); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	each := func(what func(peer *stompPeer, id string, headers []string)) {
		t.Helper()
		peer := login()
		for i, sub := range subscriptions {
			what(peer, strconv.Itoa(i), sub.headers)
		}
		if err := peer.disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	subscribe := func(peer *stompPeer, id string, headers []string) {
		t.Helper()
		if err := peer.subscribe("/topic/news", id, 0, headers...); err != nil {
			t.Fatal(err)
		}
	}
	each(subscribe)
	send()
	p.kill()
	p = startAt(t, p.addr, s)
	send()
	p.kill()
	p = startAt(t, p.addr, s)
	for i, sub := range subscriptions {
		peer := login()
		subscribe(peer, strconv.Itoa(i), sub.headers)
		for want := range uint64(sent) {
			f := peer.reply(t)
			if _, seq, ok := parseBody(f.body); f.command != stompwire.Message || !ok || seq != want {
				t.Fatalf("%s: got %s in place of message %d", sub.name, f, want)
			}
			if err := peer.send(stompwire.Ack, nil, stompwire.HeaderID, f.headers[stompwire.HeaderAck]); err != nil {
				t.Fatal(err)
			}
		}
		if err := peer.ask(stompwire.Unsubscribe, nil, append([]string{stompwire.HeaderID, strconv.Itoa(i)}, sub.headers...)...); err != nil {
			t.Fatal(err)
		}
	}
	p.kill()
	p = startAt(t, p.addr, s)
	send()
	each(subscribe)
	for i, sub := range subscriptions {
		peer := login()
		subscribe(peer, strconv.Itoa(i), sub.headers)
		if f, err := peer.next(100 * time.Millisecond); !timedOut(err) {
			t.Errorf("%s: got %s, %v of a subscription that was ended before", sub.name, f, err)
		}
	}
}

// With a store in memory a receipt says no more than that the message is there: the
// broker says so when it starts.
func TestMemoryStoreSTOMP(t *testing.T) {
	takeTurn(t)
	s := setup{dir: t.TempDir(), stomp: freeAddress(t), flags: []string{"--store", "memory:"}}
	p := start(t, s)
	fillSTOMP(t, p.addr, "q", 10, 100)
	if !p.log.has("messages are kept in memory only") {
		t.Errorf("it does not say that nothing survives a restart:\n%s", p.log)
	}
	p.kill()
	p = startAt(t, p.addr, s)
	if left := takeSTOMP(t, p.addr, "q"); len(left) > 0 {
		t.Errorf("a store in memory had %d messages after a restart", len(left))
	}
	p.terminate()
}
