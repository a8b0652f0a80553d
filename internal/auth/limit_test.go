package auth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// cheap puts a user whose password costs nothing to verify when it is right.
func cheap(t *testing.T, u *Users, name, password string) {
	t.Helper()
	hash := salted(SHA256, password)
	if _, err := u.PutUser(t.Context(), name, UserSpec{PasswordHash: &hash, Tags: &Tags{}}); err != nil {
		t.Fatal(err)
	}
}

func TestGuessingIsSlowedForAddressAndUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
		fails := func(name string, peer netip.Addr) bool {
			open := l.open(name, peer)
			_, ok := l.take(name, peer)
			if ok != open {
				t.Errorf("open says %v, take %v", open, ok)
			}
			return ok
		}
		for i := range FailedAtOnce { // one address, many users
			if !fails(fmt.Sprint("user", i), address(0)) {
				t.Fatalf("attempt %d of an address is not looked at", i)
			}
		}
		if fails("another", address(0)) {
			t.Error("one more of the address is looked at")
		}
		for i := range UserShare * FailedAtOnce { // one user, many addresses
			if !fails("ada", address(i+1)) {
				t.Fatalf("attempt %d of a user is not looked at", i)
			}
		}
		if fails("ada", address(2000)) {
			t.Error("one more of the user is looked at")
		}
		time.Sleep(FailedEvery / UserShare)
		if !fails("ada", address(2000)) || fails("ada", address(2001)) {
			t.Error("not one more of the user in its time")
		}
		time.Sleep(FailedEvery - FailedEvery/UserShare)
		if !fails("a third", address(0)) || fails("a third", address(0)) {
			t.Error("not one more of the address after FailedEvery")
		}
		time.Sleep(2 * FailedAtOnce * FailedEvery)
		l.mu.Lock()
		l.sweepLocked(time.Now())
		n := len(l.buckets)
		l.mu.Unlock()
		if n != 0 {
			t.Errorf("%d are remembered when all is forgiven", n)
		}
	})
}

func TestOthersCannotShutOutWhoHasLoggedInBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, home, evil := newLimiter(), local, remote
		c, ok := l.take("ada", home)
		if !ok {
			t.Fatal("the first attempt")
		}
		l.succeeded("ada", home, c)
		for range FailedAtOnce { // the user from elsewhere
			l.take("ada", evil)
		}
		for i := range FailedAtOnce { // and other users from the same address
			l.take(fmt.Sprint(i), home)
		}
		if l.open("ada", evil) || l.open("bob", home) {
			t.Error("guessing is not slowed")
		}
		for i := range FailedAtOnce {
			if _, ok := l.take("ada", home); !ok {
				t.Fatalf("who is known is shut out after %d of its own", i)
			}
		}
		if l.open("ada", home) {
			t.Error("who is known may guess for ever")
		}
		time.Sleep(KnownFor)
		for i := range UserShare * FailedAtOnce {
			l.take("ada", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
		}
		if l.open("ada", home) {
			t.Error("who was known long ago is still known")
		}
	})
}

// Nobody is known after a restart: who fails as fast as it may, for a user whose name
// it knows, must not keep that user's clients from ever coming in again.
func TestOneAddressAloneShutsOutNoUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		for range 600 {
			for l.open("ada", remote) {
				l.take("ada", remote)
			}
			if !l.open("ada", netip.MustParseAddr("10.9.9.9")) {
				t.Fatal("a user is shut out everywhere by one address")
			}
			time.Sleep(FailedEvery)
		}
	})
}

func TestWhatIsKeptOfFailuresIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		peer := func(i int) netip.Addr {
			var a [16]byte
			a[0] = 0x20
			binary.BigEndian.PutUint32(a[4:], uint32(i))
			return netip.AddrFrom16(a)
		}
		for i := range 2 * maxBuckets {
			l.take("ada", peer(i))
		}
		for i := range 2 * maxKnown {
			l.succeeded("bob", peer(i), charge{})
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.buckets) > maxBuckets+2 || len(l.known) > maxKnown {
			t.Errorf("%d failures and %d who are known", len(l.buckets), len(l.known))
		}
	})
}

