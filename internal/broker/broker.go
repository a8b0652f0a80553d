// Package broker is Ferry's message broker in no protocol's terms: virtual
// hosts, exchanges, queues, bindings, consumers, credit, settlement, confirms.
// Servers translate their protocol into its calls and its events into theirs.
//
// # Durability
//
// All durable state is a log of records in a journal. A change of state and
// its record are made under one lock, so that replaying the log gives the same
// state. One committer writes what all connections changed since the last
// batch; confirms go out when a batch is durable. See log.go, record.go.
//
// # Locks
//
// In this order, each before those behind it: VHost.mu, producer.mu (several
// only in the order of their names), Queue.mu (several only in the order of
// their numbers), Session.mu, log.mu. The evictor's, the movers'
// and the scratch file's mutexes are innermost. Nothing waits for I/O under any.
package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// Defaults of Config.
const (
	DefaultMaxMessage = 16 << 20 // bytes of a body, as RabbitMQ 4 has it
	DefaultHotBytes   = 64 << 20 // bytes of bodies kept in memory while they are also on disk

	// DefaultSegmentBytes is when a segment of the journal is closed.
	DefaultSegmentBytes = 64 << 20

	// maxInFlight is how many batches the journal may hold. With fewer, records
	// wait longer to be taken, and more of them are settled before that and need
	// not be written; with one, nothing is encoded while the journal syncs.
	maxInFlight = 2
)

// Config is what a broker is made of.
type Config struct {
	Journal journal.Journal // owned by the caller, who closes it after the broker
	Scratch journal.Journal // for transient messages that memory has no room for; nil: they stay in memory
	Logger  *slog.Logger    // nil: nothing is logged

	MaxMessage   int           // bytes of a body; 0: DefaultMaxMessage
	HotBytes     int64         // bytes; 0: DefaultHotBytes
	SegmentBytes int64         // bytes after which a segment is closed; 0: DefaultSegmentBytes
	Alarms       AlarmConfig   // what blocks publishers
	CleanEvery   time.Duration // how often the journal is looked at for cleaning; 0: 500 ms

	// Node is the name of this node, written with each epoch that it begins.
	// Empty: it has none.
	Node string

	// Lease is for how long the owner of a shared journal may be silent before
	// another takes over; see lease.go. All that share a journal must have the same.
	// 0: the journal is this broker's alone, and nothing is timed.
	Lease time.Duration

	batchBytes, partBytes int          // of tests: batchBody and partSize
	producers             int          // of tests: producersMax
	windows               windowLimits // of tests
}

// Broker holds everything. Open makes one.
type Broker struct {
	cfg      Config
	logger   *slog.Logger
	log      *log
	lease    *lease // nil: there is none
	evict    *evictor
	moves    *moves
	scratch  *scratch
	replies  replies
	settings *settings
	applier  *applier
	alarms   alarms
	timers   timers
	timeouts timeouts
	blocked  atomic.Pointer[string] // why publishers are blocked, nil if they are not

	cleaning       sync.Mutex   // held by who cleans the journal
	checkpointSize atomic.Int64 // bytes of the newest checkpoint

	loading chan struct{}  // limits loads under way
	tasks   sync.WaitGroup // loads and other short work
	loops   sync.WaitGroup
	quit    chan struct{}   // closed by Close
	reading context.Context // of reads from the journal; it ends with the broker where that is shared
	stop    context.CancelFunc

	failed   chan struct{} // closed when the broker cannot go on
	failOnce sync.Once

	nextQueue atomic.Uint64
	announced atomic.Int64 // bytes of bodies that have memory and have not come

	recovery time.Duration // that reading the journal took, or taking it over

	clock   atomic.Int64 // the time, as alarmLoop looked at it last, unix ms
	churn   churn
	deleted deleted

	mu       sync.Mutex // guards what follows
	vhosts   map[string]*VHost
	sessions map[*Session]struct{}
	users    map[string]*usage // that have sessions
	empty    chan struct{}     // closed when the last session is, nil if nobody waits
	past     past
	failure  *Error
	cause    error
	closing  *Error
}

