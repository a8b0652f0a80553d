package broker

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"github.com/ferrymq/ferry/internal/message"
)

// Headers that tell of what became of a message, as RabbitMQ 4 writes them. They are
// the broker's: what a client publishes under these names is replaced when its
// message is dead-lettered for the first time, and counts for nothing.
const (
	deathHeader        = "x-death" // an array of tables, one for each queue and reason, newest first
	firstDeathQueue    = "x-first-death-queue"
	firstDeathReason   = "x-first-death-reason"
	firstDeathExchange = "x-first-death-exchange"
	lastDeathQueue     = "x-last-death-queue"
	lastDeathReason    = "x-last-death-reason"
	lastDeathExchange  = "x-last-death-exchange"
	ccHeader           = "CC"
	bccHeader          = "BCC"
	originalExpiration = "original-expiration"
	deathCount         = "count"
	deathQueue         = "queue"
	deathReason        = "reason"
	deathTime          = "time"
	deathExchange      = "exchange"
	deathRoutingKeys   = "routing-keys"
)

// deathsMost is how many queues and reasons a message remembers; no cycle that is
// meant is that long.
const deathsMost = 1000

// deathReasons are the texts of the reasons.
var deathReasons = [...][]byte{
	rejected: []byte(rejected.String()), expired: []byte(expired.String()), maxlen: []byte(maxlen.String()),
	deliveryLimit: []byte(deliveryLimit.String()),
}

// A death is a queue that a message left, and why.
type death struct{ queue, reason []byte }

// An obituary makes the blocks of dead letters. It is used for one after the other,
// and keeps nothing but room.
type obituary struct {
	why      reason
	from, to []byte // the queue, and the dead-letter exchange
	key      []byte // the routing key from now on; nil: it stays
	now      int64  // seconds since 1970
	count    uint32 // deliveries in vain that the message is to tell of; 0: none

	deaths  []death // of the message that was written last, newest first
	copied  bool    // it has further routing keys
	props   []byte
	headers []byte
	fresh   []byte // the entry of x-death that tells of this
	others  []byte // the others
	same    []byte // the fields of the entry that told of the same queue and reason
}

// write puts the block of a dead letter behind dst. The message's properties must be
// those that a broker stored. What it says is in deaths until the next one.
func (o *obituary) write(dst []byte, v *message.View) []byte {
	key := v.Key
	if o.key != nil {
		key = o.key
	}
	o.props = o.props[:0]
	had := false
	expiration := message.Field(v.Properties, message.Expiration)
	for list := v.Properties; ; {
		id, value, rest, ok := message.NextField(list)
		if !ok {
			break
		}
		if !had && id >= message.Headers {
			had = true
			var headers []byte
			if id == message.Headers {
				headers = value
			}
			o.props = message.AppendField(o.props, message.Headers, o.list(v, headers, expiration))
		}
		if id != message.Headers && id != message.Expiration {
			o.props = message.AppendField(o.props, id, value)
		}
		list = rest
	}
	if !had {
		o.props = message.AppendField(o.props, message.Headers, o.list(v, nil, expiration))
	}
	at := len(dst)
	dst = message.AppendBlockHead(dst, v.Persistent, o.to, key, o.props)
	message.MarkDead(dst[at:])
	if v.Blind {
		message.MarkBlind(dst[at:])
	}
	return append(dst, v.Body...)
}

// list makes the headers.
func (o *obituary) list(v *message.View, old, expiration []byte) []byte {
	why := deathReasons[o.why]
	out := o.headers[:0]
	o.deaths = append(o.deaths[:0], death{o.from, why})
	o.others, o.same, o.copied = o.others[:0], nil, false
	count := int64(1)
	for rest := old; ; {
		name, kind, value, next, ok := message.NextHeader(rest)
		if !ok {
			break
		}
		raw := rest[:len(rest)-len(next)]
		rest = next
		switch string(name) {
		case deathHeader:
			if v.Dead && kind == 'A' {
				count = o.history(value[4:])
			}
			continue
		case lastDeathQueue, lastDeathReason, lastDeathExchange:
			continue
		case firstDeathQueue, firstDeathReason, firstDeathExchange:
			if !v.Dead {
				continue
			}
		case ccHeader, bccHeader:
			if o.key != nil {
				continue
			}
			o.copied = true
		case deliveryCountHeader, acquiredCountHeader:
			if o.count > 0 {
				continue
			}
		}
		out = append(out, raw...)
	}
	if !v.Dead {
		out = appendTextHeader(out, firstDeathReason, why)
		out = appendTextHeader(out, firstDeathQueue, o.from)
		out = appendTextHeader(out, firstDeathExchange, v.Exchange)
	}
	out = appendTextHeader(out, lastDeathReason, why)
	out = appendTextHeader(out, lastDeathQueue, o.from)
	out = appendTextHeader(out, lastDeathExchange, v.Exchange)
	if o.count > 0 {
		out = appendCounts(out, o.count)
	}
	o.event(v, old, expiration, count)
	out = append(append(append(out, byte(len(deathHeader))), deathHeader...), 'A')
	out = binary.BigEndian.AppendUint32(out, uint32(1+4+len(o.fresh)+len(o.others)))
	out = binary.BigEndian.AppendUint32(append(out, 'F'), uint32(len(o.fresh)))
	out = append(append(out, o.fresh...), o.others...)
	o.headers = out
	return out
}

