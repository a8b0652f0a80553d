package model

import (
	"encoding/binary"
	"encoding/json"
	"math"

	"pgregory.net/rapid"
)

const unlimited = math.MaxInt64

// rules are what a queue of the model is to do with its messages.
type rules struct {
	ttl             int64 // ms
	deadTo, deadKey string
	dead, hasKey    bool
	length, bytes   int64
	overflow        string
	priorities      int
	single          bool
	deliveries      int64
	retry           string
	least, most     int64 // ms
	transient       bool
}

var noRules = rules{ttl: unlimited, length: unlimited, bytes: unlimited, deliveries: unlimited}

func (r *rules) refuses() bool {
	return (r.overflow == "reject-publish" || r.overflow == "reject-publish-dlx") && (r.length != unlimited || r.bytes != unlimited)
}

func (r *rules) counts() bool { return r.deliveries != unlimited || r.retry != "" }

// Times are such that what comes about by them does not do so when anything else is
// done: see the machine's clock.
var (
	ttls  = []int64{unlimited, unlimited, unlimited, 700, 10_700, 0}
	sizes = []int64{unlimited, unlimited, unlimited, 1, 2, 3}
)

// drawPolicy draws what a policy says. A limit of bytes is not among it: what came
// before such a limit is counted with a little more than its body.
func drawPolicy(t *rapid.T) rules {
	r := noRules
	pick := func(name string, list ...string) string { return rapid.SampledFrom(list).Draw(t, name) }
	r.ttl = rapid.SampledFrom(ttls).Draw(t, "ttl")
	if to := pick("dead letters", "none", "none", "", "", "fan", "dir", "missing"); to != "none" {
		r.dead, r.deadTo = true, to
		if to == "" || rapid.Bool().Draw(t, "has key") {
			r.hasKey, r.deadKey = true, pick("dead key", "a", "b", "c", "d", "nobody")
		}
	}
	r.length = rapid.SampledFrom(sizes).Draw(t, "length")
	r.overflow = pick("overflow", "", "drop-head", "reject-publish", "reject-publish-dlx")
	r.deliveries = rapid.SampledFrom([]int64{unlimited, unlimited, 0, 1, 2}).Draw(t, "deliveries")
	return r
}

func drawRules(t *rapid.T) rules {
	r := drawPolicy(t)
	r.bytes = rapid.SampledFrom([]int64{unlimited, unlimited, unlimited, 40, 400}).Draw(t, "bytes")
	if rapid.IntRange(0, 2).Draw(t, "priorities") == 2 {
		r.priorities = 2
	}
	r.single = rapid.IntRange(0, 2).Draw(t, "single") == 2
	if r.retry = rapid.SampledFrom([]string{"", "", "", "all", "failed", "returned"}).Draw(t, "retry"); r.retry != "" {
		r.least, r.most = 700, 1400
	}
	r.transient = rapid.IntRange(0, 5).Draw(t, "transient") == 5
	return r
}

// with is what a queue's arguments and a policy say together.
func (r rules) with(p *rules) rules {
	if p == nil {
		return r
	}
	r.ttl, r.length, r.bytes = min(r.ttl, p.ttl), min(r.length, p.length), min(r.bytes, p.bytes)
	r.deliveries = min(r.deliveries, p.deliveries)
	if !r.dead && p.dead {
		r.dead, r.deadTo = true, p.deadTo
	}
	if !r.hasKey && p.hasKey {
		r.hasKey, r.deadKey = true, p.deadKey
	}
	if r.overflow == "" {
		r.overflow = p.overflow
	}
	return r
}

// settings visits what the rules say, by the keys of policies.
func (r *rules) settings(visit func(key string, value any)) {
	number := func(key string, n int64) {
		if n != unlimited {
			visit(key, n)
		}
	}
	number("message-ttl", r.ttl)
	if r.dead {
		visit("dead-letter-exchange", r.deadTo)
		if r.hasKey {
			visit("dead-letter-routing-key", r.deadKey)
		}
	}
	number("max-length", r.length)
	number("max-length-bytes", r.bytes)
	if r.overflow != "" {
		visit("overflow", r.overflow)
	}
	number("delivery-limit", r.deliveries)
}

func (r *rules) policy(pattern string) []byte {
	def := map[string]any{"max-length": int64(1 << 30)} // there must be something
	r.settings(func(key string, value any) { def[key] = value })
	text, err := json.Marshal(map[string]any{"pattern": pattern, "definition": def})
	if err != nil {
		panic(err)
	}
	return text
}

func (r *rules) args() (args []byte) {
	r.settings(func(key string, value any) { args = header(args, "x-"+key, value) })
	if r.priorities > 0 {
		args = header(args, "x-max-priority", int64(r.priorities))
	}
	if r.single {
		args = header(args, "x-single-active-consumer", true)
	}
	if r.retry != "" {
		args = header(args, "x-delayed-retry-type", r.retry)
		args = header(args, "x-delayed-retry-min", r.least)
		args = header(args, "x-delayed-retry-max", r.most)
	}
	return args
}

// header appends one to a header list.
func header(list []byte, name string, value any) []byte {
	list = append(append(list, byte(len(name))), name...)
	switch v := value.(type) {
	case int64:
		return binary.BigEndian.AppendUint64(append(list, 'l'), uint64(v))
	case bool:
		if v {
			return append(list, 't', 1)
		}
		return append(list, 't', 0)
	case string:
		return append(binary.BigEndian.AppendUint32(append(list, 'S'), uint32(len(v))), v...)
	}
	panic("no such header")
}
