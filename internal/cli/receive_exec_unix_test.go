//go:build unix

package cli

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ferrymq/ferry/ferrytest"
)

func TestExecIsFinishedAfterASignal(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("one", "two")...)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(signalWriter)
	run := startCommand(t, System{Args: []string{"receive", "-u", b.URL(), "-q", "q", "--exec", "echo begun; cat " + fifo + " >/dev/null"}, Stdout: written})
	<-written
	run.stop()
	f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if code := <-run.code; code != 0 {
		t.Errorf("exit code %d\n%s", code, run.errors)
	}
	if got := bodiesOf(takeMessages(t, b.URL(), "q", 1)); got[0] != "two" || waiting(t, b.URL(), "q") != 0 {
		t.Errorf("left is %q", got)
	}
}

// A command has the signals that a shell gives it.
func TestExecDoesNotInheritIgnoredSignals(t *testing.T) {
	b := ferrytest.Start(t)
	publish(t, b, "q", messagesOf("one")...)
	got := mustRun(t, "", "receive", "-u", b.URL(), "-q", "q", "-n", "1", "--exec", "sh -c 'kill -PIPE $$; echo ignored' 2>/dev/null; echo done")
	if got != "done\n" {
		t.Errorf("got %q", got)
	}
}
