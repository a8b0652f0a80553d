package broker

import (
	"encoding/binary"
	"math"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// Some queues count how often each of their messages was delivered in vain: those
// with a limit of deliveries, those that delay what is returned, and all of type
// quorum. It is counted as RabbitMQ 4.3 does it: a consumer that refuses a message by
// basic.reject, or ends with its channel or its connection, has failed; one that
// gives it back by basic.nack, or with a transaction that is rolled back, has not.
// What was never written to a consumer counts for nothing. The limit is one of
// failures: the message leaves the queue with the first that is more.

// Headers of messages that were delivered in vain, of queues that count.
const (
	deliveryCountHeader = "x-delivery-count" // failures
	acquiredCountHeader = "x-acquired-count" // all deliveries in vain
)

// What is kept of a message is one number: its failures in the lower bits, and in the
// others how often it was given back otherwise. Neither goes beyond its bits.
const (
	failureBits = 20
	failuresMax = 1<<failureBits - 1
	givenMax    = math.MaxUint32 >> failureBits
)

func failuresOf(count uint32) uint32 { return count & failuresMax }

func acquiredOf(count uint32) uint32 { return failuresOf(count) + count>>failureBits }

// counts tells whether deliveries in vain are counted.
func (r *rules) counts() bool {
	return r.quorum || r.deliveries != none || r.retry.all || r.retry.failed || r.retry.returned
}

// returnLocked takes back a message that was delivered, and is to be delivered again:
// at once, later, or not at all. q.mu is held; the caller calls reportLocked or
// dispatchLocked afterwards.
func (q *Queue) returnLocked(seq uint64, how outcome) {
	r := q.rules
	if how == unsent || !r.counts() {
		q.requeueLocked(seq)
		return
	}
	e := q.entryLocked(seq)
	if e == nil || e.state != unacked {
		return
	}
	n := countOf(e.count, how)
	if how == failed && int64(failuresOf(n)) > r.deliveries && !strings.HasSuffix(q.name, parkedSuffix) {
		// The failure counts when it has left, in one with that: counted before, a crash
		// in between would have it back, and delivered beyond the limit.
		q.expelLocked(seq, deliveryLimit)
		return
	}
	q.countLocked(seq, n)
	q.requeueLocked(seq)
	if d := r.retry.delay(how, n); d > 0 {
		q.delayLocked(seq, time.Now().Add(d).UnixMilli())
	}
}

// countOf is what is kept of a message after one more delivery in vain.
func countOf(n uint32, how outcome) uint32 {
	switch {
	case how == failed && failuresOf(n) < failuresMax:
		n++
	case how == requeue && n>>failureBits < givenMax:
		n += 1 << failureBits
	}
	return n
}

// delay is for how long a message that was returned has to wait.
func (r *retryRule) delay(how outcome, count uint32) time.Duration {
	times := acquiredOf(count)
	switch {
	case how == failed && (r.all || r.failed):
		times = failuresOf(count)
	case how == requeue && (r.all || r.returned):
	default:
		return 0
	}
	if r.least > 0 && time.Duration(times) > r.most/r.least {
		return r.most // and times r.least might be more than a Duration holds
	}
	return min(time.Duration(times)*r.least, r.most)
}

// shownLocked is the block of a message as it is delivered: that which is stored, or,
// of a queue that counts, a copy that tells of the deliveries in vain. A message that
// was asked for is told of none too, as RabbitMQ does it.
func (q *Queue) shownLocked(e *entry, block []byte, asked bool) []byte {
	if e.count == 0 && !asked || !q.rules.counts() {
		return block
	}
	v, err := message.Parse(block)
	if err != nil {
		return block // whoever is to write it says so
	}
	props := withCounts(make([]byte, 0, len(v.Properties)+64), v.Properties, e.count)
	shown := make([]byte, 0, message.Overhead+len(v.Exchange)+len(v.Key)+len(props)+len(v.Body))
	shown = message.AppendBlockHead(shown, v.Persistent, v.Exchange, v.Key, props)
	message.MarkAs(shown, &v)
	return append(shown, v.Body...)
}

// withCounts appends a property list in which the headers tell of deliveries in vain.
func withCounts(dst, props []byte, count uint32) []byte {
	var headers []byte
	had := false
	add := func() {
		had = true
		dst = message.AppendField(dst, message.Headers, appendCounts(headers, count))
	}
	for list := props; ; {
		id, value, rest, ok := message.NextField(list)
		if !ok {
			break
		}
		list = rest
		if id == message.Headers {
			headers = withoutCounts(make([]byte, 0, len(value)+64), value)
			continue
		}
		if id > message.Headers && !had {
			add()
		}
		dst = message.AppendField(dst, id, value)
	}
	if !had {
		add()
	}
	return dst
}

// withoutCounts appends the headers of a list that do not tell of deliveries.
func withoutCounts(dst, list []byte) []byte {
	for {
		name, _, _, rest, ok := message.NextHeader(list)
		if !ok {
			return dst
		}
		if string(name) != deliveryCountHeader && string(name) != acquiredCountHeader {
			dst = append(dst, list[:len(list)-len(rest)]...)
		}
		list = rest
	}
}

func appendCounts(dst []byte, count uint32) []byte {
	dst = appendName(dst, deliveryCountHeader, 'l')
	dst = binary.BigEndian.AppendUint64(dst, uint64(failuresOf(count)))
	dst = appendName(dst, acquiredCountHeader, 'l')
	return binary.BigEndian.AppendUint64(dst, uint64(acquiredOf(count)))
}

// firstUnsentLocked is the tag of the first delivery of a channel that has not been
// taken to be written, more than any tag if there is none. s.mu is held.
func (ch *Channel) firstUnsentLocked() uint64 {
	for _, e := range ch.s.events {
		if e.Kind == EventDelivery && e.Consumer.ch == ch || e.Kind == EventGot && e.Channel == ch {
			return e.Tag
		}
	}
	return math.MaxUint64
}

// noteUnsentLocked notes this for all channels of a session that is closed. s.mu is
// held.
func (s *Session) noteUnsentLocked() {
	for i := range s.events {
		e := &s.events[i]
		ch := e.Channel
		switch e.Kind {
		case EventDelivery:
			ch = e.Consumer.ch
		case EventGot:
		default:
			continue
		}
		if ch.unsent == 0 {
			ch.unsent = e.Tag + 1
		}
	}
}
