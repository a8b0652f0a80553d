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
//	          entry before
//	without packNext: uvarints position, segment, offset
//	without packSame: uvarints size of the block, size of the record
const (
	packRedelivered = 1 << iota
	packNext
	packSame
)

// packable tells whether an entry that nobody else holds can be packed; the log's
// mutex is held.
// recovering is while the journal is replayed.
func (e *entry) packable(recovering bool) bool {
	if e.state != ready {
		return false
	}
	m := e.msg
	if recovering && m.shared {
		return false // others that hold it may not have been found yet
	}
	return m.accounted && m.persistent && m.parts == nil && m.data.Load() == nil &&
		m.placed.Load() == inJournal && m.logged == 1
}

// pack packs the chunk if nothing can be added to it any more and all of it is
// packable. q.mu is held.
func (k *chunk) pack(l *log, recovering bool) {
	if k.packed != nil || k.loading != nil || k.live == 0 || k.live != len(k.entries) ||
		(k.first+uint64(len(k.entries)))&(chunkSize-1) != 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range k.entries {
		// A reading that another queue began may still know the message. From here
		// on it is gone for whoever has it, before its body is looked at.
		m := k.entries[i].msg
		if m != nil && m.holders.CompareAndSwap(1, 0) {
			if k.entries[i].packable(recovering) {
				continue
			}
			m.holders.Store(1)
		}
		for j := range i {
			k.entries[j].msg.holders.Store(1)
		}
		return
	}
	var last *stored
	buf := make([]byte, 0, 4*len(k.entries))
	for i := range k.entries {
		e := &k.entries[i]
		m := e.msg
		flags := byte(0)
		if e.redelivered {
			flags |= packRedelivered
		}
		if last != nil && last.ref.Position == m.ref.Position && last.ref.Offset+last.size == m.ref.Offset {
			flags |= packNext
		}
		if last != nil && last.size == m.size && last.head == m.head {
			flags |= packSame
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
		}
		last = m
	}
	k.packed, k.entries = slices.Clone(buf), nil
}

// unpack makes entries again. q.mu is held.
func (k *chunk) unpack() {
	rd := reader{b: k.packed}
	k.entries = make([]entry, k.live)
	msgs := make([]stored, k.live)
	for i := range msgs {
		m := &msgs[i]
		flags := rd.byte()
		if flags&packNext == 0 {
			m.ref.Position = rd.num()
			m.segment = uint32(rd.num())
			m.ref.Offset = uint32(rd.num())
		} else {
			p := &msgs[i-1]
			m.ref = journal.Ref{Position: p.ref.Position, Offset: p.ref.Offset + p.size}
			m.segment = p.segment
		}
		if flags&packSame == 0 {
			m.size, m.head = uint32(rd.num()), uint16(rd.num())
		} else {
			m.size, m.head = msgs[i-1].size, msgs[i-1].head
		}
		m.ref.Length = m.size
		m.persistent, m.journaled, m.sealed, m.accounted = true, true, true, true
		m.logged = 1
		m.holders.Store(1)
		m.placed.Store(inJournal)
		k.entries[i] = entry{msg: m, state: ready, redelivered: flags&packRedelivered != 0}
	}
	k.packed = nil
}

// peek returns the chunk's entries without unpacking it.
func (k *chunk) peek() []entry {
	if k.packed == nil {
		return k.entries
	}
	c := chunk{packed: k.packed, live: k.live}
	c.unpack()
	return c.entries
}