// history takes in the entries of x-death that a broker wrote, and returns the count
// of what is told now.
func (o *obituary) history(array []byte) (count int64) {
	count = 1
	for n := 1; n < deathsMost; n++ {
		kind, value, rest, ok := message.NextElement(array)
		if !ok {
			break
		}
		raw := array[:len(array)-len(rest)]
		array = rest
		if kind != 'F' {
			continue
		}
		d, times := readDeath(value[4:])
		if bytes.Equal(d.queue, o.from) && bytes.Equal(d.reason, deathReasons[o.why]) {
			o.same = value[4:]
			count = max(times, 0) + 1
			continue
		}
		o.others = append(o.others, raw...)
		o.deaths = append(o.deaths, d)
	}
	return count
}

// readDeath reads an entry of x-death. What is not as a broker writes it is left out.
func readDeath(table []byte) (d death, times int64) {
	for {
		name, kind, value, rest, ok := message.NextHeader(table)
		if !ok {
			return d, times
		}
		switch {
		case kind == 'S' && string(name) == deathQueue:
			d.queue = value[4:]
		case kind == 'S' && string(name) == deathReason:
			d.reason = value[4:]
		case kind == 'l' && string(name) == deathCount:
			times = int64(binary.BigEndian.Uint64(value))
		}
		table = rest
	}
}

// event makes the entry of x-death for this queue and reason: the count of an entry
// that is there goes up, and all else in it is of the first time.
func (o *obituary) event(v *message.View, old, expiration []byte, count int64) {
	out := appendName(o.fresh[:0], deathCount, 'l')
	out = binary.BigEndian.AppendUint64(out, uint64(count))
	if o.same != nil {
		for rest := o.same; ; {
			name, _, _, next, ok := message.NextHeader(rest)
			if !ok {
				break
			}
			if string(name) != deathCount {
				out = append(out, rest[:len(rest)-len(next)]...)
			}
			rest = next
		}
		o.fresh = out
		return
	}
	out = appendTextHeader(out, deathReason, deathReasons[o.why])
	out = appendTextHeader(out, deathQueue, o.from)
	out = appendName(out, deathTime, 'T')
	out = binary.BigEndian.AppendUint64(out, uint64(o.now))
	out = appendTextHeader(out, deathExchange, v.Exchange)
	// The keys that it was published with, but those of BCC.
	out = appendName(out, deathRoutingKeys, 'A')
	at := len(out)
	out = append(out, 0, 0, 0, 0)
	out = appendElement(out, v.Key)
	headerKeys(old, ccHeader, func(key []byte) { out = appendElement(out, key) })
	binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at-4))
	if len(expiration) > 0 {
		out = appendTextHeader(out, originalExpiration, plainNumber(expiration))
	}
	o.fresh = out
}

// plainNumber writes a number as RabbitMQ does that has read it.
func plainNumber(digits []byte) []byte {
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return digits
	}
	return strconv.AppendUint(nil, n, 10)
}

// cycles tells whether a message that was just written would be in a queue again
// that it left before, without a client having rejected it since.
func (o *obituary) cycles(queue string) bool {
	if o.why == rejected {
		return false
	}
	for i := range o.deaths {
		if bytes.Equal(o.deaths[i].reason, deathReasons[rejected]) {
			return false
		}
		if string(o.deaths[i].queue) == queue {
			return true
		}
	}
	return len(o.deaths) >= deathsMost
}

func appendName(dst []byte, name string, kind byte) []byte {
	return append(append(append(dst, byte(len(name))), name...), kind)
}

func appendTextHeader[T string | []byte](dst []byte, name string, value T) []byte {
	dst = appendName(dst, name, 'S')
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(value)))
	return append(dst, value...)
}

func appendElement(dst, value []byte) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, 'S'), uint32(len(value)))
	return append(dst, value...)
}

// deadRoute finds the queues of a dead-letter exchange, which may be internal, for a
// message. keep is whether that depends on nothing but the key.
func (v *VHost) deadRoute(to string, m *Publish) (r *path, keep bool) {
	r = &path{version: v.version.Load()}
	v.mu.RLock()
	defer v.mu.RUnlock()
	keys := [][]byte{m.Key}
	ccKeys(m.Properties, func(k []byte) { keys = append(keys, k) })
	keep = len(keys) == 1
	if to == "" {
		for _, k := range keys {
			if q := v.queues[string(k)]; q != nil {
				r.queues = append(r.queues, q)
			}
		}
		r.sort()
		return r, keep
	}
	x := v.exchanges[to]
	if x == nil {
		return r, keep
	}
	keep = x.route(r, keys, m.Properties) && keep && !r.delays
	return r, keep
}
