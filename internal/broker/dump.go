package broker

import (
	"fmt"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/message"
)

// RecordInfo is one record of a batch's head, taken apart for people. Fields
// that its kind does not have are zero.
type RecordInfo struct {
	Kind string // one of recordNames

	Queue uint64 // number of the queue that is meant
	First uint64 // first of the sequence numbers that are meant
	Count uint64 // how many, from First on

	// Of publishes. Sizes are those of the messages' blocks, which stand one
	// behind the other in the batch's body, from Offset on; or the block stands
	// in Parts.
	Targets []MessageRef
	Sizes   []uint64
	Offset  uint64
	Parts   []journal.Ref

	// Of messages with attributes in their queues: those of each of Sizes, or of
	// Targets; or of those of which First is the first, whose attributes changed.
	Attributes []MessageAttributes

	// Of exchanges, queues and bindings. Of a binding, Name is its source,
	// Type is "queue" or "exchange", as its Destination is.
	VHost       string
	Name        string
	Type        string
	Destination string
	Key         string
	Args        map[string]any
	Durable     bool
	AutoDelete  bool
	Internal    bool

	// Of checkpoints.
	LastQueue  uint64       // the highest number that a queue was given
	Position   uint64       // where the checkpoint that ends here begins
	Tail       uint64       // the next sequence number of a queue
	Floor      uint64       // all below is settled
	SettledRun []SettledRun // and these, above it
	Lanes      []LaneInfo   // instead of these three, of a queue with priorities

	// Of messages with an identity: those of the producer Name that were accepted.
	Accepted []AcceptedRun

	// Of messages with a duplicate id: the hashes of the ids that were published to
	// the exchange Name with Key. Whole: they are all that are remembered.
	IDs   [][]byte
	Whole bool

	// Of a setting, whose kind is its Type: it was removed.
	Deleted bool

	// Of an owner.
	Node  string
	Lease time.Duration
}

// MessageRef names a message by its queue's number and its place there.
type MessageRef struct{ Queue, Seq uint64 }

// SettledRun is a run of sequence numbers that are settled.
type SettledRun struct{ First, Count uint64 }

// MessageAttributes are what a queue knows of a message; zero: it does not.
type MessageAttributes struct {
	Expires   time.Time // when it does
	Waits     time.Time // until when
	Count     uint32    // deliveries in vain
	HeadBytes uint16    // of its block, that are not its body
}

// LaneInfo is the state of one priority's messages.
type LaneInfo struct {
	Priority    uint8
	Tail, Floor uint64
	SettledRun  []SettledRun
}

// AcceptedRun is a run of a producer's numbers, both ends included.
type AcceptedRun struct{ First, Last uint64 }

var recordNames = [...]string{
	recNone:          "nothing",
	recRun:           "publish",
	recMany:          "publish-to-many",
	recParts:         "publish-in-parts",
	recPart:          "part",
	recSettle:        "settle",
	recTxBegin:       "transaction-begin",
	recTxEnd:         "transaction-end",
	recEpoch:         "epoch",
	recVHost:         "vhost",
	recExchange:      "exchange",
	recExchangeGone:  "exchange-deleted",
	recQueue:         "queue",
	recQueueGone:     "queue-deleted",
	recBind:          "bind",
	recUnbind:        "unbind",
	recCheckpoint:    "checkpoint",
	recState:         "queue-state",
	recCheckpointEnd: "checkpoint-end",
	recAccepted:      "accepted",
	recIDs:           "ids",
	recOwner:         "owner",
	recHandover:      "handover",
	recSetting:       "setting",
	recRunWith:       "publish",
	recManyWith:      "publish-to-many",
	recPartsWith:     "publish-in-parts",
	recAttrs:         "attributes",
	recLanes:         "queue-state",
	recSeen:          "seen",
	recVHostGone:     "vhost-deleted",
}

