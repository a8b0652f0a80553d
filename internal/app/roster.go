package app

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

const (
	// rosterShare is how often a node tells of itself, as a share of the lease.
	rosterShare = 3
	// rosterLeave is how long a node that stops tries to take itself out of the
	// roster.
	rosterLeave = 300 * time.Millisecond
	// rosterAsk is how long somebody who asks for the nodes waits for the medium.
	rosterAsk = 2 * time.Second
)

// A roster tells the other nodes of this one, again and again, and remembers what
// they tell. Nothing is decided by it.
type roster struct {
	at      journal.Roster
	self    func() journal.Node
	every   time.Duration
	log     *slog.Logger
	read    func()        // called after the nodes were read; nil: nothing
	changed chan struct{} // one slot
	cancel  context.CancelFunc
	done    chan struct{}

	mu    sync.Mutex // guards what follows
	nodes []journal.Node
}

// startRoster begins to tell of self. stop ends it.
func startRoster(at journal.Roster, self func() journal.Node, lease time.Duration, read func(), log *slog.Logger) *roster {
	r := &roster{
		at: at, self: self, every: lease / rosterShare, log: log, read: read,
		changed: make(chan struct{}, 1), done: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.run(ctx)
	return r
}

// change makes that the nodes are told and asked at once.
func (r *roster) change() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *roster) run(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	failing := false
	for {
		err := r.exchange(ctx)
		if ctx.Err() != nil {
			return
		}
		if bad := err != nil; bad != failing {
			failing = bad
			if bad {
				r.log.Warn("the other nodes cannot be told of this one", "error", err)
			} else {
				r.log.Info("the other nodes are told of this one again")
			}
		}
		select {
		case <-tick.C:
		case <-r.changed:
		case <-ctx.Done():
			return
		}
	}
}

func (r *roster) exchange(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.every)
	defer cancel()
	if err := r.at.Announce(ctx, r.self()); err != nil {
		return err
	}
	_, err := r.ask(ctx)
	if err == nil && r.read != nil {
		r.read()
	}
	return err
}

// ask reads the nodes.
func (r *roster) ask(ctx context.Context) ([]journal.Node, error) {
	nodes, err := r.at.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = nodes
	return nodes, nil
}

// known are the nodes as they were read last.
func (r *roster) known() []journal.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes
}

// address is where the node of this name serves a protocol, "" if it is not known.
func (r *roster) address(name, protocol string) string {
	for _, n := range r.known() {
		if n.Name == name {
			return n.Addresses[protocol]
		}
	}
	return ""
}

// stop ends the telling. What was told stays.
func (r *roster) stop() {
	r.cancel()
	<-r.done
}

// leave takes this node out, if that is quickly done. stop comes first.
func (r *roster) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), rosterLeave)
	defer cancel()
	if err := r.at.Leave(ctx, r.self().Name); err != nil {
		r.log.Info("this node stays in the list of nodes until it was silent for a day", "error", err)
	}
}

// advertised are the addresses at which others reach listeners, by protocol.
func advertised(listeners []Address, host string) map[string]string {
	found := map[string]string{}
	for _, a := range listeners {
		at, port, err := net.SplitHostPort(a.Addr)
		if err != nil || a.Name == "pprof" {
			continue
		}
		switch ip := net.ParseIP(at); {
		case host != "":
			at = host
		case at == "" || ip != nil && ip.IsUnspecified():
			at = hostname()
		}
		found[a.Name] = net.JoinHostPort(strings.Trim(at, "[]"), port)
	}
	return found
}
