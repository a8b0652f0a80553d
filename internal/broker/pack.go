package broker

import (
	"encoding/binary"
	"slices"

	"github.com/ferrymq/ferry/internal/journal"
)

// A chunk of which everything is ready and only in the journal is packed: its
// entries become a few bytes each, mostly one, instead of some eighty. A backlog
// then costs memory for what is being delivered, and little for the rest.
//
// For each entry in order:
//
//	flags  1  packRedelivered; packNext: the block follows that of the entry
//	          before in the same batch; packSame: its sizes are those of the
//	          entry before; packHole: uvarint n follows, and nothing else: these n
//	          entries are gone; packAttrs: attributes follow at the end, as
//	          attrCoder has them; packWaiting
//	without packNext: uvarints position, segment, offset
//	without packSame: uvarints size of the block, size of the record, bytes of the
//	          block that are not the body
const (
	packRedelivered = 1 << iota
	packNext
	packSame
	packHole
	packAttrs
	packWaiting
)

// packable tells whether an entry that nobody else holds can be packed; the log's
// mutex is held.
// recovering is while the journal is replayed.
func (e *entry) packable(recovering bool) bool {
	if e.state != ready && e.state != waiting {
		return false
	}
	m := e.msg
	if recovering && m.shared {
		return false // others that hold it may not have been found yet
	}
	return m.accounted && m.persistent && m.parts == nil && m.data.Load() == nil &&
		m.placed.Load() == inJournal && m.logged == 1
}

// complete tells whether nothing can be added to the chunk any more. Of one that was
// replayed the last entries may be missing, because they are gone.
func (k *chunk) complete() bool {
	return (k.first+uint64(len(k.entries)))&(chunkSize-1) == 0 || k.first|(chunkSize-1) < k.q.laneOf(k.first).tail
}

// pack packs the chunk if nothing can be added to it any more and all of it is
// packable, but for what is gone. q.mu is held.
func (k *chunk) pack(l *log, recovering bool) {
	if k.packed != nil || k.loading != nil || k.live == 0 || !k.complete() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range k.entries {
		if k.entries[i].state == gone {
			continue
		}
		// A reading that another queue began may still know the message. From here
		// on it is gone for whoever has it, before its body is looked at.
		m := k.entries[i].msg
		if m.holders.CompareAndSwap(1, 0) {
			if k.entries[i].packable(recovering) {
				continue
			}
			m.holders.Store(1)
		}
		for j := range i {
			if m := k.entries[j].msg; m != nil {
				m.holders.Store(1)
			}
		}
		return
	}
	var last entry
	var coder attrCoder
	buf := make([]byte, 0, 4*len(k.entries))
	for i := 0; i < len(k.entries); i++ {
		e := &k.entries[i]
		if e.state == gone {
			n := 1
			for i+n < len(k.entries) && k.entries[i+n].state == gone {
				n++
			}
			buf = binary.AppendUvarint(append(buf, packHole), uint64(n))
			i += n - 1
			continue
		}
		m := e.msg
		flags := byte(0)
		if e.redelivered {
			flags |= packRedelivered
		}
		if e.state == waiting {
			flags |= packWaiting
		}
		if p := last.msg; p != nil {
			if p.ref.Position == m.ref.Position && p.ref.Offset+p.size == m.ref.Offset {
				flags |= packNext
			}
			if p.size == m.size && p.head == m.head && last.over == e.over {
				flags |= packSame
			}
		}
		a := k.attrs(i)
		a.over = 0
		if a != (attrs{}) {
			flags |= packAttrs
		}
		buf = append(buf, flags)
		if flags&packNext == 0 {
			buf = binary.AppendUvarint(buf, m.ref.Position)
			buf = binary.AppendUvarint(buf, uint64(m.segment))
			buf = binary.AppendUvarint(buf, uint64(m.ref.Offset))
		}
		if flags&packSame == 0 {
			buf = binary.AppendUvarint(buf, uint64(m.size))
			buf = binary.AppendUvarint(buf, uint64(m.head))
			buf = binary.AppendUvarint(buf, uint64(e.over))
		}
		if flags&packAttrs != 0 {
			buf = coder.append(buf, a)
		}
		last = *e
	}
	k.there = bitmap{}
	for i := range k.entries {
		if k.entries[i].state != gone {
			k.there.set(i)
		}
	}
	k.packed, k.span, k.entries = slices.Clone(buf), len(k.entries), nil
	if k.times != nil {
		k.times.due, k.times.wake, k.times.value = nil, nil, nil
	}
}

// unpack makes entries again. q.mu is held.
func (k *chunk) unpack() {
	rd := reader{b: k.packed}
	k.entries = make([]entry, k.span)
	msgs := make([]stored, k.live)
	n := 0 // of msgs
	var last *entry
	var coder attrCoder
	for i := 0; i < k.span; i++ {
		flags := rd.byte()
		if flags&packHole != 0 {
			i += int(rd.num()) - 1
			continue
		}
		m, e := &msgs[n], &k.entries[i]
		n++
		if flags&packNext == 0 {
			m.ref.Position = rd.num()
			m.segment = uint32(rd.num())
			m.ref.Offset = uint32(rd.num())
		} else {
			p := last.msg
			m.ref = journal.Ref{Position: p.ref.Position, Offset: p.ref.Offset + p.size}
			m.segment = p.segment
		}
		if flags&packSame == 0 {
			m.size, m.head, e.over = uint32(rd.num()), uint16(rd.num()), uint16(rd.num())
		} else {
			m.size, m.head, e.over = last.msg.size, last.msg.head, last.over
		}
		m.ref.Length = m.size
		m.persistent, m.journaled, m.sealed, m.accounted = true, true, true, true
		m.logged = 1
		m.holders.Store(1)
		m.placed.Store(inJournal)
		e.msg, e.state, e.redelivered = m, ready, flags&packRedelivered != 0
		if flags&packWaiting != 0 {
			e.state = waiting
		}
		if flags&packAttrs != 0 {
			a := coder.read(&rd)
			a.over = e.over
			k.setAttrs(i, a)
		}
		last = e
	}
	k.packed = nil
}

// peek returns the chunk as it is unpacked, without unpacking it.
func (k *chunk) peek() *chunk {
	if k.packed == nil {
		return k
	}
	c := &chunk{packed: k.packed, span: k.span, live: k.live, first: k.first}
	c.unpack()
	return c
}
