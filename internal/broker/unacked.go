package broker

import (
	"cmp"
	"slices"
)

const (
	sparseSpan  = 4096 // tags that a ring spans before it is looked at whether it is sparse
	sparseShare = 8    // a ring is sparse with less than one delivery for so many tags
)

// unackedRing holds a channel's unsettled deliveries by their tags. They stand in
// a ring, each in the place of its tag. Those that stay while almost all around
// them are settled are moved out of it, so that a delivery that its consumer keeps
// does not take room for everything that comes behind it.
type unackedRing struct {
	base uint64 // tag of the first in the ring
	buf  []delivered
	head int
	n    int
	live int // in the ring, that are not holes

	old     []delivered // with lower tags, in their order; those without a queue are holes
	oldLive int
}

// held is how many deliveries there are.
func (r *unackedRing) held() int { return r.live + r.oldLive }

func (r *unackedRing) at(i int) *delivered { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

// push adds a delivery, whose tag is higher than those of all others.
func (r *unackedRing) push(d delivered) {
	if span := d.tag - r.base; r.n > 0 && span >= sparseSpan && uint64(r.live) < span/sparseShare {
		r.retire()
	}
	if r.n == 0 {
		r.base = d.tag
	}
	for r.base+uint64(r.n) < d.tag {
		r.grow(delivered{})
	}
	r.grow(d)
	r.live++
}

func (r *unackedRing) grow(d delivered) {
	if r.n == len(r.buf) {
		bigger := make([]delivered, max(8, 2*len(r.buf)))
		for i := range r.n {
			bigger[i] = *r.at(i)
		}
		r.buf, r.head = bigger, 0
	}
	r.n++
	*r.at(r.n - 1) = d
}

// retire moves all out of the ring.
func (r *unackedRing) retire() {
	for i := range r.n {
		if p := r.at(i); p.q != nil {
			r.old = append(r.old, *p)
			*p = delivered{}
		}
	}
	r.oldLive += r.live
	r.head, r.n, r.live = 0, 0, 0
}

// find returns the delivery with this tag, nil if none awaits settlement.
func (r *unackedRing) find(tag uint64) *delivered {
	var p *delivered
	switch {
	case r.n > 0 && tag >= r.base:
		if tag-r.base >= uint64(r.n) {
			return nil
		}
		p = r.at(int(tag - r.base))
	default:
		i, ok := slices.BinarySearchFunc(r.old, tag, func(d delivered, tag uint64) int { return cmp.Compare(d.tag, tag) })
		if !ok {
			return nil
		}
		p = &r.old[i]
	}
	if p.q == nil {
		return nil
	}
	return p
}

// take removes a delivery that find has found.
func (r *unackedRing) take(p *delivered) delivered {
	d := *p
	if r.n > 0 && d.tag >= r.base {
		*p = delivered{}
		r.live--
		r.trim()
		return d
	}
	*p = delivered{tag: d.tag}
	if r.oldLive--; 2*r.oldLive < len(r.old) {
		r.old = slices.DeleteFunc(r.old, func(d delivered) bool { return d.q == nil })
	}
	return d
}

// takeUpTo removes all up to a tag, and appends them to list.
func (r *unackedRing) takeUpTo(tag uint64, list []delivered) []delivered {
	for len(r.old) > 0 && r.old[0].tag <= tag {
		if r.old[0].q != nil {
			list = append(list, r.old[0])
			r.oldLive--
		}
		r.old[0] = delivered{}
		r.old = r.old[1:]
	}
	for r.n > 0 && r.base <= tag {
		if p := r.at(0); p.q != nil {
			list = append(list, *p)
			*p = delivered{}
			r.live--
		}
		r.drop()
	}
	r.trim()
	return list
}

// drop takes the first place, a hole, off the ring.
func (r *unackedRing) drop() {
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.base++
	r.n--
}

func (r *unackedRing) trim() {
	for r.n > 0 && r.at(0).q == nil {
		r.drop()
	}
	if r.n == 0 && len(r.buf) > 4096 {
		r.buf, r.head = nil, 0
	}
}

// all visits all deliveries, in the order of their tags.
func (r *unackedRing) all(visit func(delivered)) {
	for _, d := range r.old {
		if d.q != nil {
			visit(d)
		}
	}
	for i := range r.n {
		if d := r.at(i); d.q != nil {
			visit(*d)
		}
	}
}
