package verify

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
)

// A body of this package, integers in big endian:
//
//	 0      4     12         16         24          32       36      size
//	+------+-----+----------+----------+-----------+--------+- - - -+
//	| FVFY | run | producer | sequence | sent, ns  | CRC32C | fill  |
//	|  4   |  8  |    4     |    8     |     8     |   4    |       |
//	+------+-----+----------+----------+-----------+--------+- - - -+
//
// The checksum is of everything but itself. The fill differs from message to
// message, so that bytes of another message in its place are found.
const (
	magic       = "FVFY"
	checksumAt  = 32
	headerBytes = 36
)

// MinSize is the smallest body, in bytes, that can be checked.
const MinSize = headerBytes

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A stamp is what a body says of its message.
type stamp struct {
	run      uint64
	producer uint32 // from 0
	sequence uint64 // from 1
	sent     int64  // ns since 1970
}

// fillBytes is what fills are cut from.
var fillBytes = func() []byte {
	b := make([]byte, 1<<12)
	source := rand.NewPCG(1, 2)
	for i := 0; i < len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], source.Uint64())
	}
	return b
}()

// appendBody appends a body of size bytes, at least MinSize.
func appendBody(dst []byte, s stamp, size int) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.BigEndian.AppendUint64(dst, s.run)
	dst = binary.BigEndian.AppendUint32(dst, s.producer)
	dst = binary.BigEndian.AppendUint64(dst, s.sequence)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.sent))
	dst = append(dst, 0, 0, 0, 0)
	at := int((s.sequence*31 + uint64(s.producer)) % uint64(len(fillBytes)))
	for missing := size - headerBytes; missing > 0; at = 0 {
		n := min(missing, len(fillBytes)-at)
		dst = append(dst, fillBytes[at:at+n]...)
		missing -= n
	}
	body := dst[start:]
	binary.BigEndian.PutUint32(body[checksumAt:], checksum(body))
	return dst
}

func checksum(body []byte) uint32 {
	return crc32.Update(crc32.Checksum(body[:checksumAt], castagnoli), castagnoli, body[headerBytes:])
}

var (
	errForeign = errors.New("not a message of this run")
	errDamaged = errors.New("a message of this run, damaged")
)

// parseBody reads a body. marked says that the message's properties name this
// run, so that a body that does not is damaged and not foreign. size is that of
// all bodies of the run. The error is errForeign or errDamaged.
func parseBody(body []byte, run uint64, size int, marked bool) (stamp, error) {
	ours := len(body) >= headerBytes && string(body[:len(magic)]) == magic && binary.BigEndian.Uint64(body[4:]) == run
	switch {
	case !ours && !marked:
		return stamp{}, errForeign
	case !ours, len(body) != size, binary.BigEndian.Uint32(body[checksumAt:]) != checksum(body):
		return stamp{}, errDamaged
	}
	return stamp{
		run:      run,
		producer: binary.BigEndian.Uint32(body[12:]),
		sequence: binary.BigEndian.Uint64(body[16:]),
		sent:     int64(binary.BigEndian.Uint64(body[24:])),
	}, nil
}