// Open replays the journal and starts to serve. Without a lease the journal must
// not be in use by anybody else; with one, Open waits until the broker owns it, as
// Standby.Await does. Errors: those of the journal; a *journal.CorruptError is
// final until somebody looked at it.
func Open(ctx context.Context, cfg Config) (*Broker, error) {
	if cfg.Lease > 0 {
		return NewStandby(cfg).Await(ctx)
	}
	began := time.Now()
	b := newBroker(cfg)
	info := cfg.Journal.Info()
	r := b.replayer(info.Checkpoint)
	if err := cfg.Journal.Replay(ctx, 0, 0, false, r.batch); err != nil {
		return nil, fmt.Errorf("replay the journal: %w", err)
	}
	segments, err := cfg.Journal.Segments(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the journal's segments: %w", err)
	}
	r.finish(segments)
	b.log.begin(info.Head, info.Epoch+1, info.Segment, info.Checkpoint)
	b.log.ownerLocked()
	b.log.wake <- struct{}{}
	b.recovery = time.Since(began)
	if err := b.serve(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// newBroker makes a broker that is empty and not started.
func newBroker(cfg Config) *Broker {
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = DefaultMaxMessage
	}
	if cfg.HotBytes == 0 {
		cfg.HotBytes = DefaultHotBytes
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = DefaultSegmentBytes
	}
	if cfg.CleanEvery == 0 {
		cfg.CleanEvery = 500 * time.Millisecond
	}
	b := &Broker{
		cfg:      cfg,
		logger:   cfg.Logger,
		loading:  make(chan struct{}, loaders),
		quit:     make(chan struct{}),
		failed:   make(chan struct{}),
		vhosts:   map[string]*VHost{},
		sessions: map[*Session]struct{}{},
		users:    map[string]*usage{},
		settings: &settings{},
		timers:   timers{wake: make(chan struct{}, 1)},
		applier:  newApplier(),
	}
	b.clock.Store(time.Now().UnixMilli())
	if b.logger == nil {
		b.logger = slog.New(slog.DiscardHandler)
	}
	b.timeouts.wake = make(chan struct{}, 1)
	b.evict = newEvictor(b, cfg.HotBytes)
	b.moves = newMoves(b)
	b.scratch = newScratch(b, cfg.Scratch)
	b.replies.init()
	inFlight := min(max(cfg.Journal.Info().InFlight, 1), maxInFlight)
	b.log = &log{
		b: b, j: cfg.Journal,
		segs: map[uint64]*segment{}, large: map[*stored]struct{}{}, must: map[*stored]struct{}{},
		wake: make(chan struct{}, 1), rolled: make(chan struct{}, 1), slots: make(chan struct{}, inFlight), done: make(chan struct{}),
		free: make(chan *batchBuffers, inFlight+1), segmentMax: cfg.SegmentBytes,
		batchMax: cmp.Or(cfg.batchBytes, batchBody), partMax: cmp.Or(cfg.partBytes, partSize),
	}
	b.reading, b.stop = context.Background(), func() {}
	if cfg.Lease > 0 {
		b.reading, b.stop = context.WithCancel(b.reading) // its medium may be out of reach
		b.lease = newLease(cfg.Lease)
		b.log.weight = batchWeight
	}
	return b
}

// serve starts the broker. When that fails it is closed.
func (b *Broker) serve(ctx context.Context) error {
	b.loops.Go(b.log.run)
	b.loops.Go(b.evict.run)
	for range carriers {
		b.loops.Go(b.moves.run)
	}
	b.loops.Go(b.cleanLoop)
	b.loops.Go(b.alarmLoop)
	b.loops.Go(b.timeoutLoop)
	b.loops.Go(b.applyLoop)
	b.keepMissing()
	b.startClocks()
	b.enforceAll()
	b.loops.Go(b.clockLoop)
	if b.lease != nil {
		b.loops.Go(b.leaseLoop)
	}
	if len(b.allVHosts()) == 0 {
		if err := b.AddVHost("/"); err != nil {
			return errors.Join(err, b.Close(ctx), b.Cause())
		}
	}
	return nil
}

// MaxMessage is the largest body taken, bytes.
func (b *Broker) MaxMessage() int { return b.cfg.MaxMessage }

// Failed is closed when the broker cannot go on: the journal failed, or is
// damaged. What was pending is neither confirmed nor refused.
func (b *Broker) Failed() <-chan struct{} { return b.failed }

// Err is why Failed is closed, nil if it is not.
func (b *Broker) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure == nil {
		return nil
	}
	return b.failure
}

