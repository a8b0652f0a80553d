// Package auth knows who may log in. It keeps no password, only salted hashes
// that are slow to guess, and it keeps logging in cheap: a thousand clients that
// come back at once do not wait for a thousand hashes.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// LoopbackUser may connect from the broker's own machine only, as in RabbitMQ:
// its default password is known to everyone.
const LoopbackUser = "guest"

// Limits of what a user may be called and may send. AMQP's PLAIN mechanism has
// none; longer ones are no user's.
const (
	MaxName     = 255  // bytes
	MaxPassword = 4096 // bytes
)

var (
	// ErrRefused says that there is no such user, or that the password is wrong:
	// which of them is not told.
	ErrRefused = errors.New("user or password refused")
	// ErrLoopbackOnly says that this user may connect from loopback only, and
	// that the peer is elsewhere. Its password was not looked at.
	ErrLoopbackOnly = errors.New("user may connect from loopback only")
)

// Identity is someone who has logged in.
type Identity struct {
	Name string
}

// Users are the users of a broker. Its methods may be called at the same time.
type Users struct {
	hashes  hasher
	checked *memory
	unknown credential // what the password of a user that is not there is held against

	mu     sync.Mutex
	byName map[string]*credential // a changed password is a new credential
}

// NewUsers begins with one user. It takes as long as one password hash.
func NewUsers(name, password string) (*Users, error) {
	u := &Users{
		hashes:  newHasher(),
		checked: newMemory(),
		byName:  map[string]*credential{},
	}
	u.unknown = unmatchable()
	if err := u.Set(context.Background(), name, password); err != nil {
		return nil, err
	}
	return u, nil
}

// Set adds a user or changes a user's password. Who is connected stays so; the
// old password is refused from now on. It fails when name or password are empty
// or too long, or when ctx ends before there is room for one more hash.
func (u *Users) Set(ctx context.Context, name, password string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("set user %.64q: the name must have 1 to %d bytes, not %d", name, MaxName, len(name))
	}
	if password == "" || len(password) > MaxPassword {
		return fmt.Errorf("set user %.64q: the password must have 1 to %d bytes, not %d", name, MaxPassword, len(password))
	}
	c, err := u.hashes.hash(ctx, password)
	if err != nil {
		return fmt.Errorf("set user %.64q: %w", name, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.byName[name] = &c
	return nil
}

// Authenticate tells who logs in with this name and password. peer is the
// address of the client itself, never of the listener (CVE-2026-57216), and
// behind a proxy the one that the proxy tells of; an address that is not valid
// is not loopback.
//
// The errors wrap ErrRefused, ErrLoopbackOnly, or what ended ctx. A user that is
// not there costs the same time as a wrong password. A password that was right
// within the last RememberFor is not hashed again, and the same attempt made by
// many at once is hashed once; all others wait for one of a few places, so ctx
// should carry the login's deadline.
func (u *Users) Authenticate(ctx context.Context, name, password string, peer netip.Addr) (Identity, error) {
	if name == LoopbackUser && !peer.Unmap().IsLoopback() {
		// Before the password is looked at, and whether or not there is such a
		// user: nothing can be found out from elsewhere.
		return Identity{}, fmt.Errorf("authenticate %.64q: %w, not from %v", name, ErrLoopbackOnly, peer)
	}
	c := u.credential(name)
	if len(password) > MaxPassword { // costs what any other costs
		c, password = &u.unknown, ""
	}
	right, err := u.checked.do(ctx, name, password, c, func() (bool, error) {
		return u.hashes.verify(ctx, c, password)
	})
	switch {
	case err != nil:
		return Identity{}, fmt.Errorf("authenticate %.64q: %w", name, err)
	case !right:
		return Identity{}, fmt.Errorf("authenticate %.64q: %w", name, ErrRefused)
	}
	return Identity{Name: name}, nil
}

func (u *Users) credential(name string) *credential {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.byName[name]; c != nil {
		return c
	}
	return &u.unknown
}

func (u *Users) names() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	names := make([]string, 0, len(u.byName))
	for name := range u.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// String names the users, and shows nothing of their passwords.
func (u *Users) String() string { return fmt.Sprintf("users %q", strings.Join(u.names(), " ")) }

// GoString is String, so that %#v shows no hash either.
func (u *Users) GoString() string { return u.String() }

// LogValue is for slog what String is for fmt.
func (u *Users) LogValue() slog.Value { return slog.AnyValue(u.names()) }
