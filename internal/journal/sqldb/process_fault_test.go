package sqldb_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

// faultLease is that of most journals here.
const faultLease = 2 * time.Second

// heldUp is for how long nobody is held up, however slow the machine is.
const heldUp = 5 * time.Second

// faultBatch is what a writer of an epoch appends at a position.
func faultBatch(epoch, position uint64, size int) journal.Batch {
	return journal.Batch{
		Position: position, Epoch: epoch, Segment: epoch, Head: fmt.Appendf(nil, "%d by %d", position, epoch),
		Body: [][]byte{bytes.Repeat([]byte{byte(position), byte(epoch), '\'', 0}, size/4)},
	}
}

// writerVariable has what a process that is started as a writer needs: URL, lease,
// epoch and size of its batches.
const writerVariable = "FERRY_SQLDB_WRITER"

// TestWriterProcess is a process of its own in other tests: it appends until it
// fails, and tells of each append that is acknowledged.
func TestWriterProcess(t *testing.T) {
	fields := strings.Fields(os.Getenv(writerVariable))
	if len(fields) == 0 {
		return
	}
	lease, err1 := time.ParseDuration(fields[1])
	epoch, err2 := strconv.ParseUint(fields[2], 10, 64)
	size, err3 := strconv.Atoi(fields[3])
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	j := openFor(t, fields[0], lease)
	first := takeOver(t, j, epoch, size)
	fmt.Println("first", first)
	var failed error
	ended := make(chan struct{})
	for position := first + 1; ; position++ {
		select {
		case <-ended:
			fmt.Println("end", errors.Is(failed, journal.ErrFenced), failed)
			return
		default:
		}
		j.Append(faultBatch(epoch, position, size), func(err error) {
			switch {
			case err == nil && failed == nil:
				fmt.Println("ack", position)
			case err == nil:
				fmt.Println("ack behind a failure", position)
			case failed == nil:
				failed = err
				close(ended)
			}
		})
	}
}

// openFor opens a journal, however slow the machine is.
func openFor(t *testing.T, url string, lease time.Duration) *sqldb.Journal {
	t.Helper()
	j, err := sqldb.Open(t.Context(), url, sqldb.Options{Lease: lease})
	for end := time.Now().Add(30 * time.Second); sqldb.IsTemporary(err) && time.Now().Before(end); {
		j, err = sqldb.Open(t.Context(), url, sqldb.Options{Lease: lease})
	}
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return j
}

// takeOver appends the first batch of an epoch behind whatever lands meanwhile, and
// returns its position.
func takeOver(t *testing.T, j journal.Journal, epoch uint64, size int) uint64 {
	t.Helper()
	for {
		head, err := j.Head(t.Context())
		if err != nil {
			t.Fatalf("head: %v", err)
		}
		done := make(chan error, 1)
		j.Append(faultBatch(epoch, head+1, size), func(err error) { done <- err })
		err = <-done
		if err == nil {
			return head + 1
		}
		if conflict := (*journal.ConflictError)(nil); !errors.As(err, &conflict) {
			t.Fatalf("take over: %v", err)
		}
	}
}

// A writer is a process that appends.
type writer struct {
	t     *testing.T
	cmd   *exec.Cmd
	epoch uint64
	size  int
	moved chan struct{} // it has said something
	read  sync.WaitGroup

	mu    sync.Mutex
	first uint64 // position of its first batch
	acked uint64 // and of the last that was acknowledged
	end   string // how it ended, by what it said
}

func startWriter(t *testing.T, url string, lease time.Duration, epoch uint64, size int) *writer {
	t.Helper()
	w := &writer{t: t, epoch: epoch, size: size, moved: make(chan struct{}, 1)}
	w.cmd = exec.Command(os.Args[0], "-test.run=^TestWriterProcess$", "-test.timeout=100s")
	w.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %v %d %d", writerVariable, url, lease, epoch, size),
		"GORACE=atexit_sleep_ms=0") // it says what it knows at once
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.read.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			w.hear(lines.Text())
		}
	})
	t.Cleanup(func() {
		if w.cmd.ProcessState == nil {
			_ = w.cmd.Process.Kill()
			_ = w.wait() // it was killed
		}
	})
	return w
}

func (w *writer) hear(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	word, rest, _ := strings.Cut(line, " ")
	position, err := strconv.ParseUint(rest, 10, 64)
	switch word {
	case "first":
		w.first, w.acked = position, position
	case "ack":
		if err != nil || position != w.acked+1 {
			w.t.Errorf("writer %d says %q after %d", w.epoch, line, w.acked)
		}
		w.acked = position
	case "end":
		w.end = rest
	default:
		return // of the testing package
	}
	select {
	case w.moved <- struct{}{}:
	default:
	}
}

func (w *writer) state() (first, acked uint64, end string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.first, w.acked, w.end
}

// await waits until so many appends were acknowledged.
func (w *writer) await(count uint64) {
	w.t.Helper()
	for {
		first, acked, end := w.state()
		if end != "" {
			w.t.Fatalf("writer %d ended: %s", w.epoch, end)
		}
		if first > 0 && acked >= first+count {
			return
		}
		select {
		case <-w.moved:
		case <-time.After(50 * time.Second):
			w.t.Fatalf("writer %d says nothing after %d", w.epoch, acked)
		}
	}
}

