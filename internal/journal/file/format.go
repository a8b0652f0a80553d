package file

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"github.com/ferrymq/ferry/internal/journal"
)

// A segment is one file, named by its number in 16 hexadecimal digits and
// ".seg". It begins with a file header, records follow. All integers are
// little-endian; everything begins at a multiple of 8 bytes and what lies
// between is zero. Behind the last record of the newest segment there may be
// zeros up to the end of the file: room that was written ahead.
//
//	file header, 64 bytes
//	 0  magic "FERRYSEG"
//	 8  uint32  version of the format: 1
//	12  uint32  CRC-32C of the other 60 bytes
//	16  uint64  segment
//	24  uint64  position of the first batch
//	32  uint64  journal: a random number, the same in all segments
//	40  uint64  highest epoch of all batches before this segment
//	48  uint64  checkpoint of the last batch before it that is not superseded
//	56  8 bytes zero
//
//	record
//	 0  magic "FRec"
//	 4  uint32  CRC-32C of: head, zeros, table, zeros, bytes 8 to 64
//	 8  uint64  position
//	16  uint64  epoch
//	24  uint64  segment
//	32  uint64  checkpoint
//	40  uint64  synced: the log was durable up to this position, inclusive,
//	            before this record was written
//	48  uint32  length of the head
//	52  uint32  length of the body
//	56  uint32  kind: 1 batch, 2 mark, 3 seal
//	60  uint32  journal, its low 32 bits
//	64  head, zeros to a multiple of 8
//	    table: the CRC-32C of each 4096 bytes of the body, uint32 each
//	           (the last piece may be shorter), zeros to a multiple of 8
//	    body, zeros to a multiple of 8
//
// A batch's position is one more than the last batch's. A mark holds nothing:
// it says, by its synced field, that what is before it is durable. It is
// written when a journal is opened after a crash and when it is closed, and its
// position is that of the last batch before it.
//
// A seal is a mark that ends a segment: unless the segment is the newest, the
// file ends with it. Its head is the index, 12 bytes for each batch:
//
//	0  uint32  offset of the record in the file / 8
//	4  uint32  offset of its body in the file / 8
//	8  uint32  length of its body; bit 31 is set if the batch is superseded
//
// and its body, the last 16 bytes of the file, is the way to find it:
//
//	0  uint64  offset of the seal in the file
//	8  "FERRYEND"
const (
	formatVersion = 1

	fileHeaderSize   = 64
	recordHeaderSize = 64
	chunkSize        = 4096 // of a body, for each checksum in the table
	entrySize        = 12
	footerSize       = 16

	fileMagic   = "FERRYSEG"
	footerMagic = "FERRYEND"
	recordMagic = 'F' | 'R'<<8 | 'e'<<16 | 'c'<<24

	segmentSuffix   = ".seg"
	temporarySuffix = ".tmp"
)

// MaxBatch is the largest batch in bytes, head and body together.
const MaxBatch = 8 << 20

// maxSegment is the size that a segment does not pass, in bytes. The index has
// 32 bits for an eighth of an offset.
const maxSegment = 16 << 30

const (
	kindBatch = 1
	kindMark  = 2
	kindSeal  = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

func align8[T int | int64](n T) T { return (n + 7) &^ 7 }

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (number uint64, ok bool) {
	if len(name) != 16+len(segmentSuffix) || name[16:] != segmentSuffix {
		return 0, false
	}
	number, err := strconv.ParseUint(name[:16], 16, 64)
	return number, err == nil && segmentName(number) == name
}

// A fileHeader is what a segment file begins with.
type fileHeader struct {
	segment    uint64
	first      uint64
	journal    uint64
	epoch      uint64
	checkpoint uint64
}

func (h *fileHeader) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, fileMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, formatVersion)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	for _, v := range []uint64{h.segment, h.first, h.journal, h.epoch, h.checkpoint, 0} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	binary.LittleEndian.PutUint32(dst[at+12:], fileHeaderChecksum(dst[at:]))
	return dst
}

func fileHeaderChecksum(p []byte) uint32 {
	return crc32.Update(checksum(p[:12]), castagnoli, p[16:fileHeaderSize])
}

// errVersion says that a file is not damaged, but not for this program.
var errVersion = errors.New("unknown version of the format")

