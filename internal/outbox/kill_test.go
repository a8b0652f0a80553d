package outbox

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
)

const childEnv = "FERRY_OUTBOX_CHILD"

// TestMain is also the program that TestKilledProcess kills: it puts messages
// and prints the numbers of those that are stored.
func TestMain(m *testing.M) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	o, err := Open(dir, Options{Logger: quiet})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for i := range 8 {
		go func() {
			for {
				seq, err := o.Put(context.Background(), note(strconv.Itoa(i)))
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(seq)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// TestKilledProcess kills a process while it puts, three times: what it said is
// stored is there.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	most := uint64(0)
	for round := range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			seq, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				continue // the last line may be cut short
			}
			most = max(most, seq)
			if n == 500 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("it ended by itself")
		}
		o := mustOpen(t, dir, Options{})
		if s := o.Stats(); s.Messages < int64(most) || most < uint64(500*(round+1)) {
			t.Errorf("%d messages are there, %d were stored", s.Messages, most)
		}
		for i, e := range mustTake(t, o, int(most)) {
			if e.Seq != uint64(i+1) || !e.Recovered {
				t.Fatalf("message %d: %+v", i+1, e)
			}
		}
		mustClose(t, o)
	}
}
