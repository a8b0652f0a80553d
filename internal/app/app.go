// Package app makes a broker's process of the parts: configuration, journal,
// broker, servers, listeners; what starts before what, and what stops before
// what.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/amqpserver"
	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
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

// shutdownReason is what clients are told, as RabbitMQ tells it.
const shutdownReason = "broker forced connection closure with reason 'shutdown'"

// An Address is what a listener is called and where it listens.
type Address struct{ Name, Addr string }

// Run is a broker's process: it returns when ctx has ended and everything has
// stopped, or when it cannot start or go on. ready is called once, when clients
// are served.
//
// Starting: health is told of first, as starting; then the store is opened and
// what it holds recovered; then clients are let in. Stopping is the reverse. A
// client is let in only when the broker is whole, and the store is closed only
// when nobody can be confirmed anything any more.
//
// The error is in plain words, with what can be done. When the broker fails, its
// connections are closed with the failure, and what was pending is neither
// confirmed nor refused.
func Run(ctx context.Context, cfg Config, ready func([]Address)) (err error) {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	total := memoryTotal()
	setCollector(cfg.MemoryLimit.of(total))
	certs, err := loadCertificates(cfg, log)
	if err != nil {
		return err
	}
	users := hashLater(cfg)

	f := newFront(cfg, certs, log)
	defer func() { err = errors.Join(err, f.stop()) }()
	if err := f.start(ctx, cfg); err != nil {
		return err
	}

	st, err := openStore(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	b, err := broker.Open(ctx, broker.Config{
		Journal: st.journal,
		Scratch: st.scratch,
		Logger:  log,
		Alarms:  alarms(cfg, st, total),

		HotBytes:     hotBytes(cfg.MemoryLimit.of(total)),
		SegmentBytes: st.segmentBytes(),
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while it recovered
		}
		return explain(err, st.dir)
	}
	defer func() { err = errors.Join(err, closeBroker(b, st)) }()
	f.health.describe(st.name(), st.journal.Info().Durability, b.Blocked)

	u, err := users()
	if err != nil {
		return fmt.Errorf("the first user: %w", err)
	}
	defer func() { err = errors.Join(err, f.stopClients(b)) }()
	amqp, stomp := servers(cfg, b, u, log)
	if err := f.serveClients(ctx, amqp, stomp); err != nil {
		return err
	}

	quiet, stopQuiet := context.WithCancel(ctx)
	var freeing sync.WaitGroup
	freeing.Go(func() { freeWhenQuiet(quiet) })
	defer freeing.Wait()
	defer stopQuiet()
	f.health.set(phaseServing, "")
	ready(f.addresses)
	select {
	case <-ctx.Done():
		log.Info("stopping", "reason", context.Cause(ctx))
		f.health.set(phaseStopping, "")
		return nil
	case <-b.Failed():
		err := failure(b, st)
		f.health.set(phaseFailed, err.Error())
		return err
	}
}

// servers are what speaks with clients.
func servers(cfg Config, b *broker.Broker, users *auth.Users, log *slog.Logger) (amqp, stomp server) {
	amqp = amqpserver.New(amqpserver.Config{
		Broker: b, Auth: users, Logger: log, Version: cfg.Version, ClusterName: clusterName(),
	})
	stomp = stompserver.New(stompserver.Config{Broker: b, Auth: users, Logger: log, Version: cfg.Version})
	return amqp, stomp
}

// clusterName is what clients are told and operators see: the node's name, as
// RabbitMQ's default is.
func clusterName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return "ferry@" + host
}

// hashLater begins to hash the first user's password, which takes longer than
// anything else an empty broker does at its start, and returns what waits for
// it.
func hashLater(cfg Config) func() (*auth.Users, error) {
	type result struct {
		users *auth.Users
		err   error
	}
	done := make(chan result, 1)
	go func() {
		u, err := auth.NewUsers(cfg.User, cfg.Password)
		done <- result{u, err}
	}()
	return func() (*auth.Users, error) {
		r := <-done
		return r.users, r.err
	}
}

func loadCertificates(cfg Config, log *slog.Logger) (*netserve.Certificates, error) {
	if cfg.TLSCert == "" {
		return nil, nil
	}
	return netserve.LoadCertificates(netserve.TLSFiles{
		Cert: cfg.TLSCert, Key: cfg.TLSKey,
		CA: cfg.TLSCA, RequirePeer: cfg.TLSCA != "",
	}, log)
}

// hotBytes is how many bytes of bodies stay in memory that are also on disk: a
// backlog must not be what keeps the memory alarm on.
func hotBytes(memoryLimit int64) int64 {
	if memoryLimit > 0 {
		return min(memoryLimit/4, broker.DefaultHotBytes)
	}
	return broker.DefaultHotBytes
}

func alarms(cfg Config, st *store, totalMemory int64) broker.AlarmConfig {
	a := broker.AlarmConfig{Disk: st.diskAlarm(cfg.DiskFreeLimit)}
	if limit := cfg.MemoryLimit.of(totalMemory); limit > 0 {
		gauge := newMemoryGauge()
		a.Memory = func() (used, most int64) { return gauge.used(), limit }
	}
	return a
}

// closeBroker writes what is pending and ends the broker. A store that takes
// nothing, because it has no space, is closed under it when its time is over.
func closeBroker(b *broker.Broker, st *store) error {
	failed := b.Err() != nil // and reported
	closed := make(chan error, 1)
	patience := time.AfterFunc(writeTimeout, func() { closed <- st.close() })
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
	return fmt.Errorf("the broker cannot go on, because its store in %s failed: %w. "+
		"What was confirmed is kept; of what was pending nothing is known, and its publishers were told so. "+
		"See to the disk, then start the broker again: it recovers by itself", st.dir, cause)
}
