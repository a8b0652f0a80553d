package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	local  = netip.MustParseAddr("127.0.0.1")
	remote = netip.MustParseAddr("192.0.2.7")
)

func mustUsers(t *testing.T, name, password string) *Users {
	t.Helper()
	u, err := NewUsers(name, password)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func set(t *testing.T, u *Users, name, password string) error {
	t.Helper()
	_, err := u.PutUser(t.Context(), name, UserSpec{Password: &password, Tags: &Tags{}})
	return err
}

func TestLoginAcceptsOnlyTheRightPassword(t *testing.T) {
	u := mustUsers(t, "ada", "lovelace")
	for _, row := range []struct {
		name, password string
		want           error
	}{
		{"ada", "lovelace", nil},
		{"ada", "lovelace", nil}, // remembered
		{"ada", "Lovelace", ErrRefused},
		{"ada", "lovelace ", ErrRefused},
		{"ada", "", ErrRefused},
		{"ada", strings.Repeat("x", MaxPassword+1), ErrRefused},
		{"Ada", "lovelace", ErrRefused},
		{"", "", ErrRefused},
		{"adal", "ovelace", ErrRefused},
		{strings.Repeat("a", 5000), "lovelace", ErrRefused},
	} {
		id, err := u.Login(t.Context(), Login{Name: row.name, Password: row.password, Peer: remote})
		if !errors.Is(err, row.want) {
			t.Errorf("%.20q, %.20q: %v, want %v", row.name, row.password, err, row.want)
		}
		if err == nil && id.Name != row.name || err != nil && id.Name != "" {
			t.Errorf("%.20q, %.20q: identity %+v", row.name, row.password, id)
		}
		if err != nil && len(row.password) > 4 && strings.Contains(err.Error(), row.password) {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

// CVE-2026-57216: the rule was judged by the listener's address.
func TestGuestIsJudgedByThePeersAddress(t *testing.T) {
	u := mustUsers(t, "guest", "guest")
	for _, row := range []struct {
		peer string
		want error
	}{
		{"127.0.0.1", nil},
		{"127.8.9.10", nil},
		{"::1", nil},
		{"::ffff:127.0.0.1", nil},
		{"::ffff:192.0.2.7", ErrLoopbackOnly},
		{"192.0.2.7", ErrLoopbackOnly},
		{"10.0.0.1", ErrLoopbackOnly},
		{"0.0.0.0", ErrLoopbackOnly},
		{"::", ErrLoopbackOnly},
		{"fe80::1%eth0", ErrLoopbackOnly},
		{"::127.0.0.1", ErrLoopbackOnly},
		{"", ErrLoopbackOnly},
	} {
		var peer netip.Addr
		if row.peer != "" {
			peer = netip.MustParseAddr(row.peer)
		}
		if _, err := u.Login(t.Context(), Login{Name: "guest", Password: "guest", Peer: peer}); !errors.Is(err, row.want) {
			t.Errorf("guest from %q: %v, want %v", row.peer, err, row.want)
		}
	}
	if _, err := u.Login(t.Context(), Login{Name: "guest", Password: "wrong", Peer: local}); !errors.Is(err, ErrRefused) || errors.Is(err, ErrLoopbackOnly) {
		t.Errorf("guest with a wrong password: %v, want %v", err, ErrRefused)
	}
	other := mustUsers(t, "ada", "lovelace")
	if _, err := other.Login(t.Context(), Login{Name: "guest", Password: "guest", Peer: remote}); !errors.Is(err, ErrLoopbackOnly) {
		t.Errorf("guest where there is none: %v, want %v as where there is one", err, ErrLoopbackOnly)
	}
	if _, err := other.Login(t.Context(), Login{Name: "ada", Password: "lovelace", Peer: remote}); err != nil {
		t.Errorf("another user from elsewhere: %v", err)
	}
}

func TestANewPasswordRefusesTheOldOneAtOnce(t *testing.T) {
	u := mustUsers(t, "ada", "old")
	if _, err := u.Login(t.Context(), Login{Name: "ada", Password: "old", Peer: remote}); err != nil {
		t.Fatal(err)
	}
	if err := set(t, u, "ada", "new"); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Login(t.Context(), Login{Name: "ada", Password: "old", Peer: remote}); !errors.Is(err, ErrRefused) {
		t.Errorf("old password: %v, want %v", err, ErrRefused)
	}
	if _, err := u.Login(t.Context(), Login{Name: "ada", Password: "new", Peer: remote}); err != nil {
		t.Errorf("new password: %v", err)
	}
	for _, row := range [][2]string{{"", "x"}, {strings.Repeat("x", 256), "x"}, {"x", strings.Repeat("x", 4097)}} {
		if err := set(t, u, row[0], row[1]); err == nil {
			t.Errorf("PutUser accepted a name of %d and a password of %d bytes", len(row[0]), len(row[1]))
		}
	}
}

func TestAThousandClientsThatReconnectAreHashedOnce(t *testing.T) {
	u := mustUsers(t, "ada", "lovelace")
	start := time.Now()
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range 1000 {
		wg.Go(func() {
			if _, err := u.Login(t.Context(), Login{Name: "ada", Password: "lovelace", Peer: remote}); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if d := time.Since(start); failed.Load() > 0 || d > 10*time.Second {
		t.Errorf("%d failed, after %v", failed.Load(), d)
	}
}

func TestTheSameAttemptIsCheckedOnceAndRememberedShortly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c := newMemory(), &credential{}
		var hashed atomic.Int32
		attempt := func(c *credential, right bool) bool {
			got, err := m.do(t.Context(), "ada", "lovelace", c, func() (bool, error) {
				hashed.Add(1)
				time.Sleep(30 * time.Millisecond)
				return right, nil
			})
			if err != nil {
				t.Error(err)
			}
			return got
		}
		together := func(c *credential, right bool) {
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if attempt(c, right) != right {
						t.Errorf("an attempt that is right: %v, is not", right)
					}
				})
			}
			wg.Wait()
		}
		together(c, true)
		if n := hashed.Swap(0); n != 1 {
			t.Errorf("hashed %d times, want once for all", n)
		}
		time.Sleep(RememberFor - time.Second)
		together(c, true)
		if n := hashed.Swap(0); n != 0 {
			t.Errorf("hashed %d times within RememberFor", n)
		}
		time.Sleep(2 * time.Second)
		together(c, true)
		if n := hashed.Swap(0); n != 1 {
			t.Errorf("hashed %d times after RememberFor, want once", n)
		}
		together(&credential{}, false) // the password was changed
		if n := hashed.Swap(0); n != 1 {
			t.Errorf("hashed %d times against another credential, want once", n)
		}
		if attempt(&credential{}, false) {
			t.Error("a wrong password was remembered as right")
		}
		time.Sleep(2 * RememberFor)
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.right) != 0 || len(m.running) != 0 {
			t.Errorf("%d attempts remembered and %d running at the end", len(m.right), len(m.running))
		}
	})
}

func TestWhoWaitsForAnAbandonedCheckBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c := newMemory(), &credential{}
		gone, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := m.do(gone, "ada", "x", c, func() (bool, error) { <-gone.Done(); return false, gone.Err() })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the one that went away: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			right, err := m.do(t.Context(), "ada", "x", c, func() (bool, error) { return true, nil })
			if !right || err != nil {
				t.Errorf("the one that waited: %v, %v", right, err)
			}
		})
		synctest.Wait()
		late, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("login timeout"))
		defer cancel()
		leave()
		wg.Wait()
		block := make(chan struct{})
		wg.Go(func() {
			_, _ = m.do(t.Context(), "eve", "x", c, func() (bool, error) { <-block; return false, nil })
		})
		synctest.Wait()
		if _, err := m.do(late, "eve", "x", c, nil); err == nil || !strings.Contains(err.Error(), "login timeout") {
			t.Errorf("a wait beyond the deadline: %v", err)
		}
		close(block)
		wg.Wait()
	})
}

func TestHashesRunAFewAtATime(t *testing.T) {
	h := newHasher()
	for range cap(h.places) {
		h.places <- struct{}{}
	}
	if n := cap(h.places); n < 1 || n > maxHashes {
		t.Fatalf("%d places", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.hash(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("one more hash: %v", err)
	}
	<-h.places
	if _, err := h.hash(t.Context(), "x"); err != nil {
		t.Errorf("a hash when there is room: %v", err)
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c := newMemory(), &credential{}
		for i := range maxRemembered + 10 {
			_, _ = m.do(t.Context(), "ada", fmt.Sprint(i), c, func() (bool, error) { return true, nil })
		}
		m.mu.Lock()
		n := len(m.right)
		m.mu.Unlock()
		if n != maxRemembered {
			t.Errorf("%d remembered", n)
		}
		time.Sleep(2 * RememberFor)
	})
}

func TestNothingPrintsAPassword(t *testing.T) {
	u := mustUsers(t, "ada", "lovelace")
	c := u.account("ada").cred
	var log strings.Builder
	user, _ := u.User("ada")
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "users", u, "credential", *c, "user", user)
	out := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		out += fmt.Sprintf(verb+verb+verb+verb, u, c, user, UserSpec{PasswordHash: &user.PasswordHash})
	}
	secrets := []string{"lovelace", hex.EncodeToString(c.hash), fmt.Sprintf("%v", c.hash), fmt.Sprintf("%#v", c.hash), fmt.Sprintf("%v", c.salt), c.encode()}
	for _, secret := range secrets {
		if strings.Contains(out, secret) {
			t.Errorf("%.40q is in the output", secret)
		}
	}
	if !strings.Contains(out, "ada") {
		t.Error("the output does not even name the user")
	}
}

func BenchmarkHash(b *testing.B) {
	h := newHasher()
	for b.Loop() {
		if _, err := h.hash(b.Context(), "lovelace"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRemembered(b *testing.B) {
	u, err := NewUsers("ada", "lovelace")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := u.Login(b.Context(), Login{Name: "ada", Password: "lovelace", Peer: remote}); err != nil {
			b.Fatal(err)
		}
	}
}
