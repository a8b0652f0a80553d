package cli

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ferrymq/ferry"
)

const (
	// progressInterval is between two lines of progress on a terminal.
	progressInterval = 250 * time.Millisecond

	// inspectTimeout bounds the look at a queue from which nothing came.
	inspectTimeout = 5 * time.Second
)

// A removal moves messages: what it takes from the consumer it submits to the
// publisher, and acknowledges when that is confirmed.
type removal struct {
	*moving
	source    *ferry.Client
	consumer  *ferry.Consumer
	publisher *ferry.Publisher
	ids       idMaker
	progress  io.Writer // nil: there is nobody to show it to
	shown     time.Time

	mu        sync.Mutex
	confirmed int
	refused   kept // they stay here, not acknowledged, until all is over
	unknown   kept
}

// kept are messages that the source keeps.
type kept struct {
	n       int
	reasons map[string]int
}

func (k *kept) add(err error) {
	k.n++
	if k.reasons == nil {
		k.reasons = map[string]int{}
	}
	k.reasons[inPlainWords(err)]++
}

// run returns when the queue is empty, as many were moved as were to be, or ctx
// has ended.
func (r *removal) run(ctx context.Context) error {
	taken, err := r.takeAll(ctx)
	// What is on its way is waited for, whatever happened, but not for ever when
	// it was told to end.
	flushing, cancel := ctx, context.CancelFunc(func() {})
	if ctx.Err() != nil {
		flushing, cancel = context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	}
	defer cancel()
	if e := r.publisher.Flush(flushing); e != nil && err == nil {
		err = &failure{err: e, code: exitLeft}
	}
	return r.report(ctx, taken, err)
}

// takeAll submits messages until there are no more to take, and says how many
// those were.
func (r *removal) takeAll(ctx context.Context) (taken int, err error) {
	for r.count == 0 || taken < r.count {
		if r.isFull() {
			return taken, nil
		}
		d, err := r.next(ctx)
		if err != nil || d == nil {
			return taken, err
		}
		taken++
		if err := r.pass(ctx, d); err != nil {
			return taken, err
		}
		r.show()
	}
	return taken, nil
}

// isFull says that half of what may be on its way is refused: then taking more
// has no point.
func (r *removal) isFull() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused.n > r.window/2
}

// stallTimeout is how long a broker may have messages and deliver none.
const stallTimeout = 30 * time.Second

// next waits for a message. It returns nil when the queue is empty, or nothing
// that is in it came for the timeout.
func (r *removal) next(ctx context.Context) (*ferry.Delivery, error) {
	began := time.Now()
	for {
		waiting, cancel := context.WithTimeout(ctx, r.timeout)
		d, err := r.consumer.Receive(waiting)
		over := waiting.Err() != nil
		cancel()
		switch {
		case err == nil:
			return d, nil
		case ctx.Err() != nil:
			return nil, &failure{err: context.Cause(ctx), code: exitLeft}
		case !over:
			return nil, clientFailed(err)
		}
		// Nothing more comes while as much as may be is on its way to the target.
		if s := r.publisher.Stats(); s.InFlight+s.Waiting > 0 {
			began = time.Now()
			continue
		}
		// A queue is not empty because its broker is not there, or was not a
		// moment ago.
		if st := r.source.Status().Consume; st.State != ferry.Up || time.Since(st.Since) < r.timeout {
			continue
		}
		looking, cancel := context.WithTimeout(ctx, inspectTimeout)
		info, err := r.source.Inspect(looking, r.queue)
		unreachable := looking.Err() != nil
		cancel()
		switch {
		case err == nil && info.Messages == 0, errors.Is(err, ferry.ErrLocked), errors.Is(err, ferry.ErrNotAllowed):
			return nil, nil // or, as over STOMP, nobody can be asked whether it is empty
		case err == nil && time.Since(began) < max(stallTimeout, r.timeout):
			// The broker is slow to deliver.
		case err == nil:
			return nil, &failure{err: fmt.Errorf("%d messages are in the queue, and none came for %v", info.Messages, max(stallTimeout, r.timeout)), code: exitLeft}
		case !unreachable:
			return nil, clientFailed(err)
		}
	}
}

