package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/link"
)

const (
	// takeBytes is how many bytes of bodies one Take gives, unless one message
	// has more.
	takeBytes = 4 << 20
	// readAhead is how much is read from disk at once, about, in bytes.
	readAhead = 256 << 10
	// cacheBytes is how much of the newest messages is kept in memory.
	cacheBytes = 1 << 20
	// maxTaken is how many messages may be taken and not settled: what is
	// settled among them must fit a state.
	maxTaken = 1 << 20
)

// An Entry is a message in the outbox.
type Entry struct {
	Seq     uint64
	Message link.Message

	// Recovered says that the message was there when the outbox was opened: it
	// may have been sent before.
	Recovered bool
}

// A chunk is consecutive messages as a batch's body holds them.
type chunk struct {
	messages seqRun
	body     []byte
}

// A cache holds the newest messages, without a gap up to the newest.
type cache struct {
	chunks []chunk
	size   int
}

func (c *cache) add(k chunk, limit int) {
	if len(k.body) > limit {
		// A gap: what is before it will be read from disk too.
		*c = cache{}
		return
	}
	if len(k.body) == 0 {
		return
	}
	c.chunks = append(c.chunks, k)
	c.size += len(k.body)
	for c.size > limit {
		c.size -= len(c.chunks[0].body)
		c.chunks[0] = chunk{}
		c.chunks = c.chunks[1:]
	}
}

// from returns chunks that begin with the one that holds seq, none if the cache
// does not.
func (c *cache) from(seq uint64) []chunk {
	for i := len(c.chunks) - 1; i >= 0 && c.chunks[i].messages.end > seq; i-- {
		if c.chunks[i].messages.first <= seq {
			return append([]chunk(nil), c.chunks[i:]...)
		}
	}
	return nil
}

// Take returns the next messages, at most limit, in order, each once. It waits for
// at least one until ctx ends; it also waits while a million messages are
// taken and not settled. Callers take turns. It gives 4 MiB of bodies at once,
// unless one message has more. What it returns belongs to the caller.
//
// A message that cannot be read is not skipped: it is an error now, and for ever
// (Err).
func (o *Outbox) Take(ctx context.Context, limit int) ([]Entry, error) {
	select {
	case o.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-o.reading }()
	for {
		seq, end, err := o.takeable()
		if err != nil {
			return nil, fmt.Errorf("take: %w", err)
		}
		if seq == end {
			select {
			case <-o.outlet.arrived:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		entries, err := o.read(ctx, seqRun{seq, min(end, seq+uint64(max(limit, 1)))})
		if err != nil && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			o.unreadable(seq, err)
			continue
		}
		if entries = o.taken(entries); len(entries) > 0 {
			return entries, nil
		}
	}
}

// takeable returns which messages may be taken now; some may be settled.
func (o *Outbox) takeable() (seq, end uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	seq = o.book.settled.next(o.outlet.cursor)
	o.outlet.cursor = seq
	room := maxTaken - o.outlet.taken
	switch {
	case o.closed:
		return 0, 0, ErrClosed
	case o.broken != nil:
		return 0, 0, o.broken
	case seq < o.book.stored && room > 0:
		return seq, min(o.book.stored, seq+uint64(room)), nil
	case seq >= o.book.stored && o.failed != nil:
		return 0, 0, o.failed
	}
	return seq, seq, nil
}

// unreadable says that a message cannot be read, unless nobody needs it any more:
// it may have been settled meanwhile by somebody who knew its number.
func (o *Outbox) unreadable(seq uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.book.settled.has(seq) {
		o.broken = err
		o.intake.wakeLocked()
	}
}

// taken moves the cursor behind what was read, and leaves out what is settled.
func (o *Outbox) taken(entries []Entry) []Entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept := entries[:0]
	for _, e := range entries {
		o.outlet.cursor = e.Seq + 1
		if !o.book.settled.has(e.Seq) {
			kept = append(kept, e)
		}
	}
	o.outlet.taken += len(kept)
	return kept
}

// read decodes messages of a run, from its first on: at least one.
func (o *Outbox) read(ctx context.Context, r seqRun) (entries []Entry, err error) {
	size := 0
	var like *link.Message
	for seq := r.first; seq < r.end && size < takeBytes; seq++ {
		block, err := o.block(ctx, seq)
		if err == nil {
			entries = append(entries, Entry{Seq: seq, Recovered: seq < o.recovered})
			m := &entries[len(entries)-1].Message
			if err = decode(block, m, like); err != nil {
				entries = entries[:len(entries)-1]
				err = fmt.Errorf("message %d: %w", seq, err)
			}
			like = m
		}
		if err != nil {
			if len(entries) > 0 {
				return entries, nil // it is met again
			}
			return nil, err
		}
		size += len(block)
	}
	return entries, nil
}

