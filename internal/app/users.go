package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

// firstAdministrator is what the first user is called who is given a password that
// was made up, where it was not given a name: guest could not come in from outside.
const firstAdministrator = "admin"

// firstUserTimeout is for the first user's password to be hashed.
const firstUserTimeout = 30 * time.Second

// errNotLive is why users cannot be changed.
var errNotLive = errors.New("this node is not live: what it knows of users is another's")

// settings are where users are kept: those of the process's broker, or of the
// standby that it is, which follow another's. Its methods may be called at the same
// time.
type settings struct {
	mu      sync.Mutex // guards what follows
	live    *broker.Broker
	standby *broker.Standby
}

func (s *settings) now() (*broker.Broker, *broker.Standby) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live, s.standby
}

func (s *settings) set(live *broker.Broker, standby *broker.Standby) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live, s.standby = live, standby
}

// known tells whether there is anything to be read.
func (s *settings) known() bool {
	live, standby := s.now()
	return live != nil || standby != nil
}

// Setting implements auth.Store.
func (s *settings) Setting(kind, vhost, name string) (value []byte, ok bool) {
	switch live, standby := s.now(); {
	case live != nil:
		return live.Setting(kind, vhost, name)
	case standby != nil:
		return standby.Setting(kind, vhost, name)
	}
	return nil, false
}

// Settings implements auth.Store.
func (s *settings) Settings(kind string) []auth.Setting {
	var all []broker.Setting
	switch live, standby := s.now(); {
	case live != nil:
		all = live.Settings(kind)
	case standby != nil:
		all = standby.Settings(kind)
	}
	list := make([]auth.Setting, len(all))
	for i := range all {
		list[i] = auth.Setting(all[i])
	}
	return list
}

// PutSetting implements auth.Store.
func (s *settings) PutSetting(v auth.Setting) error {
	live, _ := s.now()
	if live == nil {
		return errNotLive
	}
	return live.PutSetting(broker.Setting(v))
}

// DeleteSetting implements auth.Store.
func (s *settings) DeleteSetting(kind, vhost, name string) (found bool, err error) {
	live, _ := s.now()
	if live == nil {
		return false, errNotLive
	}
	return live.DeleteSetting(kind, vhost, name)
}

// HasVHost implements auth.Store.
func (s *settings) HasVHost(name string) bool {
	live, _ := s.now()
	return live != nil && live.HasVHost(name)
}

// watchUsers makes that users and permissions which change, here or where the live
// broker is, hold from then on: what is remembered of them is forgotten, what is
// being published is checked anew, and whoever is deleted is sent away, as in
// RabbitMQ.
func (n *node) watchUsers(watch func(func(broker.Setting))) {
	watch(func(s broker.Setting) {
		switch s.Kind {
		case broker.SettingUser, broker.SettingPermission, broker.SettingTopicPermission:
		default:
			return
		}
		n.users.Changed()
		live, _ := n.settings.now()
		if live == nil {
			return
		}
		live.AccessChanged()
		if s.Kind != broker.SettingUser {
			return
		}
		if _, there := live.Setting(s.Kind, "", s.Name); !there {
			live.CloseUser(s.Name, fmt.Sprintf("user '%s' was deleted", s.Name))
		}
	})
}

// credentials are the name and the password of the first user, as they were given or
// else as they are by default: RabbitMQ's, which serve on the broker's own machine
// only. Where that is of no use, or where a name was given and no password, made says
// that one has to be made up.
func (c *Config) credentials() (name, password string, made bool) {
	switch {
	case c.Password != "":
		return cmp.Or(c.User, DefaultUser), c.Password, false
	case c.User == "" && c.alone():
		return firstAdministrator, "", true
	case c.User == "" || c.User == DefaultUser:
		return DefaultUser, DefaultUser, false
	}
	return c.User, "", true
}

// alone tells whether the process is what a container was made for: nobody connects
// to it from its own machine then. In a container where others work too, as one for
// tests, it has a parent.
func (c *Config) alone() bool {
	if c.inContainer != nil {
		return *c.inContainer
	}
	if os.Getppid() > 1 {
		return false
	}
	for _, file := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	return os.Getenv("KUBERNETES_SERVICE_HOST") != "" || os.Getenv("container") != ""
}

// A hashed is a password and what is kept of it.
type hashed struct{ hash, algorithm string }

// hashLater begins to hash the first user's password, which takes longer than
// anything else an empty broker does at its start, and returns what waits for it.
func (n *node) hashLater() func() (hashed, error) {
	hash := sync.OnceValues(func() (h hashed, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), firstUserTimeout)
		defer cancel()
		h.hash, h.algorithm, err = n.users.HashPassword(ctx, n.password)
		return h, err
	})
	go func() { _, _ = hash() }()
	return hash
}

// makeFirst makes the first user where there is none: an administrator, who may do
// everything in the virtual host / and in the first one, if another was given.
func (n *node) makeFirst(b *broker.Broker) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("the first user: %w", err)
		}
	}()
	if len(b.Settings(broker.SettingUser)) > 0 {
		return nil
	}
	h, err := n.firstHash()
	if err != nil {
		return err
	}
	vhosts := []string{"/"}
	if v := n.cfg.VHost; v != "" && v != "/" {
		if err := b.AddVHost(v); err != nil {
			return err
		}
		vhosts = append(vhosts, v)
	}
	if err := n.users.PutFirst(n.user, h.hash, h.algorithm, vhosts...); err != nil {
		return err
	}
	n.log.Info("the first user was made", "user", n.user, "password", map[bool]string{true: "made up, and printed once", false: "as configured"}[n.madeUp])
	if n.madeUp && n.told.FirstUser != nil {
		n.told.FirstUser(n.user, n.password)
	}
	return nil
}

// compareFirst warns of a password that was given and is not the user's: the one that
// is stored holds, and the first user's is given at the first start only.
func (n *node) compareFirst(ctx context.Context) {
	if n.cfg.Password == "" || n.madeUp {
		return
	}
	same, err := n.users.Matches(ctx, n.user, n.password)
	switch {
	case err == nil && !same:
		n.log.Warn("--password is not the password of this user, which was set otherwise meanwhile: it has no effect; `ferry user` changes it", "user", n.user)
	case errors.Is(err, auth.ErrNotFound):
		n.log.Warn("--user names a user that is not there, because there were others when the broker started: it has no effect; `ferry user` adds it", "user", n.user)
	}
}

// makeUp is a password with 160 bits of chance, for people to copy.
func makeUp() string {
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails, since Go 1.24
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
