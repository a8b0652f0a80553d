package broker

import "slices"

// groupsKept is how many priorities a ring remembers that have no consumers.
const groupsKept = 8

// ring holds the consumers of a queue that have room, highest priority first,
// and gives them their turns: round-robin within a priority.
type ring struct {
	groups []group // by descending priority
}

type group struct {
	priority int
	members  []*Consumer
	at       int
}

func (r *ring) add(c *Consumer) {
	if c.ringed {
		return
	}
	c.ringed = true
	i := 0
	for i < len(r.groups) && r.groups[i].priority > c.priority {
		i++
	}
	if i == len(r.groups) || r.groups[i].priority != c.priority {
		r.groups = append(r.groups, group{})
		copy(r.groups[i+1:], r.groups[i:])
		r.groups[i] = group{priority: c.priority}
	}
	g := &r.groups[i]
	c.slot = len(g.members)
	g.members = append(g.members, c)
}

// remove takes c out, in constant time; the last of its group takes its place.
func (r *ring) remove(c *Consumer) {
	if !c.ringed {
		return
	}
	c.ringed = false
	for i := range r.groups {
		g := &r.groups[i]
		if g.priority != c.priority {
			continue
		}
		last := len(g.members) - 1
		g.members[c.slot] = g.members[last]
		g.members[c.slot].slot = c.slot
		g.members[last] = nil
		if g.members = g.members[:last]; last == 0 {
			g.at = 0
			if len(r.groups) > groupsKept {
				r.groups = slices.Delete(r.groups, i, i+1)
			}
		}
		return
	}
}

// turn returns the consumer whose turn it is, nil if none has room.
func (r *ring) turn() *Consumer {
	for i := range r.groups {
		g := &r.groups[i]
		if len(g.members) == 0 {
			continue
		}
		if g.at >= len(g.members) {
			g.at = 0
		}
		c := g.members[g.at]
		g.at++
		return c
	}
	return nil
}

// some tells whether any consumer has room.
func (r *ring) some() bool {
	for i := range r.groups {
		if len(r.groups[i].members) > 0 {
			return true
		}
	}
	return false
}

// alone tells whether no other consumer of c's priority has room.
func (r *ring) alone(c *Consumer) bool {
	for i := range r.groups {
		if r.groups[i].priority == c.priority {
			return len(r.groups[i].members) == 1
		}
	}
	return true
}
