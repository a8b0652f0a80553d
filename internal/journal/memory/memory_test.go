package memory_test

import (
	"testing"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
	"github.com/ferrymq/ferry/internal/journal/memory"
)

func TestJournal(t *testing.T) {
	journaltest.Run(t, journaltest.Harness{
		New: func(*testing.T) func() (journal.Journal, error) {
			return func() (journal.Journal, error) { return memory.New(memory.Options{}), nil }
		},
		Volatile: true,
	})
}
