// Package app makes a broker's process of the parts: configuration, journal,
// broker, servers, listeners; what starts before what, and what stops before
// what; and which of the brokers that share a store serves.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/amqpserver"
	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/gmqserver"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/stompserver"
)

// How long a process that stops waits for others.
const (
	// drainTimeout is for clients to answer that their connection is closed.
	drainTimeout = 10 * time.Second
	// failTimeout is that of a broker that has failed: there is nothing to finish.
	failTimeout = 6 * time.Second
	// writeTimeout is for the store to take what is pending; it may have no space.
	writeTimeout = 10 * time.Second
)

// An Address is what a listener is called and where it listens.
type Address struct{ Name, Addr string }

// Told is who is told how a process stands. The functions are not called at the same
// time; nil: nobody.
type Told struct {
	// Ready is called whenever clients are let in: once, or with a shared store each
	// time that the process becomes live.
	Ready func([]Address)
	// Standby is called whenever the process has begun to wait for the broker that is
	// live, and does not take over at once.
	Standby func([]Address)
	// FirstUser is called when the first user was made with a password that nobody
	// gave and nobody else is told. It is not in the log.
	FirstUser func(name, password string)
}

// Run is RunTelling for one who only wants to know when clients are served.
func Run(ctx context.Context, cfg Config, ready func([]Address)) error {
	return RunTelling(ctx, cfg, Told{Ready: ready})
}

// RunTelling is a broker's process: it returns when ctx has ended and everything has
// stopped, or when it cannot start or go on.
//
// Starting: health is told of first, as starting; then the store is opened and
// what it holds recovered; then clients are let in. Stopping is the reverse. A
// client is let in only when the broker is whole, and the store is closed only
// when nobody can be confirmed anything any more. For stores that several
// processes share see share.
//
// The error is in plain words, with what can be done. When the broker fails, its
// connections are closed with the failure, and what was pending is neither
// confirmed nor refused.
func RunTelling(ctx context.Context, cfg Config, told Told) (err error) {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	kind, _, err := ParseStore(cfg.Store)
	if err != nil {
		return err
	}
	defined, err := readDefinitions(cfg.Definitions)
	if err != nil {
		return err
	}
	total := memoryTotal()
	setCollector(cfg.MemoryLimit.of(total))
	certs, err := loadCertificates(cfg, log)
	if err != nil {
		return err
	}
	n := &node{
		cfg: cfg, log: log, told: told, memory: total, started: time.Now(),
		settings: &settings{}, front: newFront(cfg, certs, log), definitions: defined,
	}
	n.users = auth.New(n.settings)
	if n.user, n.password, n.madeUp = cfg.credentials(); n.madeUp {
		n.password = makeUp()
	}
	n.firstHash = n.hashLater()
	defer func() { err = errors.Join(err, n.front.stop()) }()
	release := func() {}
	if kind == DatabaseStore {
		release, err = n.front.reserve(ctx)
	}
	if err != nil {
		release()
		return err
	}
	n.name = nodeName(cfg, n.front.fixed)
	n.front.health.node = n.name
	n.admin = &admin{
		lease: cfg.lease(), users: n.users, known: n.settings.known, self: n.describe, head: n.head, peers: n.peers.Load,
		memory: cfg.MemoryLimit.of(total), front: n.front.listening,
	}
	n.front.api = n.admin.api(cfg, n.name)
	n.front.told = n.metrics()
	err = n.front.start(ctx)
	release()
	if err != nil {
		return err
	}
	if kind == DatabaseStore {
		return n.share(ctx)
	}
	st, err := openStore(cfg, log)
	if err != nil {
		return err
	}
	b, err := broker.Open(ctx, n.brokerConfig(st))
	if err != nil {
		if ctx.Err() != nil {
			err = nil // told to stop while it recovered
		} else {
			err = st.explain(err)
		}
		return errors.Join(err, st.close())
	}
	_, err = n.serve(ctx, st, b)
	return err
}

// nodeName is what the process calls itself to others.
func nodeName(cfg Config, fixed map[string]string) string {
	if cfg.Node != "" {
		return cfg.Node
	}
	for _, l := range []Address{{"amqp", cfg.AMQP}, {"stomp", cfg.STOMP}, {"gmq", cfg.GMQ}, {"http", cfg.HTTP}} {
		addr := l.Addr
		if at := fixed[l.Name]; at != "" {
			addr = at
		}
		if _, port, err := net.SplitHostPort(addr); err == nil && port != "0" {
			return hostname() + ":" + port
		}
	}
	return hostname()
}

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return host
}

