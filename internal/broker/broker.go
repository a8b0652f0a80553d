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
// their numbers), Session.mu, log.mu. The evictor's and the scratch file's
// mutexes are innermost. Nothing waits for I/O under any.
package broker

import (
	"cmp"
	"context"
	"errors"
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

	batchBytes, partBytes int          // of tests: batchBody and partSize
	producers             int          // of tests: producersMax
	windows               windowLimits // of tests
}

// Broker holds everything. Open makes one.
type Broker struct {
	cfg     Config
	logger  *slog.Logger
	log     *log
	evict   *evictor
	scratch *scratch
	replies replies
	alarms  alarms
	blocked atomic.Pointer[string] // why publishers are blocked, nil if they are not

	cleaning       sync.Mutex   // held by who cleans the journal
	checkpointSize atomic.Int64 // bytes of the newest checkpoint

	loading chan struct{}  // limits loads under way
	tasks   sync.WaitGroup // loads and other short work
	loops   sync.WaitGroup
	quit    chan struct{} // closed by Close

	failed   chan struct{} // closed when the broker cannot go on
	failOnce sync.Once

	nextQueue atomic.Uint64
	announced atomic.Int64 // bytes of bodies that have memory and have not come

	mu       sync.Mutex // guards what follows
	vhosts   map[string]*VHost
	sessions map[*Session]struct{}
	failure  *Error
	cause    error
	closing  *Error
}

// Open replays the journal and starts to serve. The journal must not be in use
// by anybody else. Errors: those of the journal; a *journal.CorruptError is
// final until somebody looked at it.
func Open(ctx context.Context, cfg Config) (*Broker, error) {
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
	}
	if b.logger == nil {
		b.logger = slog.New(slog.DiscardHandler)
	}
	b.evict = newEvictor(b, cfg.HotBytes)
	b.scratch = newScratch(b, cfg.Scratch)
	b.replies.init()
	info := cfg.Journal.Info()
	inFlight := min(max(info.InFlight, 1), maxInFlight)
	b.log = &log{
		b: b, j: cfg.Journal,
		segs: map[uint64]*segment{}, large: map[*stored]struct{}{}, must: map[*stored]struct{}{},
		wake: make(chan struct{}, 1), rolled: make(chan struct{}, 1), slots: make(chan struct{}, inFlight), done: make(chan struct{}),
		free: make(chan *batchBuffers, inFlight+1), segmentMax: cfg.SegmentBytes,
		batchMax: cmp.Or(cfg.batchBytes, batchBody), partMax: cmp.Or(cfg.partBytes, partSize),
	}
	if err := b.recover(ctx, info); err != nil {
		return nil, err
	}
	b.loops.Go(b.log.run)
	b.loops.Go(b.evict.run)
	b.loops.Go(b.cleanLoop)
	b.loops.Go(b.alarmLoop)
	if b.vhost("/") == nil {
		if err := b.AddVHost("/"); err != nil {
			return nil, errors.Join(err, b.Close(ctx))
		}
	}
	return b, nil
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

// Cause is the journal's own error behind Err.
func (b *Broker) Cause() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause
}

// fail ends the broker for good. It may be called by any goroutine, and does
// not wait.
func (b *Broker) fail(err error) {
	b.failOnce.Do(func() {
		b.logger.Error("the broker cannot go on; what is pending is neither confirmed nor refused", "error", err)
		b.mu.Lock()
		b.failure = errorf(Internal, "the message store failed; restart the broker to recover")
		b.cause = err
		e := b.failure
		sessions := make([]*Session, 0, len(b.sessions))
		for s := range b.sessions {
			sessions = append(sessions, s)
		}
		b.mu.Unlock()
		close(b.failed)
		for _, s := range sessions {
			s.push(Event{Kind: EventClosed, Err: e})
			s.Interrupt()
		}
	})
}

// CloseSessions asks every connection to close with this reason, and lets no
// further one in. It does not wait.
func (b *Broker) CloseSessions(reason string) {
	e := errorf(Forced, "%s", reason)
	b.mu.Lock()
	b.closing = e
	sessions := make([]*Session, 0, len(b.sessions))
	for s := range b.sessions {
		sessions = append(sessions, s)
	}
	b.mu.Unlock()
	for _, s := range sessions {
		s.push(Event{Kind: EventClosed, Err: e})
		s.Interrupt()
	}
}

// Close writes what is pending and ends the broker's goroutines. Sessions
// should be closed before. It returns the failure, if there was one: also that
// ctx ended before all was written, as it may on a full medium.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
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
