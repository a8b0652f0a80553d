package sqldb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

// TestJournalsOfOneDatabase are told apart by their names, whichever they are.
func TestJournalsOfOneDatabase(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		names := []string{"ferry", "Ferry", "it's \"a\\ name\"; DROP TABLE ferry_batch; --", "größe-日本", "größe-日", strings.Repeat("x", 128)}
		for i, name := range names {
			j := mustOpen(t, url, sqldb.Options{Name: name})
			if head := j.Info().Head; head != 0 {
				t.Errorf("%q begins at %d", name, head)
			}
			for n := range i + 1 {
				mustAppend(t, j, batch(uint64(n)+1, 1, name))
			}
		}
		for i, name := range names {
			j := mustOpen(t, url, sqldb.Options{Name: name})
			for _, b := range contents(t, j) {
				if !strings.Contains(string(b.Head), name) {
					t.Errorf("%q has %q", name, b.Head)
				}
			}
			if head := j.Info().Head; head != uint64(i)+1 {
				t.Errorf("%q ends at %d, want %d", name, head, i+1)
			}
		}
		// The URL's name counts if the options have none.
		if j := mustOpen(t, url+"?journal=Ferry", sqldb.Options{}); j.Info().Head != 2 {
			t.Errorf("the URL's journal ends at %d, want 2", j.Info().Head)
		}
	})
}

// TestMissingRows are rows that somebody deleted: no replay passes over them.
func TestMissingRows(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		db := client(t, url)
		for _, c := range []struct {
			name, where, want string
			last              uint64
		}{
			{"in the middle", "position = 3", "position 3", 2},
			{"at the end", "position = 5", "position 5", 4},
			{"all of the newest segment", "position > 0", "position 5", 0},
		} {
			j := mustOpen(t, url, sqldb.Options{Name: c.name})
			for position := uint64(1); position <= 5; position++ {
				mustAppend(t, j, batch(position, 1, "a"))
			}
			mustExec(t, db, fmt.Sprintf("DELETE FROM ferry_batch WHERE %s AND journal = (SELECT id FROM ferry_journal WHERE name = '%s')", c.where, c.name))
			last := uint64(0)
			err := j.Replay(t.Context(), 0, 0, false, func(b journal.Batch) error {
				last = b.Position
				return nil
			})
			var corrupt *journal.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want a CorruptError of %s", c.name, err, c.want)
			}
			if last != c.last {
				t.Errorf("%s: the last batch visited is %d, want %d", c.name, last, c.last)
			}
		}
	})
}

// TestHeadThatWentBack is a database that was restored from an older copy, or a
// replica that had not everything: its owner confirms nothing more.
func TestHeadThatWentBack(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		j := mustOpen(t, url, sqldb.Options{})
		for position := uint64(1); position <= 5; position++ {
			mustAppend(t, j, batch(position, 1, "a"))
		}
		db := client(t, url)
		mustExec(t, db, "DELETE FROM ferry_batch WHERE position > 3")
		mustExec(t, db, "UPDATE ferry_journal SET head = 3")
		if err := try(j, batch(6, 1, "a")); !errors.Is(err, journal.ErrLost) {
			t.Errorf("got %v", err)
		}
		if err := try(j, batch(4, 1, "a")); err == nil {
			t.Error("it goes on as if nothing had happened")
		}
	})
}

// TestFollowerOfWhatWasLost has read a batch that the database then loses, and
// another writer's takes its place.
func TestFollowerOfWhatWasLost(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a, follower := mustOpen(t, url, sqldb.Options{}), mustOpen(t, url, sqldb.Options{})
		read := func(from uint64) error {
			return follower.Replay(t.Context(), from, 0, false, func(journal.Batch) error { return nil })
		}
		mustAppend(t, a, batch(1, 1, "a"), batch(2, 1, "a"))
		if err := read(1); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, a, batch(3, 1, "a"))
		for range 2 { // the second one finds nothing
			if err := read(3); err != nil {
				t.Fatal(err)
			}
		}
		db := client(t, url)
		mustExec(t, db, "DELETE FROM ferry_batch WHERE position = 3")
		mustExec(t, db, "UPDATE ferry_journal SET head = 2")
		mustAppend(t, mustOpen(t, url, sqldb.Options{}), batch(3, 2, "b"), batch(4, 2, "b"))
		if err := read(4); err == nil || !strings.Contains(err.Error(), "has lost batches") {
			t.Errorf("got %v", err)
		}
		if got := contents(t, follower); len(got) != 4 {
			t.Errorf("from the beginning it reads %d batches, want 4", len(got))
		}
	})
}

