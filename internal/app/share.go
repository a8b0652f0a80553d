package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
)

const (
	// openTimeout is for one attempt to open a shared store. Then it is tried again,
	// from openRetry on, at most every openRetryMax, with a line in the log every
	// openNote.
	openTimeout  = 10 * time.Second
	openRetry    = 100 * time.Millisecond
	openRetryMax = 2 * time.Second
	openNote     = 10 * time.Second

	// standbyNote is how long a process waits for its turn before it says so.
	standbyNote = 200 * time.Millisecond

	// handOverPatience is how long the next owner of a shared store waits for clients
	// of this one that do not take what is written to them, at most.
	handOverPatience = 100 * time.Millisecond
	// handOverTimeout is for a shared store to take what is pending. Then whoever
	// comes next waits for the lease.
	handOverTimeout = 2 * time.Second
	// demoteTimeout is for clients of a broker that lost its store to be told.
	demoteTimeout = time.Second
)

// rosterSlot holds the roster of the store that is open, nil while there is none.
type rosterSlot = atomic.Pointer[roster]

// share is the process with a store that others may have open too. It waits for its
// turn, serves, and waits again when it has lost the store, until ctx ends:
//
//	starting ---- the store is open ----> standby ---- the log is ours ----> live
//	   ^                                     |                                 |
//	   +---- the store is of no use any more, or somebody else owns it --------+
//
// A database that cannot be reached is waited for. What waiting does not change (a
// wrong password, damage) ends the process.
func (n *node) share(ctx context.Context) error {
	wait := openRetry
	for {
		st, err := n.openShared(ctx)
		if st == nil {
			return err
		}
		began := time.Now()
		again, err := n.term(ctx, st)
		if !again {
			return err
		}
		if err != nil {
			n.log.Warn("the store is opened anew", "error", err)
		}
		if time.Since(began) > openRetryMax {
			wait = openRetry
		}
		if !pause(ctx, wait) {
			return nil
		}
		wait = min(2*wait, openRetryMax)
	}
}

// pause waits for d, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// openShared opens the store, again and again while it is not reached. Without a
// store and an error ctx has ended.
func (n *node) openShared(ctx context.Context) (*store, error) {
	var noted time.Time
	for wait := openRetry; ; wait = min(2*wait, openRetryMax) {
		st, err := n.openOnce(ctx)
		switch {
		case err == nil:
			return st, nil
		case ctx.Err() != nil:
			return nil, nil
		case permanent(err):
			return nil, err
		}
		n.front.health.set(phaseStarting, err.Error())
		if now := time.Now(); now.Sub(noted) >= openNote {
			noted = now
			n.log.Warn("the store is not reached, and tried again", "error", err)
		}
		if !pause(ctx, wait) {
			return nil, nil
		}
	}
}

func (n *node) openOnce(ctx context.Context) (*store, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, fmt.Errorf("it took longer than %v", openTimeout))
	defer cancel()
	return openDatabase(ctx, n.cfg, n.log)
}

// term is one opening of a shared store, which it closes: as a standby, then live.
// again says that the store is to be opened anew; an error that comes with it is for
// the log.
func (n *node) term(ctx context.Context, st *store) (again bool, err error) {
	if err := st.makeScratch(n.log); err != nil {
		return false, errors.Join(err, st.close())
	}
	s := broker.NewStandby(n.brokerConfig(st))
	n.settings.set(nil, s)
	n.watchUsers(s.WatchSettings)
	n.users.Changed()
	n.front.health.describe(st, standbyStanding(s), nil)
	n.front.health.set(phaseStandby, "")
	r := startRoster(st.roster, n.describe, n.cfg.lease(), n.front.followLive, n.log)
	n.peers.Store(r)
	st.telling = r
	defer n.peers.Store(nil)
	b, err := n.await(ctx, s, r)
	switch {
	case err == nil:
		return n.serve(ctx, st, b)
	case ctx.Err() != nil:
		n.log.Info("stopping", "reason", context.Cause(ctx))
		n.front.health.set(phaseStopping, "")
		r.stop()
		r.leave()
		return false, st.close()
	}
	damaged := errors.As(err, new(*journal.CorruptError))
	err = fmt.Errorf("follow the log of the store: %w", st.explain(err))
	n.front.health.set(phaseStarting, err.Error())
	return !damaged, errors.Join(err, st.close())
}

// await is a standby up to its end: it refuses clients, or passes them through.
func (n *node) await(ctx context.Context, s *broker.Standby, r *roster) (*broker.Broker, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if n.cfg.Standby == StandbyProxy {
		defer n.front.endRelays()
		err := n.front.relayClients(ctx, func(protocol string) string {
			if owner := s.Status().Owner; owner != n.name {
				return r.address(owner, protocol)
			}
			return ""
		})
		if err != nil { // it can take over all the same, when the port is free
			n.log.Warn("clients are not passed through to the broker that is live", "error", err)
		}
	}
	r.change() // the addresses are known now
	var telling sync.WaitGroup
	defer telling.Wait()
	defer cancel(nil)
	telling.Go(func() { n.tellStandby(ctx, s) })
	return s.Await(ctx)
}

// tellStandby says that the process waits for its turn, unless ctx ends before that is
// known: who finds the log empty, or handed over, does not wait.
func (n *node) tellStandby(ctx context.Context, s *broker.Standby) {
	for pause(ctx, standbyNote) {
		st := s.Status()
		if st.Position == 0 {
			continue // nothing was read yet
		}
		n.log.Info("waiting for the store to be free", "owner", st.Owner, "epoch", st.Epoch, "position", st.Position)
		if n.told.Standby != nil {
			n.told.Standby(n.front.addresses())
		}
		return
	}
}

// standbyStanding is how the process of a standby stands.
func standbyStanding(s *broker.Standby) func() standing {
	return func() standing {
		st := s.Status()
		return standing{epoch: st.Epoch, owner: st.Owner, position: st.Position, head: st.Head, silent: st.Silent}
	}
}

// handOver ends a broker whose clients are on their way out, and its store, so that
// a standby takes over at once. It waits until none of them can be confirmed anything
// any more, which does not take the sockets' end: who takes nothing that is written
// to it is not waited for, and is told nothing further.
func (n *node) handOver(b *broker.Broker, st *store) error {
	if b.Err() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), handOverPatience)
		defer cancel()
		if err := b.AwaitSessions(ctx); err != nil {
			n.log.Info("the store is handed over before all clients have gone", "cause", err)
		}
	}
	err := closeBroker(b, st, handOverTimeout)
	st.telling.stop()
	st.telling.leave()
	return errors.Join(err, st.close())
}

// demote ends a broker that has lost its store, and the store. What fails on the way
// changes nothing: the broker confirms nothing any more.
func (n *node) demote(b *broker.Broker, st *store) {
	last := ownerStanding(b, "")()
	n.front.health.describe(st, func() standing { return last }, nil)
	gone := n.front.dismiss(b, farewell{failed: demoteTimeout})
	err := errors.Join(closeBroker(b, st, handOverTimeout), st.close())
	if err = errors.Join(err, gone()); err != nil {
		n.log.Info("the broker that lost its store has ended", "error", err)
	}
}
