package chaos

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The scenes of the moves. What waits in them does so for longestWait at most.
const (
	expiryTTL   = 300 * time.Millisecond // of the queue; messages say less, some of them
	cycleWait   = 30 * time.Millisecond
	cycleRounds = 3
	delayMost   = 400 * time.Millisecond
	retryLeast  = 20 * time.Millisecond
	retryLimit  = 2 // deliveries in vain
	longestWait = delayMost

	lengthMost = 60 // ready messages of a queue with a limit
	keptMost   = 100
	fewest     = 10 // prefetched; what is returned is let in over a limit
	highest    = 4  // priority
)

// moveScenes makes all of them.
func moveScenes() []*scene {
	list := []*scene{
		expiryScene(), cycleScene(), maxLengthScene(), dropHeadScene(), rejectPublishScene(), rejectToDeadScene(),
		delayedScene(), retryScene("limit, dead-lettered", "limit"), retryScene("limit, parked", "park"), onceScene(), priorityScene(), priorityOrderScene(),
	}
	for _, s := range list {
		s.book = &book{}
	}
	return list
}

// queueOf declares a durable queue.
func queueOf(ch *amqp.Channel, name string, args amqp.Table) error {
	_, err := ch.QueueDeclare(name, true, false, false, false, args)
	return err
}

// all declares several things.
func all(steps ...error) error {
	for _, err := range steps {
		if err != nil {
			return err
		}
	}
	return nil
}

func toQueue(name string, args amqp.Table) amqp.Table {
	if args == nil {
		args = amqp.Table{}
	}
	args["x-dead-letter-exchange"], args["x-dead-letter-routing-key"] = "", name
	return args
}

// lifeOf is how long a message of the scene of expiry says to live, and how long it
// does; "": it does not say.
func lifeOf(seq uint64) (expiration string, ttl time.Duration) {
	if seq%2 == 0 {
		return "", expiryTTL
	}
	ms := int64(seq*7919%500) + 1
	return strconv.FormatInt(ms, 10), min(time.Duration(ms)*time.Millisecond, expiryTTL)
}

// Messages live for times of all lengths, in no order. Consumers are too slow for all;
// what expires is dead-lettered.
func expiryScene() *scene {
	return &scene{
		name: "expiry", queues: []string{"exp", "exp.dead"},
		declare: func(ch *amqp.Channel) error {
			return all(queueOf(ch, "exp.dead", nil),
				queueOf(ch, "exp", toQueue("exp.dead", amqp.Table{"x-message-ttl": expiryTTL.Milliseconds()})))
		},
		send: []giver{{key: "exp", window: 200, dress: func(seq uint64, m *amqp.Publishing) { m.Expiration, _ = lifeOf(seq) }}},
		take: []taker{
			{queue: "exp", prefetch: 8, tx: true, slow: 8 * time.Millisecond},
			{queue: "exp", prefetch: 2, slow: 20 * time.Millisecond},
			{queue: "exp.dead", prefetch: 100, tx: true, moves: true, check: func(f *fate, d *amqp.Delivery) []flaw {
				expiration, ttl := lifeOf(f.seq)
				if d.Expiration != "" {
					return oddly("has an expiration of %q still", d.Expiration)
				}
				return append(died(d, deathNote{"exp", "expired", 1, expiration}), notBefore(f.first.Add(ttl), "it expires")...)
			}},
		},
	}
}

// Messages are rejected a few times, wait in another queue each time until they expire
// there, and come back.
func cycleScene() *scene {
	rounds := func(d *amqp.Delivery) int {
		for _, n := range deathsOf(d) {
			if n.queue == "work" {
				return int(n.count)
			}
		}
		return 0
	}
	check := func(f *fate, d *amqp.Delivery) []flaw {
		n := rounds(d)
		if n == 0 {
			return append(died(d), tried(f, n)...)
		}
		flaws := append(died(d, deathNote{"wait", "expired", int64(n), ""}, deathNote{"work", "rejected", int64(n), ""}), tried(f, n)...)
		if n <= len(f.rejectedAt) {
			flaws = append(flaws, notBefore(f.rejectedAt[n-1].Add(cycleWait), "it expired where it waits")...)
		}
		return flaws
	}
	decide := func(_ *fate, d *amqp.Delivery) verdict {
		if rounds(d) < cycleRounds {
			return bury
		}
		return ack
	}
	return &scene{
		name: "rejected, in a cycle", queues: []string{"work", "wait"},
		declare: func(ch *amqp.Channel) error {
			return all(queueOf(ch, "work", toQueue("wait", nil)),
				queueOf(ch, "wait", toQueue("work", amqp.Table{"x-message-ttl": cycleWait.Milliseconds()})))
		},
		send: []giver{{key: "work", window: 100}},
		take: []taker{
			{queue: "work", prefetch: 40, tx: true, cycles: true, check: check, decide: decide, counted: rounds},
			{queue: "work", prefetch: 40, cycles: true, check: check, decide: decide, counted: rounds},
		},
	}
}

