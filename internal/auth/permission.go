package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/ferrymq/ferry/internal/pattern"
)

// Permission is what a user may do with a queue or an exchange, as RabbitMQ's
// three patterns tell it.
type Permission uint8

// The permissions.
const (
	Configure Permission = iota + 1 // declare and delete
	Write                           // publish to, and bind the destination of
	Read                            // consume, get, purge, and bind the source of
)

func (p Permission) String() string {
	switch p {
	case Configure:
		return "configure"
	case Write:
		return "write"
	case Read:
		return "read"
	}
	return ""
}

// Permissions are what a user may do in a virtual host: patterns of the names of
// queues and exchanges. The empty one matches nothing but the empty name.
type Permissions struct {
	User      string `json:"user"`
	VHost     string `json:"vhost"`
	Configure string `json:"configure"`
	Write     string `json:"write"`
	Read      string `json:"read"`
}

// A TopicPermission narrows what a user may do with an exchange of type topic: to
// routing keys that match. {username} and {vhost} in the patterns stand for the
// user's and the virtual host's names.
type TopicPermission struct {
	User     string `json:"user"`
	VHost    string `json:"vhost"`
	Exchange string `json:"exchange"`
	Write    string `json:"write"`
	Read     string `json:"read"`
}

func topicName(user, exchange string) string { return user + "\x00" + exchange }

func checkPatterns(patterns ...string) error {
	for _, p := range patterns {
		if _, err := pattern.Compile(p); err != nil {
			e := (*pattern.Error)(nil)
			errors.As(err, &e)
			return &Error{"invalid_regexp", fmt.Sprintf("%.128q: %s", p, e.Reason)}
		}
	}
	return nil
}

// PutPermission gives a user permissions in a virtual host, or replaces them: created
// is whether it had none. The error is an *Error, also when there is no such user or
// virtual host, or the store's.
func (u *Users) PutPermission(p Permissions) (created bool, err error) {
	if err := checkPatterns(p.Configure, p.Write, p.Read); err != nil {
		return false, err
	}
	return u.putRight(KindPermission, p.User, p.VHost, p.User, p)
}

// PutTopicPermission gives a user a topic permission, or replaces it, as
// PutPermission does. The exchange need not be there.
func (u *Users) PutTopicPermission(p TopicPermission) (created bool, err error) {
	if err := checkPatterns(p.Write, p.Read); err != nil {
		return false, err
	}
	return u.putRight(KindTopicPermission, p.User, p.VHost, topicName(p.User, p.Exchange), p)
}

func (u *Users) putRight(kind, user, vhost, name string, v any) (created bool, err error) {
	missing := func() bool {
		_, ok := u.store.Setting(KindUser, "", user)
		return !ok || !u.store.HasVHost(vhost)
	}
	none := &Error{"vhost_or_user_not_found", fmt.Sprintf("there is no user %.64q or no virtual host %.64q", user, vhost)}
	if missing() {
		return false, none
	}
	_, there := u.store.Setting(kind, vhost, name)
	if err := u.put(kind, vhost, name, v); err != nil {
		return false, fmt.Errorf("put %s of user %.64q: %w", kind, user, err)
	}
	if missing() { // deleted meanwhile
		return false, errors.Join(none, u.remove(kind, vhost, name))
	}
	return !there, nil
}

// DeletePermission takes a user's permissions in a virtual host away. The error is
// ErrNotFound or the store's.
func (u *Users) DeletePermission(user, vhost string) error {
	defer u.Changed()
	found, err := u.store.DeleteSetting(KindPermission, vhost, user)
	if err == nil && !found {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete the permissions of user %.64q in vhost %.64q: %w", user, vhost, err)
	}
	return nil
}

// DeleteTopicPermission takes away a user's topic permission for an exchange in a
// virtual host, or with the exchange "" all of them there. The error is ErrNotFound
// or the store's.
func (u *Users) DeleteTopicPermission(user, vhost, exchange string) error {
	n := 0
	for _, p := range u.TopicPermissions() {
		if p.User != user || p.VHost != vhost || exchange != "" && p.Exchange != exchange {
			continue
		}
		if err := u.remove(KindTopicPermission, vhost, topicName(user, p.Exchange)); err != nil {
			return fmt.Errorf("delete topic permissions of user %.64q: %w", user, err)
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("delete topic permissions of user %.64q in vhost %.64q: %w", user, vhost, ErrNotFound)
	}
	return nil
}

// DeleteVHost takes away what users may do in a virtual host that is gone.
func (u *Users) DeleteVHost(vhost string) error {
	for _, kind := range []string{KindTopicPermission, KindPermission} {
		for _, s := range u.store.Settings(kind) {
			if s.VHost != vhost {
				continue
			}
			if err := u.remove(kind, vhost, s.Name); err != nil {
				return fmt.Errorf("delete permissions in vhost %.64q: %w", vhost, err)
			}
		}
	}
	return nil
}

// clearPermissions takes away all that a user may do.
func (u *Users) clearPermissions(user string) error {
	for _, kind := range []string{KindTopicPermission, KindPermission} {
		for _, s := range u.store.Settings(kind) {
			if name, _, _ := strings.Cut(s.Name, "\x00"); name != user {
				continue
			}
			if err := u.remove(kind, s.VHost, s.Name); err != nil {
				return fmt.Errorf("delete permissions: %w", err)
			}
		}
	}
	return nil
}

// Permission is what a user may do in a virtual host.
func (u *Users) Permission(user, vhost string) (p Permissions, ok bool) {
	b, ok := u.store.Setting(KindPermission, vhost, user)
	if !ok || json.Unmarshal(b, &p) != nil {
		return Permissions{}, false
	}
	p.User, p.VHost = user, vhost
	return p, true
}

// Permissions are all permissions, sorted by virtual host and user.
func (u *Users) Permissions() []Permissions {
	list := []Permissions{}
	for _, s := range u.store.Settings(KindPermission) {
		var p Permissions
		if json.Unmarshal(s.Value, &p) == nil {
			p.User, p.VHost = s.Name, s.VHost
			list = append(list, p)
		}
	}
	return list
}

// TopicPermissions are all topic permissions, sorted by virtual host, user and
// exchange.
func (u *Users) TopicPermissions() []TopicPermission {
	list := []TopicPermission{}
	for _, s := range u.store.Settings(KindTopicPermission) {
		var p TopicPermission
		if json.Unmarshal(s.Value, &p) == nil {
			p.VHost = s.VHost
			p.User, p.Exchange, _ = strings.Cut(s.Name, "\x00")
			list = append(list, p)
		}
	}
	return list
}

// compile is a pattern of a permission; nil matches nothing. The empty one is ^$ to
// RabbitMQ.
func compile(text string) *pattern.Pattern {
	if text == "" {
		text = "^$"
	}
	p, err := pattern.Compile(text)
	if err != nil {
		return nil // it was put by another version: nothing is allowed that is not understood
	}
	return p
}

func matches(p *pattern.Pattern, name string) bool { return p != nil && p.Match(name) }

// expand puts a user's names into a pattern of a topic permission. They are names,
// whatever they look like: RabbitMQ would take a user named .* for a pattern.
func expand(text, user, vhost string) string {
	return strings.NewReplacer("{username}", regexp.QuoteMeta(user), "{vhost}", regexp.QuoteMeta(vhost)).Replace(text)
}
