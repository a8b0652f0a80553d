package broker

import "math"

// reason is why a message leaves its queue other than by being settled. Its text
// is what x-death tells.
type reason uint8

const (
	rejected reason = iota + 1 // by a consumer, not to be requeued
	expired
	maxlen        // the queue was full
	deliveryLimit // it was delivered in vain too often
	released      // its delay is over; no x-death tells of that
)

func (r reason) String() string {
	switch r {
	case rejected:
		return "rejected"
	case expired:
		return "expired"
	case maxlen:
		return "maxlen"
	case deliveryLimit:
		return "delivery_limit"
	}
	return ""
}

// leavingMost is how many messages of a queue may be on their way before those that
// need not leave at once, and cannot be delivered any more, are left where they are
// for a while: their part of the index stays packed.
const leavingMost = 64 << 10

// exit is where the messages of a queue are that leave it for others. They are
// neither ready nor unsettled any more, but still the queue's, and in its index in
// the state leaving, until a carrier has put them where they go; see move.go. No record
// tells of that state: after a crash they are back, and leave again if there is still
// a reason. Guarded by its queue's mutex.
type exit struct {
	list        []leave // what no carrier has taken yet, in the order in which it left
	held        int     // messages in state leaving, those at a carrier included
	busy        bool    // the queue is on the carriers' list, or at one of them
	given, done uint64  // how many messages were ever expelled, and of how many of these that is over
	moved       chan struct{}
}

// leave is a run of messages that leave for one reason, to where the rules sent them
// that the queue had then.
type leave struct {
	first uint64
	n     uint32
	why   reason
	rules *rules
}

// expelLocked takes a message, ready or unsettled, out of the queue for a reason: to
// the dead-letter exchange, if there is one. q.mu is held; the caller calls
// reportLocked or dispatchLocked afterwards, as after removeLocked.
func (q *Queue) expelLocked(seq uint64, why reason) {
	e := q.entryLocked(seq)
	if e == nil || e.state == gone || e.state == leaving {
		return
	}
	q.countLeft(why)
	if !q.forwardsLocked(why) {
		q.removeLocked(seq)
		return
	}
	switch e.state {
	case ready:
		q.ready--
		q.readyBytes -= e.body()
	case waiting:
		q.waiting--
	default:
		q.unacked--
	}
	e.state = leaving
	q.leavesLocked(seq, why)
}

// leavesLocked puts a message, which is in the state leaving, on the list of those
// that are to be moved.
func (q *Queue) leavesLocked(seq uint64, why reason) {
	x := q.exit
	if x == nil {
		x = &exit{}
		q.exit = x
	}
	x.held++
	x.given++
	if n := len(x.list); n > 0 && x.list[n-1].why == why && x.list[n-1].rules == q.rules && x.list[n-1].first+uint64(x.list[n-1].n) == seq && x.list[n-1].n < math.MaxUint32 {
		x.list[n-1].n++
	} else {
		x.list = append(x.list, leave{seq, 1, why, q.rules})
	}
	if !x.busy {
		x.busy = true
		q.v.b.moves.add(q)
	}
}

// forwardsLocked tells whether what leaves the queue for a reason goes to other
// queues.
func (q *Queue) forwardsLocked(why reason) bool {
	return q.rules.deadTo != nil || why == deliveryLimit
}

// leavingLocked is how many messages are on their way to other queues.
func (q *Queue) leavingLocked() int {
	if q.exit == nil {
		return 0
	}
	return q.exit.held
}

// takeLocked takes messages off the list: at most so many, and of so many bytes but
// for the first.
func (x *exit) takeLocked(q *Queue, items []moving, most, bytes int) []moving {
	for len(x.list) > 0 && most > 0 && bytes > 0 {
		run := &x.list[0]
		if e := q.entryLocked(run.first); e != nil && e.state == leaving {
			count := e.count
			if run.why == deliveryLimit {
				count = countOf(count, failed) // by which it left
			}
			items = append(items, moving{seq: run.first, why: run.why, rules: run.rules, count: count, from: e.msg})
			bytes -= int(e.msg.size)
			most--
		} else {
			x.done++ // it was forgotten with others
		}
		run.first++
		if run.n--; run.n == 0 {
			x.list = x.list[1:]
		}
	}
	if len(x.list) == 0 {
		x.list = nil
	}
	return items
}

// returnLocked puts back what was taken and could not be moved now.
func (x *exit) returnLocked(items []moving) {
	if len(items) == 0 {
		return
	}
	list := make([]leave, 0, len(items)+len(x.list))
	for i := range items {
		list = append(list, leave{items[i].seq, 1, items[i].why, items[i].rules})
	}
	x.list = append(list, x.list...)
}

// tellLocked wakes those that wait for messages to have been moved.
func (x *exit) tellLocked() {
	if x.moved != nil {
		close(x.moved)
		x.moved = nil
	}
}

// awaitMoves returns when all that has been expelled from a queue so far is where it
// goes, though the log may not have that yet. some is whether anything ever was. Who
// deletes a queue calls it before: what left the queue earlier does not end with it.
func (b *Broker) awaitMoves(q *Queue) (some bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.exit
	if x == nil {
		return false, nil
	}
	for until := x.given; x.done < until && !q.deleted; {
		if x.moved == nil {
			x.moved = make(chan struct{})
		}
		moved := x.moved
		q.mu.Unlock()
		select {
		case <-moved:
		case <-b.failed:
			err = b.Err()
		case <-b.quit:
			err = errorf(Forced, "broker is closed")
		}
		q.mu.Lock()
		if err != nil {
			return true, err
		}
	}
	return true, nil
}

// dropLocked is for a queue that is deleted.
func (x *exit) dropLocked() {
	x.list, x.held, x.done = nil, 0, x.given
	x.tellLocked()
}
