package ferry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/endpoint"
	"github.com/ferrymq/ferry/internal/link"
)

// The two connections of a client: what one is told to wait for does not hold up
// the other (RabbitMQ blocks a connection that publishes, with all that it
// carries).
const (
	publishing = "publish"
	consuming  = "consume"
)

const (
	// lasting is how long a connection must have been up for its loss to be the
	// first of a new row of failures. Below it a broker that accepts and closes
	// would be dialled in a tight loop.
	lasting = 2 * time.Second

	// refusedSweeps is how often all endpoints may refuse the login, or not know
	// the virtual host, before that is taken for permanent: nodes that start or
	// leave a cluster say such things for a while.
	refusedSweeps = 8

	// probeInterval is between looks at endpoints that stand before the one in use.
	probeInterval = time.Second

	// moveTimeout is how long what is under way may take to finish before a
	// connection is left for a better one.
	moveTimeout = 10 * time.Second

	// closeTimeout bounds the farewell to a connection that nobody needs any more.
	closeTimeout = time.Second
)

// A session is one connection while it lasts.
type session struct {
	conn     link.Conn
	endpoint endpoint.Endpoint
	index    int // of the endpoint in the list
	since    time.Time

	// moved is closed when there is a better connection: whoever uses this one
	// finishes and acquires the next.
	moved chan struct{}
	users sync.WaitGroup

	// stuck is closed, by unanswered, when the broker does not do what it was asked.
	stuck     chan struct{}
	stuckOnce sync.Once

	declared int // the version of the topology that was declared on it
	retries  int // how often all endpoints were tried in vain before it was made

	blocked string // why the broker takes no messages, "" if it does; guarded by supervisor.mu
}

// openTimeout is how long a broker may take to open a sender or a receiver. One that
// takes longer though its heartbeats come is left: with another connection, or
// another broker, things may be better.
const openTimeout = 30 * time.Second

// opening bounds a call that opens something on the connection.
func (s *session) opening(ctx context.Context) (context.Context, func()) {
	return context.WithTimeoutCause(ctx, openTimeout, errNoAnswer)
}

// unanswered has the connection left if err says that something was not answered
// in time, and waits until it is.
func (s *session) unanswered(ctx context.Context, err error) {
	if !errors.Is(err, errNoAnswer) {
		return
	}
	s.stuckOnce.Do(func() { close(s.stuck) })
	select {
	case <-s.conn.Done():
	case <-s.moved:
	case <-ctx.Done():
	}
}

// A supervisor keeps one connection open. It is the only one that dials.
type supervisor struct {
	role    string
	client  *Client
	stopped chan struct{} // closed when run has returned
	hurry   chan struct{} // one slot: the client's other connection was made

	mu      sync.Mutex
	current *session
	err     error // for good
	changed chan struct{}
	status  ConnectionStatus
}

func newSupervisor(c *Client, role string) *supervisor {
	return &supervisor{
		role:    role,
		client:  c,
		stopped: make(chan struct{}),
		hurry:   make(chan struct{}, 1),
		changed: make(chan struct{}),
		status:  ConnectionStatus{State: Connecting, Since: time.Now()},
	}
}

// acquire waits for a connection. The caller calls users.Done on what it gets
// when it has left it.
func (s *supervisor) acquire(ctx context.Context) (*session, error) {
	for {
		s.mu.Lock()
		current, err, changed := s.current, s.err, s.changed
		if current != nil && !alive(current.conn) {
			current = nil // it is about to be replaced
		}
		if current != nil {
			current.users.Add(1)
		}
		s.mu.Unlock()
		switch {
		case current != nil:
			return current, nil
		case err != nil:
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ended(ctx)
		}
	}
}

// set installs a session, or none, or why there will never be one again.
func (s *supervisor) set(current *session, err error, update func(*ConnectionStatus)) {
	s.announce(Event{}, current, err, update)
}

// announce is set with an event, which comes before those of whoever acts on what
// is set, and after the status says so.
func (s *supervisor) announce(event Event, current *session, err error, update func(*ConnectionStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.err = current, err
	update(&s.status)
	s.status.Since = time.Now()
	event.Connection = s.role
	s.client.events.add(event)
	close(s.changed)
	s.changed = make(chan struct{})
}

// use installs a session that is up.
func (s *supervisor) use(current *session, kind EventKind, attempt int) {
	to := current.endpoint.String()
	s.announce(Event{Kind: kind, Endpoint: to, Attempt: attempt}, current, nil, func(st *ConnectionStatus) {
		st.State, st.Endpoint, st.Err = Up, to, nil
		st.Connects++
	})
}

// why is what is known of there being no connection, for the errors of calls
// that gave up waiting for one.
func (s *supervisor) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.current != nil && s.current.blocked != "":
		return fmt.Errorf("%w: %s", ErrBlocked, s.current.blocked)
	case s.current == nil && s.status.Err != nil:
		return s.status.Err
	default:
		return nil
	}
}