// DescribeHead calls visit with each record of a batch's head, in order. What
// visit gets points into head. The error says that head is not what this broker
// writes; the records before the fault were visited.
func DescribeHead(head []byte, visit func(RecordInfo)) error {
	d := describer{reader: reader{b: head}}
	for len(d.b) > 0 {
		at := len(head) - len(d.b)
		info, err := d.record()
		if err != nil {
			return fmt.Errorf("byte %d of a batch's head of %d: %w", at, len(head), err)
		}
		visit(info)
	}
	return nil
}

type describer struct {
	reader
	offset uint64 // in the batch's body
}

func (d *describer) record() (RecordInfo, error) {
	kind := d.byte()
	if int(kind) >= len(recordNames) {
		return RecordInfo{}, fmt.Errorf("%w: kind %d", errRecord, kind)
	}
	r := RecordInfo{Kind: recordNames[kind], Offset: d.offset}
	switch kind {
	case recRun, recRunWith:
		r.Queue, r.First = d.num(), d.num()
		r.Sizes = make([]uint64, d.count())
		r.Count = uint64(len(r.Sizes))
		var coder attrCoder
		for i := range r.Sizes {
			r.Sizes[i] = d.block()
			if kind == recRunWith {
				r.Attributes = append(r.Attributes, d.attrs(&coder))
			}
		}
	case recAttrs:
		r.Queue, r.First, r.Count = d.num(), d.num(), uint64(d.count())
		var coder attrCoder
		for range r.Count {
			r.Attributes = append(r.Attributes, d.attrs(&coder))
		}
	case recMany, recManyWith:
		d.targets(&r, kind == recManyWith)
		r.Sizes = []uint64{d.block()}
	case recParts, recPartsWith:
		d.targets(&r, kind == recPartsWith)
		r.Parts = make([]journal.Ref, d.count())
		for i := range r.Parts {
			r.Parts[i] = journal.Ref{Position: d.num(), Offset: uint32(d.num()), Length: uint32(d.num())}
		}
	case recPart:
		r.Targets = []MessageRef{{d.num(), d.num()}}
		r.Sizes = []uint64{d.block()}
	case recSettle:
		r.Queue, r.First, r.Count = d.num(), d.num(), d.num()
	case recVHost, recVHostGone:
		r.VHost = d.text()
	case recExchange:
		r.VHost, r.Name, r.Type = d.text(), d.text(), d.text()
		d.flags(&r)
		r.Args = d.args()
	case recExchangeGone:
		r.VHost, r.Name = d.text(), d.text()
	case recQueue:
		d.queue(&r)
	case recQueueGone:
		r.Queue = d.num()
	case recBind, recUnbind:
		r.VHost, r.Name = d.text(), d.text()
		r.Type = "queue"
		if d.byte() != 0 {
			r.Type = "exchange"
		}
		r.Destination, r.Key, r.Args = d.text(), d.text(), d.args()
	case recCheckpoint:
		r.LastQueue = d.num()
	case recState:
		d.queue(&r)
		ln := d.lane()
		r.Tail, r.Floor, r.SettledRun = ln.Tail, ln.Floor, ln.SettledRun
	case recLanes:
		d.queue(&r)
		r.Lanes = make([]LaneInfo, d.count())
		for i := range r.Lanes {
			r.Lanes[i] = d.lane()
		}
	case recCheckpointEnd:
		r.Position = d.num()
	case recAccepted:
		r.VHost, r.Name = d.text(), d.text()
		r.Accepted = make([]AcceptedRun, d.count())
		end := uint64(0)
		for i := range r.Accepted {
			var s span
			s, end = d.acceptedRun(end)
			r.Accepted[i] = AcceptedRun{s.first, s.last}
		}
	case recIDs:
		r.VHost, r.Name, r.Key = d.text(), d.text(), d.text()
		var ids []byte
		r.Whole, ids = d.ids()
		r.IDs = slices.Collect(slices.Chunk(ids, len(dupID{})))
	case recSeen:
		var list []seenID
		r.VHost, r.Name, r.Whole, list = d.seenRecord()
		for i := range list {
			r.IDs = append(r.IDs, list[i].id[:])
		}
	case recOwner:
		r.Node = d.text()
		r.Lease = time.Duration(min(d.num(), maxLeaseMillis)) * time.Millisecond
	case recSetting:
		s := readSetting(&d.reader)
		r.Type, r.VHost, r.Name, r.Deleted = s.Kind, s.VHost, s.Name, s.Value == nil // its value may be a secret
	}
	return r, d.err
}