func parseFileHeader(p []byte) (fileHeader, error) {
	if len(p) < fileHeaderSize {
		return fileHeader{}, errors.New("file is shorter than its header")
	}
	if string(p[:8]) != fileMagic {
		return fileHeader{}, errors.New("not a segment of a journal")
	}
	// The version stands before the checksum, which another version may
	// compute in another way.
	if v := binary.LittleEndian.Uint32(p[8:]); v != formatVersion {
		return fileHeader{}, fmt.Errorf("%w %d, this program reads version %d", errVersion, v, formatVersion)
	}
	if binary.LittleEndian.Uint32(p[12:]) != fileHeaderChecksum(p) {
		return fileHeader{}, errors.New("checksum of the file header")
	}
	u := func(at int) uint64 { return binary.LittleEndian.Uint64(p[at:]) }
	h := fileHeader{segment: u(16), first: u(24), journal: u(32), epoch: u(40), checkpoint: u(48)}
	if h.first == 0 {
		return fileHeader{}, errors.New("first position is 0")
	}
	return h, nil
}

// A recordHeader is what each record begins with.
type recordHeader struct {
	checksum   uint32
	position   uint64
	epoch      uint64
	segment    uint64
	checkpoint uint64
	synced     uint64
	headLen    uint32
	bodyLen    uint32
	kind       uint32
	journal    uint32
}

// putRecordHeader writes h to the first bytes of p. content is the CRC-32C of
// head and table with the zeros behind each.
func putRecordHeader(p []byte, h *recordHeader, content uint32) {
	le := binary.LittleEndian
	le.PutUint32(p, recordMagic)
	le.PutUint64(p[8:], h.position)
	le.PutUint64(p[16:], h.epoch)
	le.PutUint64(p[24:], h.segment)
	le.PutUint64(p[32:], h.checkpoint)
	le.PutUint64(p[40:], h.synced)
	le.PutUint32(p[48:], h.headLen)
	le.PutUint32(p[52:], h.bodyLen)
	le.PutUint32(p[56:], h.kind)
	le.PutUint32(p[60:], h.journal)
	le.PutUint32(p[4:], crc32.Update(content, castagnoli, p[8:recordHeaderSize]))
}

// parseRecordHeader reads a header; ok says that the magic is right. Whether
// the rest is, only checkRecord knows.
func parseRecordHeader(p []byte) (h recordHeader, ok bool) {
	le := binary.LittleEndian
	if len(p) < recordHeaderSize || le.Uint32(p) != recordMagic {
		return recordHeader{}, false
	}
	return recordHeader{
		checksum:   le.Uint32(p[4:]),
		position:   le.Uint64(p[8:]),
		epoch:      le.Uint64(p[16:]),
		segment:    le.Uint64(p[24:]),
		checkpoint: le.Uint64(p[32:]),
		synced:     le.Uint64(p[40:]),
		headLen:    le.Uint32(p[48:]),
		bodyLen:    le.Uint32(p[52:]),
		kind:       le.Uint32(p[56:]),
		journal:    le.Uint32(p[60:]),
	}, true
}

// checkRecord verifies the checksum; p is the record up to its body.
func checkRecord(h *recordHeader, p []byte) bool {
	c := crc32.Update(checksum(p[recordHeaderSize:]), castagnoli, p[8:recordHeaderSize])
	return c == h.checksum
}

// tableAt is where the table begins, from the start of the record.
func (h *recordHeader) tableAt() int64 { return align8(recordHeaderSize + int64(h.headLen)) }

// bodyAt is where the body begins, from the start of the record.
func (h *recordHeader) bodyAt() int64 { return h.tableAt() + tableSize(int64(h.bodyLen)) }

// size is the record's length with the zeros at its end.
func (h *recordHeader) size() int64 { return h.bodyAt() + align8(int64(h.bodyLen)) }

// tableSize is the size of the table of a body, with the zeros behind it.
func tableSize(bodyLen int64) int64 {
	return align8((bodyLen + chunkSize - 1) / chunkSize * 4)
}

