package broker

import "slices"

// confirms follows which of a channel's publishes are settled. Guarded by the
// session's mutex.
type confirms struct {
	low     uint64          // all up to this one are settled
	told    uint64          // the peer knows of all up to this one
	early   map[uint64]bool // settled, above low
	singles []uint64        // of early, that were confirmed and are to be told
	refused []refusal       // settled so, above told, by their tags
	listed  bool            // in the session's list

	acks, nacks uint64 // publishes that were confirmed, and refused
}

// A refusal is a run of publishes that a queue refused.
type refusal struct {
	from, to uint64
	told     bool // one by one, before what is in front of them was settled
}

// confirmLocked notes that the publishes from..to are safe. s.mu is held.
func (ch *Channel) confirmLocked(from, to uint64) {
	if ch.closed {
		return
	}
	c := &ch.conf
	c.acks += to - from + 1
	if !c.settle(from, to) {
		for tag := from; tag <= to; tag++ {
			c.singles = append(c.singles, tag)
		}
	}
	ch.listConfirmsLocked()
}

// rejectLocked notes that the publishes from..to were refused. s.mu is held.
func (ch *Channel) rejectLocked(from, to uint64) {
	if ch.closed {
		return
	}
	c := &ch.conf
	c.nacks += to - from + 1
	c.refuse(from, to)
	c.settle(from, to)
	ch.listConfirmsLocked()
}

// settle notes that publishes are settled, and tells whether all before them are.
func (c *confirms) settle(from, to uint64) bool {
	if from != c.low+1 {
		if c.early == nil {
			c.early = map[uint64]bool{}
		}
		for tag := from; tag <= to; tag++ {
			c.early[tag] = true
		}
		return false
	}
	c.low = to
	for len(c.early) > 0 && c.early[c.low+1] {
		delete(c.early, c.low+1)
		c.low++
	}
	return true
}

func (c *confirms) refuse(from, to uint64) {
	at := len(c.refused)
	for at > 0 && c.refused[at-1].from > from {
		at--
	}
	if at > 0 && c.refused[at-1].to+1 == from && !c.refused[at-1].told {
		c.refused[at-1].to = to
		return
	}
	c.refused = slices.Insert(c.refused, at, refusal{from: from, to: to})
}

func (ch *Channel) listConfirmsLocked() {
	if !ch.conf.listed {
		ch.conf.listed = true
		ch.s.confirming = append(ch.s.confirming, ch)
	}
}

// tellConfirms turns what is settled into as few events as will do. An
// acknowledgement of several never reaches over a refusal: there are clients that
// take all up to its tag for acknowledged, whatever they were told before. s.mu is
// held.
func (ch *Channel) tellConfirms() {
	c := &ch.conf
	c.listed = false
	if ch.closed {
		return
	}
	for _, tag := range c.singles {
		if tag > c.low {
			ch.s.pushLocked(Event{Kind: EventConfirm, Channel: ch, Tag: tag})
		}
	}
	c.singles = c.singles[:0]
	for i := range c.refused {
		r := &c.refused[i]
		if r.from <= c.low || r.told {
			continue
		}
		for tag := r.from; tag <= r.to; tag++ {
			ch.s.pushLocked(Event{Kind: EventConfirm, Channel: ch, Tag: tag, Nack: true})
		}
		r.told = true
	}
	n := 0
	for ; n < len(c.refused) && c.refused[n].to <= c.low; n++ {
		r := &c.refused[n]
		ch.tellAckedLocked(r.from-1, n > 0)
		if !r.told {
			ch.s.pushLocked(Event{Kind: EventConfirm, Channel: ch, Tag: r.to, Nack: true, Multiple: r.to > r.from})
		}
		c.told = r.to
	}
	ch.tellAckedLocked(c.low, n > 0)
	if n > 0 {
		c.refused = slices.Delete(c.refused, 0, n)
	}
}

// tellAckedLocked acknowledges all up to a tag that are not told. Behind a refusal
// they may have been told one by one, and are told again as several: that says
// nothing new of any.
func (ch *Channel) tellAckedLocked(to uint64, behind bool) {
	c := &ch.conf
	if to <= c.told {
		return
	}
	ch.s.pushLocked(Event{Kind: EventConfirm, Channel: ch, Tag: to, Multiple: behind || to-c.told > 1})
	c.told = to
}

// confirmNow confirms one run of publishes and wakes the writer. Any goroutine.
func (ch *Channel) confirmNow(from, to uint64) {
	ch.s.mu.Lock()
	ch.confirmLocked(from, to)
	ch.s.mu.Unlock()
	ch.s.signal()
}

// ConfirmSelect puts the channel into confirm mode: each publish from now on
// has a tag, from 1, that an EventConfirm settles. PreconditionFailed within a
// transaction.
func (ch *Channel) ConfirmSelect() error {
	if ch.tx != nil {
		return errorf(PreconditionFailed, "cannot switch from tx to confirm mode")
	}
	ch.s.Flush()
	ch.s.mu.Lock()
	ch.confirms = true
	ch.s.mu.Unlock()
	return nil
}
