package chaos

import (
	"slices"
	"testing"
	"time"
)

// An artemisFault is something that happens to a live broker of Artemis and its
// backup. Before it and after it the live one serves and the backup could take over.
type artemisFault struct {
	name   string
	stores []string
	stay   bool // the clients stay where they are
	hit    func(p *pair, run *program)
}

var (
	anyStore    = []string{sharedStore, replicatedStore, coordinatedStore}
	artemisKill = artemisFault{
		name: "live killed, back again", stores: anyStore,
		hit: func(p *pair, run *program) {
			p.kill(live)
			p.await(backup, active)
			run.reconnected(1)
			time.Sleep(calm)
			p.up(live) // and the backup lets it serve again
			if p.awaitPair() {
				run.reconnected(2)
			}
		},
	}
)

// The rest of what the pair is for, and of what happens to pairs.
var artemisFaults = []artemisFault{
	artemisKill,
	{
		name: "none", stores: anyStore, stay: true,
		hit: func(*pair, *program) {},
	},
	{
		name: "backup killed, back again", stores: anyStore, stay: true,
		hit: func(p *pair, _ *program) {
			p.kill(backup)
			time.Sleep(calm)
			p.up(backup)
			p.awaitPair()
		},
	},
	{
		name: "both killed, live first", stores: anyStore,
		hit: func(p *pair, run *program) {
			p.killBoth()
			time.Sleep(calm)
			p.up(live)
			p.await(live, active)
			p.up(backup)
			if p.awaitPair() {
				run.reconnected(1)
			}
		},
	},
	{
		// The live one wants to serve as soon as it runs.
		name: "both killed, backup first", stores: []string{sharedStore, coordinatedStore},
		hit: func(p *pair, run *program) {
			p.killBoth()
			time.Sleep(calm)
			p.up(backup)
			p.await(backup, active)
			run.reconnected(1)
			p.up(live)
			if p.awaitPair() {
				run.reconnected(2)
			}
		},
	},
	{
		// A backup that replicates does not serve before a live one has.
		name: "both killed, backup first", stores: []string{replicatedStore},
		hit: func(p *pair, run *program) {
			p.killBoth()
			time.Sleep(calm)
			p.up(backup)
			p.up(live)
			if p.awaitPair() {
				run.reconnected(1)
			}
		},
	},
	{
		name: "both killed, backup served last, it first", stores: []string{sharedStore, coordinatedStore},
		hit: func(p *pair, run *program) {
			p.killServing(run)
			p.up(backup)
			p.await(backup, active)
			run.reconnected(2)
			p.up(live)
			if p.awaitPair() {
				run.reconnected(3)
			}
		},
	},
	{
		name: "both killed, backup served last, live first", stores: []string{sharedStore},
		hit: func(p *pair, run *program) {
			p.killServing(run)
			p.up(live)
			p.await(live, active)
			p.up(backup)
			if p.awaitPair() {
				run.reconnected(2)
			}
		},
	},
	{
		// The live one knows that its copy is old, and waits for the backup's.
		name: "both killed, backup served last, live first", stores: []string{coordinatedStore},
		hit: func(p *pair, run *program) {
			p.killServing(run)
			p.up(live)
			p.up(backup)
			if p.awaitPair() {
				run.reconnected(2)
			}
		},
	},
	{
		// Nothing tells them whose copy is the newest: an operator does.
		name: "both killed, backup served last, copied to live", stores: []string{replicatedStore},
		hit: func(p *pair, run *program) {
			p.killServing(run)
			p.copy(backup, live)
			p.up(live)
			p.await(live, active)
			p.up(backup)
			if p.awaitPair() {
				run.reconnected(2)
			}
		},
	},
}

// killServing kills the live broker, and the backup when it has served for a time:
// what was sent in between the live one does not have.
func (p *pair) killServing(run *program) {
	p.t.Helper()
	p.kill(live)
	p.await(backup, active)
	run.reconnected(1)
	time.Sleep(calm)
	p.kill(backup)
}

// What a live Artemis and its backup promise together, a client keeps over STOMP:
// nothing that was confirmed is lost, nothing is stored twice, whoever of them dies
// and however the store is made.
func TestArtemisPair(t *testing.T) {
	t.Parallel()
	for _, store := range anyStore {
		if store == coordinatedStore && !long() {
			continue
		}
		t.Run(store, func(t *testing.T) {
			var table matrix
			defer func() { table.log(t) }()
			p := startPair(t, store)
			if !long() {
				rate := steadyRate
				if store == replicatedStore {
					rate = 0
				}
				table = append(table, p.play(artemisKill, rate))
				return
			}
			for _, fault := range artemisFaults {
				if !slices.Contains(fault.stores, store) {
					continue
				}
				for _, rate := range []int{steadyRate, 0} {
					table = append(table, p.play(fault, rate))
				}
			}
		})
	}
}

// mostSplits is how often in a row Artemis may divide itself.
const mostSplits = 3

// play is a round that Artemis has kept its own promise in. Where it has not, and both
// brokers serve, each what it has itself, no client can keep one: the round is played
// again, with a new pair.
func (p *pair) play(fault artemisFault, rate int) result {
	p.t.Helper()
	for range mostSplits {
		if r, ok := p.round(fault, rate); ok {
			return r
		}
		p.t.Logf("%s, %s: both brokers of the pair serve, which is Artemis's fault; again with a new pair", fault.name, p.store)
		p.stop()
		p.start()
	}
	p.t.Fatalf("%s, %s: the pair has divided itself %d times", fault.name, p.store, mostSplits)
	return result{}
}

// round is one fault while messages flow at a rate, and whether the pair is one
// afterwards.
//
// A message that Artemis had delivered when it died it delivers again, as it must,
// and marks only some of these. The consumer knows the ids of those that it has had,
// and drops them; that nothing was stored twice, which no consumer may have to make
// up for, is seen in the pair's own copy of what it stored.
func (p *pair) round(fault artemisFault, rate int) (r result, ok bool) {
	p.t.Helper()
	before := p.dropped()
	run := verify(p.t, here, p.failover(), audited, rate, deduplicating...)
	if !run.connected() {
		p.t.FailNow()
	}
	time.Sleep(calm)
	fault.hit(p, run)
	if p.split {
		run.kill()
		return r, false
	}
	if p.t.Failed() {
		p.t.FailNow()
	}
	time.Sleep(calm)
	run.interrupt()
	r = result{fault: fault.name, queue: p.store, rate: rate, report: run.report()}
	r.check(p.t, true)
	r.settled(p.t)
	r.once(p.t)
	if fault.stay && r.Failovers > 0 {
		p.t.Errorf("%s: the clients left a broker that served", r)
	}
	ids, repeated := p.stored(live), 0
	for id, n := range ids {
		if id == "" {
			p.t.Errorf("%s: %d messages had no id by which Artemis recognises them", r, n)
		} else if n > 1 {
			repeated++
		}
	}
	if repeated > 0 {
		p.t.Errorf("%s: %d messages were stored twice", r, repeated)
	}
	if len(ids) < r.Confirmed {
		p.t.Errorf("%s: %d messages were stored, %d confirmed", r, len(ids), r.Confirmed)
	}
	p.t.Logf("%s: %d stored, %d of these twice; Artemis dropped %d that were sent again", r, len(ids), repeated, p.dropped()-before)
	return r, true
}
