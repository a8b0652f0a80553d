package broker

import "github.com/ferrymq/ferry/internal/message"

// attemptHeader is the header that marks a message with an identity as sent
// again by its publisher, who does not know what became of it: an integer, 2 and
// more. It is of this one sending, and no part of the message. So it is not
// stored, whatever its value: whoever publishes a message that it received
// again, with all its headers, publishes one that is not marked, which is
// another message.
const attemptHeader = "x-ferry-attempt"

// withoutMark returns properties, whose headers have one, without the number of
// an attempt, and tells whether it marks a resend.
func withoutMark(props []byte) (bare []byte, marked bool) {
	bare = make([]byte, 0, len(props))
	for list := props; ; {
		field, v, rest, ok := message.NextField(list)
		if !ok {
			return bare, marked
		}
		list = rest
		if field != message.Headers {
			bare = message.AppendField(bare, field, v)
			continue
		}
		kept := make([]byte, 0, len(v))
		for {
			name, kind, value, more, ok := message.NextHeader(v)
			if !ok {
				break
			}
			if string(name) == attemptHeader {
				marked = marked || isResend(kind, value)
			} else {
				kept = append(kept, v[:len(v)-len(more)]...)
			}
			v = more
		}
		bare = message.AppendField(bare, field, append(kept, v...))
	}
}

// isResend tells whether a value of attemptHeader is an integer from 2 on.
func isResend(kind byte, v []byte) bool {
	x, _ := message.Decode(kind, v, 0)
	n, ok := x.(int64)
	return ok && n >= 2
}

// brought is what a channel brought of one producer. It belongs to the reader's
// goroutine. A channel remembers its last producer only: see repeatsLocked for
// what it costs that it forgets.
type brought struct {
	own  bool   // one that was not marked, and was accepted: the producer itself publishes here
	high uint64 // the highest number that was no copy
}

// brings notes that a message was accepted, or was a repeat.
func (ch *Channel) brings(it *pubItem, own bool) {
	if ch.producer == it.from {
		ch.brought.own = ch.brought.own || own
		ch.brought.high = max(ch.brought.high, it.id)
	}
}

// repeatsLocked tells whether a message repeats one that was accepted, and is to
// be dropped. One that does not, but has the number of one that was accepted, is
// an ordinary message from now on: a copy, which somebody made of what it
// received.
//
// What is not marked can repeat in one way. A publisher's connection breaks for
// it, and it sends again, marked, on another one; then the original arrives, out
// of the buffers of the first. So it comes on a channel on which its producer
// publishes, behind all that this channel brought of it, and its number was
// accepted as a resend. A channel may know nothing of this: the original is its
// first message, or another producer's was between. Then it is stored twice,
// which is better than to lose what is none.
//
// What cannot be told from a late original is the copy of a resend, on a channel
// whose copy of an earlier message, of a number that was forgotten meanwhile, was
// taken for an original.
func (p *producer) repeatsLocked(it *pubItem) bool {
	if !p.all.has(it.id) {
		return false
	}
	ch := it.ch
	late := ch.producer == p && ch.brought.own && it.id > ch.brought.high && p.resent.has(it.id)
	if !late && !it.marked {
		it.from = nil
		return false
	}
	ch.brings(it, false)
	return true
}