func (w *writer) signal(s os.Signal) {
	w.t.Helper()
	if err := w.cmd.Process.Signal(s); err != nil {
		w.t.Fatal(err)
	}
}

// wait waits for the end of the process.
func (w *writer) wait() error {
	w.read.Wait()
	return w.cmd.Wait()
}

// A reign is the batches of one epoch: those at first to acked were acknowledged.
type reign struct {
	epoch        uint64
	first, acked uint64
	size         int
}

func (w *writer) reign() reign {
	first, acked, _ := w.state()
	return reign{w.epoch, first, acked, w.size}
}

// checkReigns checks that a log is what its owners were told, one after the other:
// of each what was acknowledged, and at most so many whose outcome it was not told.
func checkReigns(t *testing.T, j journal.Journal, reigns ...reign) {
	t.Helper()
	next, at, unknown := uint64(1), 0, 0
	err := j.Replay(t.Context(), 0, 0, true, func(b journal.Batch) error {
		if at+1 < len(reigns) && b.Epoch == reigns[at+1].epoch {
			at++
			if next != reigns[at].first {
				return fmt.Errorf("epoch %d begins at %d, its owner was told %d", b.Epoch, next, reigns[at].first)
			}
		}
		r := reigns[at]
		if b.Position != next {
			return fmt.Errorf("position %d after %d", b.Position, next-1)
		}
		if next > r.acked {
			unknown++
			if over := next - r.acked; over > uint64(j.Info().InFlight) {
				return fmt.Errorf("epoch %d has %d batches that were not acknowledged", r.epoch, over)
			}
		} else if at+1 < len(reigns) && r.acked >= reigns[at+1].first {
			return fmt.Errorf("epoch %d was told of %d, epoch %d begins at %d", r.epoch, r.acked, reigns[at+1].epoch, reigns[at+1].first)
		}
		next++
		return journaltest.Same(b, faultBatch(r.epoch, b.Position, r.size))
	})
	if err != nil {
		t.Fatal(err)
	}
	if last := reigns[len(reigns)-1]; at != len(reigns)-1 || next <= last.acked {
		t.Fatalf("the log ends at %d in epoch %d, %d in epoch %d was acknowledged", next-1, reigns[at].epoch, last.acked, last.epoch)
	}
	t.Logf("%d batches of %d owners, %d of them not told", next-1, len(reigns), unknown)
}

// awaitSilence returns when the log has not moved for a lease.
func awaitSilence(t *testing.T, j journal.Journal) {
	t.Helper()
	for {
		head, err := j.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), faultLease)
		err = j.Follow(ctx, head)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil {
			t.Fatalf("follow: %v", err)
		}
	}
}

// everyFault says that the long form of each fault was asked for.
var everyFault = os.Getenv("FERRY_LONG") == "1"

// The sizes of batches: small ones are many, and large ones are on their way for so
// long that it is most likely one of them that a signal meets.
var faultSizes = []int{100, 1 << 20}

// TestAWriterThatIsPausedHoldsNobodyUp: it is stopped wherever it is, another takes
// over, and when it is woken it learns that it owns nothing any more. That goes for
// one whose lease is over, and for one that does not know that anything has timed
// out, which must not hold a lock until then.
func TestAWriterThatIsPausedHoldsNobodyUp(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		j := openFor(t, url, 10*heldUp)
		var reigns []reign
		epoch := uint64(0)
		for i, lease := range []time.Duration{faultLease, 10 * heldUp} {
			for k, size := range faultSizes {
				if i != k && !everyFault {
					continue
				}
				old := startWriter(t, url, lease, epoch+1, size)
				old.await(6)
				old.signal(syscall.SIGSTOP)
				if lease == faultLease {
					awaitSilence(t, j)
				}
				next := openFor(t, url, lease)
				began := time.Now()
				first := takeOver(t, next, epoch+2, 10)
				if d := time.Since(began); d > heldUp {
					t.Errorf("the next owner was held up for %v", d)
				}
				old.signal(syscall.SIGCONT)
				if err := old.wait(); err != nil {
					t.Errorf("the old owner: %v", err)
				}
				if _, _, end := old.state(); !strings.HasPrefix(end, "true ") {
					t.Errorf("the old owner ended with %q, want that it is fenced", end)
				}
				epoch += 2
				reigns = append(reigns, old.reign(), reign{epoch, first, first, 10})
			}
		}
		checkReigns(t, j, reigns...)
	})
}

// TestAWriterThatIsKilledLeavesNoDoubt: what the next owner finds is all that there
// will be.
func TestAWriterThatIsKilledLeavesNoDoubt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		var reigns []reign
		rounds := len(faultSizes)
		if everyFault {
			rounds *= 10
		}
		for i := range rounds {
			w := startWriter(t, url, faultLease, uint64(i+1), faultSizes[i%len(faultSizes)])
			w.await(6)
			w.signal(syscall.SIGKILL)
			if err := w.wait(); err == nil {
				t.Error("a process that was killed ended well")
			}
			reigns = append(reigns, w.reign())
		}
		j := openFor(t, url, faultLease)
		first := takeOver(t, j, 100, 10)
		checkReigns(t, j, append(reigns, reign{100, first, first, 10})...)
	})
}
