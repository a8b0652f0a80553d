package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Tags that mean something, as in RabbitMQ's management plugin. Others may be given.
const (
	TagAdministrator = "administrator"
	TagMonitoring    = "monitoring"
	TagPolicymaker   = "policymaker"
	TagManagement    = "management"
	TagImpersonator  = "impersonator" // may publish with the user-id of others
)

// Tags are those of a user. They are also read from a text with commas, as
// RabbitMQ's API was given them before 3.9.
type Tags []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *Tags) UnmarshalJSON(b []byte) error {
	var list []string
	var text string
	if json.Unmarshal(b, &text) == nil {
		list = strings.Split(text, ",")
	} else if err := json.Unmarshal(b, &list); err != nil {
		return errors.New("tags must be a list of texts, or a text with commas")
	}
	*t = Tags{}
	for _, tag := range list {
		if tag = strings.TrimSpace(tag); tag != "" {
			*t = append(*t, tag)
		}
	}
	return nil
}

// MarshalJSON implements json.Marshaler: no tags are an empty list.
func (t Tags) MarshalJSON() ([]byte, error) {
	return json.Marshal(append([]string{}, t...))
}

// Limits of what is put.
const (
	maxTags = 64
	maxTag  = 255 // bytes
)

// A User is a user as RabbitMQ's definitions have it, but for its limits.
type User struct {
	Name             string `json:"name"`
	PasswordHash     string `json:"password_hash"`     // base64; "" if the user has no password
	HashingAlgorithm string `json:"hashing_algorithm"` // Argon2id, SHA256…
	Tags             Tags   `json:"tags"`
}

// String names the user, and shows nothing of its password.
func (u User) String() string { return fmt.Sprintf("user %q", u.Name) }

// GoString is String.
func (u User) GoString() string { return u.String() }

// LogValue is the name.
func (u User) LogValue() slog.Value { return slog.StringValue(u.Name) }

// A UserSpec is what a user shall be: the body of RabbitMQ's PUT /api/users/NAME, and
// an entry of its definitions.
type UserSpec struct {
	// Password, or PasswordHash as in User; with neither the user has no password, and
	// can log in with a certificate only.
	Password     *string `json:"password"`
	PasswordHash *string `json:"password_hash"`
	// HashingAlgorithm is that of PasswordHash; "": SHA256.
	HashingAlgorithm string `json:"hashing_algorithm"`
	Tags             *Tags  `json:"tags"` // nil is refused, as in RabbitMQ
}

// String shows nothing of the password.
func (s UserSpec) String() string { return "user specification" }

// GoString is String.
func (s UserSpec) GoString() string { return s.String() }

// LogValue is String.
func (s UserSpec) LogValue() slog.Value { return slog.StringValue(s.String()) }

// An Error says what is wrong with what was to be put. It is the asker's mistake:
// RabbitMQ's management API answers it with 400 bad_request.
type Error struct {
	Code string // RabbitMQ's word for it, where it has one
	Text string // for people
}

func (e *Error) Error() string { return e.Code + ": " + e.Text }

// ErrNotFound says that what was to be deleted or read is not there.
var ErrNotFound = errors.New("not found")

// checkName says what is wrong with the name of a user.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > MaxName:
		return &Error{"invalid_username", fmt.Sprintf("the name of a user must have 1 to %d bytes, not %d", MaxName, len(name))}
	case strings.IndexByte(name, 0) >= 0:
		return &Error{"invalid_username", "the name of a user must not have a zero byte in it"}
	}
	return nil
}

// HashPassword is the PasswordHash and HashingAlgorithm of a password. It fails when
// the password is too long, or when ctx ends before there is room for one more hash.
func (u *Users) HashPassword(ctx context.Context, password string) (hash, algorithm string, err error) {
	if len(password) > MaxPassword {
		return "", "", &Error{"invalid_password", fmt.Sprintf("a password may have %d bytes, not %d", MaxPassword, len(password))}
	}
	if password == "" { // with a blank password nobody logs in, as in RabbitMQ
		return "", Argon2id, nil
	}
	c, err := u.hashes.hash(ctx, password)
	if err != nil {
		return "", "", err
	}
	return c.encode(), Argon2id, nil
}

