package auth

import (
	"cmp"
	"slices"
	"sync"
)

// Attempts are how many logins of a protocol there were since the process began, as
// RabbitMQ's /api/auth/attempts and rabbitmq_auth_attempts_* tell it.
type Attempts struct {
	Protocol  string `json:"protocol"`
	Total     uint64 `json:"auth_attempts"`
	Failed    uint64 `json:"auth_attempts_failed"`
	Succeeded uint64 `json:"auth_attempts_succeeded"`
}

type counts struct {
	mu sync.Mutex // guards what follows
	by map[string]*Attempts
}

func (c *counts) count(protocol string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]*Attempts{}
	}
	a := c.by[protocol]
	if a == nil {
		a = &Attempts{Protocol: protocol}
		c.by[protocol] = a
	}
	a.Total++
	if err != nil {
		a.Failed++
	} else {
		a.Succeeded++
	}
}

// Attempts are the logins so far, sorted by protocol.
func (u *Users) Attempts() []Attempts {
	c := &u.counts
	c.mu.Lock()
	list := make([]Attempts, 0, len(c.by))
	for _, a := range c.by {
		list = append(list, *a)
	}
	c.mu.Unlock()
	slices.SortFunc(list, func(a, b Attempts) int { return cmp.Compare(a.Protocol, b.Protocol) })
	return list
}

// ResetAttempts begins to count anew.
func (u *Users) ResetAttempts() {
	u.counts.mu.Lock()
	defer u.counts.mu.Unlock()
	clear(u.counts.by)
}
