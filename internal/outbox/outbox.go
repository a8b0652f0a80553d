// Package outbox keeps messages in a local directory until a broker has taken
// them: a durable, bounded queue with one program that fills and drains it.
//
// What Put has acknowledged survives a kill and a power cut of this machine.
// Take gives messages in the order in which they were put, each once for every
// Open; Settle forgets one. After a restart what was not settled is there again,
// in order, with the same numbers. What was settled comes back only if the
// settlement had not been written: such messages, like all that were there when
// the outbox was opened, are marked Recovered. They keep their ids, by which a
// broker that has them drops them.
//
// # Memory and disk
//
// Bodies are on disk; in memory are some figures for each segment of the journal,
// one mark for each half MiB of it, the settled numbers behind the oldest
// message that is not settled, and small buffers. The size of the outbox does
// not matter to it.
//
// A segment is removed when all its messages are settled, in any order of the
// segments. Messages are taken in order, so that those that are not settled
// stand at the front, and one that stays unsettled keeps the segment that it
// is in, a sixteenth of MaxBytes at most, not what is behind. That is why nothing
// is ever rewritten.
//
// The format is drawn in format.go and message.go.
package outbox

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
)

// Errors of an outbox, wrapped with what was being done.
var (
	ErrClosed   = errors.New("outbox is closed")
	ErrFull     = errors.New("outbox has no room")
	ErrTooLarge = errors.New("message is larger than the outbox takes")

	// ErrUnknown says that a Put ended while the message was being written: it
	// may be stored, and sent.
	ErrUnknown = errors.New("it is not known whether the message is stored")
)

const (
	defaultMaxBytes = 1 << 30
	minMaxBytes     = 1 << 20

	// A segment is a sixteenth of MaxBytes, within these bounds, in bytes. A
	// start reads the heads of the newest one.
	segmentShare = 16
	minSegment   = 64 << 10
	maxSegment   = 64 << 20

	// A batch of messages is as large as this before the next one is begun, and
	// a larger message is spread over parts of partBytes.
	batchBytes = 256 << 10
	partBytes  = file.MaxBatch / 2

	// What was put and is not yet stored takes so much memory at most, in bytes,
	// unless it is one message.
	maxPending = 8 << 20

	// Settlements with which nothing else is written wait so long for others,
	// unless there are so many.
	settleDelay = 20 * time.Millisecond
	settleMany  = 4 << 10

	// While the medium is nearly full nothing but settlements is written. What
	// has become of that is looked at so often, and the journal is asked to make
	// its reserve again when so many bytes are free: twice the reserve.
	lowPause = time.Second
	lowFree  = 2 << 20
)

// Options are the settings of an outbox. The zero value is good.
type Options struct {
	// MaxBytes is how much the outbox may take on disk, in bytes, 1 MiB at
	// least; 0 is 1 GiB. A message may take half of it.
	MaxBytes int64

	// Logger gets warnings; nil is slog.Default.
	Logger *slog.Logger

	// FS is the file system; nil is that of the operating system.
	FS vfs.FS

	// Of tests.
	segmentBytes, batchBytes, partBytes, cacheBytes int
}

func (o *Options) setDefaults() {
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	o.MaxBytes = max(o.MaxBytes, minMaxBytes)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	set := func(p *int, n int) {
		if *p == 0 {
			*p = n
		}
	}
	set(&o.segmentBytes, int(min(max(o.MaxBytes/segmentShare, minSegment), maxSegment)))
	set(&o.batchBytes, min(batchBytes, o.segmentBytes))
	set(&o.partBytes, partBytes)
	set(&o.cacheBytes, cacheBytes)
}

// An Outbox is open until Close. All methods may be called concurrently.
type Outbox struct {
	dir       string
	options   Options
	journal   journal.Journal
	producer  string
	recovered uint64 // messages below this number were there at Open
	epoch     uint64

	mu     sync.Mutex
	book   book
	intake intake
	outlet outlet
	failed error // of the journal, when it was written to; final
	broken error // when it was read; final too, but settlements are written
	closed bool
	ended  bool // nothing will be stored any more, nor fail

	// Slots: what they stand for has changed.
	work   chan struct{} // for the goroutine that writes
	landed chan struct{} // for the one that reports
	clean  chan struct{} // for the one that drops segments

	// Whoever holds one of these may use what is behind it.
	reading  turn
	reader   reader
	refusing turn
	refusals refusals

	closing  sync.Once
	closeErr error
	writing  sync.WaitGroup // the goroutine that writes
	serving  sync.WaitGroup // the others
}

