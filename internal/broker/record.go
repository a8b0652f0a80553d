package broker

import (
	"encoding/binary"
	"errors"
)

// Records are what the heads of the journal's batches hold, one behind the
// other. Numbers are uvarints; a text is its length and its bytes. The blocks
// of messages stand in the batch's body, in the order of the records that
// publish them.
//
//	run        queue, first, n, n × size     n messages of one queue, consecutive
//	many       n, n × (queue, seq), size     one message in several queues
//	parts      n, n × (queue, seq), m, m × (position, offset, size)
//	                                         one message whose block stands in
//	                                         m parts of earlier batches
//	part       queue, seq, size              such a part; queue and seq are those of
//	                                         its message's first queue
//	settle     queue, first, n               n sequence numbers are settled
//	txBegin, txEnd                           what is between takes effect together;
//	                                         a batch of a higher epoch undoes a
//	                                         txBegin without its txEnd
//	epoch                                    a new owner begins, one without a name
//	vhost      name
//	exchange   vhost, name, type, flags, args
//	exchangeGone  vhost, name
//	queue      number, vhost, name, flags, args
//	queueGone  number
//	bind       vhost, source, kind, destination, key, args     kind 0: queue, 1: exchange
//	unbind     vhost, source, kind, destination, key, args
//	checkpoint next number                   a checkpoint begins; what stands before
//	                                         it counts only for its messages
//	state      number, vhost, name, flags, args, tail, floor, n, n × (skip, length)
//	                                         a queue in a checkpoint: all below floor
//	                                         is settled, and n runs above it, each
//	                                         skip behind the end of the last
//	checkpointEnd position                   of the batch that began it
//	accepted   vhost, producer, n, n × (skip, length)
//	                                         numbers of a producer's messages that were
//	                                         accepted, as runs, each skip behind the end
//	                                         of the last; in the batch of the messages,
//	                                         and in a checkpoint
//	ids        vhost, exchange, key, whole, n, n × 16 bytes
//	                                         duplicate ids of messages that were
//	                                         published there, as hashes, the oldest
//	                                         first: 0, more, in the batch of the
//	                                         messages; 1, all, in a checkpoint
//	seen       vhost, exchange, whole, n, n × (16 bytes, until)
//	                                         what an exchange that drops repeats has let
//	                                         through, as hashes, the oldest first, and until
//	                                         when it remembers each, ms since 1970, 0: for
//	                                         ever; whole as in ids, but there may be more
//	                                         behind it
//	owner      node, lease                   a new owner begins, what its name is, and for
//	                                         how many milliseconds it may be silent; or it
//	                                         is said again, in a checkpoint
//	handover                                 the owner has ended, and writes nothing
//	                                         more: another may begin at once
//	runWith, manyWith, partsWith             as run, many and parts, of messages with
//	                                         attributes (attr.go), which stand behind
//	                                         the size of each in a run, and otherwise
//	                                         behind the seq
//	attrs      queue, first, n, n × attributes
//	                                         those of n messages, consecutive, that a
//	                                         queue has, have changed, or are so, in a
//	                                         checkpoint
//	lanes      number, vhost, name, flags, args, n, n × (tail, floor, m, m × (skip, length))
//	                                         state of a queue with priorities; tail says
//	                                         whose (lane.go)
//	setting    kind, vhost, name, value      an operator set it; a value without bytes:
//	                                         it was removed, otherwise they stand
//	                                         behind a 1
//	vhostGone  vhost                         with all that was in it, and the settings
//	                                         of it
type recordKind = uint8

const (
	recNone recordKind = iota
	recRun
	recMany
	recParts
	recPart
	recSettle
	recTxBegin
	recTxEnd
	recEpoch
	recVHost
	recExchange
	recExchangeGone
	recQueue
	recQueueGone
	recBind
	recUnbind
	recCheckpoint
	recState
	recCheckpointEnd
	recAccepted
	recIDs
	recOwner
	recHandover
	recSetting
	recRunWith
	recManyWith
	recPartsWith
	recAttrs
	recLanes
	recSeen
	recVHostGone
)

// plain tells whether a record holds a message, or nothing that anybody's state
// depends on: it means nothing any more when the message is settled.
func plain(k recordKind) bool {
	switch k {
	case recNone, recRun, recMany, recParts, recPart, recEpoch, recHandover, recRunWith, recManyWith, recPartsWith:
		return true
	}
	return false
}

const (
	flagDurable = 1 << iota
	flagAutoDelete
	flagInternal
	flagDelays // the queue is what an exchange of this name keeps for later
)

type target struct{ queue, seq uint64 }

func appendText[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

var errRecord = errors.New("a record is cut short or of an unknown kind")

// reader takes records apart. The first fault sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) num() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		n := r.b[0]
		r.b = r.b[1:]
		return uint64(n)
	}
	n, w := binary.Uvarint(r.b)
	if w <= 0 {
		r.b, r.err = nil, errRecord
		return 0
	}
	r.b = r.b[w:]
	return n
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.err = errRecord
		return 0
	}
	x := r.b[0]
	r.b = r.b[1:]
	return x
}

func (r *reader) bytes() []byte {
	n := r.num()
	if n > uint64(len(r.b)) {
		r.b, r.err = nil, errRecord
		return nil
	}
	x := r.b[:n:n]
	r.b = r.b[n:]
	return x
}

func (r *reader) text() string { return string(r.bytes()) }

// count reads a number of things that each take at least one byte.
func (r *reader) count() int {
	n := r.num()
	if n > uint64(len(r.b)) {
		r.b, r.err = nil, errRecord
		return 0
	}
	return int(n)
}
