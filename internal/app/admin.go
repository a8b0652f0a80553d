package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/adminserver"
	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
)

// nodesPath is where the nodes are told of.
const nodesPath = "/api/ferry/nodes"

// apiPath is what the paths of the management API begin with.
const apiPath = "/api/"

// Nodes are the processes that share a store, as one of them tells.
type Nodes struct {
	Node  string `json:"node"` // the one that tells
	Nodes []Node `json:"nodes"`
	// Error is why the others are not told of, or only as they were.
	Error string `json:"error,omitempty"`
}

// A Node is one of them.
type Node struct {
	Name      string            `json:"node"`
	Role      string            `json:"role"` // "live", "standby", "starting", "stopping"; "lost": it has told nothing of itself for a lease
	Epoch     uint64            `json:"epoch"`
	Position  uint64            `json:"position"`  // up to which it has taken the log in
	Lag       uint64            `json:"lag"`       // batches of the log that it had not taken in when it told of itself last
	SilentMS  int64             `json:"silent_ms"` // since it told of itself
	Started   time.Time         `json:"started"`
	Addresses map[string]string `json:"addresses"` // by protocol
}

// roleLost is that of a node that tells nothing of itself any more, whatever it told
// last: it was killed, or does not reach the store.
const roleLost = "lost"

// admin answers those who administrate.
type admin struct {
	lease time.Duration
	users *auth.Users
	known func() bool // whether users are known yet
	self  func() journal.Node
	head  func() uint64
	peers func() *roster // nil while there is none

	live   atomic.Pointer[broker.Broker]                  // nil while clients are not served
	memory int64                                          // that publishers are blocked at, bytes; 0: none
	disk   atomic.Pointer[func() (free, limit int64)]     // nil while there is no store, or nothing is known of its medium
	front  func() (listeners []Address, ends []time.Time) // what is listened on, and when certificates end
}

// api is the management API of the process.
func (a *admin) api(cfg Config, name string) *adminserver.Server {
	return adminserver.New(adminserver.Config{
		Broker: a.broker, Users: a.users, Known: a.known, Node: a.node, Peers: a.nodes,
		Name: name, Version: cfg.Version, Logger: cfg.Logger,
	})
}

// broker is the one that clients are served by; without one it says who has it.
func (a *admin) broker() (b *broker.Broker, why string) {
	if b := a.live.Load(); b != nil {
		return b, ""
	}
	self := a.self()
	why = fmt.Sprintf("this node is %s, and no other is known to be live", self.Role)
	peers := a.peers()
	if peers == nil {
		return nil, why
	}
	for _, n := range peers.known() {
		if n.Role == roleLive && n.Name != self.Name && n.Silent <= a.lease {
			why = fmt.Sprintf("this node is %s; %s is live", self.Role, n.Name)
			if at := n.Addresses["http"]; at != "" {
				why += ", at http://" + at
			}
		}
	}
	return nil, why
}

// node is what the process tells of itself.
func (a *admin) node() adminserver.Node {
	n := adminserver.Node{Memory: newMemoryGauge().used(), MemoryLimit: a.memory}
	if disk := a.disk.Load(); disk != nil {
		n.DiskFree, n.DiskLimit = (*disk)()
	}
	n.Files, n.FilesLimit = openFiles()
	listeners, ends := a.front()
	n.Certificates = ends
	for _, l := range listeners {
		host, port, err := net.SplitHostPort(l.Addr)
		number, err2 := strconv.Atoi(port)
		if err != nil || err2 != nil || l.Name == "pprof" {
			continue
		}
		for _, protocol := range listenerProtocols(l.Name, len(ends) > 0) {
			n.Listeners = append(n.Listeners, adminserver.Listener{Protocol: protocol, Host: host, Port: number})
		}
	}
	return n
}

// listenerProtocols is what RabbitMQ calls what is served on a listener. With a
// certificate each serves TLS beside.
func listenerProtocols(name string, tls bool) []string {
	protocols := []string{name}
	if name == "http" {
		protocols = append(protocols, "http/web-stomp", "http/prometheus")
	}
	if !tls {
		return protocols
	}
	for _, p := range slices.Clone(protocols) {
		if rest, ok := strings.CutPrefix(p, "http"); ok {
			protocols = append(protocols, "https"+rest)
		} else {
			protocols = append(protocols, p+"/ssl")
		}
	}
	return protocols
}

// nodes tells of the processes that share the store.
func (a *admin) nodes(ctx context.Context) any {
	self := a.self()
	told := Nodes{Node: self.Name}
	nodes := []journal.Node{}
	if peers := a.peers(); peers != nil {
		ctx, cancel := context.WithTimeout(ctx, rosterAsk)
		defer cancel()
		var err error
		if nodes, err = peers.ask(ctx); err != nil {
			nodes, told.Error = peers.known(), "the store does not tell of the other nodes now"
		}
	}
	// What is told of this node is older than what it knows itself.
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n journal.Node) bool { return n.Name == self.Name })
	nodes = append(nodes, self)
	slices.SortFunc(nodes, func(a, b journal.Node) int { return strings.Compare(a.Name, b.Name) })
	head := a.head()
	for _, n := range nodes {
		head = max(head, n.Position)
	}
	for _, n := range nodes {
		lag := head - n.Position
		switch {
		case n.Silent > a.lease:
			n.Role = roleLost
		case n.Role == roleLive:
			lag = 0 // it writes the log: what it told is a moment old
		}
		told.Nodes = append(told.Nodes, Node{
			Name: n.Name, Role: n.Role, Epoch: n.Epoch, Position: n.Position, Lag: lag,
			SilentMS: n.Silent.Milliseconds(), Started: n.Started, Addresses: n.Addresses,
		})
	}
	return told
}

// withAPI serves the management API below its path, and all else as rest does. The
// path is looked at as it came: names in it may have anything, in URL encoding.
func withAPI(api http.Handler, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.EscapedPath(), apiPath) {
			api.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}