// clusterName is what clients are told and operators see: the node's name, as
// RabbitMQ's default is.
func clusterName() string { return "ferry@" + hostname() }

func loadCertificates(cfg Config, log *slog.Logger) (*netserve.Certificates, error) {
	if cfg.TLSCert == "" {
		return nil, nil
	}
	return netserve.LoadCertificates(netserve.TLSFiles{
		Cert: cfg.TLSCert, Key: cfg.TLSKey,
		CA: cfg.TLSCA, RequirePeer: cfg.TLSCA != "" && !cfg.TLSClientsOptional,
	}, log)
}

// node is what lasts as long as the process does.
type node struct {
	cfg     Config
	log     *slog.Logger
	told    Told
	memory  int64 // of the machine or the container, bytes; 0: not known
	started time.Time
	front   *front
	admin   *admin
	name    string
	peers   rosterSlot

	users    *auth.Users
	settings *settings // that users are kept in

	definitions []byte // to be loaded before clients are let in; nil: none

	// The first user, which is made where there is none.
	user, password string
	madeUp         bool // the password is
	firstHash      func() (hashed, error)
}

func (n *node) brokerConfig(st *store) broker.Config {
	limit := n.cfg.MemoryLimit.of(n.memory)
	c := broker.Config{
		Journal: st.journal,
		Scratch: st.scratch,
		Logger:  n.log,
		Node:    n.name,
		Alarms:  alarms(limit, st.diskAlarm(n.cfg.DiskFreeLimit)),

		HotBytes:     hotBytes(limit),
		SegmentBytes: st.segmentBytes(),
	}
	if st.shared() {
		c.Lease = n.cfg.lease()
	}
	return c
}

// hotBytes is how many bytes of bodies stay in memory that are also on disk: a
// backlog must not be what keeps the memory alarm on.
func hotBytes(memoryLimit int64) int64 {
	if memoryLimit > 0 {
		return min(memoryLimit/4, broker.DefaultHotBytes)
	}
	return broker.DefaultHotBytes
}

func alarms(memoryLimit int64, disk func() (free, limit int64)) broker.AlarmConfig {
	a := broker.AlarmConfig{Disk: disk}
	if memoryLimit > 0 {
		gauge := newMemoryGauge()
		a.Memory = func() (used, most int64) { return gauge.used(), memoryLimit }
	}
	return a
}

// servers are what speaks with clients for b.
func (n *node) servers(b *broker.Broker) servers {
	epoch := b.Status().Epoch
	return servers{
		amqp: amqpserver.New(amqpserver.Config{
			Broker: b, Auth: n.users, CertificateFrom: n.cfg.CertificateFrom, Logger: n.log, Version: n.cfg.Version, ClusterName: clusterName(), Node: n.name, Epoch: epoch,
		}),
		stomp: stompserver.New(stompserver.Config{
			Broker: b, Auth: n.users, CertificateFrom: n.cfg.CertificateFrom, Logger: n.log, Version: n.cfg.Version, Node: n.name, Epoch: epoch,
		}),
		gmq: gmqserver.New(gmqserver.Config{
			Broker: b, Auth: n.users, Logger: n.log, Version: n.cfg.Version, Node: n.name, Epoch: func() uint64 { return epoch },
			TokenAuth: !n.cfg.GMQNoTokens, Limits: n.cfg.GMQLimits,
		}),
	}
}

