package app

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/journal"
)

// nodesPath is where the nodes are told of.
const nodesPath = "/api/ferry/nodes"

// adminLogin is how long a request waits for its password to be looked at.
const adminLogin = 5 * time.Second

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
}

func (a *admin) nodes(w http.ResponseWriter, r *http.Request) {
	if !a.allowed(w, r) {
		return
	}
	self := a.self()
	told := Nodes{Node: self.Name}
	nodes := []journal.Node{}
	if peers := a.peers(); peers != nil {
		ctx, cancel := context.WithTimeout(r.Context(), rosterAsk)
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
	writeJSON(w, http.StatusOK, told)
}

// allowed checks the credentials of a request (RFC 7617), and answers it if they are
// not good: with the words of RabbitMQ's management plugin.
func (a *admin) allowed(w http.ResponseWriter, r *http.Request) bool {
	refuse := func(code int, kind, reason string) bool {
		if code == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="Ferry"`)
		}
		writeJSON(w, code, map[string]string{"error": kind, "reason": reason})
		return false
	}
	const notAuthorised = "not_authorized"
	name, password, ok := r.BasicAuth()
	if !ok {
		return refuse(http.StatusUnauthorized, notAuthorised, "this needs a user and a password")
	}
	if !a.known() {
		return refuse(http.StatusServiceUnavailable, "starting", "the broker has no users yet")
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // not valid: not loopback
	ctx, cancel := context.WithTimeout(r.Context(), adminLogin)
	defer cancel()
	_, err := a.users.Login(ctx, auth.Login{Protocol: "http", Name: name, Password: password, Peer: from.Addr()})
	switch {
	case errors.Is(err, auth.ErrLoopbackOnly):
		return refuse(http.StatusUnauthorized, notAuthorised, "User can only log in via localhost")
	case errors.Is(err, auth.ErrRefused):
		return refuse(http.StatusUnauthorized, notAuthorised, "Login failed")
	case err != nil:
		return refuse(http.StatusServiceUnavailable, "busy", "too many logins are being checked; try again")
	}
	return true
}
