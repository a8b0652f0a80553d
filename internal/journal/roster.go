package journal

import (
	"context"
	"time"
)

// A Node is a process that has a shared journal open, as it describes itself.
type Node struct {
	Name     string    // of no other node
	Role     string    // "live", "standby", "starting"
	Epoch    uint64    // the highest it knows
	Position uint64    // up to which it has taken the log in
	Started  time.Time // by its own clock

	// Addresses are where it is reached, by protocol: "amqp", "stomp", "gmq",
	// "http". A standby that refuses clients has "http" only.
	Addresses map[string]string

	// Silent is for how long it has said nothing, by the medium's clock; Announce
	// ignores it.
	Silent time.Duration
}

// A Roster is what shared journals may be beside: where their nodes tell of
// themselves. Nothing is decided by it. It may be used by several goroutines.
type Roster interface {
	// Announce says how a node does. What it said before is replaced.
	Announce(ctx context.Context, n Node) error
	// Leave takes a node out. Leaving twice is no error.
	Leave(ctx context.Context, name string) error
	// Nodes are those that have not left, by name. One that was killed stays until
	// it was silent for a day.
	Nodes(ctx context.Context) ([]Node, error)
}
