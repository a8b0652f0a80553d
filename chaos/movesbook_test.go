package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// clockSlack is by how much a time that a broker keeps in whole milliseconds may seem
// to be early.
const clockSlack = 2 * time.Millisecond

// A book holds what became of the messages of a scene, whose queues move or remove
// them. Of each it knows how many copies there can be, and how many of these were
// settled for good: whatever the broker does with a message, there is one place where
// it ends.
type book struct {
	mu      sync.Mutex
	pubs    [][]*fate // by publisher and number
	crashes int
	faults  []string
	moveCounts
}

// moveCounts are what the table of the moves shows.
type moveCounts struct {
	sent, resent, confirmed, refused    int
	delivered, redelivered              int
	acked, rejected                     int // settlements that were sent
	moved                               int // deliveries of messages that tell of a move
	dropped                             int // where that is what is wanted
	lost, doubled, returned, early, odd int
}

// A fate is what is known of one message. Its methods are called with the book's mutex
// held.
type fate struct {
	publisher int
	seq       uint64
	first     time.Time // when it was sent for the first time
	confirmed bool
	// The lives of the broker in which it was confirmed, and last came without a mark, the
	// first being 1.
	confirmedIn, freshIn int
	// Sendings, and of these, those that the broker said to have refused.
	sends, refused int
	once           bool // however often it is sent, there is one copy
	// Settlements that were sent, and those of a commit that was answered.
	acks, sure          int
	rejects, sureReject int
	rejectedAt          []time.Time // the first attempt, by how often it had been rejected before
	fresh               map[string]int
}

// copies is how many there may be in all.
func (f *fate) copies() int {
	if f.once {
		return 1
	}
	return f.sends
}

func (f *fate) String() string { return fmt.Sprintf("message %d of publisher %d", f.seq, f.publisher) }

func (b *book) faultLocked(format string, args ...any) {
	if len(b.faults) < 20 {
		b.faults = append(b.faults, fmt.Sprintf(format, args...))
	}
}

func (b *book) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.odd++
	b.faultLocked(format, args...)
}

// publisher notes that there is one more.
func (b *book) publisher() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pubs = append(b.pubs, nil)
	return len(b.pubs) - 1
}

// next is a publisher's next new message.
func (b *book) next(publisher int, once bool) *fate {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := &fate{publisher: publisher, seq: uint64(len(b.pubs[publisher])), once: once, fresh: map[string]int{}}
	b.pubs[publisher] = append(b.pubs[publisher], f)
	return f
}

// recent is one of the last so many messages of a publisher, nil if there is none.
func (b *book) recent(publisher, most int) *fate {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.pubs[publisher]
	if len(list) == 0 {
		return nil
	}
	return list[len(list)-1-rand.IntN(min(len(list), most))]
}

// sending is called before a message is sent, each time.
func (b *book) sending(f *fate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.sends == 0 {
		f.first = time.Now()
		b.sent++
	} else {
		b.resent++
	}
	f.sends++
}

func (b *book) answered(f *fate, ack bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !ack {
		f.refused++
		b.moveCounts.refused++
		return
	}
	if !f.confirmed {
		f.confirmed, f.confirmedIn = true, b.crashes+1
		b.moveCounts.confirmed++
	}
}

// delivered notes that a message came, and what is wrong with that.
func (b *book) delivered(t *taker, d *amqp.Delivery) *fate {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moveCounts.delivered++
	publisher, seq, ok := parseBody(d.Body)
	if !ok || publisher >= len(b.pubs) || seq >= uint64(len(b.pubs[publisher])) {
		b.odd++
		b.faultLocked("%s: a damaged message of %d bytes", t.queue, len(d.Body))
		return nil
	}
	f := b.pubs[publisher][seq]
	if d.Redelivered {
		b.redelivered++
	} else {
		f.fresh[t.queue]++
		// What was there when the broker died is marked; so it entered the queue anew.
		if f.once && (f.freshIn == t.life || f.confirmed && f.confirmedIn < t.life) {
			b.doubled++
			b.faultLocked("%s: %s came from life %d of the broker without a mark, was confirmed in %d (%v), and came so before from %d",
				t.queue, f, t.life, f.confirmedIn, f.confirmed, f.freshIn)
		}
		f.freshIn = t.life
	}
	if len(deathsOf(d)) > 0 {
		b.moved++
	}
	most := f.copies()
	if t.moves {
		most += b.crashes
	}
	if n := f.fresh[t.queue]; n > most && !t.cycles {
		b.doubled++
		b.faultLocked("%s: %s was sent %d times, and came %d times not marked redelivered", t.queue, f, f.sends, n)
	}
	if f.sure >= f.copies() {
		b.returned++
		b.faultLocked("%s: %s came again, though its settlement was committed", t.queue, f)
	}
	if f.refused >= f.sends && !t.refused {
		b.odd++
		b.faultLocked("%s: %s came, though it was refused each of %d times", t.queue, f, f.sends)
	}
	if t.check != nil {
		for _, fault := range t.check(f, d) {
			if fault.early {
				b.early++
			} else {
				b.odd++
			}
			b.faultLocked("%s: %s %s", t.queue, f, fault.text)
		}
	}
	return f
}