func (s *supervisor) emit(kind EventKind, e *endpoint.Endpoint, err error) {
	event := Event{Kind: kind, Connection: s.role, Err: err}
	if e != nil {
		event.Endpoint = e.String()
	}
	s.client.events.add(event)
}

// run keeps a connection open until ctx ends or nothing helps.
func (s *supervisor) run(ctx context.Context) {
	defer close(s.stopped)
	s.end(s.keep(ctx))
}

// end says that there will be no connection any more.
func (s *supervisor) end(err error) {
	event := Event{Kind: Closed}
	if !errors.Is(err, ErrClosed) {
		event.Err = err
		defer s.client.fail(err)
	}
	s.announce(event, nil, err, func(st *ConnectionStatus) { st.State, st.Err = Ended, err })
}

func (s *supervisor) keep(ctx context.Context) error {
	o := &s.client.options
	wait := backoff{initial: o.initialDelay, max: o.maxDelay}
	last := -1 // where the connection was that is not to be tried first
	for {
		current, err := s.connect(ctx, &wait, last)
		if err != nil {
			return err
		}
		for current != nil {
			var next *session
			next, err = s.hold(ctx, current)
			if next == nil {
				break
			}
			current = next
		}
		if ctx.Err() != nil {
			return ended(ctx)
		}
		if o.once {
			return public(err)
		}
		last = -1
		if e := (*link.Error)(nil); errors.As(err, &e) && e.Kind == link.Dead {
			last = current.index
		}
		if time.Since(current.since) >= lasting {
			wait.reset()
			continue
		}
		if wait.failures == 0 {
			wait.failures++
			continue
		}
		if err := pause(ctx, wait.next()); err != nil {
			return err
		}
	}
}

// connect tries all endpoints, then waits, for as long as it is to.
func (s *supervisor) connect(ctx context.Context, wait *backoff, last int) (*session, error) {
	o := &s.client.options
	attempts, refused := 0, 0
	for {
		current, err := s.sweep(ctx, last)
		if err == nil {
			s.client.established.Store(true)
			current.retries = attempts
			s.use(current, Connected, attempts+1)
			raise(s.client.other(s).hurry)
			return current, nil
		}
		if ctx.Err() != nil {
			return nil, ended(ctx)
		}
		last = -1
		attempts++
		if hopeless(err) {
			refused++
		} else {
			refused = 0
		}
		err = fmt.Errorf("%w: %w", ErrNoBroker, err)
		most := o.maxAttempts
		if !s.client.established.Load() {
			most = o.firstAttempts()
		}
		if refused >= refusedSweeps || most > 0 && attempts >= most {
			return nil, err
		}
		delay := wait.next()
		s.mu.Lock()
		s.status.State, s.status.Err = Connecting, err
		s.mu.Unlock()
		s.client.events.add(Event{Kind: Retrying, Connection: s.role, Attempt: attempts, Delay: delay, Err: err})
		if err := s.pause(ctx, delay); err != nil {
			return nil, err
		}
	}
}

// pause waits for d, or until the client's other connection was made: then there is
// a broker again.
func (s *supervisor) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-s.hurry: // of a time when nobody waited
	default:
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.hurry:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

// sweep tries each endpoint once, in order; the one at index last comes last. A
// connection counts when the topology is declared on it.
func (s *supervisor) sweep(ctx context.Context, last int) (*session, error) {
	endpoints := s.client.order()
	var order []int
	for i := range endpoints {
		if i != last {
			order = append(order, i)
		}
	}
	if last >= 0 && last < len(endpoints) {
		order = append(order, last)
	}
	var errs []error
	for _, i := range order {
		current, err := s.open(ctx, endpoints[i], i)
		if err == nil {
			if err = s.restore(ctx, current); err == nil {
				return current, nil
			}
			s.leave(current)
		}
		if ctx.Err() != nil {
			return nil, ended(ctx)
		}
		errs = append(errs, fmt.Errorf("%s: %w", endpoints[i], public(err)))
	}
	return nil, errors.Join(errs...)
}

// hopeless tells whether all endpoints answered, and none will take us.
func hopeless(err error) bool {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return false
	}
	for _, err := range joined.Unwrap() {
		if !errors.Is(err, ErrAccessRefused) && !errors.Is(err, ErrNotFound) {
			return false
		}
	}
	return true
}

