package broker

// Permission is what a user may do with a queue or an exchange, as RabbitMQ's
// three patterns tell it.
type Permission uint8

const (
	Configure Permission = iota + 1 // declare and delete
	Write                           // publish to, and bind the destination of
	Read                            // consume, get, purge, and bind the source of
)

func (p Permission) String() string {
	switch p {
	case Configure:
		return "configure"
	case Write:
		return "write"
	case Read:
		return "read"
	}
	return ""
}

// Access is what one user may do in one virtual host. Its methods may be called at
// the same time, on the data path of whatever is not remembered; what they answer
// may change, after which Broker.AccessChanged is called. The default exchange has
// the name "amq.default".
type Access interface {
	May(p Permission, name string) bool
	// MayTopic tells whether a routing key may be written to, or bound for reading
	// from, an exchange of type topic.
	MayTopic(p Permission, exchange, key string) bool
}

// AccessChanged makes every remembered answer of an Access stale: what is being
// published is checked anew.
func (b *Broker) AccessChanged() {
	for _, v := range b.allVHosts() {
		v.version.Add(1)
	}
}
