package stompserver

import (
	"sync"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

const (
	// receiptsMost is how much the receipts may take that a connection waits for,
	// bytes: beyond that it is not read.
	receiptsMost = 4 << 20
	// receiptCost is what one counts beside its id.
	receiptCost = 24
	// receiptsKept is how much room for ids is kept while there is none, bytes.
	receiptsKept = 64 << 10
)

// receipts are the ids that confirms of publishes turn into RECEIPT frames, by
// the tags of the publishes. The reader adds, the writer takes.
type receipts struct {
	mu     sync.Mutex // guards what follows
	first  uint64     // tag of the first that is held
	ring   []receipt  // its length is a power of two
	head   int
	n      int
	text   []byte // the ids, one behind the other
	from   uint64 // how many bytes of ids were dropped before text
	least  int    // the reader waits for so much or less
	waiter chan struct{}
}

type receipt struct {
	at     uint64 // where its id begins, in all ids there ever were
	size   uint32
	wanted bool // not yet told, and a receipt was asked for
}

func (q *receipts) at(i int) *receipt { return &q.ring[(q.head+i)&(len(q.ring)-1)] }

// add holds the id for the next tag; wanted is false for a publish that nobody
// asked a receipt of. The id is copied. It is called before the publish, whose
// confirm may come at once.
func (q *receipts) add(id []byte, wanted bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == len(q.ring) {
		bigger := make([]receipt, max(8, 2*len(q.ring)))
		for i := range q.n {
			bigger[i] = *q.at(i)
		}
		q.ring, q.head = bigger, 0
	}
	if q.first == 0 {
		q.first = 1
	}
	q.n++
	*q.at(q.n - 1) = receipt{at: q.from + uint64(len(q.text)), size: uint32(len(id)), wanted: wanted}
	q.text = append(q.text, id...)
}

// size is how much is held. mu is held.
func (q *receipts) size() int { return len(q.text) + q.n*receiptCost }

func (q *receipts) held() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size()
}

// drained returns a channel that is closed when least or less is held; nil if
// that is so already. Called by the reader.
func (q *receipts) drained(least int) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size() <= least {
		return nil
	}
	q.least, q.waiter = least, make(chan struct{})
	return q.waiter
}

// take appends the RECEIPT frames for a confirm: of this tag, or (multiple) of
// all up to it, in their order. An error is what AppendHeader says of an id.
func (q *receipts) take(dst []byte, v stompwire.Version, tag uint64, multiple bool) (_ []byte, err error) {
	q.settle(tag, multiple, func(id []byte) {
		if err == nil {
			dst, err = appendReceipt(dst, v, id)
		}
	})
	return dst, err
}

// refuse lets go of what a refusal is of, and returns a copy of the first id of it
// that a receipt was asked for; nil where none was.
func (q *receipts) refuse(tag uint64, multiple bool) (first []byte) {
	q.settle(tag, multiple, func(id []byte) {
		if first == nil {
			first = append([]byte{}, id...)
		}
	})
	return first
}

// settle notes that publishes are settled, and calls visit with the ids that are
// waited for.
func (q *receipts) settle(tag uint64, multiple bool, visit func(id []byte)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 || tag < q.first {
		return
	}
	i := int(min(tag-q.first, uint64(q.n-1)))
	from := i
	if multiple {
		from = 0
	}
	for ; from <= i; from++ {
		r := q.at(from)
		if r.wanted {
			start := r.at - q.from
			visit(q.text[start : start+uint64(r.size)])
		}
		// What is told and still held waits for those before it.
		r.wanted = false
		r.size |= settled
	}
	q.drop()
}

// find is a copy of the id that is held for a tag; nil where none is.
func (q *receipts) find(tag uint64) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 || tag < q.first || tag-q.first >= uint64(q.n) {
		return nil
	}
	r := q.at(int(tag - q.first))
	if !r.wanted {
		return nil
	}
	start := r.at - q.from
	return append([]byte{}, q.text[start:start+uint64(r.size)]...)
}

// settled is the bit of receipt.size that says that its publish is confirmed.
const settled = 1 << 31

// drop lets go of what is settled at the front. mu is held.
func (q *receipts) drop() {
	for q.n > 0 && q.at(0).size&settled != 0 {
		q.head = (q.head + 1) & (len(q.ring) - 1)
		q.n--
		q.first++
	}
	if q.n == 0 {
		q.from += uint64(len(q.text))
		if q.text = q.text[:0]; cap(q.text) > receiptsKept {
			q.text = nil
		}
		if len(q.ring) > receiptsKept/receiptCost {
			q.ring, q.head = nil, 0
		}
	} else if gone := q.at(0).at - q.from; gone > uint64(len(q.text)/2) {
		q.text = q.text[:copy(q.text, q.text[gone:])]
		q.from += gone
	}
	if q.waiter != nil && q.size() <= q.least {
		close(q.waiter)
		q.waiter = nil
	}
}

// idle gives up what is kept for more.
func (q *receipts) idle() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 && cap(q.text)+len(q.ring)*receiptCost > keepMax {
		q.text, q.ring, q.head = nil, nil, 0
	}
}

// appendReceipt appends a RECEIPT frame.
func appendReceipt(dst []byte, v stompwire.Version, id []byte) ([]byte, error) {
	out := stompwire.AppendCommand(dst, stompwire.Receipt)
	out, err := stompwire.AppendHeader(out, v, stompwire.HeaderReceiptID, id)
	if err != nil {
		return dst, err
	}
	return append(stompwire.AppendHeadEnd(out), 0), nil
}
