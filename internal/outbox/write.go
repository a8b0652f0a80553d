package outbox

import (
	"fmt"
	"slices"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// A group is what is written together: one batch, or, of a large message,
// several.
type group struct {
	state   *state // of a new segment
	settled []seqRun
	refused []uint64
	puts    []*put
	blocks  [][]byte // of puts
	size    int      // of blocks
	cost    int64    // of puts, in the intake
	first   uint64   // number of the first put
	segment uint64
	active  *segment
	begun   uint64 // position at which the segment begins, 0 if that is here
}

// write is the goroutine that appends to the journal. It ends when the outbox is
// closed and all is written that can be.
func (o *Outbox) write() {
	w := writer{o: o, position: o.book.head, begun: o.journal.Info().Checkpoint}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		w.look()
		g, pause, done := w.next()
		if g != nil {
			w.append(g)
			continue
		}
		if done {
			return
		}
		if pause > 0 {
			timer.Reset(pause)
		} else {
			timer.Stop()
		}
		select {
		case <-o.work:
		case <-timer.C:
		}
	}
}

// A writer belongs to the goroutine that writes.
type writer struct {
	o        *Outbox
	position uint64 // of the last batch
	begun    uint64 // of the newest state
	probed   time.Time
	waiting  time.Time // when the first settlement was seen that is not written
}

// look asks how the journal does.
func (w *writer) look() {
	s := w.o.journal.Status()
	low := s.Low
	if s.Waiting != nil {
		low = s.Waiting
	}
	w.o.mu.Lock()
	defer w.o.mu.Unlock()
	in := &w.o.intake
	if low == nil && in.low != nil {
		in.wakeLocked()
	}
	in.low = low
}

// next decides what is written now. If that is nothing, pause is when to ask
// again, 0 for when there is work, and done says that there will be none.
func (w *writer) next() (g *group, pause time.Duration, done bool) {
	o := w.o
	probe := w.probe()
	o.mu.Lock()
	defer o.mu.Unlock()
	in, b := &o.intake, &o.book
	if o.failed != nil || o.closed && in.low != nil {
		o.refuseLocked()
	}
	if o.failed != nil {
		return nil, 0, o.closed
	}
	g = new(group)
	if in.low == nil {
		w.takePuts(g)
	}
	newest := b.newest()
	switch {
	case newest == nil:
		// The first one is made with the first message.
	case newest.bytes >= int64(o.options.segmentBytes),
		// Nothing in it is needed, and somebody needs the space.
		(in.starved || in.low != nil) && newest.unsettled == 0 && newest.messages.end > newest.messages.first:
		g.active = &segment{number: newest.number + 1}
	}
	if len(g.puts) == 0 && g.active == nil && !probe {
		pause, due := w.settleDue(len(in.settled) + len(in.refused))
		if !due {
			if in.low != nil {
				pause = lowPause
			}
			return nil, pause, o.closed
		}
	}
	w.number(g, newest)
	return g, 0, false
}

// takePuts moves puts into a group, as many as make a batch.
func (w *writer) takePuts(g *group) {
	in := &w.o.intake
	n := 0
	for ; n < len(in.puts); n++ {
		p := in.puts[n]
		if p.withdrawn {
			continue
		}
		if len(g.puts) > 0 && g.size+p.size > w.o.options.batchBytes {
			break
		}
		g.puts, g.blocks = append(g.puts, p), append(g.blocks, p.bytes)
		g.size += p.size
		g.cost += costOf(p.size)
		p.bytes = nil
	}
	in.puts = slices.Delete(in.puts, 0, n)
}

// number decides where a group goes, and enters it into the book.
func (w *writer) number(g *group, newest *segment) {
	in, b := &w.o.intake, &w.o.book
	if newest == nil && g.active == nil {
		g.active = &segment{number: 1}
	}
	g.first = b.next
	g.begun = w.begun
	if s := g.active; s != nil {
		// The state has all that is settled.
		g.state = b.state(w.o.producer)
		in.settled, in.refused = nil, nil
		g.begun = 0
		s.messages = seqRun{b.next, b.next}
		b.segments = append(b.segments, s)
	} else {
		g.active = newest
		n := min(len(in.settled), settleMany)
		g.settled, g.refused = slices.Clone(in.settled[:n]), in.refused
		in.settled = slices.Delete(in.settled, 0, n)
		in.refused = nil
	}
	w.waiting = time.Time{}
	g.segment = g.active.number
	b.next += uint64(len(g.puts))
	b.messages += int64(len(g.puts))
	g.active.messages.end = b.next
	g.active.unsettled += uint64(len(g.puts))
}