// block reads the size of a block in the batch's body.
func (d *describer) block() uint64 {
	n := d.num()
	d.offset += n
	return n
}

func (d *describer) targets(r *RecordInfo, with bool) {
	r.Targets = make([]MessageRef, d.count())
	var coder attrCoder
	for i := range r.Targets {
		r.Targets[i] = MessageRef{d.num(), d.num()}
		if with {
			r.Attributes = append(r.Attributes, d.attrs(&coder))
		}
	}
}

func (d *describer) attrs(c *attrCoder) MessageAttributes {
	a := c.read(&d.reader)
	m := MessageAttributes{Count: a.count, HeadBytes: a.over}
	if a.due != 0 {
		m.Expires = time.UnixMilli(a.due).UTC()
	}
	if a.wake != 0 {
		m.Waits = time.UnixMilli(a.wake).UTC()
	}
	return m
}

func (d *describer) lane() LaneInfo {
	s := d.laneState()
	ln := LaneInfo{Priority: uint8(s.tail >> laneShift), Tail: s.tail, Floor: s.floor, SettledRun: make([]SettledRun, len(s.runs))}
	for i, r := range s.runs {
		ln.SettledRun[i] = SettledRun{r.from, r.to - r.from}
	}
	return ln
}

func (d *describer) args() map[string]any { return describeHeaders(d.bytes()) }

func (d *describer) flags(r *RecordInfo) {
	f := d.byte()
	r.Durable, r.AutoDelete, r.Internal = f&flagDurable != 0, f&flagAutoDelete != 0, f&(flagInternal|flagDelays) != 0
}

func (d *describer) queue(r *RecordInfo) {
	r.Queue, r.VHost, r.Name = d.num(), d.text(), d.text()
	d.flags(r)
	r.Args = d.args()
}

// MessageInfo is a message taken apart for people.
type MessageInfo struct {
	Persistent    bool
	Exchange, Key string
	Properties    map[string]any // by their AMQP names; of those that are not set there is none
	Body          []byte
}

// DescribeMessage takes the block of a message apart. The error says that it is
// damaged; what can be told of it is told all the same.
func DescribeMessage(block []byte) (MessageInfo, error) {
	v, err := message.Parse(block)
	if err == nil {
		err = message.Check(block)
	}
	return MessageInfo{
		Persistent: v.Persistent,
		Exchange:   string(v.Exchange),
		Key:        string(v.Key),
		Properties: describeProperties(v.Properties),
		Body:       v.Body,
	}, err
}

var fieldNames = map[message.FieldID]string{
	message.ContentType:     "content-type",
	message.ContentEncoding: "content-encoding",
	message.Headers:         "headers",
	message.Priority:        "priority",
	message.CorrelationID:   "correlation-id",
	message.ReplyTo:         "reply-to",
	message.Expiration:      "expiration",
	message.MessageID:       "message-id",
	message.Timestamp:       "timestamp",
	message.Type:            "type",
	message.UserID:          "user-id",
	message.AppID:           "app-id",
}

func describeProperties(list []byte) map[string]any {
	m := map[string]any{}
	for {
		id, value, rest, ok := message.NextField(list)
		if !ok {
			return m
		}
		list = rest
		name := fieldNames[id]
		switch {
		case id == message.Headers:
			m[name] = describeHeaders(value)
		case id == message.Priority && len(value) == 1:
			m[name] = value[0]
		case id == message.Timestamp && len(value) == 8:
			m[name], _ = message.Decode('T', value, 0)
		case name == "":
			m[fmt.Sprintf("property-%d", id)] = string(value)
		default:
			m[name] = string(value)
		}
	}
}

func describeHeaders(list []byte) map[string]any {
	m, ok := message.DecodeHeaders(list)
	if !ok {
		return map[string]any{"undecodable": fmt.Sprintf("%d bytes", len(list))}
	}
	return m
}
