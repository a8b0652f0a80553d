package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/vfs"
)

// long tells whether the exhaustive forms of tests were asked for.
var long = os.Getenv("FERRY_LONG") != ""

// noBallast is a file system without the journal's reserve, which would make
// up most of what every crash has to copy.
type noBallast struct{ vfs.FS }

func (f noBallast) OpenWrite(name string) (vfs.File, error) {
	if filepath.Base(name) == "ballast" {
		return ballastFile{}, nil
	}
	return f.FS.OpenWrite(name)
}

type ballastFile struct{ vfs.File }

func (ballastFile) Size() (int64, error) { return math.MaxInt64, nil }
func (ballastFile) Close() error         { return nil }

// tiny settings make a small outbox do all that a large one does.
func tiny(fs vfs.FS) Options {
	return Options{FS: noBallast{fs}, Logger: quiet, segmentBytes: 1500, batchBytes: 300, partBytes: 500, cacheBytes: 400}
}

const (
	crashDir = "/d/outbox"
	never    = math.MaxInt
)

// A tale is a message of a story. Times are numbers of changes of the file
// system.
type tale struct {
	text     string
	begun    int  // when it was about to be put
	sure     int  // when Put had returned
	settling int  // when it was about to be settled or refused
	settled  int  // when that was known to be durable
	refused  bool // settling it was refusing it
}

// A story is what was done to an outbox, and when what was true of it.
type story struct {
	t        *testing.T
	fs       *vfs.Mem
	o        *Outbox
	producer string
	tales    []*tale // by number, from 1 on
}

func (s *story) now() int { return len(s.fs.History()) }

func (s *story) tale(seq uint64) *tale { return s.tales[seq-1] }