// checkBody verifies a whole body against its table.
func checkBody(table, body []byte) bool {
	for len(body) > 0 {
		n := min(len(body), chunkSize)
		if binary.LittleEndian.Uint32(table) != checksum(body[:n]) {
			return false
		}
		table, body = table[4:], body[n:]
	}
	return true
}

// An encoder turns batches into records. It is reused for its memory.
type encoder struct {
	front   []byte // header, head, table
	content uint32
	header  recordHeader
	body    [][]byte
}

// zeros is what stands between the parts of a record, and behind the last one.
var zeros [64 << 10]byte

// encode prepares a record: all but the synced field, which finish sets. The
// head is copied, the body is not.
func (e *encoder) encode(h recordHeader, head []byte, body [][]byte) {
	n := 0
	for _, p := range body {
		n += len(p)
	}
	h.headLen, h.bodyLen = uint32(len(head)), uint32(n)
	e.header, e.body = h, body
	f := append(e.front[:0], zeros[:recordHeaderSize]...)
	f = append(f, head...)
	f = append(f, zeros[:align8(len(f))-len(f)]...)
	f = appendTable(f, body)
	f = append(f, zeros[:align8(len(f))-len(f)]...)
	e.front = f
	e.content = checksum(f[recordHeaderSize:])
}

// finish completes the header.
func (e *encoder) finish(synced uint64) {
	e.header.synced = synced
	putRecordHeader(e.front, &e.header, e.content)
}

// appendTable appends the checksums of a body that is given in pieces.
func appendTable(dst []byte, body [][]byte) []byte {
	var c uint32
	room := chunkSize
	for _, p := range body {
		for len(p) > 0 {
			n := min(len(p), room)
			c = crc32.Update(c, castagnoli, p[:n])
			p = p[n:]
			if room -= n; room == 0 {
				dst = binary.LittleEndian.AppendUint32(dst, c)
				c, room = 0, chunkSize
			}
		}
	}
	if room < chunkSize {
		dst = binary.LittleEndian.AppendUint32(dst, c)
	}
	return dst
}

// An entry of the index says where a batch is.
type entry struct {
	record uint32 // offset / 8
	body   uint32 // offset / 8
	length uint32 // of the body; and supersededBit
}

const supersededBit = 1 << 31

func newEntry(at int64, h *recordHeader, superseded bool) entry {
	e := entry{record: uint32(at / 8), body: uint32((at + h.bodyAt()) / 8), length: h.bodyLen}
	if superseded {
		e.length |= supersededBit
	}
	return e
}

func (e entry) recordAt() int64  { return int64(e.record) * 8 }
func (e entry) bodyAt() int64    { return int64(e.body) * 8 }
func (e entry) bodyLen() int64   { return int64(e.length &^ supersededBit) }
func (e entry) superseded() bool { return e.length&supersededBit != 0 }
func (e entry) end() int64       { return e.bodyAt() + align8(e.bodyLen()) }

func appendIndex(dst []byte, entries []entry) []byte {
	for _, e := range entries {
		dst = binary.LittleEndian.AppendUint32(dst, e.record)
		dst = binary.LittleEndian.AppendUint32(dst, e.body)
		dst = binary.LittleEndian.AppendUint32(dst, e.length)
	}
	return dst
}

func parseIndex(p []byte) []entry {
	entries := make([]entry, len(p)/entrySize)
	for i := range entries {
		q := p[i*entrySize:]
		entries[i] = entry{
			record: binary.LittleEndian.Uint32(q),
			body:   binary.LittleEndian.Uint32(q[4:]),
			length: binary.LittleEndian.Uint32(q[8:]),
		}
	}
	return entries
}

func appendFooter(dst []byte, sealAt int64) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(sealAt))
	return append(dst, footerMagic...)
}

func parseFooter(p []byte) (sealAt int64, ok bool) {
	if len(p) != footerSize || string(p[8:]) != footerMagic {
		return 0, false
	}
	at := binary.LittleEndian.Uint64(p)
	return int64(at), at < maxSegment*2 && at%8 == 0
}

func (h *recordHeader) batch(head []byte, body [][]byte) journal.Batch {
	return journal.Batch{
		Position:   h.position,
		Epoch:      h.epoch,
		Segment:    h.segment,
		Checkpoint: h.checkpoint,
		Head:       head,
		Body:       body,
	}
}
