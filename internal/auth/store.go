package auth

import (
	"cmp"
	"slices"
	"sync"
)

// A Setting is a value that a Store keeps: a user, a permission, a topic permission,
// with RabbitMQ's fields as its definitions have them. It has the form of the
// broker's settings, which it is one of.
type Setting struct {
	Kind  string
	VHost string // empty for users
	Name  string // the user; for topic permissions user, a zero byte, exchange
	Value []byte // JSON; not changed after it was handed over
}

// The kinds of Setting.
const (
	KindUser            = "user"             // a User
	KindPermission      = "permission"       // a Permissions
	KindTopicPermission = "topic-permission" // a TopicPermission
)

// A Store keeps what Users know. Its methods may be called at the same time. Those
// that change something return when the change is durable.
type Store interface {
	Setting(kind, vhost, name string) (value []byte, ok bool)
	// Settings are those of a kind, sorted by virtual host and name.
	Settings(kind string) []Setting
	PutSetting(s Setting) error
	DeleteSetting(kind, vhost, name string) (found bool, err error)
	// HasVHost tells whether there is such a virtual host.
	HasVHost(name string) bool
}

// A MemoryStore is a Store that nothing is left of when the process ends, and that
// has every virtual host. Its zero value is ready.
type MemoryStore struct {
	mu sync.Mutex // guards what follows
	by map[settingKey][]byte
}

type settingKey struct{ kind, vhost, name string }

// Setting implements Store.
func (m *MemoryStore) Setting(kind, vhost, name string) (value []byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok = m.by[settingKey{kind, vhost, name}]
	return value, ok
}

// Settings implements Store.
func (m *MemoryStore) Settings(kind string) []Setting {
	m.mu.Lock()
	var list []Setting
	for k, v := range m.by {
		if k.kind == kind {
			list = append(list, Setting{k.kind, k.vhost, k.name, v})
		}
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b Setting) int {
		return cmp.Or(cmp.Compare(a.VHost, b.VHost), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// PutSetting implements Store.
func (m *MemoryStore) PutSetting(s Setting) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.by == nil {
		m.by = map[settingKey][]byte{}
	}
	m.by[settingKey{s.Kind, s.VHost, s.Name}] = s.Value
	return nil
}

// DeleteSetting implements Store.
func (m *MemoryStore) DeleteSetting(kind, vhost, name string) (found bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := settingKey{kind, vhost, name}
	_, found = m.by[k]
	delete(m.by, k)
	return found, nil
}

// HasVHost implements Store.
func (m *MemoryStore) HasVHost(string) bool { return true }
