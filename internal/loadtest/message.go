package loadtest

import (
	"encoding/binary"
	"time"
)

// A body that is large enough begins with a sequence from 0 on and the time at
// which it was due to be sent, in ns since 1970, 8 bytes each in big endian.
const stampBytes = 16

// MinTimed is the smallest body, in bytes, that carries the time at which it was
// sent. Of smaller ones only rates are measured.
const MinTimed = stampBytes

// slabBytes is how many bytes bodies are cut from at a time.
const slabBytes = 64 << 10

// bodies makes the bodies of one producer. A client may hold on to each for as
// long as it likes.
type bodies struct {
	size int
	slab []byte
	next uint64
}

func (b *bodies) make(due time.Time) []byte {
	if len(b.slab) < b.size {
		b.slab = make([]byte, max(b.size, slabBytes-slabBytes%max(b.size, 1)))
	}
	body := b.slab[:b.size:b.size]
	b.slab = b.slab[b.size:]
	if b.size >= stampBytes {
		binary.BigEndian.PutUint64(body, b.next)
		binary.BigEndian.PutUint64(body[8:], uint64(due.UnixNano()))
	}
	b.next++
	return body
}

// sentAt is when a body says that it was due, in ns since 1970. It says nothing
// if it is small.
func sentAt(body []byte) (int64, bool) {
	if len(body) < stampBytes {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(body[8:])), true
}