// PutUser adds a user, or replaces what one is: created is whether it is new. Who is
// connected stays so; another password than before is needed from now on. A password
// is hashed, which takes its time and ends with ctx; a hash of RabbitMQ's is kept as
// it is. The error is an *Error, the store's, or what ended ctx.
func (u *Users) PutUser(ctx context.Context, name string, s UserSpec) (created bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("put user %.64q: %w", name, err)
		}
	}()
	if err := checkName(name); err != nil {
		return false, err
	}
	user := User{Name: name, HashingAlgorithm: Argon2id}
	switch {
	case s.Tags == nil:
		return false, &Error{"tags_not_present", "the tags of the user are missing; they may be empty"}
	case s.Password != nil && s.PasswordHash != nil:
		return false, &Error{"both_password_and_password_hash_are_provided", "give either the password or its hash"}
	case s.Password != nil:
		user.PasswordHash, user.HashingAlgorithm, err = u.HashPassword(ctx, *s.Password)
		if err != nil {
			return false, err
		}
	case s.PasswordHash != nil:
		user.PasswordHash, user.HashingAlgorithm = *s.PasswordHash, s.HashingAlgorithm
		if s.HashingAlgorithm == "" {
			user.HashingAlgorithm = SHA256
		}
		if _, err := parseCredential(user.HashingAlgorithm, user.PasswordHash); err != nil {
			return false, err
		}
	}
	if len(*s.Tags) > maxTags || slices.ContainsFunc(*s.Tags, func(t string) bool { return len(t) > maxTag }) {
		return false, &Error{"invalid_tags", fmt.Sprintf("a user may have %d tags of %d bytes each", maxTags, maxTag)}
	}
	user.Tags = slices.Clone(*s.Tags)
	_, there := u.store.Setting(KindUser, "", name)
	return !there, u.put(KindUser, "", name, user)
}

// PutFirst adds a user to a store that has none: an administrator who may do
// everything in some virtual hosts. The user is written last, so that when the process
// ends in between there is none still. Hash and algorithm are those of HashPassword.
func (u *Users) PutFirst(name, hash, algorithm string, vhosts ...string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("put user %.64q: %w", name, err)
	}
	for _, p := range u.Permissions() { // of nobody: another first user was begun
		if err := u.remove(KindPermission, p.VHost, p.User); err != nil {
			return fmt.Errorf("delete permissions of nobody: %w", err)
		}
	}
	for _, v := range vhosts {
		if err := u.put(KindPermission, v, name, Permissions{name, v, ".*", ".*", ".*"}); err != nil {
			return fmt.Errorf("put permissions of user %.64q: %w", name, err)
		}
	}
	err := u.put(KindUser, "", name, User{name, hash, algorithm, Tags{TagAdministrator}})
	if err != nil {
		return fmt.Errorf("put user %.64q: %w", name, err)
	}
	return nil
}

// DeleteUser removes a user and what it may do. The error is ErrNotFound or the
// store's.
func (u *Users) DeleteUser(name string) error {
	if _, ok := u.store.Setting(KindUser, "", name); !ok {
		return fmt.Errorf("delete user %.64q: %w", name, ErrNotFound)
	}
	// The user is last: when the process ends in between, it is there to be deleted.
	if err := u.clearPermissions(name); err != nil {
		return fmt.Errorf("delete user %.64q: %w", name, err)
	}
	if err := u.remove(KindUser, "", name); err != nil {
		return fmt.Errorf("delete user %.64q: %w", name, err)
	}
	u.mu.Lock()
	delete(u.accounts, name)
	u.mu.Unlock()
	// A permission that was put meanwhile saw the user, or takes itself back.
	return u.clearPermissions(name)
}

// User is a user.
func (u *Users) User(name string) (User, bool) {
	a := u.account(name)
	if a == nil {
		return User{}, false
	}
	return a.user, true
}

// List are all users, sorted by name.
func (u *Users) List() []User {
	list := []User{}
	for _, s := range u.store.Settings(KindUser) {
		var user User
		if json.Unmarshal(s.Value, &user) == nil {
			user.Name = s.Name
			list = append(list, user)
		}
	}
	return list
}

// put writes a value, and makes what is remembered of the old one stale.
func (u *Users) put(kind, vhost, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	defer u.Changed()
	return u.store.PutSetting(Setting{Kind: kind, VHost: vhost, Name: name, Value: b})
}

// remove deletes a value. One that is not there any more is no error.
func (u *Users) remove(kind, vhost, name string) error {
	defer u.Changed()
	_, err := u.store.DeleteSetting(kind, vhost, name)
	return err
}