// Open opens the outbox in dir, which is made if it is not there, and holds it
// until Close. If another process does already, the error is
// journal.ErrLocked; if the directory is damaged, or holds something else, the
// error says so, and nothing is changed.
func Open(dir string, options Options) (*Outbox, error) {
	options.setDefaults()
	j, err := file.Open(options.FS, dir, file.Options{Logger: options.Logger})
	if errors.Is(err, journal.ErrLocked) {
		return nil, fmt.Errorf("outbox %s is used by another process, and each process needs a directory of its own: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open outbox: %w", err)
	}
	o := &Outbox{
		dir:      dir,
		options:  options,
		journal:  j,
		intake:   intake{room: make(chan struct{})},
		outlet:   outlet{arrived: make(chan struct{}, 1)},
		work:     make(chan struct{}, 1),
		landed:   make(chan struct{}, 1),
		clean:    make(chan struct{}, 1),
		reading:  make(turn, 1),
		refusing: make(turn, 1),
	}
	if err := o.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("open outbox %s: %w", dir, err), j.Close())
	}
	if err := o.repairRefused(); err != nil {
		return nil, errors.Join(fmt.Errorf("open outbox %s: %w", dir, err), j.Close())
	}
	o.recovered = o.book.next
	o.writing.Go(o.write)
	o.serving.Go(o.report)
	o.serving.Go(o.cleanUp)
	signal(o.clean)
	return o, nil
}

// Producer is the first half of the messages' ids, PRODUCER-SEQ. It is made at
// random with the first message that is stored, and stays for the life of the
// directory.
func (o *Outbox) Producer() string { return o.producer }

// Stats is what is in an outbox.
type Stats struct {
	Messages int64 // stored or being stored, and not settled
	Bytes    int64 // on disk, those of settled messages included, but not the journal's reserve of 1 MiB
	MaxBytes int64
	Refused  uint64 // ever

	// Oldest is when the oldest message was stored, or earlier by what half a
	// MiB of messages, or a segment that was stored before Open, took to come.
	// Zero if there is none.
	Oldest time.Time
}

// Stats never waits for the disk.
func (o *Outbox) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	return Stats{
		Messages: o.book.messages,
		Bytes:    o.book.bytes,
		MaxBytes: o.options.MaxBytes,
		Refused:  o.book.refused,
		Oldest:   o.book.oldest(),
	}
}

// Err is why the outbox takes no messages any more, nil if it does. That is the
// first failed write or sync: what was stored before can still be taken, but
// settlements are not written. Or Take has met damage, or a disk that does not
// read: it stops there, and skips nothing. A new Open is the way on.
func (o *Outbox) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.errLocked()
}

func (o *Outbox) errLocked() error {
	if o.failed != nil {
		return o.failed
	}
	return o.broken
}

// closePause is how often Close looks whether the journal waits for space.
const closePause = 50 * time.Millisecond

// Close stores what was put and writes what was settled, then releases the
// directory. It does not wait for space on a full disk: what is not stored
// fails. It waits until the done functions of PutAsync have returned. Closing
// twice is no error.
func (o *Outbox) Close() error {
	o.closing.Do(func() { o.closeErr = o.close() })
	return o.closeErr
}

func (o *Outbox) close() error {
	o.mu.Lock()
	o.closed = true
	o.intake.wakeLocked()
	o.mu.Unlock()
	signal(o.work)
	signal(o.outlet.arrived)
	written := make(chan struct{})
	go func() {
		o.writing.Wait()
		close(written)
	}()
	tick := time.NewTicker(closePause)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-written:
			waiting = false
		case <-tick.C:
			if o.journal.Status().Waiting != nil {
				waiting = false // closing the journal ends its wait
			}
		}
	}
	// Nobody reads any more, nor begins to.
	o.reading <- struct{}{}
	o.refusing <- struct{}{}
	err := o.journal.Close()
	<-written
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	signal(o.landed)
	signal(o.clean)
	o.serving.Wait()
	<-o.reading
	<-o.refusing
	if err != nil {
		return fmt.Errorf("close outbox: %w", err)
	}
	return nil
}

// signal fills a slot.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A turn is held by one goroutine at a time, which may wait and read meanwhile.
type turn chan struct{}