// Cause is the journal's own error behind Err. If it is ErrOwnership, the messages
// are not damaged, but another's.
func (b *Broker) Cause() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause
}

// fail ends the broker for good. It may be called by any goroutine, and does
// not wait.
func (b *Broker) fail(err error) {
	b.failOnce.Do(func() {
		failure := errorf(Internal, "the message store failed; restart the broker to recover")
		if b.lost(err) {
			if !errors.Is(err, ErrOwnership) {
				err = fmt.Errorf("%w: %w", ErrOwnership, err)
			}
			failure = errorf(Forced, "%s", lostText)
			if b.lease != nil {
				b.lease.ended.Store(true)
			}
			if errors.Is(err, journal.ErrLost) {
				b.logger.Error("messages that were confirmed are not in the store any more: it was set back, or a replica that lacked them has taken its place; what it has is served on", "error", err)
			} else {
				b.logger.Warn("this node does not own the messages any more; what is pending is neither confirmed nor refused", "error", err)
			}
		} else {
			b.logger.Error("the broker cannot go on; what is pending is neither confirmed nor refused", "error", err)
		}
		b.stop()
		b.mu.Lock()
		b.failure = failure
		b.cause = err
		e := b.failure
		sessions := b.sessionsLocked()
		b.mu.Unlock()
		close(b.failed)
		closeAll(sessions, e)
	})
}

func closeAll(sessions []*Session, reason *Error) {
	for _, s := range sessions {
		s.push(Event{Kind: EventClosed, Err: reason})
		s.Interrupt()
	}
}

// CloseSessions asks every connection to close with this reason, and lets no
// further one in. It does not wait.
func (b *Broker) CloseSessions(reason string) {
	e := errorf(Forced, "%s", reason)
	b.mu.Lock()
	b.closing = e
	sessions := b.sessionsLocked()
	b.mu.Unlock()
	closeAll(sessions, e)
}

// AwaitSessions returns nil when no session is open any more, or ctx's cause. It is
// of use behind CloseSessions, which lets no further one in.
func (b *Broker) AwaitSessions(ctx context.Context) error {
	b.mu.Lock()
	if len(b.sessions) == 0 {
		b.mu.Unlock()
		return nil
	}
	if b.empty == nil {
		b.empty = make(chan struct{})
	}
	empty := b.empty
	b.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// forget takes a session that is closed off the list.
func (b *Broker) forget(s *Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.sessions[s]; ok {
		b.countOffLocked(s)
		b.dismissLocked(s)
		delete(b.sessions, s)
	}
	if len(b.sessions) == 0 && b.empty != nil {
		close(b.empty)
		b.empty = nil
	}
}

// Close writes what is pending and ends the broker's goroutines. Sessions
// should be closed before. It returns the failure, if there was one: also that
// ctx ended before all was written, as it may on a full medium. The last that the
// owner of a shared journal writes hands it over, so that a standby begins at once;
// sessions that are still open are told that they are closed, and nothing else
// from there on.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	open := len(b.sessions) > 0 && b.closing == nil
	if b.closing == nil {
		b.closing = errorf(Forced, "broker is closed")
	}
	select {
	case <-b.quit:
		b.mu.Unlock()
		return b.Err()
	default:
		close(b.quit)
	}
	b.mu.Unlock()
	if open && b.lease != nil {
		b.CloseSessions("broker is closed")
	}
	b.stop()
	b.log.shutdown(ctx)
	b.loops.Wait()
	b.tasks.Wait()
	return b.Err()
}

func (b *Broker) vhost(name string) *VHost {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.vhosts[name]
}
