package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/vfs"
)

func readAll(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.OpenRead(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRefusedMessageIsInTheFileAndNotInTheOutbox(t *testing.T) {
	dir := t.TempDir()
	o := mustOpen(t, dir, Options{})
	if _, err := o.Put(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	mustPut(t, o, "second", "third")
	mustTake(t, o, 3)
	for _, seq := range []uint64{1, 3} {
		if err := o.Refuse(seq, errors.New("NO_ROUTE")); err != nil {
			t.Fatal(err)
		}
	}
	for _, seq := range []uint64{0, 1, 4} {
		if err := o.Refuse(seq, nil); err == nil || !strings.Contains(err.Error(), "not in the outbox") {
			t.Errorf("refuse %d: %v", seq, err)
		}
	}
	mustClose(t, o)
	o = mustOpen(t, dir, Options{})
	if s := o.Stats(); s.Messages != 1 || s.Refused != 2 {
		t.Errorf("%+v", s)
	}
	wantBodies(t, mustTake(t, o, 1), "2 second")
	mustClose(t, o)

	list := bytes.SplitAfter(readAll(t, vfs.OS{}, dir+"/"+refusedName), []byte("\n"))
	if len(list) != 3 || len(list[2]) != 0 {
		t.Fatalf("%d lines", len(list))
	}
	var r Refused
	if err := json.Unmarshal(list[0], &r); err != nil {
		t.Fatal(err)
	}
	if r.ID != "p-17" || r.Reason != "NO_ROUTE" || r.Exchange != "orders" || r.Key != "orders.new" || string(r.Body) != "body" || r.Time.IsZero() {
		t.Errorf("%+v", r)
	}
	if r.Properties["content_type"] != "text/plain" || r.Properties["transient"] != true || r.Headers["int32"] != -32.0 || r.Headers["float64"] != "+Inf" {
		t.Errorf("%+v", r)
	}
	// All of it can be had back.
	n := append([]byte(nil), appendNumbers(nil, uint64(len(r.Fields)))...)
	m := new(link.Message)
	if err := decode(append(append(n, r.Fields...), r.Body...), m, nil); err != nil || !reflect.DeepEqual(m, sample()) {
		t.Errorf("%+v %v", m, err)
	}
	if err := json.Unmarshal(list[1], &r); err != nil || r.ID != o.Producer()+"-3" {
		t.Errorf("%+v %v", r, err)
	}
}

// TestRefusedMessagesOnDisk refuses out of order what is no longer in memory.
func TestRefusedMessagesOnDisk(t *testing.T) {
	mem := vfs.NewMem()
	options := tiny(mem)
	o := mustOpen(t, crashDir, options)
	for i := range uint64(100) {
		mustPut(t, o, text(i+1, 20+int(i%4)*300))
	}
	mustClose(t, o)
	o = mustOpen(t, crashDir, options)
	mustTake(t, o, 100)
	for _, seq := range []uint64{50, 51, 4, 100, 1, 99, 52} {
		if err := o.Refuse(seq, nil); err != nil {
			t.Error(err)
		}
	}
	found, err := lines(mem)
	if err != nil || len(found) != 7 {
		t.Errorf("%d lines, %v", len(found), err)
	}
	for _, seq := range []uint64{50, 51, 4, 100, 1, 99, 52} {
		if r := found[text(seq, 20+int((seq-1)%4)*300)]; r.ID != o.idOf(seq, new(link.Message)) {
			t.Errorf("message %d is %q", seq, r.ID)
		}
	}
	mustClose(t, o)
}

func TestRefuseThatFailsKeepsTheMessage(t *testing.T) {
	inFile := func(op vfs.Op) func(vfs.Call) bool {
		return func(c vfs.Call) bool { return c.Op == op && strings.HasSuffix(c.Name, refusedName) }
	}
	for _, c := range []struct {
		op    vfs.Op
		err   error
		final bool
	}{
		{vfs.OpWrite, &vfs.ShortWrite{N: 10, Err: syscall.ENOSPC}, false},
		{vfs.OpCreate, syscall.EACCES, false},
		{vfs.OpSync, syscall.EIO, true},
	} {
		mem := vfs.NewMem()
		faulty := vfs.NewFaulty(mem)
		o := mustOpen(t, crashDir, Options{FS: faulty})
		mustPut(t, o, "a", "b")
		mustTake(t, o, 2)
		faulty.SetHook(vfs.FailNth(1, false, c.err, inFile(c.op)))
		var errno syscall.Errno
		if err := o.Refuse(1, nil); !errors.As(err, &errno) || !errors.Is(c.err, errno) {
			t.Errorf("%s: %v", c.op, err)
		}
		if s := o.Stats(); s.Messages != 2 || s.Refused != 0 {
			t.Errorf("%s: %+v", c.op, s)
		}
		if err := o.Refuse(2, nil); (err != nil) != c.final {
			t.Errorf("%s: the next one: %v", c.op, err)
		}
		mustClose(t, o)
		if found, err := lines(mem); err != nil || !c.final && len(found) != 1 {
			t.Errorf("%s: %v %v", c.op, found, err)
		}
	}
}

func TestUnfinishedLineIsCutOff(t *testing.T) {
	for _, c := range []struct{ before, after string }{
		{"", ""},
		{"{\"id\":\"1\"}\n", "{\"id\":\"1\"}\n"},
		{"{\"id\":\"1\"}\n{\"id\":", "{\"id\":\"1\"}\n"},
		{"{\"id\":\"1\"}\n{\"id\":\x00\x00\x00\n", "{\"id\":\"1\"}\n"},
		{"{\"id\":\"1\"}\n{\"id\":\"2\"}", "{\"id\":\"1\"}\n{\"id\":\"2\"}\n"},
		{"{\"id\"", ""},
		{"{}\n" + strings.Repeat("x", 200_000), "{}\n"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/"+refusedName, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		mustClose(t, mustOpen(t, dir, Options{}))
		if got := readAll(t, vfs.OS{}, dir+"/"+refusedName); string(got) != c.after {
			t.Errorf("%.50q became %.50q", c.before, got)
		}
	}
}

func TestRefusingStorm(t *testing.T) {
	o := mustOpen(t, t.TempDir(), Options{})
	fill(t, o, 20_000)
	if n := len(mustTake(t, o, 300)); n != 300 {
		t.Fatal(n)
	}
	for seq := uint64(1); seq <= 300; seq++ {
		if err := o.Refuse(seq, context.Canceled); err != nil {
			t.Fatal(err)
		}
	}
	if s := o.Stats(); s.Refused != 300 || s.Messages != 19_700 {
		t.Errorf("%+v", s)
	}
	mustClose(t, o)
}
