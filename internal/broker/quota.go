package broker

import (
	"encoding/json"
	"strings"
)

// Limits that operators set: SettingVHostLimit and SettingUserLimit, whose values
// are numbers. One below zero is none.
const (
	limitConnections = "max-connections" // of a virtual host, of a user
	limitQueues      = "max-queues"      // of a virtual host
	limitChannels    = "max-channels"    // of a user
)

// usage is what connections of one user there are.
type usage struct{ connections, channels int }

// checkLimit finds what is wrong with a limit, in RabbitMQ's words.
func (s *Setting) checkLimit() error {
	name, where, most, before := s.Name, "limits", limitQueues, "Validation failed\n\n"
	if s.Kind == SettingUserLimit {
		where, most, before = "user-limits", limitChannels, ""
		_, name, _ = strings.Cut(s.Name, "\x00")
	}
	v := decodeValue(s.Value)
	after := ""
	if before != "" {
		after = "\n"
	}
	switch _, ok := v.(int64); {
	case name != limitConnections && name != most:
		return errorf(Invalid, "%sUnrecognised terms [{%s,%s}] in %s%s", before, term(name), term(v), where, after)
	case !ok:
		return errorf(Invalid, "%s%s should be a number, actually was %s%s", before, name, term(v), after)
	}
	return nil
}

// limit is a limit that was set; ok is whether there is one.
func (b *Broker) limit(kind, vhost, name string) (n int, ok bool) {
	value, ok := b.Setting(kind, vhost, name)
	if !ok || json.Unmarshal(value, &n) != nil || n < 0 {
		return 0, false
	}
	return n, true
}

func (b *Broker) userLimit(user, name string) (n int, ok bool) {
	return b.limit(SettingUserLimit, "", user+"\x00"+name)
}

// admit lets a session in, or tells which limit it is over. It returns what has to be
// called with Broker.mu held to count it.
func (b *Broker) admit(cfg *SessionConfig) (count func(v *VHost) error) {
	if cfg.Unlisted {
		return func(*VHost) error { return nil }
	}
	ofVHost, vhostLimited := b.limit(SettingVHostLimit, cfg.VHost, limitConnections)
	ofUser, userLimited := b.userLimit(cfg.User, limitConnections)
	return func(v *VHost) error {
		u := b.users[cfg.User]
		switch {
		case vhostLimited && v.connections >= ofVHost:
			return errorf(NotAllowed, "access to vhost '%s' refused for user '%s': connection limit (%d) is reached", cfg.VHost, cfg.User, ofVHost)
		case userLimited && u != nil && u.connections >= ofUser, userLimited && ofUser == 0:
			return errorf(NotAllowed, "connection refused for user '%s': user connection limit (%d) is reached", cfg.User, ofUser)
		}
		if u == nil {
			u = &usage{}
			b.users[cfg.User] = u
		}
		u.connections++
		v.connections++
		return nil
	}
}

// dismissLocked undoes admit when a session ends. b.mu is held.
func (b *Broker) dismissLocked(s *Session) {
	if s.cfg.Unlisted {
		return
	}
	s.v.connections--
	u := b.users[s.cfg.User]
	u.connections--
	if u.connections == 0 {
		delete(b.users, s.cfg.User)
	}
}

// MayOpenChannel checks that the user may have one channel more: nil, or NotAllowed.
// It is called by the reader, before OpenChannel.
func (s *Session) MayOpenChannel() error {
	n, ok := s.b.userLimit(s.cfg.User, limitChannels)
	if !ok || s.cfg.Unlisted {
		return nil
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.b.users[s.cfg.User].channels >= n {
		return errorf(NotAllowed, "number of channels opened for user '%s' has reached the maximum allowed user limit of (%d)", s.cfg.User, n)
	}
	return nil
}

// countChannel counts a channel that was opened, or (-1) closed.
func (s *Session) countChannel(n int) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.users[s.cfg.User].channels += n
}

// checkQuota checks the number of queues before one is added. v.mu is held.
func (v *VHost) checkQuota(queue string, limit int, limited bool) error {
	if limited && len(v.queues) >= limit {
		return errorf(PreconditionFailed, "cannot declare queue '%s': queue limit in vhost '%s' (%d) is reached", queue, v.name, limit)
	}
	return nil
}