// A queue is too short; what is dropped from its head is dead-lettered.
func maxLengthScene() *scene {
	return &scene{
		name: "max-length, dead-lettered", queues: []string{"max", "max.dead"}, limits: map[string]int{"max": lengthMost},
		declare: func(ch *amqp.Channel) error {
			return all(queueOf(ch, "max.dead", nil),
				queueOf(ch, "max", toQueue("max.dead", amqp.Table{"x-max-length": int64(lengthMost)})))
		},
		send: []giver{{key: "max", window: 200}, {key: "max", window: 20}},
		take: []taker{
			{queue: "max", prefetch: 10, tx: true, slow: 5 * time.Millisecond},
			{queue: "max.dead", prefetch: 100, tx: true, moves: true, check: func(_ *fate, d *amqp.Delivery) []flaw {
				return died(d, deathNote{"max", "maxlen", 1, ""})
			}},
		},
	}
}

// A queue without consumers is too short, and what it drops is gone: it must be the
// oldest, and no more than what is too much.
func dropHeadScene() *scene {
	return &scene{
		name: "max-length, dropped", queues: []string{"kept"}, limits: map[string]int{"kept": keptMost},
		declare: func(ch *amqp.Channel) error {
			return queueOf(ch, "kept", amqp.Table{"x-max-length": int64(keptMost)})
		},
		send: []giver{{key: "kept", window: 100}},
		finale: func(t *testing.T, s *scene, ch *amqp.Channel) {
			left := s.drain(t, ch, "kept")
			s.dropped = s.moveCounts.confirmed - len(left)
			if len(left) > keptMost || len(left) < min(keptMost, s.moveCounts.confirmed) {
				t.Errorf("%s: %d messages are left, of %d confirmed", s.name, len(left), s.moveCounts.confirmed)
			}
			there := map[uint64]bool{}
			for _, d := range left {
				_, seq, _ := parseBody(d.Body)
				there[seq] = true
			}
			gap := false
			for seq := len(s.pubs[0]) - 1; seq >= 0; seq-- {
				if !there[uint64(seq)] && s.pubs[0][seq].confirmed {
					gap = true
				} else if there[uint64(seq)] && gap {
					s.lost++
					s.faultLocked("message %d is there, and a later one that was confirmed is not", seq)
					return
				}
			}
		},
	}
}

// A queue is too short and refuses what is too much: that never comes.
func rejectPublishScene() *scene {
	return &scene{
		name: "reject-publish", queues: []string{"full"}, limits: map[string]int{"full": lengthMost + fewest},
		declare: func(ch *amqp.Channel) error {
			return queueOf(ch, "full", amqp.Table{"x-max-length": int64(lengthMost), "x-overflow": "reject-publish"})
		},
		send: []giver{{key: "full", window: 100}, {key: "full", window: 10}},
		take: []taker{{queue: "full", prefetch: fewest, tx: true, slow: 4 * time.Millisecond}},
	}
}

// It refuses it, and dead-letters it too.
func rejectToDeadScene() *scene {
	return &scene{
		name: "reject-publish-dlx", queues: []string{"dlx", "dlx.dead"}, limits: map[string]int{"dlx": lengthMost + fewest},
		declare: func(ch *amqp.Channel) error {
			return all(queueOf(ch, "dlx.dead", nil), queueOf(ch, "dlx",
				toQueue("dlx.dead", amqp.Table{"x-max-length": int64(lengthMost), "x-overflow": "reject-publish-dlx"})))
		},
		send: []giver{{key: "dlx", window: 100}, {key: "dlx", window: 10}},
		take: []taker{
			{queue: "dlx", prefetch: fewest, tx: true, slow: 4 * time.Millisecond},
			{queue: "dlx.dead", prefetch: 100, tx: true, moves: true, refused: true, check: func(f *fate, d *amqp.Delivery) []flaw {
				if f.confirmed && f.sends == 1 {
					return oddly("was dead-lettered, though it was not refused")
				}
				return died(d, deathNote{"dlx", "maxlen", 1, ""})
			}},
		},
	}
}

func delayOf(seq uint64) time.Duration {
	return time.Duration(seq*7919%uint64(delayMost.Milliseconds())) * time.Millisecond
}

// An exchange keeps messages for some time, in no order.
func delayedScene() *scene {
	return &scene{
		name: "delayed", queues: []string{"delayed"},
		declare: func(ch *amqp.Channel) error {
			return all(ch.ExchangeDeclare("later", "x-delayed-message", true, false, false, false, amqp.Table{"x-delayed-type": "direct"}),
				queueOf(ch, "delayed", nil), ch.QueueBind("delayed", "k", "later", false, nil))
		},
		send: []giver{{exchange: "later", key: "k", window: 200, dress: func(seq uint64, m *amqp.Publishing) {
			m.Headers = amqp.Table{"x-delay": delayOf(seq).Milliseconds()}
		}}},
		take: []taker{{queue: "delayed", prefetch: 50, tx: true, moves: true, check: func(f *fate, d *amqp.Delivery) []flaw {
			return notBefore(f.first.Add(delayOf(f.seq)), "its delay is over")
		}}},
	}
}

