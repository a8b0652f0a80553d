package sqldb_test

import (
	"fmt"
	"testing"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/journaltest"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

// TestJournal gives each test of the suite a journal of its own in one database.
func TestJournal(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		number := 0
		journaltest.Run(t, journaltest.Harness{
			New: func(t *testing.T) func() (journal.Journal, error) {
				number++
				name := fmt.Sprintf("journal %d", number)
				return func() (journal.Journal, error) {
					return sqldb.Open(t.Context(), url, sqldb.Options{Name: name, Lease: lease})
				}
			},
			Shared: true,
		})
	})
}

func TestRoster(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		number := 0
		journaltest.RunRoster(t, func(t *testing.T) func() journal.Roster {
			number++
			name := fmt.Sprintf("journal %d", number)
			return func() journal.Roster { return mustOpen(t, url, sqldb.Options{Name: name}) }
		})
	})
}
