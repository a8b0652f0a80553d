package broker

import (
	"math"
	"time"
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
	size int
	age  time.Duration // 0: for ever
}

// noRules are those of a queue without arguments and policies.
var noRules = &rules{ttl: none, maxLength: none, maxBytes: none, deliveries: none}