// A verdict is what a consumer does with a message.
type verdict int

const (
	ack    verdict = iota
	bury           // basic.nack, not to be requeued
	refuse         // basic.reject, to be requeued: delivered in vain
)

// settling is called before a settlement is sent. count is how often the message says
// to have been rejected already.
func (b *book) settling(f *fate, v verdict, count int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v == ack {
		f.acks++
		b.acked++
		return
	}
	f.rejects++
	b.rejected++
	for len(f.rejectedAt) <= count {
		f.rejectedAt = append(f.rejectedAt, time.Time{})
	}
	if f.rejectedAt[count].IsZero() {
		f.rejectedAt[count] = time.Now()
	}
}

// committed is called when a settlement is known to be durable.
func (b *book) committed(f *fate, v verdict) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v == ack {
		f.sure++
		return
	}
	f.sureReject++
}

// open is how many confirmed messages have not ended yet.
func (b *book) open() (n int, some []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, list := range b.pubs {
		for _, f := range list {
			if f.confirmed && f.acks == 0 {
				if n++; len(some) < 10 {
					some = append(some, fmt.Sprintf("%s (sent %d times, %v ago; rejected %d times, %d surely; came %v)",
						f, f.sends, time.Since(f.first).Round(time.Millisecond), f.rejects, f.sureReject, f.fresh))
				}
			}
		}
	}
	return n, some
}

// life is which life of the broker this is, the first being 1.
func (b *book) life() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.crashes + 1
}

// crash is called when a broker has failed, before there is another.
func (b *book) crash() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.crashes++
}

func (b *book) totals() moveCounts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.moveCounts
}

// A flaw is what is wrong with a delivery.
type flaw struct {
	early bool // it came before its time
	text  string
}

func oddly(format string, args ...any) []flaw { return []flaw{{text: fmt.Sprintf(format, args...)}} }

// notBefore finds fault with a message that comes before a time.
func notBefore(at time.Time, what string) []flaw {
	if early := time.Until(at); early > clockSlack {
		return []flaw{{true, fmt.Sprintf("came %v before %s", early, what)}}
	}
	return nil
}

// A deathNote is an entry of x-death.
type deathNote struct {
	queue, reason string
	count         int64
	expiration    string
}

func deathsOf(d *amqp.Delivery) (list []deathNote) {
	array, _ := d.Headers["x-death"].([]any)
	for _, a := range array {
		table, _ := a.(amqp.Table)
		n := deathNote{}
		n.queue, _ = table["queue"].(string)
		n.reason, _ = table["reason"].(string)
		n.count, _ = table["count"].(int64)
		n.expiration, _ = table["original-expiration"].(string)
		list = append(list, n)
	}
	return list
}

// died finds fault with a message that should tell of just these moves, the newest
// first.
func died(d *amqp.Delivery, want ...deathNote) []flaw {
	got := deathsOf(d)
	if !slices.Equal(got, want) {
		return oddly("tells of %+v, not of %+v", got, want)
	}
	if len(want) == 0 {
		return nil
	}
	first, last := want[len(want)-1], want[0]
	for name, value := range map[string]string{
		"x-first-death-queue": first.queue, "x-first-death-reason": first.reason,
		"x-last-death-queue": last.queue, "x-last-death-reason": last.reason,
	} {
		if d.Headers[name] != value {
			return oddly("has %s %v, not %s", name, d.Headers[name], value)
		}
	}
	return nil
}

// triesOf is how often a message says to have been delivered in vain.
func triesOf(d *amqp.Delivery) int {
	n, _ := d.Headers["x-delivery-count"].(int64)
	return int(n)
}

// tried finds fault with such a count: what was rejected for sure is in it, and no
// more than was tried.
func tried(f *fate, n int) []flaw {
	if n > f.rejects {
		return oddly("tells of %d rejections, and had %d", n, f.rejects)
	}
	if f.copies() == 1 && n < f.sureReject {
		return oddly("tells of %d rejections, and %d were committed", n, f.sureReject)
	}
	return nil
}