// serve lets clients in until ctx ends or the broker fails, and ends everything,
// store included. lost says that another process may own the store now, and that
// this one may wait for its turn.
func (n *node) serve(ctx context.Context, st *store, b *broker.Broker) (lost bool, err error) {
	h := n.front.health
	h.describe(st, ownerStanding(b, n.name), b.Blocked)
	n.settings.set(b, nil)
	if !st.shared() { // else the standby that it was has watched
		n.watchUsers(b.WatchSettings)
	}
	n.users.Changed()
	err = n.define(ctx, b)
	if err == nil {
		err = n.makeFirst(b)
	}
	if err == nil {
		err = n.front.serveClients(ctx, n.servers(b))
	}
	if err != nil && st.shared() && errors.Is(b.Cause(), broker.ErrOwnership) {
		n.demote(b, st)
		return true, nil
	}
	if err != nil {
		return false, errors.Join(err, n.end(b, st))
	}
	if disk := st.diskAlarm(n.cfg.DiskFreeLimit); disk != nil {
		n.admin.disk.Store(&disk)
	}
	n.admin.live.Store(b)
	defer n.admin.live.Store(nil)
	quiet, stopQuiet := context.WithCancel(ctx)
	var freeing sync.WaitGroup
	freeing.Go(func() { freeWhenQuiet(quiet) })
	freeing.Go(func() { n.compareFirst(quiet) })
	defer freeing.Wait()
	defer stopQuiet()
	h.set(phaseServing, "")
	st.changed()
	if n.told.Ready != nil {
		n.told.Ready(n.front.addresses())
	}
	select {
	case <-ctx.Done():
		n.log.Info("stopping", "reason", context.Cause(ctx))
		h.set(phaseStopping, "")
		return false, n.end(b, st)
	case <-b.Failed():
	}
	if st.shared() && errors.Is(b.Cause(), broker.ErrOwnership) {
		n.log.Warn("this broker is not live any more; its clients are sent away", "cause", b.Cause())
		h.set(phaseStarting, "another broker may be live: the store is opened anew")
		n.demote(b, st)
		return true, nil
	}
	err = failure(b, st)
	h.set(phaseFailed, err.Error())
	return false, errors.Join(err, n.end(b, st))
}

// ownerStanding is how the process of a broker that owns its store stands.
func ownerStanding(b *broker.Broker, node string) func() standing {
	return func() standing {
		s := b.Status()
		return standing{epoch: s.Epoch, owner: node, position: s.Position, head: s.Position}
	}
}

// end sends the clients away, then ends the broker, then the store. Where others
// wait for the store they do not wait for clients that are slow to go: see handOver.
func (n *node) end(b *broker.Broker, st *store) error {
	gone := n.front.dismiss(b, farewell{failed: failTimeout, drain: drainTimeout})
	if st.shared() {
		err := n.handOver(b, st)
		return errors.Join(err, gone())
	}
	err := gone()
	return errors.Join(err, closeBroker(b, st, writeTimeout), st.close())
}

// closeBroker writes what is pending and ends the broker. A store that takes
// nothing, because it has no space, is closed under it when its time is over.
func closeBroker(b *broker.Broker, st *store, d time.Duration) error {
	failed := b.Err() != nil // and reported
	closed := make(chan error, 1)
	patience := time.AfterFunc(d, func() { closed <- st.journal.Close() })
	err := b.Close(context.Background())
	late := !patience.Stop()
	if late {
		err = errors.Join(err, <-closed)
	}
	if failed || err == nil && !late {
		return nil
	}
	return fmt.Errorf("the last changes were not written to the store; none of them was confirmed: %w", errors.Join(err, b.Cause()))
}

// failure says why the broker cannot go on, and what to do.
func failure(b *broker.Broker, st *store) error {
	cause := b.Cause()
	if cause == nil {
		cause = b.Err()
	}
	if st.kind == MemoryStore {
		return fmt.Errorf("the broker cannot go on: %w", cause)
	}
	medium, unless := "disk", ""
	if st.kind == DatabaseStore {
		medium, unless = "database", ", unless the database itself has lost it"
	}
	return fmt.Errorf("the broker cannot go on, because its store in %s failed: %w. "+
		"What was confirmed is kept%s; of what was pending nothing is known, and its publishers were told so. "+
		"See to the %s, then start the broker again: it recovers by itself", st.place(), cause, unless, medium)
}

// describe is the process as its node is told of.
func (n *node) describe() journal.Node {
	phase, s := n.front.health.stand()
	return journal.Node{
		Name: n.name, Role: phase.role(), Epoch: s.epoch, Position: s.position, Started: n.started,
		Addresses: advertised(n.front.addresses(), n.cfg.Advertise),
	}
}

// head is the last position of the log, as far as the process knows.
func (n *node) head() uint64 {
	_, s := n.front.health.stand()
	return s.head
}