func TestAddressesOfOneSiteAreOne(t *testing.T) {
	l := newLimiter()
	for _, row := range []struct {
		a, b string
		same bool
	}{
		{"10.0.0.1", "::ffff:10.0.0.1", true},
		{"10.0.0.1", "10.0.0.2", false},
		{"2001:db8::1", "2001:db8::2", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		x, y := l.pair("ada", netip.MustParseAddr(row.a)), l.pair("ada", netip.MustParseAddr(row.b))
		if (x == y) != row.same {
			t.Errorf("%s and %s: the same %v, want %v", row.a, row.b, x == y, row.same)
		}
	}
}

// A client that was left with an old password tries it for ever, and must not shut
// out those who come from its address.
func TestTheSameWrongPasswordIsNoGuess(t *testing.T) {
	u := New(&MemoryStore{})
	cheap(t, u, "ada", "right")
	cheap(t, u, "bob", "right")
	for range 4 * FailedAtOnce {
		if _, err := u.Login(t.Context(), Login{Name: "ada", Password: "old", Peer: remote}); !errors.Is(err, ErrRefused) || errors.Is(err, ErrTooMany) {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ada", "bob"} {
		if _, err := u.Login(t.Context(), Login{Name: name, Password: "right", Peer: remote}); err != nil {
			t.Error(err)
		}
	}
	cheap(t, u, "ada", "old")
	if _, err := u.Login(t.Context(), Login{Name: "ada", Password: "old", Peer: remote}); err != nil {
		t.Errorf("the password that was wrong is right now: %v", err)
	}
}

func TestGuessesBeyondTheLimitAreNotLookedAt(t *testing.T) {
	u := New(&MemoryStore{})
	cheap(t, u, "ada", "right")
	cheap(t, u, "bob", "right")
	if _, err := u.Login(t.Context(), Login{Name: "bob", Password: "right", Peer: remote}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var looked, refused atomic.Int32
	for i := range 3 * FailedAtOnce {
		wg.Go(func() {
			_, err := u.Login(t.Context(), Login{Protocol: "http", Name: "ada", Password: fmt.Sprint(i), Peer: remote})
			switch {
			case errors.Is(err, ErrTooMany) && errors.Is(err, ErrRefused):
				refused.Add(1)
			case errors.Is(err, ErrRefused):
				looked.Add(1)
			}
		})
	}
	wg.Wait()
	if n := looked.Load(); n < FailedAtOnce || n > 2*FailedAtOnce || n+refused.Load() != 3*FailedAtOnce {
		t.Errorf("%d guesses were looked at, %d were not", n, refused.Load())
	}
	if _, err := u.Login(t.Context(), Login{Name: "bob", Password: "right", Peer: remote}); err != nil {
		t.Errorf("who is remembered: %v", err)
	}
	if a := u.Attempts(); len(a) != 2 || a[1] != (Attempts{"http", 3 * FailedAtOnce, 3 * FailedAtOnce, 0}) || a[0].Succeeded != 2 {
		t.Errorf("attempts: %+v", a)
	}
}

// After a takeover everybody comes at once, and nothing is remembered.
func TestAHundredUsersThatReconnectAreAllLookedAt(t *testing.T) {
	u := New(&MemoryStore{})
	const users = 100
	hash, algorithm, err := u.HashPassword(t.Context(), "right")
	if err != nil {
		t.Fatal(err)
	}
	for i := range users {
		if _, err := u.PutUser(t.Context(), fmt.Sprint("user", i), UserSpec{PasswordHash: &hash, HashingAlgorithm: algorithm, Tags: &Tags{}}); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 10 * users {
		wg.Go(func() {
			if _, err := u.Login(t.Context(), Login{Name: fmt.Sprint("user", i%users), Password: "right", Peer: remote}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// The time of a refusal must not tell whether there is a user, or of which kind its
// hash is. What argon2id costs is memory first: that can be seen.
func TestEveryRefusalCostsAHash(t *testing.T) {
	u := New(&MemoryStore{})
	mustPut(t, u, "own", "right")
	mustPut(t, u, "none", "")
	cheap(t, u, "rabbit", "right")
	cost := uint64(ownCost.memory) << 10
	for i, l := range []Login{
		{Name: "own", Password: "wrong"},
		{Name: "none", Password: "wrong"},
		{Name: "none", Password: ""},
		{Name: "rabbit", Password: "wrong"},
		{Name: "rabbit", Password: ""},
		{Name: "nobody", Password: "wrong"},
		{Name: "nobody", Password: strings.Repeat("x", MaxPassword+1)},
		{Name: strings.Repeat("x", MaxName+1), Password: "wrong"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := u.Login(t.Context(), l); !errors.Is(err, ErrRefused) {
			t.Errorf("row %d: %v", i, err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n < cost || n >= 2*cost {
			t.Errorf("row %d, %.20s: %d bytes, want those of one hash, %d", i, l.Name, n, cost)
		}
	}
}

func TestMatchesIsOutsideOfTheLimits(t *testing.T) {
	u := New(&MemoryStore{})
	cheap(t, u, "ada", "right")
	for i := range 2 * FailedAtOnce {
		if same, err := u.Matches(t.Context(), "ada", fmt.Sprint(i)); same || err != nil {
			t.Fatal(same, err)
		}
	}
	if same, err := u.Matches(t.Context(), "ada", "right"); !same || err != nil {
		t.Error(same, err)
	}
	if _, err := u.Matches(t.Context(), "bob", "right"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if len(u.Attempts()) != 0 {
		t.Error("it is counted")
	}
}