// A reader goes through the messages in order. It belongs to who holds the turn.
type reader struct {
	chunks []chunk
	rest   []byte // of the first chunk
	seq    uint64 // where rest begins

	// Where to read on.
	next     uint64
	position uint64
}

// block returns the block of a message. Calls with ascending numbers are quick.
func (o *Outbox) block(ctx context.Context, seq uint64) ([]byte, error) {
	r := &o.reader
	for {
		for len(r.chunks) > 0 && r.chunks[0].messages.end <= seq {
			r.chunks = r.chunks[1:]
			r.rest = nil
		}
		if len(r.chunks) > 0 && r.chunks[0].messages.first <= seq {
			break
		}
		if err := o.load(ctx, seq); err != nil {
			return nil, err
		}
	}
	k := &r.chunks[0]
	if r.rest == nil || r.seq > seq {
		r.rest, r.seq = k.body, k.messages.first
	}
	for {
		block, rest, err := cutBlock(r.rest)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", r.seq, err)
		}
		if r.seq == seq {
			// It stays where it is, in case that it cannot be decoded.
			return block, nil
		}
		r.rest, r.seq = rest, r.seq+1
	}
}

// load fills the reader with chunks, the first of which holds seq.
func (o *Outbox) load(ctx context.Context, seq uint64) error {
	r := &o.reader
	o.mu.Lock()
	r.chunks = o.outlet.cache.from(seq)
	r.rest = nil
	head := o.book.head
	from := r.position
	if r.next != seq {
		from = o.book.position(seq)
	}
	o.mu.Unlock()
	if len(r.chunks) > 0 {
		return nil
	}
	s := scan{o: o, seq: seq, limit: readAhead}
	if err := s.run(ctx, from, head); err != nil {
		return err
	}
	if len(s.chunks) == 0 || s.chunks[0].messages.first > seq {
		return fmt.Errorf("message %d is not in the journal where it must be", seq)
	}
	r.chunks = s.chunks
	r.next, r.position = s.next, s.position
	return nil
}

// position is where to read from to find a message.
func (b *book) position(seq uint64) uint64 {
	if s := b.find(seq); s != nil {
		if m, ok := s.before(seq); ok {
			return m.position
		}
	}
	return 0
}

// A scan collects messages from seq on, until it has limit bytes.
type scan struct {
	o     *Outbox
	seq   uint64
	limit int

	chunks   []chunk
	size     int
	next     uint64 // the number behind the last message
	position uint64 // behind the last batch

	records records
	parts   []byte // of a message that has no end yet
}

var errEnough = errors.New("enough was read")

func (s *scan) run(ctx context.Context, from, to uint64) error {
	err := s.o.journal.Replay(ctx, from, to, true, func(b journal.Batch) error {
		if err := s.batch(&b); err != nil {
			if errors.Is(err, errEnough) {
				return err
			}
			return fmt.Errorf("batch at position %d: %w", b.Position, err)
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func (s *scan) batch(b *journal.Batch) error {
	if err := s.records.parse(b.Head); err != nil {
		return err
	}
	c := &s.records.content
	if c.messages.end <= s.seq {
		return nil // that is none, or others
	}
	var body []byte
	if len(b.Body) > 0 {
		body = b.Body[0]
	}
	if c.length != uint64(len(body)) {
		return errRecord
	}
	if c.offset == 0 {
		s.parts = nil
	}
	switch {
	case c.size == 0:
		body = append(make([]byte, 0, len(body)), body...)
	case c.offset == 0 && c.length < c.size:
		if c.size > MaxBody+2*MaxFields {
			return errRecord
		}
		s.parts = append(make([]byte, 0, c.size), body...)
		return nil
	case c.offset != uint64(len(s.parts)):
		return errRecord
	default:
		body = append(s.parts, body...)
		s.parts = nil
		if uint64(len(body)) < c.size {
			s.parts = body
			return nil
		}
	}
	if len(s.chunks) > 0 && c.messages.first != s.next {
		// What is between was dropped, which only happens to what is settled.
		return errEnough
	}
	s.o.mark(c, b.Position)
	s.chunks = append(s.chunks, chunk{c.messages, body})
	s.size += len(body)
	s.next, s.position = c.messages.end, b.Position+1
	if s.size >= s.limit {
		return errEnough
	}
	return nil
}

// mark remembers where messages of a segment are that was written before Open.
// Of parts it is the last that is at hand: these need none.
func (o *Outbox) mark(c *content, position uint64) {
	if c.size > 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.book.find(c.messages.first); s != nil && s.number < o.book.segment {
		s.marked += c.length
		s.mark(mark{c.messages.first, position, c.time})
	}
}