// TestDropOfManyRows drops a segment that takes several transactions, and finishes
// what a process that died left of another.
func TestDropOfManyRows(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		j := mustOpen(t, url, sqldb.Options{})
		db := client(t, url)
		const rows = 300 // of each of the first two segments
		var position uint64
		add := func(segment uint64) {
			position++
			b := journal.Batch{Position: position, Epoch: 1, Segment: segment, Head: []byte("h"), Body: [][]byte{[]byte("body")}}
			j.Append(b, func(err error) {
				if err != nil {
					t.Errorf("append: %v", err)
				}
			})
		}
		for segment := uint64(1); segment <= 2; segment++ {
			for range rows {
				add(segment)
			}
		}
		add(3)
		add(4)
		if err := j.Follow(t.Context(), position-1); err != nil {
			t.Fatal(err)
		}
		count := func() int {
			var n int
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM ferry_batch").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		// Of segment 1 the dropping was noted, and some rows are gone.
		mustExec(t, db, "INSERT INTO ferry_drop SELECT id, 1 FROM ferry_journal")
		mustExec(t, db, "DELETE FROM ferry_batch WHERE position <= 10")
		other := mustOpen(t, url, sqldb.Options{})
		if got := contents(t, other); len(got) != rows+2 || got[0].Segment != 2 {
			t.Errorf("a replay shows %d batches from segment %d on, want %d from 2 on", len(got), got[0].Segment, rows+2)
		}
		if _, err := other.ReadRefs(t.Context(), []journal.Ref{{Position: 20, Length: 1}}); !errors.Is(err, journal.ErrDropped) {
			t.Errorf("got %v, want ErrDropped", err)
		}
		if s, err := other.Segments(t.Context()); err != nil || len(s) != 3 || s[0].Segment != 2 {
			t.Errorf("got %v, %v", s, err)
		}
		if err := j.Drop(3); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != rows+1 {
			t.Errorf("%d rows are left, want %d", n, rows+1)
		}
		if err := j.Drop(2); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 1 {
			t.Errorf("%d rows are left, want 1", n)
		}
		var noted int
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM ferry_drop").Scan(&noted); err != nil || noted != 0 {
			t.Errorf("%d segments are noted as being dropped, %v", noted, err)
		}
	})
}

// TestSupersededWriterDropsNothing is of one that slept through a takeover.
func TestSupersededWriterDropsNothing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a, b := mustOpen(t, url, sqldb.Options{}), mustOpen(t, url, sqldb.Options{})
		first := batch(1, 1, "a")
		first.Segment = 0
		mustAppend(t, a, first, batch(2, 1, "a"))
		mustAppend(t, b, batch(3, 2, "b"))
		if err := a.Drop(0); !errors.Is(err, journal.ErrFenced) {
			t.Errorf("got %v, want ErrFenced", err)
		}
		if err := b.Drop(0); err != nil {
			t.Error(err)
		}
	})
}

// TestEpochAfterEverythingWasDropped is of an old owner that wakes when only the
// newest segment is left.
func TestEpochAfterEverythingWasDropped(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a, b := mustOpen(t, url, sqldb.Options{}), mustOpen(t, url, sqldb.Options{})
		at := func(position, epoch, segment uint64) journal.Batch {
			batch := batch(position, epoch, "x")
			batch.Segment = segment
			return batch
		}
		mustAppend(t, a, at(1, 5, 1))
		mustAppend(t, b, at(2, 6, 2), at(3, 6, 3), at(4, 6, 4))
		for segment := uint64(1); segment <= 3; segment++ {
			if err := b.Drop(segment); err != nil {
				t.Fatal(err)
			}
		}
		c := mustOpen(t, url, sqldb.Options{})
		for _, position := range []uint64{1, 2, 3, 4, 5} {
			if err := try(c, at(position, 5, 9)); !isConflict(err) {
				t.Errorf("a newcomer of epoch 5 at %d: got %v, want a ConflictError", position, err)
			}
		}
		if err := try(a, at(2, 5, 9)); !errors.Is(err, journal.ErrFenced) {
			t.Errorf("got %v, want ErrFenced", err)
		}
		mustAppend(t, b, at(5, 6, 4))
		if got := contents(t, b); len(got) != 2 || got[0].Position != 4 {
			t.Errorf("got %v", got)
		}
	})
}

// TestBytesOfEveryValue come back as they went, whatever the database takes for a
// quote or the end of a text.
func TestBytesOfEveryValue(t *testing.T) {
	dbtest.Each(t, bytesOfEveryValue)
}

// In the character sets of this test the second byte of a character may be a
// backslash: what is in a message would be read as SQL.
func TestBytesWhateverTheCharacterSet(t *testing.T) {
	for _, charset := range []string{"gbk", "big5", "sjis", "latin1"} {
		t.Run(charset, func(t *testing.T) { bytesOfEveryValue(t, dbtest.MariaDB(t)+"?charset="+charset) })
	}
}

func bytesOfEveryValue(t *testing.T, url string) {
	j := mustOpen(t, url, sqldb.Options{})
	var every []byte
	for a := range 256 {
		for _, b := range []byte{0, '\'', '"', '\\', '\n', '\r', 26, '%', ';', 0x80, 0xC3, 0xFF} {
			every = append(every, byte(a), b)
		}
	}
	// Behind those the text, or a character, is not over.
	for _, head := range [][]byte{every, every[:len(every)-1], []byte("\xbf"), []byte("\xbf'\\")} {
		position := uint64(len(contents(t, j)) + 1)
		mustAppend(t, j, journal.Batch{Position: position, Epoch: 1, Segment: 1, Head: head, Body: [][]byte{head, every}})
		got := contents(t, j)[position-1]
		if string(got.Head) != string(head) || string(got.Body[0]) != string(head)+string(every) {
			t.Errorf("%d bytes came back otherwise", len(head))
		}
	}
}