// settleDue says whether settlements alone are to be written, and if not, when.
func (w *writer) settleDue(n int) (pause time.Duration, due bool) {
	if n == 0 {
		return 0, false
	}
	if w.o.closed || w.o.intake.low != nil || n >= settleMany {
		return 0, true
	}
	if w.waiting.IsZero() {
		w.waiting = time.Now()
	}
	pause = settleDelay - time.Since(w.waiting)
	return pause, pause <= 0
}

// probe says whether an empty batch is to be written. The journal makes its
// reserve again, and says that space is no longer low, behind an append.
func (w *writer) probe() bool {
	s := w.o.journal.Status()
	if s.Low == nil || s.Waiting != nil || time.Since(w.probed) < lowPause {
		return false
	}
	w.probed = time.Now()
	free, _, err := w.o.options.FS.Free(w.o.dir)
	w.o.mu.Lock()
	defer w.o.mu.Unlock()
	return err == nil && free >= lowFree && !w.o.closed
}

// refuseLocked fails what was put and will not be written.
func (o *Outbox) refuseLocked() {
	in := &o.intake
	if len(in.puts) == 0 {
		return
	}
	err := o.failed
	if err == nil {
		err = fmt.Errorf("%w, and the message was not stored: %w", ErrClosed, in.low)
	}
	f := &flight{err: fmt.Errorf("put: %w", err)}
	for _, p := range in.puts {
		if !p.withdrawn {
			f.puts = append(f.puts, p)
			p.bytes = nil
		}
	}
	in.puts, in.cost = nil, 0 // all of it: what a group has taken is in the book
	o.outlet.flights = append(o.outlet.flights, f)
	signal(o.landed)
}

// append gives a group to the journal.
func (w *writer) append(g *group) {
	now := time.Now()
	c := content{messages: seqRun{g.first, g.first + uint64(len(g.puts))}, length: uint64(g.size), time: now}
	f := &flight{puts: g.puts, first: g.first}
	if g.size <= w.o.options.partBytes {
		body := slices.Concat(g.blocks...)
		if len(g.puts) > 0 {
			f.chunk = chunk{messages: c.messages, body: body}
		}
		w.batch(g, c, body, f)
		return
	}
	// One message: takePuts takes no other with one that is as large.
	c.size = uint64(g.size)
	for rest := g.blocks[0]; len(rest) > 0; {
		part := rest[:min(len(rest), w.o.options.partBytes)]
		rest = rest[len(part):]
		c.length = uint64(len(part))
		last := f
		if len(rest) > 0 {
			last = new(flight)
		}
		w.batch(g, c, part, last)
		c.offset += c.length
		g.state, g.settled, g.refused = nil, nil, nil
	}
}

// batch appends one batch, with what the group still has.
func (w *writer) batch(g *group, c content, body []byte, f *flight) {
	o := w.o
	w.position++
	if g.begun == 0 {
		g.begun, w.begun = w.position, w.position
	}
	var head []byte
	if g.state != nil {
		head = appendState(head, g.state)
	}
	for _, r := range g.settled {
		head = appendSettle(head, r)
	}
	for _, seq := range g.refused {
		head = appendRefused(head, seq)
	}
	if len(body) > 0 {
		head = appendContent(head, c)
	}
	f.position, f.segment = w.position, g.segment
	f.stored = c.messages.end
	if c.offset+c.length < c.size {
		f.stored = c.messages.first
	}
	o.mu.Lock()
	if len(body) > 0 && c.offset == 0 {
		g.active.mark(mark{c.messages.first, w.position, c.time})
	}
	g.active.marked += uint64(len(body))
	cost := batchCost(len(head), len(body))
	if g.state != nil {
		cost += segmentCost
	}
	g.active.bytes += cost
	o.book.bytes += cost
	o.intake.cost -= g.cost
	g.cost = 0
	o.mu.Unlock()
	o.journal.Append(journal.Batch{
		Position:   w.position,
		Epoch:      o.epoch,
		Segment:    g.segment,
		Checkpoint: g.begun,
		Head:       head,
		Body:       [][]byte{body},
	}, func(err error) { o.land(f, err) })
}

// batchCost is what a batch takes in a segment, in bytes, with its place in the
// index (package journal/file, format.go).
func batchCost(head, body int) int64 {
	const header, entry, piece = 64, 12, 4096
	table := 4 * ((body + piece - 1) / piece)
	return int64(header + entry + align8(head) + align8(table) + align8(body))
}

// segmentCost is what the file header, the seal and the footer take.
const segmentCost = 64 + 64 + 8 + 16

func align8(n int) int { return (n + 7) &^ 7 }
