package file

import (
	"errors"
	"syscall"
	"time"
)

const (
	ballastName = "ballast"
	// ballastSize is what the journal keeps back of the medium, in bytes.
	ballastSize = 1 << 20
	// ballastRoom is how many times as much must be free for the ballast to be
	// made again.
	ballastRoom = 8
	// ballastPause is how often that is looked at.
	ballastPause = time.Second

	// An append that finds no space tries again after minSpaceWait, then
	// after twice as long each time, up to maxSpaceWait; and at once when a
	// segment is dropped.
	minSpaceWait = 20 * time.Millisecond
	maxSpaceWait = time.Second
)

// isNoSpace tells whether an error is one that passes when files are removed.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, errQuota)
}

// A ballast is a file that is removed when the medium is full, so that the
// small batches that lead to space being freed can still be written. It
// belongs to the writer.
type ballast struct {
	j      *Journal
	size   int64
	there  bool
	looked time.Time
}

// fill makes the ballast. Without it the journal is no worse than any other
// program, so that a failure is only logged.
func (b *ballast) fill() {
	if b.j.noSync {
		return
	}
	err := b.make()
	b.there = err == nil
	b.looked = time.Now()
	if err != nil {
		// What was written of it would take the little room there is.
		err = errors.Join(err, ignoreNotExist(b.j.fs.Remove(b.j.path(ballastName))))
		b.j.log.Warn("journal: no reserve for a full medium; it goes on when there is room", "dir", b.j.dir, "bytes", b.size, "err", err)
	}
	b.tell(err)
}

func ignoreNotExist(err error) error {
	if isNotExist(err) {
		return nil
	}
	return err
}

func (b *ballast) make() error {
	name := b.j.path(ballastName)
	f, err := b.j.fs.OpenWrite(name)
	if isNotExist(err) {
		f, err = b.j.fs.Create(name)
	}
	if err != nil {
		return err
	}
	size, err := f.Size()
	for n := int64(0); size < b.size && err == nil; size += n {
		n = min(b.size-size, int64(len(zeros)))
		_, err = f.WriteAt(zeros[:n], size)
	}
	return errors.Join(err, f.Close())
}

// release gives the ballast up. It returns false if there is none.
func (b *ballast) release() bool {
	if !b.there {
		return false
	}
	b.there = false
	b.looked = time.Now()
	err := b.j.fs.Remove(b.j.path(ballastName))
	b.j.log.Warn("journal: the medium is full, the reserve is in use", "dir", b.j.dir, "bytes", b.size)
	b.tell(errors.New("the medium is full, the journal lives on its reserve"))
	return err == nil
}

// refill makes the ballast again if there is room.
func (b *ballast) refill() {
	if b.there || b.j.noSync || time.Since(b.looked) < ballastPause {
		return
	}
	b.looked = time.Now()
	// On a small medium there may never be as much.
	if free, total, err := b.j.fs.Free(b.j.dir); err == nil && free >= min(ballastRoom*b.size, max(2*b.size, total/2)) {
		b.fill()
	}
}

func (b *ballast) tell(low error) {
	b.j.mu.Lock()
	b.j.status.Low = low
	b.j.mu.Unlock()
}