// pass submits a message to the target.
func (r *removal) pass(ctx context.Context, d *ferry.Delivery) error {
	m := d.Message
	if incomplete, _ := m.Headers[headerIncomplete].(bool); incomplete && r.fromGMQ() {
		r.settle(d, errIncomplete)
		return nil
	}
	switch {
	case r.toQueue != "":
		m.Exchange, m.Key = "", r.toQueue
	case r.toKey != "":
		m.Exchange, m.Key = r.toExchange, r.toKey
	default:
		m.Exchange = r.toExchange
	}
	m.ID = r.ids.make(d.ID)
	if m.ID != "" && d.Redelivered {
		m.Attempt = 2 // a run that was cut short may have moved it
	}
	m.Headers = withoutCopies(m.Headers)
	err := r.publisher.Submit(ctx, m, func(result ferry.Result) { r.settle(d, result.Err) })
	if err == nil {
		return nil
	}
	r.settle(d, err)
	if ctx.Err() != nil || exitCode(err) == exitLeft || errors.Is(err, ferry.ErrClosed) {
		return &failure{err: err, code: exitLeft}
	}
	return nil // of this message alone
}

// headerIncomplete is what the client puts on messages that came without some of
// their headers.
const headerIncomplete = "x-ferry-incomplete"

// errIncomplete is why a message stays where it is: moved, it would be another.
var errIncomplete = errors.New("they have headers that GMQ does not carry: move them from the amqp:// URL of the same broker")

// fromGMQ tells whether messages may come without some of their headers. Where all
// can be there the mark is one that a message got elsewhere.
func (r *removal) fromGMQ() bool {
	return slices.ContainsFunc(r.from, func(url string) bool { return strings.HasPrefix(strings.ToLower(url), "gmq") })
}

// settle takes the target's answer to a message.
func (r *removal) settle(d *ferry.Delivery, err error) {
	if err == nil {
		// If the connection is lost the message comes again, and is
		// acknowledged or moved once more then: it is not lost.
		_ = d.Ack()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.confirmed++
	case exitCode(err) == exitLeft || errors.Is(err, ferry.ErrClosed):
		r.unknown.add(err)
	default:
		r.refused.add(err)
	}
}

func (r *removal) moved() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.confirmed
}

// report is what the command ends with.
func (r *removal) report(ctx context.Context, taken int, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var wrong faults
	code := exitDone
	for reason, n := range r.refused.reasons {
		code = exitRefused
		wrong = append(wrong, fmt.Errorf("%d messages were refused and stay where they are: %s", n, reason))
	}
	for reason, n := range r.unknown.reasons {
		code = exitLeft
		wrong = append(wrong, fmt.Errorf("%d messages were not confirmed and stay where they are: %s", n, reason))
	}
	if err != nil {
		wrong = append(wrong, err)
		if own := (*failure)(nil); errors.As(err, &own) {
			code = max(code, own.code)
		}
	}
	if ctx.Err() != nil && r.count > 0 && taken >= r.count && code == exitDone {
		return nil
	}
	if len(wrong) == 0 {
		return nil
	}
	return &failure{err: &wrong, code: max(code, exitFailed)}
}

func (r *removal) show() {
	if r.progress == nil || time.Since(r.shown) < progressInterval {
		return
	}
	r.shown = time.Now()
	fmt.Fprintf(r.progress, "\r%d moved", r.moved())
}

// withoutCopies leaves out the headers that have a message routed to more keys:
// it was when it was first published.
func withoutCopies(headers map[string]any) map[string]any {
	_, cc := headers["CC"]
	_, bcc := headers["BCC"]
	if !cc && !bcc {
		return headers
	}
	headers = maps.Clone(headers)
	delete(headers, "CC")
	delete(headers, "BCC")
	return headers
}

// An idMaker makes the ids of moved messages.
//
// A virtual host of a de-duplicating broker stores what a publisher sends again
// once, and finds it by the id. So a message must not keep its id when the target
// is the source, has had the message before, or gets the copies that an exchange
// made of it for several queues: it could be taken for a repeat, and be lost. A
// message that is moved again because its acknowledgement was lost must, on the
// other hand, have the id that it had the first time. So the new one is made of
// the old one and of the route.
type idMaker struct {
	route string
	keep  bool

	// Messages of one producer often come one after the other.
	producer, made string
}

// route names where messages are taken from and where they are put.
func route(parts ...string) string {
	return fmt.Sprintf("%q", parts)
}

// make makes an id of another. One that is not of the form PRODUCER-SEQ, which
// brokers do not look at, is left as it is.
func (i *idMaker) make(id string) string {
	producer, seq, ok := strings.Cut(id, "-")
	if i.keep || !ok || producer == "" {
		return id
	}
	if producer != i.producer {
		sum := sha256.Sum256([]byte(producer + " " + i.route))
		text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10])
		i.producer, i.made = producer, strings.ToLower(text)
	}
	return i.made + "-" + seq
}
