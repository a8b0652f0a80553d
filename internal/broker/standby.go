package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

const (
	// DefaultLease is what a standby goes by that was given none.
	DefaultLease = 5 * time.Second

	// A standby asks where the journal ends this many times in a lease, within
	// limits. It is told sooner where the journal can say that it has moved.
	askParts = 20
	askMin   = 10 * time.Millisecond
	askMax   = 100 * time.Millisecond
	// restParts is the part of that which it always lets pass between two looks, so
	// that a busy owner is read in larger pieces.
	restParts = 10

	// While the journal cannot be read, it is tried again after these times.
	retryMin = 20 * time.Millisecond
	retryMax = 500 * time.Millisecond
)

// A Standby follows a journal that another broker writes, keeps what it holds
// ready, and becomes a Broker when that one has handed over, or has been silent for
// the lease.
//
// Who becomes it is settled by the journal alone: the first batch of a higher epoch
// that succeeds at the next position. Of two that try, one is refused, and goes on
// following. The time that passes before the try is for the owner's sake, who counts
// too; see lease.go. It is counted from the end of one successful look at the
// journal's head to the beginning of another that finds it unmoved. Looks that
// failed prove nothing, and the count begins anew behind them.
type Standby struct {
	cfg      Config
	logger   *slog.Logger
	follower *follower // of Await's goroutine; nil before
	settings *settings // as far as the journal was read; also the broker's that it becomes

	mu     sync.Mutex // guards what follows
	status StandbyStatus
	moved  time.Time     // when the head was first seen where it is
	warned time.Duration // the lease of an owner that was warned of
}

// StandbyStatus is how far a standby is.
type StandbyStatus struct {
	Node     string        // its own name
	Position uint64        // up to which it has taken the journal in
	Head     uint64        // where the journal was last seen to end
	Epoch    uint64        // the highest that it has read
	Owner    string        // the name of the node that began it, empty: not known
	Silent   time.Duration // for how long the journal has not been seen to move
	Queues   int           // durable ones
	Messages int           // in them, each counted in each of its queues
	Err      error         // why the journal cannot be read, nil if it can
}

// NewStandby returns a standby for a journal that is shared. A Lease of 0 stands
// for DefaultLease.
func NewStandby(cfg Config) *Standby {
	if cfg.Lease <= 0 {
		cfg.Lease = DefaultLease
	}
	s := &Standby{cfg: cfg, logger: cfg.Logger, moved: time.Now(), settings: &settings{}}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.status.Node = cfg.Node
	return s
}

// Status may be asked at any time, by any goroutine, and never waits.
func (s *Standby) Status() StandbyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Silent = time.Since(s.moved)
	return st
}

