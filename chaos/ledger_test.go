package chaos

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
)

// The body of a numbered message: publisher (4 bytes), number (8), CRC-32 of
// what is behind it (4), filling.
const bodyHead = 16

// filling is what bodies are cut from.
var filling = func() []byte {
	b := make([]byte, 2<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}()

func body(publisher int, seq uint64, size int) []byte {
	b := make([]byte, max(size, bodyHead))
	at := int(seq*7919) % (len(filling) - len(b))
	copy(b[bodyHead:], filling[at:])
	binary.BigEndian.PutUint32(b, uint32(publisher))
	binary.BigEndian.PutUint64(b[4:], seq)
	binary.BigEndian.PutUint32(b[12:], crc32.ChecksumIEEE(b[bodyHead:]))
	return b
}

func parseBody(b []byte) (publisher int, seq uint64, ok bool) {
	if len(b) < bodyHead || binary.BigEndian.Uint32(b[12:]) != crc32.ChecksumIEEE(b[bodyHead:]) {
		return 0, 0, false
	}
	return int(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint64(b[4:]), true
}

// A ledger holds what was sent, confirmed and received, and notes what must not
// be.
type ledger struct {
	mu     sync.Mutex
	pubs   []*account
	queues map[string]*receipts
	faults []string
	counts
}

type counts struct {
	confirmed, received         int // received counts a message once a queue
	resent, redelivered         int
	lost, duplicated, reordered int
	returned                    int // though their settlement was durable
	damaged                     int
}

// An account is what one publisher sent, by number.
type account struct {
	queues    []string // that each message goes to
	sends     []uint8
	confirmed []bool
}

// receipts are what came out of one queue.
type receipts struct {
	single bool             // it has one consumer: the order of all is checked
	of     map[int]*arrived // by publisher
}

type arrived struct {
	seqs  []arrival
	first int64 // the last number that came for the first time
}

type arrival struct {
	fresh uint8 // deliveries that were not marked redelivered
	seen  bool
	sure  uint8 // settlements that were told to be durable
}

func newLedger() *ledger { return &ledger{queues: map[string]*receipts{}} }

// queue notes that a queue exists.
func (l *ledger) queue(name string, single bool) {
	l.queues[name] = &receipts{single: single, of: map[int]*arrived{}}
}

// publisher notes that one exists, and returns its number.
func (l *ledger) publisher(queues ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pubs = append(l.pubs, &account{queues: queues})
	n := len(l.pubs) - 1
	for _, q := range queues {
		l.queues[q].of[n] = &arrived{first: -1}
	}
	return n
}

func (l *ledger) faultLocked(format string, args ...any) {
	if len(l.faults) < 20 {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faultLocked(format, args...)
}

// next is the number of a publisher's next new message.
func (l *ledger) next(publisher int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.pubs[publisher]
	a.sends = append(a.sends, 0)
	a.confirmed = append(a.confirmed, false)
	for _, q := range a.queues {
		of := l.queues[q].of[publisher]
		of.seqs = append(of.seqs, arrival{})
	}
	return uint64(len(a.sends) - 1)
}

// sending is called before a message is sent, each time.
func (l *ledger) sending(publisher int, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.pubs[publisher]
	a.sends[seq] = min(a.sends[seq], 254) + 1
	if a.sends[seq] > 1 {
		l.resent++
	}
}

func (l *ledger) confirm(publisher int, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.pubs[publisher]; !a.confirmed[seq] {
		a.confirmed[seq] = true
		l.confirmed++
	}
}

// received notes a delivery. last is, for the consumer's session, the last
// number of each publisher that came without the mark redelivered: these come in
// order, whatever the other consumers of the queue get.
func (l *ledger) received(queue string, body []byte, redelivered bool, last map[int]uint64) (publisher int, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	publisher, seq, ok := parseBody(body)
	if !ok {
		l.damaged++
		l.faultLocked("%s: a damaged message of %d bytes", queue, len(body))
		return -1, 0
	}
	of := l.queues[queue].of[publisher]
	if of == nil || seq >= uint64(len(of.seqs)) {
		l.damaged++
		l.faultLocked("%s: message %d of publisher %d was never sent there", queue, seq, publisher)
		return -1, 0
	}
	sends := l.pubs[publisher].sends[seq]
	a := &of.seqs[seq]
	if redelivered {
		l.redelivered++
	} else {
		a.fresh = min(a.fresh, 254) + 1
		if a.fresh > sends {
			l.duplicated++
			l.faultLocked("%s: message %d of publisher %d was sent %d times, and came %d times not marked redelivered", queue, seq, publisher, sends, a.fresh)
		}
		if before, ok := last[publisher]; ok && seq <= before {
			l.reordered++
			l.faultLocked("%s: message %d of publisher %d came after %d to one consumer", queue, seq, publisher, before)
		}
		last[publisher] = seq
	}
	if a.sure >= sends {
		l.returned++
		l.faultLocked("%s: message %d of publisher %d came again, though its settlement was committed", queue, seq, publisher)
	}
	if !a.seen {
		a.seen = true
		l.counts.received++
		if l.queues[queue].single {
			if int64(seq) < of.first {
				l.reordered++
				l.faultLocked("%s: message %d of publisher %d came for the first time after %d", queue, seq, publisher, of.first)
			}
			of.first = int64(seq)
		}
	}
	return publisher, seq
}

// settled notes that a settlement is known to be durable.
func (l *ledger) settled(queue string, publisher int, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &l.queues[queue].of[publisher].seqs[seq]
	a.sure = min(a.sure, 254) + 1
}

// missing counts the confirmed messages that did not come, a queue each, and
// names some.
func (l *ledger) missing() (n int, some []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, a := range l.pubs {
		for _, q := range a.queues {
			of := l.queues[q].of[p]
			for seq, ok := range a.confirmed {
				if ok && !of.seqs[seq].seen {
					n++
					if len(some) < 10 {
						some = append(some, fmt.Sprintf("%s: message %d of publisher %d", q, seq, p))
					}
				}
			}
		}
	}
	return n, some
}

// totals are the counts so far.
func (l *ledger) totals() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}
