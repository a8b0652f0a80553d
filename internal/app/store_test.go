package app

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
)

// Who kills a broker and starts the next at once need not wait for the old
// process's end.
func TestStoreOfAProcessThatIsAboutToEndIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		mem := vfs.NewMem()
		if err := mem.MkdirAll("store"); err != nil {
			t.Fatal(err)
		}
		old, err := file.Open(mem, "store", file.Options{Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openJournal(mem, "store", log); !errors.Is(err, journal.ErrLocked) {
			t.Errorf("a store in use: %v", err)
		}
		go func() {
			time.Sleep(lockWait / 2)
			if err := old.Close(); err != nil {
				t.Error(err)
			}
		}()
		j, err := openJournal(mem, "store", log)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
}