// open connects to one endpoint.
func (s *supervisor) open(ctx context.Context, e endpoint.Endpoint, index int) (*session, error) {
	o := &s.client.options
	timeout := DefaultConnectTimeout
	if o.connectTimeout > 0 {
		timeout = o.connectTimeout
	}
	if e.ConnectTimeout > 0 {
		timeout = e.ConnectTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no connection within %v", timeout))
	defer cancel()

	current := &session{endpoint: e, index: index, moved: make(chan struct{}), stuck: make(chan struct{})}
	lo := link.Options{
		Endpoint:  e,
		Name:      o.name,
		Heartbeat: o.heartbeat,
		Logger:    o.logger,
		Blocked:   func(reason string, ok bool) { s.setBlocked(current, reason, ok) },
	}
	if e.Heartbeat >= 0 {
		lo.Heartbeat = e.Heartbeat
	}
	if o.dial != nil {
		lo.Dial = o.dialWithin
	}
	if o.credentials != nil {
		lo.Credentials = o.credentialsWithin
	}
	conn, err := openLink(ctx, lo)
	if err != nil {
		return nil, err
	}
	current.conn, current.since = conn, time.Now()
	return current, nil
}

// setBlocked is told by a connection whether the broker takes messages on it.
func (s *supervisor) setBlocked(of *session, reason string, ok bool) {
	if ok {
		reason = ""
	} else if reason == "" {
		reason = "no reason given"
	}
	s.mu.Lock()
	of.blocked = reason
	s.mu.Unlock()
	if ok {
		s.emit(Unblocked, &of.endpoint, nil)
	} else {
		s.emit(Blocked, &of.endpoint, fmt.Errorf("%w: %s", ErrBlocked, reason))
	}
}

// snapshot is how the connection does now.
func (s *supervisor) snapshot() ConnectionStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	if s.current != nil {
		st.Blocked = s.current.blocked
	}
	return st
}

// hold waits until a connection has ended. If it was left for a better one, that
// one is returned.
func (s *supervisor) hold(ctx context.Context, current *session) (next *session, err error) {
	probes, stop := context.WithCancel(ctx)
	better := make(chan *session, 1)
	var probing sync.WaitGroup
	if s.client.options.failback > 0 && current.index > 0 {
		probing.Go(func() { s.probe(probes, current.index, better) })
	}
	defer func() {
		stop()
		probing.Wait()
		select {
		case b := <-better: // found too late
			s.leave(b)
		default:
		}
	}()

	select {
	case next = <-better:
		s.move(ctx, current, next)
		return next, nil
	case <-current.conn.Done():
		err = current.conn.Err()
	case <-current.stuck:
		err = &link.Error{Kind: link.Dead, Text: fmt.Sprintf("it lives, and has not answered for %v", openTimeout)}
	case <-ctx.Done():
		err = nil
	}
	if ctx.Err() == nil {
		lost := public(err)
		event := Event{Kind: Disconnected, Endpoint: current.endpoint.String(), Err: lost}
		s.announce(event, nil, nil, func(st *ConnectionStatus) { st.State, st.Err = Connecting, lost })
	}
	s.leave(current)
	return nil, err
}

// probe looks for an endpoint that stands before index and stays up, and gives
// the connection that showed it, with the topology declared.
func (s *supervisor) probe(ctx context.Context, index int, better chan<- *session) {
	refused := backoff{initial: probeInterval, max: s.client.options.maxDelay}
	for {
		wait := probeInterval
		for i, e := range s.client.order()[:index] {
			candidate, err := s.open(ctx, e, i)
			if err != nil {
				if errors.Is(public(err), ErrAccessRefused) { // brokers count those
					wait = max(wait, refused.next())
				}
				continue
			}
			refused.reset()
			if s.stays(ctx, candidate) && s.restore(ctx, candidate) == nil {
				better <- candidate
				return
			}
			s.leave(candidate)
		}
		if pause(ctx, wait) != nil {
			return
		}
	}
}

// stays tells whether a connection is up, and takes messages, for as long as it
// takes to be better than one that is in use.
func (s *supervisor) stays(ctx context.Context, candidate *session) bool {
	stays := time.NewTimer(s.client.options.failback)
	defer stays.Stop()
	select {
	case <-stays.C:
		s.mu.Lock()
		defer s.mu.Unlock()
		return candidate.blocked == ""
	case <-candidate.conn.Done():
	case <-ctx.Done():
	}
	return false
}

// move makes next the connection. Those who use the old one finish what is under
// way, and have moveTimeout for it.
func (s *supervisor) move(ctx context.Context, old, next *session) {
	s.use(next, FailedBack, 0)
	close(old.moved)
	if next.declared != s.client.topology.current() {
		// Somebody declares more on the old one meanwhile, and has not seen that it
		// was left. If this fails the connection has, and so has what follows.
		_ = s.restore(ctx, next)
	}

	left := make(chan struct{})
	go func() {
		old.users.Wait()
		close(left)
	}()
	deadline := time.NewTimer(moveTimeout)
	defer deadline.Stop()
	select {
	case <-left:
	case <-deadline.C:
	case <-ctx.Done():
	case <-old.conn.Done():
	}
	s.leave(old)
	<-left // every user has noticed that its connection is gone
}

// leave closes a connection, and does not take long.
func (s *supervisor) leave(of *session) {
	ctx, cancel := context.WithTimeout(s.client.farewell(), closeTimeout)
	defer cancel()
	_ = of.conn.Close(ctx) // it is left either way
}

// restore declares the topology on a new connection. An error says that the
// connection is of no use.
func (s *supervisor) restore(ctx context.Context, current *session) error {
	return s.client.topology.restore(ctx, s, current)
}
