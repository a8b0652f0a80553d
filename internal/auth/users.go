// Package auth knows who may log in, and what they may do then. It keeps no
// password, only salted hashes that are slow to guess, and it keeps logging in cheap:
// a thousand clients that come back at once do not wait for a thousand hashes.
//
// Users, their permissions and topic permissions are RabbitMQ's, in its form; see
// User, Permissions, TopicPermission, and package pattern for their patterns. They
// are kept in a Store, which for a broker are its settings.
package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	// ErrTooMany is an ErrRefused without a look at the password: too many others were
	// wrong before, see Login.
	ErrTooMany = fmt.Errorf("%w: too many failed logins of this user or from this address", ErrRefused)
	// ErrLoopbackOnly says that this user may connect from loopback only, and
	// that the peer is elsewhere. Its password was not looked at.
	ErrLoopbackOnly = errors.New("user may connect from loopback only")
)

// Level is how an error of Login is logged: what happened too often before to be
// looked at again is not told each time.
func Level(err error) slog.Level {
	if errors.Is(err, ErrTooMany) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// Identity is someone who has logged in.
type Identity struct {
	Name string
	Tags Tags // as they were then; not to be changed

	users *Users
}

// Is tells whether the user has a tag.
func (id Identity) Is(tag string) bool { return slices.Contains(id.Tags, tag) }

// Access is what the user may do in a virtual host; see Users.Access. The zero
// Identity may use none.
func (id Identity) Access(vhost string) (a *Access, ok bool) {
	if id.users == nil {
		return nil, false
	}
	return id.users.Access(id.Name, vhost)
}

// Users are the users of a broker. Its methods may be called at the same time.
type Users struct {
	store   Store
	hashes  hasher
	checked *memory
	limits  *limiter
	counts  counts
	unknown credential // what the password of a user that is not there is held against

	version atomic.Uint64 // of what the store has: rights of another are stale

	mu       sync.Mutex // guards what follows
	accounts map[string]*account
	rights   map[userVHost]*rights
}

// account is a user as it was read from the store. It is not changed.
type account struct {
	raw  []byte
	user User
	cred *credential // another one only if the password is another
}

// New returns the users of a store. Whoever changes the store but through them calls
// Changed.
func New(store Store) *Users {
	return &Users{
		store:    store,
		hashes:   newHasher(),
		checked:  newMemory(),
		limits:   newLimiter(),
		unknown:  unmatchable(),
		accounts: map[string]*account{},
		rights:   map[userVHost]*rights{},
	}
}

// NewUsers are users in memory, for tests: one, an administrator who may do
// everything in the virtual host "/". It takes as long as one password hash.
func NewUsers(name, password string) (*Users, error) {
	u := New(&MemoryStore{})
	_, err := u.PutUser(context.Background(), name, UserSpec{Password: &password, Tags: &Tags{TagAdministrator}})
	if err == nil {
		_, err = u.PutPermission(Permissions{User: name, VHost: "/", Configure: ".*", Write: ".*", Read: ".*"})
	}
	return u, err
}

// Changed says that users or permissions in the store have changed: what is asked
// from now on is answered anew.
func (u *Users) Changed() {
	u.version.Add(1)
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.rights)
}

// A Login is an attempt to log in.
type Login struct {
	Protocol       string // for counting: "amqp091", "stomp", "gmq", "http"
	Name, Password string
	// Peer is the address of the client itself, never of the listener
	// (CVE-2026-57216), and behind a proxy the one that the proxy tells of; an address
	// that is not valid is not loopback.
	Peer netip.Addr
}

// Login tells who logs in.
//
// The errors wrap ErrRefused, ErrLoopbackOnly, or what ended ctx. A user that is
// not there costs the same time as a wrong password. A password that was right
// within the last RememberFor is not hashed again, and the same attempt made by
// many at once is hashed once; all others wait for one of a few places, so ctx
// should carry the login's deadline.
//
// Whoever guesses is slowed: of passwords that are wrong, an address has FailedAtOnce
// and one more each FailedEvery, and a user UserShare times as many; beyond that
// nothing is looked at, and the error is ErrTooMany. The same wrong attempt made again within RememberWrong
// is no guess and not counted, so that a client with an old password shuts out nobody
// by trying for ever. Nor can others shut out who has logged in before: from an
// address that a user has come from within the last KnownFor, a limit of their own
// counts. A right password that is remembered always passes.
func (u *Users) Login(ctx context.Context, l Login) (id Identity, err error) {
	defer func() { u.counts.count(l.Protocol, err) }()
	if err := onlyFrom(l.Name, l.Peer); err != nil {
		return Identity{}, err
	}
	// The account is read once: what it says together is what holds.
	a, c, password := u.account(l.Name), &u.unknown, l.Password
	if a != nil {
		c = a.cred
	}
	if len(password) > MaxPassword { // costs what any other costs
		c, password = &u.unknown, ""
	}
	right, err := u.checked.do(ctx, l.Name, password, c, func() (bool, error) {
		return u.check(ctx, l, password, c)
	})
	switch {
	case err != nil:
		return Identity{}, fmt.Errorf("log in %.64q: %w", l.Name, err)
	case !right || a == nil:
		return Identity{}, fmt.Errorf("log in %.64q: %w", l.Name, ErrRefused)
	}
	return u.identity(a), nil
}

