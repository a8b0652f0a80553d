package stomplink

import (
	"fmt"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// receiptPatience is how long a receipt may be missing while those of messages that
// were sent later came. Then the sender ends, and what it has no answer for can be
// sent again: it would wait for ever otherwise.
const receiptPatience = time.Minute

// receipts are those of a sender's messages. Those that come in order make runs, of
// which the source is told at once. They are the reader's.
type receipts struct {
	settled uint64              // the source was told of all up to it
	run     uint64              // and those up to here came, in order
	ahead   map[uint64]struct{} // those behind that came before their turn
	late    *time.Timer         // while there are any: the one that is missing does not come
}

// confirmed is for the reader: the receipt of a message came. One of a message that
// was not sent, or has its receipt already, is ignored.
func (s *session) confirmed(tag uint64) {
	k := s.sender
	r := &k.receipts
	if tag <= r.run || tag > k.sent.Load() || !k.confirm {
		s.Log.Debug("a receipt of nothing that waits for one", "receipt", tag)
		return
	}
	if tag == r.run+1 {
		r.run++
		if len(r.ahead) > 0 {
			s.catchUp()
		}
		return
	}
	if _, again := r.ahead[tag]; again {
		return
	}
	s.settleRun()
	if r.ahead == nil {
		r.ahead = make(map[uint64]struct{})
	}
	if len(r.ahead) == 0 {
		s.awaitReceipt(r.run + 1)
	}
	r.ahead[tag] = struct{}{}
	k.tell(tag, false)
}

// catchUp goes on over what came before its turn.
func (s *session) catchUp() {
	r := &s.sender.receipts
	for {
		if _, ok := r.ahead[r.run+1]; !ok {
			break
		}
		r.run++
		delete(r.ahead, r.run)
	}
	r.late.Stop()
	if len(r.ahead) > 0 {
		s.awaitReceipt(r.run + 1)
	}
}

// awaitReceipt ends the sender when the receipt of a message stays away.
func (s *session) awaitReceipt(tag uint64) {
	s.sender.receipts.late = time.AfterFunc(receiptPatience, func() {
		s.End(&link.Error{Kind: link.Unavailable, Text: fmt.Sprintf(
			"the broker sent no receipt for message %d of this connection, and those of later ones %v ago", tag, receiptPatience)}, false)
	})
}

// settleRun tells the source of the receipts that came in order.
func (s *session) settleRun() {
	k := s.sender
	if k == nil || k.receipts.run == k.receipts.settled {
		return
	}
	k.receipts.settled = k.receipts.run
	k.tell(k.receipts.run, true)
}

func (s *sender) tell(tag uint64, multiple bool) {
	if s.gate.Enter() {
		s.src.Settled(tag, multiple, false)
		s.gate.Leave()
	}
}

// close stops what waits.
func (r *receipts) close() {
	if r.late != nil {
		r.late.Stop()
	}
}
