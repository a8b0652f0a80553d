package broker

import "github.com/ferrymq/ferry/internal/auth"

// Permission is what a user may do with a queue or an exchange, as RabbitMQ's
// three patterns tell it.
type Permission = auth.Permission

// The permissions.
const (
	Configure = auth.Configure // declare and delete
	Write     = auth.Write     // publish to, and bind the destination of
	Read      = auth.Read      // consume, get, purge, and bind the source of
)

// Access is what one user may do in one virtual host: an *auth.Access is one. Its methods may be called at
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
