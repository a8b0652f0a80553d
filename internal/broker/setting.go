package broker

import (
	"cmp"
	"errors"
	"maps"
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

// Limits of a setting, bytes: each is one record of the journal, which has to fit into
// a batch, and all are in memory.
const (
	settingMost     = 1 << 20 // of a value
	settingNameMost = 1 << 10 // of a name
)

// settingHome is where settings have unique names.
type settingHome struct{ kind, vhost string }

// settings are all of them.
type settings struct {
	mu       sync.Mutex // guards what follows; before log.mu
	by       map[settingHome]map[string][]byte
	watchers []func(s Setting)
}

// PutSetting sets or replaces a setting, and returns when that is durable. Errors:
// NotFound (its virtual host), Invalid (a policy or a limit that is none, in
// RabbitMQ's words; a value over 1 MiB or a name over 1 KiB), the broker's failure.
func (b *Broker) PutSetting(s Setting) error { return b.PutSettings(s) }

// PutSettings sets many, and returns when all are durable, or with the error of the
// first that could not be set: those before it are set.
func (b *Broker) PutSettings(list ...Setting) error {
	var w *waiter
	for _, s := range list {
		next, err := b.changeSetting(s)
		if err != nil {
			return errors.Join(err, b.await(w))
		}
		w = next // which is not durable before those before it
	}
	return b.await(w)
}

// DeleteSetting removes a setting, and returns when that is durable; one that is
// not there is no error. found is whether it was there.
func (b *Broker) DeleteSetting(kind, vhost, name string) (found bool, err error) {
	if _, ok := b.Setting(kind, vhost, name); !ok {
		return false, b.await(b.log.caughtUp())
	}
	w, err := b.changeSetting(Setting{Kind: kind, VHost: vhost, Name: name})
	if err != nil {
		return false, b.await(b.log.caughtUp()) // its virtual host has gone, and it too
	}
	return true, b.await(w)
}

// changeSetting sets a setting, or (Value nil) removes it, sees to what it means to
// the broker, and tells the watchers.
func (b *Broker) changeSetting(s Setting) (*waiter, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	var v *VHost
	if s.VHost != "" {
		if v = b.vhost(s.VHost); v == nil {
			return nil, errorf(NotFound, "vhost '%s' not found", s.VHost)
		}
	}
	b.settings.mu.Lock()
	if v != nil && v.gone.Load() {
		b.settings.mu.Unlock()
		return nil, errorf(NotFound, "vhost '%s' not found", s.VHost)
	}
	b.settings.setLocked(s)
	w := b.log.write(recSetting, s.record())
	b.settings.mu.Unlock()
	if v := b.settingChanged(s); v != nil {
		b.applier.add(v)
	}
	b.settings.tell(s)
	return w, nil
}

// check finds what is wrong with a setting that is put: it is too large, or is the
// broker's own and has another form. It writes a policy in full.
func (s *Setting) check() error {
	switch {
	case s.Value == nil:
		return nil
	case len(s.Name) > settingNameMost || len(s.Kind) > nameMost || len(s.VHost) > nameMost:
		return errorf(Invalid, "the name of a %.64s may have %d bytes, not %d", s.Kind, settingNameMost, len(s.Name))
	case len(s.Value) > settingMost:
		return errorf(Invalid, "a %.64s may have %d bytes, not %d", s.Kind, settingMost, len(s.Value))
	}
	switch s.Kind {
	case SettingPolicy, SettingOperatorPolicy:
		_, full, err := readPolicy(s.Name, s.Value, s.Kind == SettingOperatorPolicy)
		if err != nil {
			return err
		}
		s.Value = full
	case SettingVHostLimit, SettingUserLimit:
		return s.checkLimit()
	}
	return nil
}

// settingChanged takes in what the broker itself is told by a setting, and returns
// the virtual host whose policies are not what they were; nil: there is none.
func (b *Broker) settingChanged(s Setting) *VHost {
	switch s.Kind {
	case SettingPolicy, SettingOperatorPolicy:
		if v := b.vhost(s.VHost); v != nil {
			v.policyChanged(s.Kind, s.Name)
			return v
		}
	case SettingVHost:
		if v := b.vhost(s.Name); v != nil {
			v.readMetadata()
		}
	}
	return nil
}

func (t *settings) setLocked(s Setting) {
	if t.by == nil {
		t.by = map[settingHome]map[string][]byte{}
	}
	home := settingHome{s.Kind, s.VHost}
	switch names := t.by[home]; {
	case s.Value != nil && names == nil:
		t.by[home] = map[string][]byte{s.Name: s.Value}
	case s.Value != nil:
		names[s.Name] = s.Value
	case len(names) > 1:
		delete(names, s.Name)
	default:
		delete(t.by, home)
	}
}

// dropVHostLocked removes all settings of a virtual host, and returns them without
// their values.
func (t *settings) dropVHostLocked(vhost string) (dropped []Setting) {
	for home, names := range t.by {
		for name := range names {
			if home.vhost == vhost || home == (settingHome{SettingVHost, ""}) && name == vhost {
				dropped = append(dropped, Setting{Kind: home.kind, VHost: home.vhost, Name: name})
			}
		}
	}
	for _, s := range dropped {
		t.setLocked(s)
	}
	return dropped
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
	for home, names := range t.by {
		for name, value := range names {
			visit(Setting{home.kind, home.vhost, name, value})
		}
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
	value, ok = t.by[settingHome{kind, vhost}][name]
	return value, ok
}

// of are those of a kind in a virtual host, by name.
func (t *settings) of(kind, vhost string) map[string][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.by[settingHome{kind, vhost}])
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
	for home, names := range t.by {
		if kind != "" && home.kind != kind {
			continue
		}
		for name, value := range names {
			list = append(list, Setting{home.kind, home.vhost, name, value})
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