// check holds a password against a credential, within the limits. What is being
// checked counts as failed until it is not, so that many at once are no way around.
func (u *Users) check(ctx context.Context, l Login, password string, c *credential) (bool, error) {
	if !u.limits.open(l.Name, l.Peer) {
		return false, ErrTooMany // without waiting for a place
	}
	leave, err := u.hashes.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	charged, ok := u.limits.take(l.Name, l.Peer)
	if !ok {
		return false, ErrTooMany
	}
	right := c.verify(password)
	if right {
		u.limits.succeeded(l.Name, l.Peer, charged)
	}
	return right, nil
}

// Matches tells whether a password is a user's. It is for the broker's own use: no
// limit holds, and nothing is counted. The error is ErrNotFound or what ended ctx.
func (u *Users) Matches(ctx context.Context, name, password string) (bool, error) {
	a := u.account(name)
	if a == nil {
		return false, ErrNotFound
	}
	leave, err := u.hashes.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	return a.cred.verify(password), nil
}

// LoginByCertificate tells who logs in with a certificate that was verified: the user
// of the name that it has, see CertificateName. The errors are those of Login.
func (u *Users) LoginByCertificate(protocol, name string, peer netip.Addr) (id Identity, err error) {
	defer func() { u.counts.count(protocol, err) }()
	if err := onlyFrom(name, peer); err != nil {
		return Identity{}, err
	}
	a := u.account(name)
	if a == nil {
		return Identity{}, fmt.Errorf("log in %.64q by certificate: %w", name, ErrRefused)
	}
	return u.identity(a), nil
}

// onlyFrom refuses the LoopbackUser from elsewhere, before the password is looked at,
// and whether or not there is such a user: nothing can be found out.
func onlyFrom(name string, peer netip.Addr) error {
	if name == LoopbackUser && !peer.Unmap().IsLoopback() {
		return fmt.Errorf("log in %.64q: %w, not from %v", name, ErrLoopbackOnly, peer)
	}
	return nil
}

func (u *Users) identity(a *account) Identity {
	return Identity{Name: a.user.Name, Tags: a.user.Tags, users: u}
}

// account is a user as the store has it now; nil if there is none.
func (u *Users) account(name string) *account {
	raw, ok := u.store.Setting(KindUser, "", name)
	u.mu.Lock()
	defer u.mu.Unlock()
	a := u.accounts[name]
	switch {
	case !ok:
		delete(u.accounts, name)
		return nil
	case a != nil && bytes.Equal(a.raw, raw):
		return a
	}
	b := &account{raw: raw}
	if json.Unmarshal(raw, &b.user) != nil {
		b.user = User{}
	}
	b.user.Name = name
	if a != nil && a.user.PasswordHash == b.user.PasswordHash && a.user.HashingAlgorithm == b.user.HashingAlgorithm {
		b.cred = a.cred // what is remembered of it is right
	} else if c, err := parseCredential(b.user.HashingAlgorithm, b.user.PasswordHash); err == nil {
		b.cred = c
	} else {
		none := unmatchable()
		b.cred = &none
	}
	u.accounts[name] = b
	return b
}

func (u *Users) names() []string {
	names := []string{}
	for _, s := range u.store.Settings(KindUser) {
		names = append(names, s.Name)
	}
	return names
}

// String names the users, and shows nothing of their passwords.
func (u *Users) String() string { return fmt.Sprintf("users %q", strings.Join(u.names(), " ")) }

// GoString is String, so that %#v shows no hash either.
func (u *Users) GoString() string { return u.String() }

// LogValue is for slog what String is for fmt.
func (u *Users) LogValue() slog.Value { return slog.AnyValue(u.names()) }