// Await follows the journal until this node owns it, and returns the broker, which
// serves. A journal that cannot be read is tried again for as long as ctx lasts.
// Errors: ctx's cause; a *journal.CorruptError and what else says that the journal
// is of no use any more: it is to be closed, and may be opened anew. Await is called
// once.
func (s *Standby) Await(ctx context.Context) (*Broker, error) {
	if s.follower != nil {
		return nil, errors.New("the standby was used before")
	}
	f := &follower{s: s, j: s.cfg.Journal}
	s.follower = f
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	every := min(max(s.cfg.Lease/askParts, askMin), askMax)
	followed := make(chan struct{}, 1)
	following := false
	retry := retryMin
	for {
		b, err := f.step(ctx)
		if ctx.Err() != nil && b == nil {
			return nil, context.Cause(ctx)
		}
		s.tell(f, err)
		if b != nil || err != nil && f.final(err) {
			return b, err
		}
		rest, wait := every/restParts, every
		if err != nil {
			rest, wait = retry, retry
			retry = min(2*retry, retryMax)
		} else {
			retry = retryMin
			if !following {
				following = true
				after := f.head
				wg.Go(func() {
					if f.j.Follow(ctx, after) != nil {
						_ = sleep(ctx, every) // it was only a hint: what fails is met by the next look
					}
					followed <- struct{}{}
				})
			}
		}
		if sleep(ctx, rest) != nil {
			return nil, context.Cause(ctx)
		}
		timer := time.NewTimer(wait - rest)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-followed:
			following = false
		}
		timer.Stop()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tell publishes how far the follower is, and says once that the journal cannot be
// read, and once that it can again.
func (s *Standby) tell(f *follower, err error) {
	s.mu.Lock()
	st := &s.status
	was, warn := st.Err, false
	st.Err = err
	if f.head != st.Head {
		st.Head, s.moved = f.head, time.Now()
	}
	if r := f.r; r != nil {
		st.Position, st.Epoch, st.Owner = r.last, r.epoch, r.owner
		st.Queues, st.Messages = len(r.queues), r.ready
		if r.lease > 0 && r.lease != s.cfg.Lease && r.lease != s.warned {
			s.warned, warn = r.lease, true
		}
	}
	s.mu.Unlock()
	if warn {
		s.logger.Warn("the owner has another lease than this node; a takeover waits for the longer of both", "owner", f.r.owner, "its", f.r.lease, "own", s.cfg.Lease)
	}
	switch {
	case err != nil && was == nil:
		s.logger.Warn("the journal cannot be read; it is tried again", "error", err)
	case err == nil && was != nil:
		s.logger.Info("the journal can be read again")
	}
}

// A follower keeps a broker, not started, in the state that the journal describes.
type follower struct {
	s *Standby
	j journal.Journal
	b *Broker
	r *replayer // nil: to begin anew, at the newest checkpoint

	head  uint64    // where the journal ended when it was last looked at
	since time.Time // end of the first look that found it there; zero: the last look failed
	read  uint64    // up to which the journal was read
	kept  int       // segments that were known after the last look for dropped ones
	fault error     // what makes the journal of no use, nil if nothing does
}

// final tells whether an error ends the following.
func (f *follower) final(err error) bool {
	var corrupt *journal.CorruptError
	return f.fault != nil || errors.As(err, &corrupt) || errors.Is(err, journal.ErrClosed) || errors.Is(err, journal.ErrFenced) || incurable(err)
}

// incurable tells whether a journal says of its error that trying again does not
// help, by a method Final.
func incurable(err error) bool {
	var e interface{ Final() bool }
	return errors.As(err, &e) && e.Final()
}

// step looks at the journal once, takes in what is new, and takes over if that is
// due. It returns the broker if that succeeded.
func (f *follower) step(ctx context.Context) (*Broker, error) {
	asked := time.Now()
	head, err := f.j.Head(ctx)
	if err != nil {
		f.since = time.Time{}
		return nil, fmt.Errorf("ask where the journal ends: %w", err)
	}
	if head < f.head {
		// A database was set back. What was read and is gone may be in the state
		// that is kept here.
		f.fault = fmt.Errorf("the journal ends at position %d, and was seen to end at %d: its medium has lost batches", head, f.head)
		return nil, f.fault
	}
	if f.since.IsZero() || head != f.head {
		f.head, f.since = head, time.Now()
	}
	if f.r == nil {
		if err := f.restart(ctx); err != nil {
			f.since = time.Time{}
			return nil, err
		}
	}
	if f.read != head {
		if err := f.take(ctx, head); err != nil {
			f.since = time.Time{}
			return nil, err
		}
		// Another look is needed to know that nothing has come since, but for an
		// owner that has said that it is gone.
		if f.r == nil || !f.r.handed || f.r.last != head {
			return nil, nil
		}
	}
	why := ""
	switch {
	case head == 0:
		why = "the journal is empty"
	case f.r.handed && f.r.last == head:
		why = "the owner handed over"
	case asked.Sub(f.since) >= max(f.s.cfg.Lease, f.r.lease):
		why = "the owner was silent for the lease"
	default:
		return nil, nil
	}
	return f.takeOver(ctx, why)
}

// restart begins with the newest checkpoint.
func (f *follower) restart(ctx context.Context) error {
	checkpoint, err := f.newest(ctx)
	if err != nil {
		return err
	}
	f.b = newBroker(f.s.cfg)
	f.b.settings = f.s.settings
	f.b.settings.clear()
	f.r = f.b.replayer(checkpoint)
	f.read, f.kept = 0, 0
	return nil
}

// newest is the newest checkpoint that a batch names, 0 if there is none.
func (f *follower) newest(ctx context.Context) (checkpoint uint64, err error) {
	for back := uint64(0); ; {
		head, err := f.j.Head(ctx)
		if err != nil {
			return 0, fmt.Errorf("ask where the journal ends: %w", err)
		}
		if head == 0 {
			return 0, nil
		}
		from := max(head, back+1) - back
		found := false
		err = f.j.Replay(ctx, from, head, false, func(b journal.Batch) error {
			checkpoint, found = b.Checkpoint, true
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("read the end of the journal: %w", err)
		}
		if found {
			return checkpoint, nil
		}
		now, err := f.j.Head(ctx)
		switch {
		case err != nil:
			return 0, fmt.Errorf("ask where the journal ends: %w", err)
		case now != head: // what was looked for may have been dropped
		case from == 1:
			return 0, nil
		default: // the last batches are superseded
			back = 2*back + 1
		}
	}
}

// tellEvery is how often a long reading says how far it is, in batches.
const tellEvery = 1024

// take reads what is new up to head. If what was missing in between may have been
// of importance, the follower begins anew.
func (f *follower) take(ctx context.Context, head uint64) error {
	n := 0
	err := f.j.Replay(ctx, f.r.last+1, head, false, func(b journal.Batch) error {
		if n++; n%tellEvery == 0 {
			f.s.tell(f, nil)
		}
		f.fault = f.r.batch(b)
		return f.fault
	})
	f.r.applyPolicies()
	if err == nil {
		f.read = head
	}
	if !f.r.gap {
		if err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		return f.prune(ctx)
	}
	return f.judgeGap(ctx, err)
}

// pruneAfter is how many more segments than after the last look are known when it
// is looked again which of them the owner has dropped.
const pruneAfter = 64

// prune forgets the segments that the owner has dropped.
func (f *follower) prune(ctx context.Context) error {
	l := f.b.log
	if len(l.segs) < f.kept+pruneAfter {
		return nil
	}
	segments, err := f.j.Segments(ctx)
	if err != nil {
		return fmt.Errorf("list the journal's segments: %w", err)
	}
	there := make(map[uint64]struct{}, len(segments))
	for _, s := range segments {
		there[s.Segment] = struct{}{}
	}
	for n, s := range l.segs {
		if _, ok := there[n]; !ok && s.live <= 0 {
			l.dropSegmentLocked(n)
		}
	}
	f.kept = len(l.segs)
	return nil
}

// judgeGap looks at what was dropped before it was read. An owner drops a segment
// with nothing but settled messages whenever it likes: that is of no importance.
// Others it drops when they lie before the newest checkpoint. If there is no newer
// one than what this follower began with, or has read up to, no such segment is
// missing. err is why the reading ended.
func (f *follower) judgeGap(ctx context.Context, err error) error {
	newest, askErr := f.newest(ctx)
	switch {
	case askErr != nil:
		// It is judged when the journal can be read again: until then this replayer
		// is not to be used.
		f.fault, f.r = nil, nil
		return askErr
	case newest == f.r.checkpoint || newest <= f.r.before+1:
		f.r.gap = false
		if err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		return nil
	default:
		f.s.logger.Info("fell behind what the owner has dropped; beginning anew at the newest checkpoint", "position", f.r.before, "checkpoint", newest)
		f.fault, f.r = nil, nil
		return nil
	}
}

// takeOver tries to become the owner. It returns nil if another did.
func (f *follower) takeOver(ctx context.Context, why string) (*Broker, error) {
	b, r, began := f.b, f.r, time.Now()
	segments, err := f.j.Segments(ctx)
	if err != nil {
		f.since = time.Time{}
		return nil, fmt.Errorf("list the journal's segments: %w", err)
	}
	// What is not listed is gone; but that is to be judged by what the log says up
	// to then.
	if now, err := f.j.Head(ctx); err != nil || now != f.head {
		f.since = time.Time{}
		return nil, err
	}
	r.finish(segments)
	position, epoch := f.head+1, max(r.epoch, f.j.Info().Epoch)+1
	batch := journal.Batch{
		Position: position, Epoch: epoch, Segment: max(r.segment, 1), Checkpoint: r.named,
		Head: ownerRecord(&f.s.cfg),
	}
	sent := b.lease.now()
	done := make(chan error, 1)
	f.j.Append(batch, func(err error) { done <- err })
	select {
	case err = <-done:
	case <-ctx.Done():
		return nil, context.Cause(ctx) // the journal's Close sees to what is under way
	}
	f.since = time.Time{}
	var conflict *journal.ConflictError
	switch {
	case errors.As(err, &conflict):
		f.s.logger.Info("another node took over", "position", position)
		return nil, nil
	case err != nil:
		f.fault = fmt.Errorf("take over: %w", err)
		return nil, f.fault
	}
	b.log.begin(position, epoch, batch.Segment, r.named)
	b.log.beganLocked(position, int64(len(batch.Head)))
	b.lease.sent.Store(sent)
	b.lease.came.Store(sent)
	if b.lease.late() {
		// It took so long that others may have done the same. This batch is followed
		// like any other's.
		f.s.logger.Warn("taking over took longer than the lease allows; following again", "epoch", epoch)
		return nil, nil
	}
	f.s.logger.Info("took over", "why", why, "epoch", epoch, "position", position, "queues", len(r.queues), "messages", r.ready)
	b.recovery = time.Since(began)
	if err := b.serve(ctx); err != nil {
		f.fault = fmt.Errorf("begin to serve: %w", err)
		return nil, f.fault
	}
	return b, nil
}

// beganLocked counts the batch that began the epoch.
func (l *log) beganLocked(pos uint64, size int64) {
	s := l.segs[l.seg]
	if s == nil {
		s = &segment{number: l.seg, first: pos}
		l.addSegmentLocked(s)
	}
	s.last, s.mixed = pos, true
	s.bytes += size + l.weight
	l.segBytes = s.bytes
}
