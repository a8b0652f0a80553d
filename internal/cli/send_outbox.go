package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/ferrymq/ferry"
)

// A sendOutbox is the outbox of a `ferry send`. A message that is in it counts as
// sent to the client; to a person it does when a broker has confirmed it.
type sendOutbox struct {
	dir   string
	found ferry.OutboxStatus // what an earlier command has left

	mu      sync.Mutex
	reasons []error // why messages were refused, the first few
}

// maxReasons is how many refusals are told one by one.
const maxReasons = 10

// events prints events as for any client, and keeps why messages were refused.
func (b *sendOutbox) events(quiet bool, stderr io.Writer) func(ferry.Event) {
	printer := &eventPrinter{w: stderr}
	return func(e ferry.Event) {
		if e.Kind == ferry.MessageRefused {
			b.mu.Lock()
			if len(b.reasons) < maxReasons {
				b.reasons = append(b.reasons, fmt.Errorf("refused: %s", inPlainWords(e.Err)))
			}
			b.mu.Unlock()
			return
		}
		if !quiet {
			printer.print(e)
		}
	}
}

// empty waits until all of the outbox is with a broker. cause is why the command
// ends early, if it does; then what is on its way has a little time.
func (b *sendOutbox) empty(ctx context.Context, client *ferry.Client, p *ferry.Publisher, cause error) error {
	if ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), errTimeout) || client.Status().Publish.State != ferry.Up {
			return cause
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
	}
	if err := p.Flush(ctx); err != nil && cause == nil {
		return context.Cause(ctx)
	}
	return cause
}

// confirmed counts what a broker has, of what was put in and of what was found.
func (b *sendOutbox) confirmed(client *ferry.Client, put int) int {
	s := client.Status().Outbox
	return max(0, put+int(b.found.Messages-s.Messages-(s.Refused-b.found.Refused)))
}

// failure adds what is in the outbox still, or was refused, to why the command
// failed otherwise. s is the client's last status.
func (b *sendOutbox) failure(s ferry.Status, other error) error {
	var wrong faults
	code := exitDone
	if n := s.Outbox.Refused - b.found.Refused; n > 0 {
		code = exitRefused
		b.mu.Lock()
		wrong = append(wrong, b.reasons...)
		b.mu.Unlock()
		wrong = append(wrong, fmt.Errorf("%d messages were refused; they are in %s", n, filepath.Join(b.dir, "refused.jsonl")))
	}
	if s.Outbox.Messages > 0 {
		code = exitLeft
		if s.Publish.Connects == 0 {
			code = exitNoBroker
		}
		wrong = append(wrong, fmt.Errorf("%d messages stay in %s; they are sent when it is used again", s.Outbox.Messages, b.dir))
	}
	if other != nil {
		wrong = append(wrong, other)
		if f := (*failure)(nil); code == exitDone && errors.As(other, &f) {
			code = f.code
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &failure{err: &wrong, code: code}
}
