package ferry

import "slices"

// A backlog is deliveries that were not handed out, in their order. It is not
// safe for concurrent use.
type backlog struct {
	list  []*Delivery
	head  int // before it they are gone
	bytes int // of the bodies
}

func (b *backlog) len() int { return len(b.list) - b.head }

// push appends deliveries.
func (b *backlog) push(ds []*Delivery) {
	if b.head > len(b.list)/2 {
		// One that is never empty would grow for ever.
		n := copy(b.list, b.list[b.head:])
		clear(b.list[n:])
		b.list, b.head = b.list[:n], 0
	}
	b.list = append(b.list, ds...)
	b.count(ds)
}

// pop takes the oldest out, nil if there is none.
func (b *backlog) pop() *Delivery {
	if b.len() == 0 {
		return nil
	}
	d := b.list[b.head]
	b.list[b.head] = nil
	b.head++
	b.bytes -= len(d.Body)
	return d
}

// unpop puts deliveries before the oldest.
func (b *backlog) unpop(ds []*Delivery) {
	b.list = slices.Insert(b.list, b.head, ds...)
	b.count(ds)
}

func (b *backlog) count(ds []*Delivery) {
	for _, d := range ds {
		b.bytes += len(d.Body)
	}
}

// remove takes out what came by a subscription.
func (b *backlog) remove(s *subscription) (removed []*Delivery) {
	rest := slices.DeleteFunc(b.list[b.head:], func(d *Delivery) bool {
		if d.from != s {
			return false
		}
		removed = append(removed, d)
		b.bytes -= len(d.Body)
		return true
	})
	b.list = b.list[:b.head+len(rest)]
	return removed
}
