package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Policies are matched with a queue or an exchange when it is declared, or read from
// the journal, by the set that its virtual host has then. When the set changes, one
// goroutine goes through what is there, a step at a time, so that nobody waits for
// it. Whoever declares meanwhile either still sees the old set, and is then met on
// the way, or the new one.

// applyStep is how many queues are looked up at a time.
const applyStep = 256

// applier applies policies that have changed.
type applier struct {
	wake chan struct{} // one slot

	mu    sync.Mutex // guards what follows
	dirty map[*VHost]struct{}
	idle  chan struct{} // closed when there is nothing more to apply; nil: nothing is
}

func newApplier() *applier {
	return &applier{wake: make(chan struct{}, 1), dirty: map[*VHost]struct{}{}}
}

func (a *applier) add(v *VHost) {
	a.mu.Lock()
	a.dirty[v] = struct{}{}
	if a.idle == nil {
		a.idle = make(chan struct{})
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// take returns a virtual host to go through, nil if there is none.
func (a *applier) take() *VHost {
	a.mu.Lock()
	defer a.mu.Unlock()
	for v := range a.dirty {
		delete(a.dirty, v)
		return v
	}
	if a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
	return nil
}

// AwaitPolicies returns when every policy that was set or removed before it was
// called is in force on all queues and exchanges, or with ctx's cause, or with the
// broker's failure.
func (b *Broker) AwaitPolicies(ctx context.Context) error {
	b.applier.mu.Lock()
	idle := b.applier.idle
	b.applier.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.failed:
		return b.Err()
	case <-b.quit:
		return errorf(Forced, "broker is closed")
	}
}

func (b *Broker) applyLoop() {
	for {
		select {
		case <-b.applier.wake:
		case <-b.quit:
			return
		case <-b.failed:
			return
		}
		for v := b.applier.take(); v != nil; v = b.applier.take() {
			v.applyPolicies(b.ending)
		}
	}
}

// policyChanged takes in that a policy was set or removed.
func (v *VHost) policyChanged(kind, name string) {
	operator := kind == SettingOperatorPolicy
	v.policyMu.Lock()
	defer v.policyMu.Unlock()
	var p *policy
	if value, ok := v.b.settings.one(kind, v.name, name); ok {
		p, _, _ = readPolicy(name, value, operator) // it was checked, or is of no use
	}
	v.policies.Store(v.policies.Load().with(name, operator, p))
}

// readPolicies reads all policies of a virtual host. Nobody else is there.
func (v *VHost) readPolicies() {
	set := &policySet{}
	for _, kind := range []string{SettingPolicy, SettingOperatorPolicy} {
		for name, value := range v.b.settings.of(kind, v.name) {
			if p, _, err := readPolicy(name, value, kind == SettingOperatorPolicy); err == nil {
				set = set.with(name, kind == SettingOperatorPolicy, p)
			}
		}
	}
	v.policies.Store(set)
}

// applyPolicies goes through a virtual host until all in it have the policies that
// it has now.
func (v *VHost) applyPolicies(ending func() bool) {
	set := v.policies.Load()
	page := make([]*Queue, 0, applyStep)
	for end := -1; end != 0; {
		// From the end to the beginning: one that is removed has the last take its
		// place, which was met before if it is not the place that is met next.
		v.mu.RLock()
		if end < 0 || end > len(v.listing.all) {
			end = len(v.listing.all)
		}
		from := max(0, end-applyStep)
		page = append(page[:0], v.listing.all[from:end]...)
		v.mu.RUnlock()
		end = from
		if ending() || v.policies.Load() != set {
			return // it is begun anew
		}
		for _, q := range page {
			q.applyPolicies(set)
		}
	}
	v.mu.RLock()
	exchanges := slices.Collect(maps.Values(v.exchanges))
	v.mu.RUnlock()
	for list := range slices.Chunk(exchanges, applyStep) {
		v.mu.Lock()
		for _, x := range list {
			x.matchPolicies(set)
		}
		v.changed()
		v.mu.Unlock()
	}
}

// applyPolicies sees to those that changed behind what they are for.
func (r *replayer) applyPolicies() {
	for v := range r.stale {
		set := v.policies.Load()
		for _, q := range v.listing.all {
			q.policies = set.ofQueue(&q.spec)
			q.rules = set.rulesOf(q.spec.Args, q.policies)
		}
		for _, x := range v.exchanges {
			x.matchPolicies(set)
		}
	}
	clear(r.stale)
}

// applyPolicies gives a queue the policies of a set, and does what its new rules
// ask for.
func (q *Queue) applyPolicies(set *policySet) {
	found := set.ofQueue(&q.spec)
	r := set.rulesOf(q.spec.Args, found)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.deleted {
		return
	}
	old := q.rules
	q.policies, q.rules = found, r
	if !r.same(old) {
		q.rulesChangedLocked()
	}
}

// rulesChangedLocked does what the queue's rules ask for when they are not what they
// were. q.mu is held.
func (q *Queue) rulesChangedLocked() {
	q.usedLocked()
	q.enforceLocked()
}

// matchPolicies gives an exchange the policies of a set. v.mu is held, or nobody else
// is there.
func (x *exchange) matchPolicies(set *policySet) {
	x.policies = set.ofExchange(x.spec.Name)
}

// policyText is what an exchange's policies say for a key. v.mu is held.
func (x *exchange) policyText(key string) (s string, ok bool) {
	if s, ok = x.policies.operator.definition()[key].(string); !ok {
		s, ok = x.policies.user.definition()[key].(string)
	}
	return s, ok
}
