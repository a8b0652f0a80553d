package broker

import (
	"cmp"
	"slices"
	"sync"
)

// A Setting is what an operator has set that is not a queue, an exchange or a
// binding: a user, a permission, a policy, a limit. The broker keeps settings with
// its messages, so that whoever has the journal has them, and a standby follows
// them. What a Value means is the business of whoever put it there; policies and
// limits are the broker's own.
type Setting struct {
	Kind  string // "user", "permission", "policy"…: one of the Kind constants
	VHost string // empty where the kind knows none
	Name  string // unique in Kind and VHost
	Value []byte // JSON; not changed after it was handed over
}

// The kinds of settings. Those that say "VHost" have one.
const (
	SettingUser            = "user"             // Name: the user
	SettingPermission      = "permission"       // VHost; Name: the user
	SettingTopicPermission = "topic-permission" // VHost; Name: user, a zero byte, exchange
	SettingPolicy          = "policy"           // VHost; Name: the policy
	SettingOperatorPolicy  = "operator-policy"  // VHost; Name: the policy
	SettingVHost           = "vhost"            // Name: the virtual host; description, tags…
	SettingVHostLimit      = "vhost-limit"      // VHost; Name: the limit
	SettingUserLimit       = "user-limit"       // Name: user, a zero byte, limit
	SettingParameter       = "parameter"        // VHost; Name: component, a zero byte, name
	SettingGlobalParameter = "global-parameter" // Name: the parameter
)

type settingKey struct{ kind, vhost, name string }

// settings are all of them.
type settings struct {
	mu       sync.Mutex // guards what follows; before log.mu
	by       map[settingKey][]byte
	watchers []func(s Setting)
}

// PutSetting sets or replaces a setting, and returns when that is durable. The
// error is the broker's failure.
func (b *Broker) PutSetting(s Setting) error {
	return b.await(b.changeSetting(s))
}

// DeleteSetting removes a setting, and returns when that is durable; one that is
// not there is no error. found is whether it was there.
func (b *Broker) DeleteSetting(kind, vhost, name string) (found bool, err error) {
	if _, ok := b.Setting(kind, vhost, name); !ok {
		return false, b.await(b.log.caughtUp())
	}
	return true, b.await(b.changeSetting(Setting{Kind: kind, VHost: vhost, Name: name}))
}

// changeSetting sets a setting, or (Value nil) removes it, and tells the watchers.
func (b *Broker) changeSetting(s Setting) *waiter {
	b.settings.mu.Lock()
	b.settings.setLocked(s)
	w := b.log.write(recSetting, s.record())
	b.settings.mu.Unlock()
	b.settings.tell(s)
	return w
}

func (t *settings) setLocked(s Setting) {
	if t.by == nil {
		t.by = map[settingKey][]byte{}
	}
	k := settingKey{s.Kind, s.VHost, s.Name}
	if s.Value == nil {
		delete(t.by, k)
	} else {
		t.by[k] = s.Value
	}
}

// clear forgets all, without telling: they are read anew.
func (t *settings) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.by)
}

// each visits all, while none can change.
func (t *settings) each(visit func(s Setting)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, v := range t.by {
		visit(Setting{k.kind, k.vhost, k.name, v})
	}
}

func (t *settings) tell(s Setting) {
	t.mu.Lock()
	watchers := slices.Clone(t.watchers)
	t.mu.Unlock()
	for _, f := range watchers {
		f(s)
	}
}

// Setting returns the value of a setting. It must not be changed.
func (b *Broker) Setting(kind, vhost, name string) (value []byte, ok bool) {
	return b.settings.one(kind, vhost, name)
}

func (t *settings) one(kind, vhost, name string) (value []byte, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	value, ok = t.by[settingKey{kind, vhost, name}]
	return value, ok
}

// Settings lists those of a kind, sorted by virtual host and name.
func (b *Broker) Settings(kind string) []Setting { return b.settings.list(kind) }

// Setting returns the value of a setting as far as the standby has read the journal.
// It must not be changed.
func (s *Standby) Setting(kind, vhost, name string) (value []byte, ok bool) {
	return s.settings.one(kind, vhost, name)
}

// Settings lists those of a kind as far as the standby has read the journal, sorted
// by virtual host and name.
func (s *Standby) Settings(kind string) []Setting { return s.settings.list(kind) }

func (t *settings) list(kind string) []Setting {
	t.mu.Lock()
	var list []Setting
	for k, v := range t.by {
		if kind == "" || k.kind == kind {
			list = append(list, Setting{k.kind, k.vhost, k.name, v})
		}
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(x, y Setting) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.VHost, y.VHost), cmp.Compare(x.Name, y.Name))
	})
	return list
}

// WatchSettings calls f after each change of a setting from now on, also of those
// that a standby reads; a Value of nil says that it was removed. f is called by the
// goroutine that made the change, with no lock held: two changes of one setting may
// be told in either order, so f asks Setting for what is so now.
func (b *Broker) WatchSettings(f func(s Setting)) { b.settings.watch(f) }

// WatchSettings is that of Broker, which it also holds for, once the standby has
// become one.
func (s *Standby) WatchSettings(f func(s Setting)) { s.settings.watch(f) }

func (t *settings) watch(f func(s Setting)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watchers = append(t.watchers, f)
}

// record encodes a setting; a length of 0 says that it was removed, otherwise it is
// that of the value and one.
func (s *Setting) record() []byte {
	b := appendText(nil, s.Kind)
	b = appendText(b, s.VHost)
	b = appendText(b, s.Name)
	if s.Value == nil {
		return appendText(b, "")
	}
	return appendText(b, "\x01"+string(s.Value))
}

func readSetting(rd *reader) Setting {
	s := Setting{Kind: rd.text(), VHost: rd.text(), Name: rd.text()}
	if v := rd.bytes(); len(v) > 0 {
		s.Value = append([]byte{}, v[1:]...)
	}
	return s
}
