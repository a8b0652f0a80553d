package broker

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/route"
)

// A choice is how an exchange of a type that chooses divides messages among what
// is bound to it. It is made when it is needed, and not changed: bindings that come
// or go make it stale, as they make every route.
//
// What decides is a hash of the routing key, or of a header or a property; with
// x-random and x-local-random it is chance. A message that does not have what its
// exchange hashes goes where all such messages go. As in RabbitMQ, of a message
// with several routing keys the first alone counts.
type choice struct {
	typ  exchangeType
	by   hashedBy
	name string // of the header, or the property

	to     []any // *Queue or *exchange, sorted by name
	shares route.Shares
	turns  []int   // modulusHash, random: an index of to for each binding
	paths  []*path // of messages that go to each of to; nil: some go further
}

type hashedBy uint8

const (
	byRoutingKey hashedBy = iota
	byHeader
	byProperty
	byChance
)

// choose returns the exchange's choice. v.mu is held.
func (x *exchange) choose() *choice {
	if c := x.choice.Load(); c != nil {
		return c
	}
	c := &choice{typ: x.typ}
	if c.by, c.name = hashedOf(&x.spec); x.typ >= random {
		c.by = byChance
	}
	type share struct {
		to     any
		weight float64
		times  int
	}
	by := map[any]*share{}
	for _, b := range x.bindings {
		s := by[b.key.to]
		if s == nil {
			s = &share{to: b.key.to}
			by[b.key.to] = s
		}
		s.times++
		if x.typ == consistentHash {
			w, _ := weightOf(b.key.key)
			s.weight += w
		}
	}
	list := make([]*share, 0, len(by))
	for _, s := range by {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *share) int { return cmp.Compare(destinationName(a.to), destinationName(b.to)) })
	queuesOnly := true
	for i, s := range list {
		c.to = append(c.to, s.to)
		if x.typ == consistentHash {
			c.shares.Add(route.Hash(destinationName(s.to)), s.weight)
		} else {
			for range s.times {
				c.turns = append(c.turns, i)
			}
		}
		q, isQueue := s.to.(*Queue)
		queuesOnly = queuesOnly && isQueue
		c.paths = append(c.paths, &path{queues: []*Queue{q}, counts: &x.counts})
	}
	if !queuesOnly {
		c.paths = nil
	}
	x.choice.Store(c)
	return c
}

// remembered is the exchange's choice if a publisher may keep it: what is chosen
// depends on more than the key, but not where that leads. v.mu is held.
func (x *exchange) remembered() *choice {
	if !x.typ.chooses() {
		return nil
	}
	if c := x.choose(); c.by != byRoutingKey && len(c.paths) > 0 {
		return c
	}
	return nil
}

// destinationName names what is bound so that no two have one name.
func destinationName(to any) string {
	switch to := to.(type) {
	case *Queue:
		return "q" + to.name
	case *exchange:
		return "x" + to.spec.Name
	}
	return ""
}

// path is the way of one message.
func (c *choice) path(m *Publish) *path { return c.paths[c.index(m.Key, m.Properties)] }

// index returns which of c.to gets a message, -1 if nothing is bound.
func (c *choice) index(key, props []byte) int {
	switch {
	case len(c.to) == 0:
		return -1
	case c.typ == consistentHash:
		return c.shares.Choose(c.hash(key, props))
	case c.typ == modulusHash:
		return c.turns[c.hash(key, props)%uint64(len(c.turns))]
	}
	return c.turns[rand.IntN(len(c.turns))]
}

func (c *choice) hash(key, props []byte) uint64 {
	switch c.by {
	case byHeader:
		for list := message.Field(props, message.Headers); ; {
			name, kind, value, rest, ok := message.NextHeader(list)
			if !ok {
				return route.Hash("")
			}
			if string(name) == c.name {
				return hashValue(kind, value)
			}
			list = rest
		}
	case byProperty:
		return route.Hash(message.Field(props, hashProperties[c.name]))
	}
	return route.Hash(key)
}

// hashValue is the hash of a header's value: of an integer the same whatever its
// size on the wire, and of a text the same as of these bytes.
func hashValue(kind byte, value []byte) uint64 {
	switch kind {
	case 'S', 'x':
		return route.Hash(value[4:])
	}
	if n, ok := (arg{kind, value}).decoded().(int64); ok {
		var b [9]byte
		b[0] = 'l'
		binary.BigEndian.PutUint64(b[1:], uint64(n))
		return route.Hash(b[:])
	}
	var room [64]byte
	return route.Hash(append(append(room[:0], kind), value...))
}

var hashProperties = map[string]message.FieldID{
	"message_id": message.MessageID, "correlation_id": message.CorrelationID, "timestamp": message.Timestamp,
}

// hashedOf is what an exchange hashes, and its name.
func hashedOf(spec *ExchangeSpec) (hashedBy, string) {
	if spec.routes() == consistentHash {
		if a, ok := findArg(spec.Args, "hash-header"); ok && a.kind == 'S' {
			return byHeader, a.String()
		}
		if a, ok := findArg(spec.Args, "hash-property"); ok && a.kind == 'S' {
			return byProperty, a.String()
		}
	}
	return byRoutingKey, ""
}

// checkHashArgs checks the arguments of an x-consistent-hash exchange.
func checkHashArgs(spec *ExchangeSpec, vhost string) *Error {
	found := 0
	for _, name := range []string{"hash-header", "hash-property"} {
		a, ok := findArg(spec.Args, name)
		if !ok {
			continue
		}
		if found++; a.kind != 'S' {
			return errorf(PreconditionFailed, "invalid type '%s' for arg '%s' in exchange '%s' in vhost '%s'", a.typeName(), name, spec.Name, vhost)
		}
		if _, known := hashProperties[a.String()]; name == "hash-property" && found == 1 && !known {
			return errorf(PreconditionFailed, "Unsupported property: %s", a)
		}
	}
	if found == 2 {
		return errorf(PreconditionFailed, "hash-header and hash-property are mutually exclusive")
	}
	return nil
}

// weightOf reads the weight that the key of a binding to an x-consistent-hash
// exchange is: an integer of any size.
func weightOf(key string) (weight float64, isInt bool) {
	digits := strings.TrimLeft(key, "+-")
	if len(key)-len(digits) > 1 || digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	weight, err := strconv.ParseFloat(key, 64) // the 255 digits of a key fit
	return weight, err == nil
}

// checkWeight checks such a key.
func checkWeight(key string) error {
	switch w, ok := weightOf(key); {
	case !ok:
		if key != "" {
			key = "\"" + key + "\""
		}
		return errorf(PreconditionFailed, "The binding key must be an integer: <<%s>>", key)
	case w < 1:
		return errorf(PreconditionFailed, "The binding key must be greater than 0")
	}
	return nil
}

// checkLocal checks a binding to an x-local-random exchange.
func (b *binding) checkLocal() error {
	if b.key.key != "" {
		return errorf(PreconditionFailed, "Non empty binding '%s' key not permitted", b.key.key)
	}
	if _, ok := b.key.to.(*Queue); !ok {
		return errorf(PreconditionFailed, "Destination not found")
	}
	return nil
}
