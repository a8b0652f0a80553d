package ferrytest

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
)

// logKept is how much of the end of a log a test that fails shows, bytes.
const logKept = 64 << 10

// A tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
	cut  bool
}

// Write implements io.Writer.
func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if len(l.text) > 2*logKept {
		l.text = bytes.Clone(l.text[len(l.text)-logKept:])
		l.cut = true
	}
	return len(p), nil
}

// String is what was kept, from the beginning of a line.
func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text
	if l.cut {
		text = text[bytes.IndexByte(text, '\n')+1:]
	}
	return string(text)
}

// newLog returns a log that shows itself at once if it is verbose, else at the
// end if the test has failed.
func newLog(t testing.TB, verbose bool) *slog.Logger {
	if verbose {
		return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	kept := &tail{}
	t.Cleanup(func() {
		if text := kept.String(); t.Failed() && text != "" {
			t.Logf("the broker's log:\n%s", text)
		}
	})
	return slog.New(slog.NewTextHandler(kept, nil))
}

// muting is a log that ends when its broker is killed: what a killed process
// would have complained about, nobody reads.
type muting struct {
	slog.Handler
	muted *atomic.Bool
}

func newMuting(h slog.Handler) *muting { return &muting{h, new(atomic.Bool)} }

func (m *muting) mute() { m.muted.Store(true) }

// Enabled implements slog.Handler.
func (m *muting) Enabled(ctx context.Context, l slog.Level) bool {
	return !m.muted.Load() && m.Handler.Enabled(ctx, l)
}

// WithAttrs implements slog.Handler.
func (m *muting) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &muting{m.Handler.WithAttrs(attrs), m.muted}
}

// WithGroup implements slog.Handler.
func (m *muting) WithGroup(name string) slog.Handler {
	return &muting{m.Handler.WithGroup(name), m.muted}
}