// Half of the messages are always rejected, until they were so too often; before that
// they come again only after a while.
func retryScene(name, queue string) *scene {
	end := queue + ".parked"
	check := func(f *fate, d *amqp.Delivery) []flaw {
		n := triesOf(d)
		flaws := tried(f, n)
		if n > retryLimit {
			flaws = append(flaws, oddly("was delivered after %d deliveries in vain", n)...)
		}
		if n > 0 && n <= len(f.rejectedAt) {
			flaws = append(flaws, notBefore(f.rejectedAt[n-1].Add(time.Duration(n)*retryLeast), "it may be tried again")...)
		}
		return flaws
	}
	decide := func(f *fate, _ *amqp.Delivery) verdict {
		if f.seq%2 == 1 {
			return refuse
		}
		return ack
	}
	return &scene{
		name: name, queues: []string{queue},
		declare: func(ch *amqp.Channel) error {
			args := amqp.Table{
				"x-delivery-limit":     int64(retryLimit),
				"x-delayed-retry-type": "failed", "x-delayed-retry-min": retryLeast.Milliseconds(), "x-delayed-retry-max": int64(1000),
			}
			if queue != "park" {
				return all(queueOf(ch, end, nil), queueOf(ch, queue, toQueue(end, args)))
			}
			return queueOf(ch, queue, args)
		},
		send: []giver{{key: queue, window: 100}},
		take: []taker{
			{queue: queue, prefetch: 40, tx: true, check: check, decide: decide, counted: triesOf},
			{queue: queue, prefetch: 40, check: check, decide: decide, counted: triesOf},
			{queue: end, prefetch: 100, tx: true, moves: true, check: func(f *fate, d *amqp.Delivery) []flaw {
				flaws := died(d, deathNote{queue, "delivery_limit", 1, ""})
				if f.rejects <= retryLimit {
					flaws = append(flaws, oddly("was rejected %d times, which is not too often", f.rejects)...)
				}
				return flaws
			}},
		},
	}
}

// Messages are sent again and again; an exchange lets one copy through.
func onceScene() *scene {
	return &scene{
		name: "de-duplication", queues: []string{"once"},
		declare: func(ch *amqp.Channel) error {
			return all(ch.ExchangeDeclare("filter", "x-message-deduplication", true, false, false, false, amqp.Table{"x-cache-size": int64(1 << 20)}),
				queueOf(ch, "once", nil), ch.QueueBind("once", "", "filter", false, nil))
		},
		send: []giver{
			{exchange: "filter", window: 100, once: true, dress: named(0)},
			{exchange: "filter", window: 10, once: true, dress: named(1)},
		},
		take: []taker{{queue: "once", prefetch: 50, tx: true, moves: true}},
	}
}

func named(publisher int) func(uint64, *amqp.Publishing) {
	return func(seq uint64, m *amqp.Publishing) {
		m.Headers = amqp.Table{"x-deduplication-header": fmt.Sprint(publisher, "-", seq)}
	}
}

// prioritised says a priority for each message, also one that is too high.
func prioritised(seq uint64, m *amqp.Publishing) { m.Priority = uint8(seq % (highest + 2)) }

func levels(name string) func(ch *amqp.Channel) error {
	return func(ch *amqp.Channel) error {
		return queueOf(ch, name, amqp.Table{"x-max-priority": int64(highest)})
	}
}

// Messages have priorities, and consumers take them.
func priorityScene() *scene {
	return &scene{
		name: "priorities", queues: []string{"prio"}, declare: levels("prio"),
		send: []giver{{key: "prio", window: 100, dress: prioritised}},
		take: []taker{{queue: "prio", prefetch: 20, tx: true, slow: time.Millisecond}, {queue: "prio", prefetch: 20}},
	}
}

// They are drained in the end: the highest come first, and those of one priority in
// the order in which they were published.
func priorityOrderScene() *scene {
	return &scene{
		name: "priorities, parked", queues: []string{"prio.parked"}, declare: levels("prio.parked"),
		send: []giver{{key: "prio.parked", window: 100, dress: prioritised}},
		finale: func(t *testing.T, s *scene, ch *amqp.Channel) {
			at, last := highest, -1
			seen := map[uint64]bool{}
			for _, d := range s.drain(t, ch, "prio.parked") {
				_, seq, _ := parseBody(d.Body)
				level := min(int(d.Priority), highest)
				if level > at {
					t.Errorf("%s: message %d of priority %d came after one of priority %d", s.name, seq, level, at)
				}
				if level != at {
					at, last = level, -1
				}
				if !seen[seq] && int(seq) < last {
					t.Errorf("%s: message %d of priority %d came for the first time after %d", s.name, seq, level, last)
				}
				last = max(last, int(seq))
				seen[seq] = true
			}
			for _, f := range s.pubs[0] {
				if f.confirmed && !seen[f.seq] {
					s.lost++
					s.faultLocked("lost: %s was confirmed, and is not there", f)
				}
			}
		},
	}
}
