package broker

import (
	"math"
	"time"

	"github.com/ferrymq/ferry/internal/message"
)

// rules are what a queue is to do with its messages: what its arguments, its policy
// and its operator policy say together. They are made anew when one of these
// changes, and never changed: a queue holds one set at a time.
type rules struct {
	ttl        int64         // ms from entering the queue; none: they do not expire
	expires    time.Duration // unused for so long the queue is deleted; 0: never
	deadTo     *string       // the dead-letter exchange; nil: there is none
	deadKey    *string       // its routing key; nil: the message's own
	maxLength  int64         // ready messages; none
	maxBytes   int64         // of ready messages' bodies; none
	overflow   overflow
	priorities uint8         // the highest priority; 0: there are none. Of arguments alone
	single     bool          // one consumer at a time is active. Of arguments alone
	quorum     bool          // x-queue-type: quorum
	deliveries int64         // how often a message may be delivered in vain; none
	timeout    time.Duration // that a consumer may keep a delivery; 0: for ever
	retry      retryRule
	dedup      dedupRule
}

// none says that a rule does not limit.
const none = math.MaxInt64

// overflow is what happens when a queue is full.
type overflow uint8

const (
	dropHead overflow = iota
	rejectPublish
	rejectPublishDLX
)

// retryRule delays what is returned to the queue: by least times the number of its
// deliveries, at most by most. Arguments x-delayed-retry-type, -min, -max, in ms.
type retryRule struct {
	all, failed, returned bool // which returns are delayed; none of them: no delay
	least, most           time.Duration
}

// dedupRule drops messages whose value of a header was seen before: among the last
// size that a queue or an exchange took, or within age.
type dedupRule struct {
	on   bool
	size int           // 0: as many as the broker remembers by default
	age  time.Duration // 0: for ever
}

// noRules are those of a queue without arguments and policies.
var noRules = &rules{ttl: none, maxLength: none, maxBytes: none, deliveries: none}

// quorumDeliveries is how often a message of a quorum queue may be delivered in
// vain if nothing else is said, as in RabbitMQ 4.
const quorumDeliveries = 20

// same tells whether rules say the same.
func (r *rules) same(o *rules) bool {
	if r == o {
		return true
	}
	x, y := *r, *o
	x.deadTo, x.deadKey, y.deadTo, y.deadKey = nil, nil, nil, nil
	return x == y && sameText(r.deadTo, o.deadTo) && sameText(r.deadKey, o.deadKey)
}

func sameText(x, y *string) bool { return x == y || x != nil && y != nil && *x == *y }

// rulesOf puts together what the arguments of a queue, which have been checked, the
// definition of its policy and that of its operator policy say; nil: there is no
// such policy. Of two limits the lower one counts; otherwise an operator's word
// stands before a policy's, and the queue's own arguments stand before both, as in
// RabbitMQ.
func rulesOf(args []byte, policy, operator definition) *rules {
	if len(args) == 0 && len(policy) == 0 && len(operator) == 0 {
		return noRules
	}
	r := *noRules
	own := definition{}
	for rest := args; ; {
		name, kind, value, next, ok := message.NextHeader(rest)
		if !ok {
			break
		}
		rest = next
		switch n := (arg{kind, value}).decoded(); string(name) {
		case "x-max-priority":
			if n, ok := n.(int64); ok {
				r.priorities = uint8(min(max(n, 0), prioritiesMax))
			}
		case "x-single-active-consumer":
			r.single, _ = n.(bool)
		case "x-queue-type":
			r.quorum = n == queueQuorum
		default:
			if k := policyKey(string(name)); k != "" && own[k] == nil {
				own[k] = n
			}
		}
	}
	all := [...]definition{own, operator, policy}
	number := func(key string) (n int64, ok bool) {
		n = none
		for _, d := range all {
			if x, is := d[key].(int64); is {
				n, ok = min(n, x), true
			}
		}
		return n, ok
	}
	word := func(key string) *string {
		for _, d := range all {
			if s, ok := d[key].(string); ok {
				return &s
			}
		}
		return nil
	}
	millis := func(key string) time.Duration {
		n, ok := number(key)
		if !ok {
			return 0
		}
		return time.Duration(min(max(n, 0), maxDuration)) * time.Millisecond
	}
	if n, ok := number("message-ttl"); ok {
		r.ttl = min(n, maxDuration)
	}
	r.expires = millis("expires")
	r.deadTo = word("dead-letter-exchange")
	r.deadKey = word("dead-letter-routing-key")
	r.maxLength, _ = number("max-length")
	r.maxBytes, _ = number("max-length-bytes")
	if s := word("overflow"); s != nil {
		switch *s {
		case "reject-publish":
			r.overflow = rejectPublish
		case "reject-publish-dlx":
			r.overflow = rejectPublishDLX
		}
	}
	r.deliveries = deliveriesOf(all[:], r.quorum)
	r.timeout = millis("consumer-timeout")
	if s := word("delayed-retry-type"); s != nil {
		r.retry = retryRule{all: *s == "all", failed: *s == "failed", returned: *s == "returned"}
	}
	r.retry.least = millis("delayed-retry-min")
	if r.retry.most = millis("delayed-retry-max"); r.retry.most == 0 {
		r.retry.most = maxDuration * time.Millisecond
	}
	r.dedup.on, _ = own["message-deduplication"].(bool)
	r.dedup.age = millis("cache-ttl")
	if n, ok := number("cache-size"); ok {
		r.dedup.size = int(min(n, math.MaxInt32))
	}
	return &r
}

// deliveriesOf is the limit of deliveries: the lowest that is set. One below zero
// says that there is none, and counts where no other is set, as in RabbitMQ 4.
func deliveriesOf(all []definition, quorum bool) int64 {
	n, unlimited := int64(none), false
	for _, d := range all {
		switch x, ok := d["delivery-limit"].(int64); {
		case !ok:
		case x < 0:
			unlimited = true
		default:
			n = min(n, x)
		}
	}
	if n == none && quorum && !unlimited {
		return quorumDeliveries
	}
	return n
}
