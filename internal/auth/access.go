package auth

import (
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/ferrymq/ferry/internal/pattern"
)

// Access is what one user may do in one virtual host, now: what is put or taken away
// changes its answers. Its methods may be called at the same time.
type Access struct {
	users       *Users
	user, vhost string
	rights      atomic.Pointer[rights] // as they were when last asked
}

// Access is what a user may do in a virtual host. ok is whether it may use that at
// all: it has permissions there, of whatever kind.
func (u *Users) Access(user, vhost string) (a *Access, ok bool) {
	a = &Access{users: u, user: user, vhost: vhost}
	return a, a.now().allowed
}

// May tells whether the user may do this with a queue or an exchange of that name;
// the default exchange has the name "amq.default".
func (a *Access) May(p Permission, name string) bool { return matches(a.now().of(p), name) }

// MayTopic tells whether a routing key may be written to, or bound for reading from,
// an exchange of type topic. It says nothing of the exchange itself.
func (a *Access) MayTopic(p Permission, exchange, key string) bool {
	t := a.now().topic(a.users, exchange)
	switch {
	case t == nil || p == Configure:
		return true
	case p == Write:
		return matches(t.write, key)
	}
	return matches(t.read, key)
}

func (a *Access) now() *rights {
	r := a.rights.Load()
	if r == nil || r.version != a.users.version.Load() {
		r = a.users.rightsOf(a.user, a.vhost)
		a.rights.Store(r)
	}
	return r
}

// rights are what a user may do in a virtual host, as the store had it in a version.
// All connections of the user there have the same.
type rights struct {
	version                uint64
	user, vhost            string
	allowed                bool
	configure, write, read *pattern.Pattern // nil: nothing

	mu     sync.Mutex // guards what follows
	topics map[string]*topicRights
}

// topicRights are those for one exchange.
type topicRights struct{ write, read *pattern.Pattern }

// maxTopics is of how many exchanges the topic permissions are remembered; those of
// further ones are read whenever they are asked for.
const maxTopics = 1024

type userVHost struct{ user, vhost string }

// maxRights is for how many users and virtual hosts rights are remembered.
const maxRights = 16384

func (u *Users) rightsOf(user, vhost string) *rights {
	version := u.version.Load() // before anything is read: a change in between makes it stale
	key := userVHost{user, vhost}
	u.mu.Lock()
	r := u.rights[key]
	u.mu.Unlock()
	if r != nil && r.version == version {
		return r
	}
	r = &rights{version: version, user: user, vhost: vhost}
	_, there := u.store.Setting(KindUser, "", user)
	if p, ok := u.Permission(user, vhost); ok && there {
		r.allowed = true
		r.configure, r.write, r.read = compile(p.Configure), compile(p.Write), compile(p.Read)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.rights) >= maxRights {
		clear(u.rights)
	}
	u.rights[key] = r
	return r
}

func (r *rights) of(p Permission) *pattern.Pattern {
	switch p {
	case Configure:
		return r.configure
	case Write:
		return r.write
	case Read:
		return r.read
	}
	return nil
}

// topic is nil when there is no topic permission for an exchange.
func (r *rights) topic(u *Users, exchange string) *topicRights {
	r.mu.Lock()
	t, known := r.topics[exchange]
	r.mu.Unlock()
	if known {
		return t
	}
	if b, ok := u.store.Setting(KindTopicPermission, r.vhost, topicName(r.user, exchange)); ok {
		t = &topicRights{}
		var p TopicPermission
		if json.Unmarshal(b, &p) == nil {
			t.write, t.read = compile(expand(p.Write, r.user, r.vhost)), compile(expand(p.Read, r.user, r.vhost))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.topics == nil {
		r.topics = map[string]*topicRights{}
	}
	if len(r.topics) < maxTopics {
		r.topics[exchange] = t
	}
	return t
}
