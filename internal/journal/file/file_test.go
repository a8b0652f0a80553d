package file

import (
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
	"github.com/ferrymq/ferry/internal/vfs"
)

func TestJournal(t *testing.T) {
	for _, medium := range []struct {
		name string
		fs   func() vfs.FS
		opts Options
	}{
		{"disk", func() vfs.FS { return vfs.OS{} }, Options{}},
		{"disk without sync", func() vfs.FS { return vfs.OS{} }, Options{NoSync: true}},
		{"memory", func() vfs.FS { return vfs.NewMem() }, Options{}},
	} {
		t.Run(medium.name, func(t *testing.T) {
			journaltest.Run(t, journaltest.Harness{
				New: func(t *testing.T) func() (journal.Journal, error) {
					fs, dir := medium.fs(), t.TempDir()+"/journal"
					if m, ok := fs.(*vfs.Mem); ok {
						t.Cleanup(func() {
							if n := m.OpenFiles(); n != 0 {
								t.Errorf("%d files were not closed", n)
							}
						})
						if err := m.MkdirAll(t.TempDir()); err != nil {
							t.Fatal(err)
						}
					}
					return func() (journal.Journal, error) { return Open(fs, dir, medium.opts) }
				},
				Exclusive: true,
			})
		})
	}
}
