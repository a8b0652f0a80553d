package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ferrymq/ferry"
)

// A sender submits messages and sees what becomes of them.
type sender struct {
	publisher *ferry.Publisher
	out       *outcomes

	// redeclare says that a message without a queue is a reason to declare the
	// queue and to send it again, once: it was there on one broker, and is not on
	// the next. again declares it.
	redeclare bool
	again     func(ctx context.Context) error
}

// submit returns when there is room for the message.
func (s *sender) submit(ctx context.Context, m ferry.Message) error {
	if s.out.hasStray() {
		if err := s.finish(ctx); err != nil {
			return err
		}
	}
	return s.send(ctx, s.out.open(), m, s.redeclare)
}

func (s *sender) send(ctx context.Context, n int, m ferry.Message, mayStray bool) error {
	err := s.publisher.Submit(ctx, m, func(r ferry.Result) {
		if mayStray && errors.Is(r.Err, ferry.ErrUnroutable) {
			s.out.stray(n, m)
			return
		}
		s.out.settle(n, r.Err)
	})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		why := context.Cause(ctx)
		for _, reason := range []error{ferry.ErrOutboxFull, ferry.ErrBlocked} {
			if errors.Is(err, reason) {
				why = fmt.Errorf("%w: %w", reason, why)
			}
		}
		s.out.settle(n, fmt.Errorf("%w: %w", ferry.ErrNotSent, why))
		return context.Cause(ctx)
	}
	s.out.settle(n, err)
	if errors.Is(err, ferry.ErrClosed) || errors.Is(err, ferry.ErrNoBroker) {
		return err
	}
	return nil // of this message alone
}

// finish returns when all messages have an outcome.
func (s *sender) finish(ctx context.Context) error {
	if err := s.out.wait(ctx); err != nil {
		return err
	}
	strays := s.out.takeStrays()
	if len(strays) == 0 {
		return nil
	}
	err := s.again(ctx)
	for _, stray := range strays {
		if err != nil {
			s.out.settle(stray.n, err)
			continue
		}
		if err := s.send(ctx, stray.n, stray.message, false); err != nil {
			return err
		}
	}
	return s.out.wait(ctx)
}

// A stray is a message that no queue took.
type stray struct {
	n       int
	message ferry.Message
}

// outcomes are those of messages, which are numbered from 1 in the order in which
// they were submitted.
type outcomes struct {
	signal chan struct{} // one slot: no message is open

	mu        sync.Mutex
	submitted int
	pending   map[int]struct{}
	confirmed int
	refused   map[string][]int // by the reason
	code      int              // of the refused
	unknown   map[string][]int
	strays    []stray
}

func newOutcomes() *outcomes {
	return &outcomes{
		signal:  make(chan struct{}, 1),
		pending: map[int]struct{}{}, refused: map[string][]int{}, unknown: map[string][]int{},
	}
}

// open numbers one more message, whose outcome is to come.
func (o *outcomes) open() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.submitted++
	o.pending[o.submitted] = struct{}{}
	return o.submitted
}

// settle takes the outcome of a message; err is nil when it is confirmed.
func (o *outcomes) settle(n int, err error) {
	o.mu.Lock()
	delete(o.pending, n)
	switch {
	case err == nil:
		o.confirmed++
	case exitCode(err) == exitLeft || errors.Is(err, ferry.ErrClosed):
		reason := inPlainWords(err)
		o.unknown[reason] = append(o.unknown[reason], n)
	default:
		// Some cannot be sent to any broker: that is a failure of another kind.
		o.code = max(o.code, exitCode(err))
		reason := inPlainWords(err)
		o.refused[reason] = append(o.refused[reason], n)
	}
	o.notify()
}

// stray keeps a message that no queue took, and that is to be sent again.
func (o *outcomes) stray(n int, m ferry.Message) {
	o.mu.Lock()
	delete(o.pending, n)
	o.strays = append(o.strays, stray{n, m})
	o.notify()
}

// notify unlocks, and tells who waits that nothing is open.
func (o *outcomes) notify() {
	idle := len(o.pending) == 0
	o.mu.Unlock()
	if !idle {
		return
	}
	select {
	case o.signal <- struct{}{}:
	default:
	}
}

func (o *outcomes) hasStray() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.strays) > 0
}

// takeStrays takes the strays, in order, and counts them as open again.
func (o *outcomes) takeStrays() []stray {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.strays
	o.strays = nil
	for _, s := range taken {
		o.pending[s.n] = struct{}{}
	}
	return taken
}

// wait returns when no message is open, or with the cause of ctx.
func (o *outcomes) wait(ctx context.Context) error {
	for {
		o.mu.Lock()
		idle := len(o.pending) == 0
		o.mu.Unlock()
		if idle {
			return nil
		}
		select {
		case <-o.signal:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (o *outcomes) confirmedCount() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.confirmed
}

// failure is what a command that sent these messages ends with: nil if all that
// there were are confirmed. cause is why it ended before all were submitted or
// had an outcome.
func (o *outcomes) failure(cause error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var wrong faults
	for _, reason := range sortedByFirst(o.refused) {
		wrong = append(wrong, fmt.Errorf("refused: %s: %s", numbers(o.refused[reason]), reason))
	}
	code := max(exitFailed, o.code)
	for _, reason := range sortedByFirst(o.unknown) {
		code = exitLeft
		wrong = append(wrong, fmt.Errorf("not confirmed: %s: %s", numbers(o.unknown[reason]), reason))
	}
	var open []int
	for n := range o.pending {
		open = append(open, n)
	}
	for _, s := range o.strays {
		open = append(open, s.n)
	}
	if len(open) > 0 {
		code = exitLeft
		wrong = append(wrong, fmt.Errorf("not confirmed: %s", numbers(open)))
	}
	if cause != nil {
		wrong = append(wrong, cause)
		// Not all of the input was read: that is left over, unless reading is
		// what failed.
		if own := (*failure)(nil); !errors.As(cause, &own) {
			code = exitLeft
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &failure{err: &wrong, code: code}
}

func sortedByFirst(reasons map[string][]int) []string {
	var list []string
	for reason := range reasons {
		slices.Sort(reasons[reason])
		list = append(list, reason)
	}
	slices.SortFunc(list, func(a, b string) int { return reasons[a][0] - reasons[b][0] })
	return list
}

// numbers writes the numbers of messages, in ascending order, as runs.
func numbers(list []int) string {
	slices.Sort(list)
	var s strings.Builder
	s.WriteString("message")
	if len(list) > 1 {
		s.WriteString("s")
	}
	for i := 0; i < len(list); {
		last := i
		for last+1 < len(list) && list[last+1] == list[last]+1 {
			last++
		}
		if i > 0 {
			s.WriteString(",")
		}
		fmt.Fprintf(&s, " %d", list[i])
		if last > i {
			fmt.Fprintf(&s, "-%d", list[last])
		}
		i = last + 1
	}
	return s.String()
}
