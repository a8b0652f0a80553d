package auth

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// What guessing is limited to; see Users.Login.
const (
	FailedAtOnce = 50 // of an address
	FailedEvery  = time.Second
	// UserShare is by how much a user has more of both than an address: one address
	// alone, which anybody has, must not use up a user's.
	UserShare = 10
	KnownFor  = 24 * time.Hour
)

// Bounds of what is kept of attempts.
const (
	// maxBuckets is of how many addresses and users failures are counted one by one.
	// When more than that fail at once, the further ones share a limit.
	maxBuckets = 8192
	// maxKnown is how many pairs of user and address are known.
	maxKnown = 16384
	// sweepEvery is how often at most all buckets are looked at.
	sweepEvery = time.Second
	// networkBits is what counts as one address of IPv6: what a site is given at least.
	networkBits = 64
)

// limiter counts failed logins in buckets that fill again. Its methods may be called
// at the same time.
type limiter struct {
	seed maphash.Seed

	mu      sync.Mutex // guards what follows
	buckets map[bucketKey]bucket
	known   map[bucketKey]time.Time // when a pair of user and address has logged in last
	swept   time.Time
}

// bucketKey is an address, a user, both, or with neither what all others share.
type bucketKey struct {
	addr netip.Addr
	user uint64 // hash of the name
	kind byte   // 'a', 'u', 'p' for a pair, 0 for the others
}

// share is by how much it has more than an address.
func (k bucketKey) share() float64 {
	if k.kind == 'u' {
		return UserShare
	}
	return 1
}

// full is what is left in it when all is forgiven.
func (k bucketKey) full() float64 { return FailedAtOnce * k.share() }

// bucket is how many failures were left at a time.
type bucket struct {
	left float64
	at   time.Time
}

// charge are the buckets that an attempt was taken from.
type charge [2]bucketKey

func newLimiter() *limiter {
	return &limiter{seed: maphash.MakeSeed(), buckets: map[bucketKey]bucket{}, known: map[bucketKey]time.Time{}}
}

func (l *limiter) pair(name string, peer netip.Addr) bucketKey {
	peer = peer.Unmap().WithZone("")
	if peer.Is6() {
		if p, err := peer.Prefix(networkBits); err == nil {
			peer = p.Addr()
		}
	}
	return bucketKey{peer, maphash.String(l.seed, name), 'p'}
}

// keysLocked are the buckets that count for an attempt: of a pair that is known its
// own alone.
func (l *limiter) keysLocked(pair bucketKey, now time.Time) charge {
	if at, ok := l.known[pair]; ok && now.Sub(at) < KnownFor {
		return charge{pair, pair}
	}
	return charge{{addr: pair.addr, kind: 'a'}, {user: pair.user, kind: 'u'}}
}

// open tells whether one more attempt may be made now.
func (l *limiter) open(name string, peer netip.Addr) bool {
	now := time.Now()
	pair := l.pair(name, peer)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.keysLocked(pair, now) {
		if _, left := l.lookLocked(k, now); left < 1 {
			return false
		}
	}
	return true
}

// take counts an attempt as failed, unless it may not be made.
func (l *limiter) take(name string, peer netip.Addr) (charge, bool) {
	now := time.Now()
	pair := l.pair(name, peer)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.keysLocked(pair, now)
	for i := range c {
		var left float64
		if c[i], left = l.lookLocked(c[i], now); left < 1 {
			return c, false
		}
	}
	l.addLocked(c, -1, now)
	return c, true
}

// succeeded takes back that an attempt was counted as failed.
func (l *limiter) succeeded(name string, peer netip.Addr, c charge) {
	now := time.Now()
	pair := l.pair(name, peer)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(c, 1, now)
	if _, ok := l.known[pair]; !ok && len(l.known) >= maxKnown {
		for k := range l.known { // any: those that are in use come again
			delete(l.known, k)
			break
		}
	}
	l.known[pair] = now
}

// lookLocked is what is left in a bucket now. Where there is no room for one more
// the answer is of the one that all others share.
func (l *limiter) lookLocked(k bucketKey, now time.Time) (bucketKey, float64) {
	b, ok := l.buckets[k]
	if !ok {
		if len(l.buckets) < maxBuckets || l.sweepLocked(now) {
			return k, k.full()
		}
		k = bucketKey{}
		if b, ok = l.buckets[k]; !ok {
			return k, k.full()
		}
	}
	return k, b.now(k, now)
}

func (b bucket) now(k bucketKey, now time.Time) float64 {
	return min(k.full(), b.left+k.share()*float64(now.Sub(b.at))/float64(FailedEvery))
}

// addLocked changes what is left in buckets, each once.
func (l *limiter) addLocked(c charge, n float64, now time.Time) {
	for i, k := range c {
		if i > 0 && k == c[0] {
			continue
		}
		b, ok := l.buckets[k]
		left := k.full()
		if ok {
			left = b.now(k, now)
		}
		if left = min(left+n, k.full()); left == k.full() {
			delete(l.buckets, k)
			continue
		}
		l.buckets[k] = bucket{left, now}
	}
}

// sweepLocked forgets buckets that are full again, and tells whether there is room.
func (l *limiter) sweepLocked(now time.Time) bool {
	if now.Sub(l.swept) < sweepEvery {
		return false
	}
	l.swept = now
	for k, b := range l.buckets {
		if b.now(k, now) == k.full() {
			delete(l.buckets, k)
		}
	}
	return len(l.buckets) < maxBuckets
}