// put puts messages of these sizes together, and waits for all.
func (s *story) put(sizes ...int) {
	s.t.Helper()
	done := make(chan error, len(sizes))
	for _, size := range sizes {
		n := &tale{text(uint64(len(s.tales)+1), size), s.now(), never, never, never, false}
		s.tales = append(s.tales, n)
		at := uint64(len(s.tales))
		err := s.o.PutAsync(s.t.Context(), note(n.text), func(seq uint64, err error) {
			n.sure = s.now()
			if err == nil && seq != at {
				err = fmt.Errorf("message %d has number %d", at, seq)
			}
			done <- err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	for range sizes {
		if err := <-done; err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *story) settle(list ...uint64) {
	for _, seq := range list {
		s.tale(seq).settling = s.now()
		s.o.Settle(seq)
	}
}

func (s *story) refuse(seq uint64) {
	s.t.Helper()
	s.tale(seq).settling, s.tale(seq).refused = s.now(), true
	if err := s.o.Refuse(seq, errors.New("no queue")); err != nil {
		s.t.Fatal(err)
	}
}

func (s *story) restart() {
	s.t.Helper()
	mustClose(s.t, s.o)
	for _, n := range s.tales {
		if n.settling <= s.now() {
			n.settled = min(n.settled, s.now())
		}
	}
	s.o = mustOpen(s.t, crashDir, tiny(s.fs))
}

// tell does all that an outbox can do, in a small way.
func tell(t *testing.T) *story {
	m := vfs.NewMem()
	m.Record()
	if err := m.MkdirAll(filepath.Dir(crashDir)); err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, fs: m, o: mustOpen(t, crashDir, tiny(m))}
	s.producer = s.o.Producer()
	s.put(40)
	s.put(40, 50, 60, 70)
	s.put(1200) // in parts
	mustTake(t, s.o, 6)
	s.settle(1, 3, 2)
	s.refuse(4)
	s.put(10, 20)
	s.restart()
	s.put(900, 400)
	s.settle(6)
	for range 6 {
		s.put(150, 150, 30)
	}
	mustTake(t, s.o, 12)
	s.refuse(8)
	s.settle(7, 9, 10, 11, 12, 13, 14) // but not 5: that stays where it is
	s.put(700)
	s.restart()
	for seq := uint64(15); seq <= 27; seq++ {
		s.settle(seq)
	}
	s.put(100, 1100)
	s.refuse(28)
	s.put(20)
	s.restart()
	for range 8 {
		s.put(290, 290)
		s.settle(uint64(len(s.tales)), uint64(len(s.tales)-1)) // not even taken
	}
	s.restart()
	s.put(30)
	mustClose(t, s.o)
	return s
}

// lines are the messages in refused.jsonl, by number. All lines must be whole.
func lines(fsys vfs.FS) (map[string]Refused, error) {
	f, err := fsys.OpenRead(filepath.Join(crashDir, refusedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && size > 0 {
		return nil, err
	}
	found := map[string]Refused{}
	for line := range bytes.Lines(b) {
		var r Refused
		if err := json.Unmarshal(line, &r); err != nil || line[len(line)-1] != '\n' {
			return nil, fmt.Errorf("line %q of the refused messages: %w", line, err)
		}
		found[string(r.Body)] = r
	}
	return found, f.Close()
}

// all takes everything that is there.
func all(t *testing.T, o *Outbox) ([]Entry, error) {
	n := int(o.Stats().Messages)
	var list []Entry
	for len(list) < n {
		some, err := o.Take(t.Context(), 3)
		if err != nil {
			return list, err
		}
		list = append(list, some...)
	}
	empty(t, o)
	return list, nil
}

// check opens what a crash during change n left, compares, and goes on with it.
func (s *story) check(fsys vfs.FS, n int) error {
	o, err := Open(crashDir, tiny(fsys))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	found, err := all(s.t, o)
	if err == nil {
		err = s.compare(o, fsys, found, n)
	}
	if err != nil {
		return errors.Join(err, o.Close())
	}
	// The oldest goes, and two come, of which one takes parts.
	var want []string
	if len(found) > 0 {
		o.Settle(found[0].Seq)
		want = bodies(found[1:])
	}
	for _, size := range []int{600, 10} {
		m := text(77, size)
		seq, err := o.Put(s.t.Context(), note(m))
		if err != nil {
			return errors.Join(fmt.Errorf("put after the crash: %w", err), o.Close())
		}
		if len(found) > 0 && seq <= found[len(found)-1].Seq {
			return errors.Join(fmt.Errorf("%d comes behind %d", seq, found[len(found)-1].Seq), o.Close())
		}
		want = append(want, fmt.Sprintf("%d %s", seq, m))
	}
	if err := o.Close(); err != nil {
		return err
	}
	o, err = Open(crashDir, tiny(fsys))
	if err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	found, err = all(s.t, o)
	if err == nil && !slices.Equal(bodies(found), want) {
		err = fmt.Errorf("after opening again there is\n%s\nwant\n%s", strings.Join(bodies(found), "\n"), strings.Join(want, "\n"))
	}
	return errors.Join(err, o.Close())
}

func (s *story) compare(o *Outbox, fsys vfs.FS, found []Entry, n int) error {
	refused, err := lines(fsys)
	if err != nil {
		return err
	}
	here := map[uint64]bool{}
	last := uint64(0)
	for _, e := range found {
		if e.Seq <= last || int(e.Seq) > len(s.tales) {
			return fmt.Errorf("number %d behind %d, there are %d", e.Seq, last, len(s.tales))
		}
		last = e.Seq
		here[e.Seq] = true
		switch l := s.tale(e.Seq); {
		case string(e.Message.Body) != l.text:
			return fmt.Errorf("message %d is %.20q, want %.20q", e.Seq, e.Message.Body, l.text)
		case !e.Recovered:
			return fmt.Errorf("message %d is not marked", e.Seq)
		case l.begun > n:
			return fmt.Errorf("message %d was not put yet", e.Seq)
		case l.settled <= n:
			return fmt.Errorf("message %d is back", e.Seq)
		}
	}
	for i, l := range s.tales {
		seq := uint64(i + 1)
		line, isRefused := refused[l.text]
		switch {
		case l.sure <= n && l.settling > n && !here[seq]:
			return fmt.Errorf("message %d is lost", seq)
		case l.sure <= n && l.refused && !here[seq] && !isRefused:
			return fmt.Errorf("message %d is neither in the outbox nor among the refused ones", seq)
		case isRefused && l.settling > n:
			return fmt.Errorf("message %d is refused too early", seq)
		case isRefused && line.ID != fmt.Sprintf("%s-%d", s.producer, seq):
			return fmt.Errorf("message %d has the id %s", seq, line.ID)
		}
	}
	if s.tales[0].sure <= n && o.Producer() != s.producer {
		return fmt.Errorf("the producer was %s, is %s", s.producer, o.Producer())
	}
	return nil
}

func TestPowerCut(t *testing.T) {
	s := tell(t)
	cuts := 0
	dropped := 0
	for n, c := range s.fs.History() {
		if c.Op == vfs.OpRemove && strings.HasSuffix(c.Name, ".seg") {
			dropped++
		}
		keeps := []int{0}
		if k := len(c.Data); k > 0 {
			keeps = []int{0, k / 2}
		}
		if long {
			for k := 10; k < min(len(c.Data), 2000); k += 10 {
				keeps = append(keeps, k)
			}
		}
		for _, keep := range keeps {
			for _, percent := range []int{0, 50, 100} {
				cuts++
				rng := rand.New(rand.NewPCG(uint64(n), uint64(keep*100+percent)))
				if err := s.check(s.fs.Cut(n, keep, percent, rng), n); err != nil {
					t.Fatalf("cut in change %d (%s %s at %d), after %d of %d bytes, %d %% of the unsynced kept: %v",
						n, c.Op, c.Name, c.Offset, keep, len(c.Data), percent, err)
				}
			}
		}
	}
	if dropped < 3 {
		t.Errorf("only %d segments were dropped", dropped)
	}
	t.Logf("%d cuts in %d changes, %d segments dropped", cuts, len(s.fs.History()), dropped)
}

// TestKilledThenPowerCut is a process that is killed, one that opens the outbox
// and takes what is there, and then a power cut: what was taken may have been
// sent, and must be there under its number.
func TestKilledThenPowerCut(t *testing.T) {
	s := tell(t)
	for n, c := range s.fs.History() {
		killed := s.fs.Killed(n, len(c.Data)/2)
		o, err := Open(crashDir, tiny(killed))
		if err != nil {
			t.Fatalf("killed in change %d: %v", n, err)
		}
		found, err := all(t, o)
		if err == nil {
			err = s.compare(o, killed, found, n)
		}
		if err != nil {
			t.Fatalf("killed in change %d (%s %s): %v", n, c.Op, c.Name, err)
		}
		left := killed.CrashClone(0, nil)
		mustClose(t, o)
		o = mustOpen(t, crashDir, tiny(left))
		again, err := all(t, o)
		if err != nil || !slices.Equal(bodies(again), bodies(found)) {
			t.Fatalf("killed in change %d (%s %s), then without power: %v\n%s\nwant\n%s", n, c.Op, c.Name, err,
				strings.Join(bodies(again), "\n"), strings.Join(bodies(found), "\n"))
		}
		mustClose(t, o)
	}
}
