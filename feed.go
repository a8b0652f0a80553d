package ferry

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// A feed is where one sender takes a publisher's messages. When it was withdrawn
// from the publisher, what its sender still says is not heard: the tags are those
// of another.
type feed struct {
	publisher *Publisher
	lost      chan struct{} // closed when the sender has ended

	// Guarded by publisher.mu.
	sender   link.Sender // nil until it is known
	err      error       // why it ended
	ended    bool
	held     bool // nothing more is to be taken
	outgoing []link.Outgoing
}

// senderLocked is who takes messages now, nil if nobody does. Whoever makes a
// sender known wakes it.
func (p *Publisher) senderLocked() link.Sender {
	if p.feed == nil {
		return nil
	}
	return p.feed.sender
}

// wake tells a sender, if there is one, that there may be messages.
func wake(sender link.Sender) {
	if sender != nil {
		sender.Wake()
	}
}

// Next implements link.Source.
func (f *feed) Next(most int) []link.Outgoing {
	p := f.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.feed != f || f.held {
		return nil
	}
	if p.window.first < p.careful {
		if p.window.flying > 0 {
			return nil
		}
		most = 1
	}
	f.outgoing = f.outgoing[:0]
	for len(f.outgoing) < most {
		e := p.window.take()
		if e == nil {
			break
		}
		if e.attempts > 1 {
			p.stats.Resent++
		}
		f.outgoing = append(f.outgoing, link.Outgoing{
			Message: e.message.wire(), Producer: p.producer, Seq: e.seq,
			Attempt: e.attempt(), Mandatory: p.mandatory,
		})
	}
	return f.outgoing
}

// Written implements link.Source.
func (f *feed) Written(tag uint64) { f.Settled(tag, true, false) }

// Settled implements link.Source.
func (f *feed) Settled(tag uint64, multiple, refused bool) {
	var why error
	if refused {
		why = errNacked
	}
	f.settled(tag, multiple, why)
}

// Refused implements link.Source.
func (f *feed) Refused(tag uint64, err *link.Error) { f.settled(tag, false, refusal(err)) }

// settled gives messages their outcome: they are confirmed, or refused for a reason.
func (f *feed) settled(tag uint64, multiple bool, why error) {
	p := f.publisher
	p.mu.Lock()
	if p.feed != f {
		p.mu.Unlock()
		return
	}
	from := tag
	if multiple {
		from = p.window.low
	}
	for t := from; t <= tag; t++ {
		e := p.window.outstanding(t)
		if e == nil {
			continue
		}
		switch {
		case why != nil:
			p.settleLocked(e, e.refused(why))
		case e.returned != nil:
			p.settleLocked(e, e.refused(refusal(e.returned)))
		default:
			p.settleLocked(e, nil)
		}
	}
	p.trouble = nil
	var sender link.Sender
	if p.trimLocked() || p.careful > 0 {
		sender = f.sender
	}
	if p.window.first >= p.careful {
		p.careful = 0
	}
	p.mu.Unlock()
	wake(sender)
}

// Returned implements link.Source.
func (f *feed) Returned(id string, err *link.Error) {
	p := f.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.feed != f {
		return
	}
	if e := p.window.find(p.producer, id); e != nil {
		e.returned = err
	}
}

// Closed implements link.Source.
func (f *feed) Closed(err error) {
	f.publisher.mu.Lock()
	f.err, f.ended = err, true
	f.publisher.mu.Unlock()
	close(f.lost)
}

// run sends what is in the window over one connection after the other, until the
// publisher is to stop; then what is left gets its outcome.
func (p *Publisher) run() {
	defer close(p.ended)
	err := p.keep()
	p.mu.Lock()
	p.refuseLocked(err)
	for place := p.window.first; place < p.window.end; place++ {
		e := p.window.at(place)
		if e.state == settled {
			continue
		}
		if e.waiter == nil && e.state != abandoned { // else its Publish says so
			p.left = append(p.left, p.unconfirmed(e))
		}
		if e.attempts > 0 {
			p.settleLocked(e, unknown(err))
		} else {
			p.settleLocked(e, notSent(err))
		}
	}
	p.trimLocked()
	p.done = true
	p.mu.Unlock()
	raise(p.results)
}

// unconfirmed is a message as Close returns it.
func (p *Publisher) unconfirmed(e *entry) Message {
	m := e.message
	if m.ID == "" && p.producer != "" {
		m.ID = messageID(p.producer, e.seq)
	}
	if e.attempts > 0 {
		m.Attempt = e.attempt() + 1
	}
	return m
}

func (p *Publisher) keep() error {
	for {
		current, err := p.client.publish.acquire(p.ctx)
		if err != nil {
			return err
		}
		if err = p.settleDown(current); err == nil {
			err = p.use(current)
		}
		current.users.Done()
		if err != nil {
			return err
		}
	}
}

// fatalCloses is how many connections in a row, without the broker being away in
// between, it must have ended while one message alone was in flight for that to be
// the message's fault: a broker may end a connection for many a reason, and other
// publishers share it.
const fatalCloses = 3

// suspectWait is half the most that is waited before a suspect is sent again the
// first time; it doubles.
const suspectWait = 20 * time.Millisecond

// settleDown has a publisher that suspects a message of its own wait a little:
// others whose messages were in flight when the broker ended the connection suspect
// theirs, and are not to try at the same time.
func (p *Publisher) settleDown(current *session) error {
	p.mu.Lock()
	if current.retries > 0 {
		p.fatal = 0 // the broker was away: it did not end for a message
	}
	fatal := p.fatal
	p.mu.Unlock()
	if fatal == 0 {
		return nil
	}
	return pause(p.ctx, rand.N(suspectWait<<fatal))
}

// suspectLocked looks for a message because of which the broker ended the whole
// connection: sent again for ever it would hold up all that is behind it.
func (p *Publisher) suspectLocked(err error) {
	var e *link.Error
	if p.options.NoConfirm || !errors.As(err, &e) || !e.Said || e.Kind == link.Forced {
		p.fatal = 0
		return
	}
	if p.window.flying != 1 {
		p.careful, p.fatal = max(p.careful, p.window.next), 0
		return
	}
	p.strikeLocked(p.window.alone(), err)
}

// strikeLocked counts how often a message seems to have been why the broker ended a
// connection, or a sender, and refuses it when that is often enough.
func (p *Publisher) strikeLocked(suspect *entry, err error) {
	if p.suspect != suspect.seq {
		p.suspect, p.fatal = suspect.seq, 0
	}
	if p.fatal++; p.fatal == fatalCloses {
		p.fatal = 0
		p.settleLocked(suspect, suspect.refused(refusal(err)))
	}
}

// Waits before a sender is opened anew on a connection that goes on, when
// nothing was settled by the last.
const (
	reopenWait    = 10 * time.Millisecond
	reopenMaxWait = 5 * time.Second
)

// use sends over one connection until that is of no more use (nil), or the
// publisher is to stop.
func (p *Publisher) use(current *session) error {
	wait := backoff{initial: reopenWait, max: reopenMaxWait}
	for {
		before := p.answers()
		err := p.send(current)
		switch {
		case p.ctx.Err() != nil:
			return ended(p.ctx)
		case !alive(current.conn):
			select {
			case <-current.conn.Done():
				return nil
			case <-p.ctx.Done():
				return ended(p.ctx)
			}
		case moved(current):
			return nil
		case p.answers() != before:
			wait.reset()
			continue
		}
		if err != nil {
			p.mu.Lock()
			p.trouble = public(err)
			p.mu.Unlock()
			if l := p.client.options.logger; l != nil {
				l.Warn("the broker closed a publisher's channel; opening another", "err", err)
			}
		}
		if err := pause(p.ctx, wait.next()); err != nil {
			return err
		}
	}
}

// send sends through one sender until it has ended, and says why it has.
func (p *Publisher) send(current *session) error {
	f := &feed{publisher: p, lost: make(chan struct{})}
	p.mu.Lock()
	p.feed = f
	p.mu.Unlock()
	opening, cancel := current.opening(p.ctx)
	sender, err := current.conn.OpenSender(opening, link.SenderConfig{Confirm: !p.options.NoConfirm, Replies: p.replies}, f)
	cancel()
	if err != nil {
		p.mu.Lock()
		p.feed = nil
		p.mu.Unlock()
		current.unanswered(p.ctx, err)
		return err
	}
	p.mu.Lock()
	f.sender = sender
	p.mu.Unlock()
	sender.Wake()
	select {
	case <-f.lost:
	case <-current.moved:
		p.drain(f)
		// It may be writing messages that are going to be sent by the next.
		select {
		case <-f.lost:
		case <-p.ctx.Done():
		}
	case <-p.ctx.Done():
		p.leave(f)
	}
	return p.withdraw(f, alive(current.conn))
}

func moved(s *session) bool {
	select {
	case <-s.moved:
		return true
	default:
		return false
	}
}

// answers counts what brokers have answered so far: whether there is progress.
func (p *Publisher) answers() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats.Confirmed + p.stats.Refused
}

// drain lets what is in flight get its outcome, and leaves the sender.
func (p *Publisher) drain(f *feed) {
	p.mu.Lock()
	f.held = true
	select {
	case <-p.drained:
	default:
	}
	if p.window.flying == 0 {
		raise(p.drained)
	}
	p.mu.Unlock()
	deadline := time.NewTimer(moveTimeout)
	defer deadline.Stop()
	select {
	case <-p.drained:
	case <-f.lost:
	case <-deadline.C:
	case <-p.ctx.Done():
	}
	p.leave(f)
}

// leave closes a sender; it ends with its connection if the broker does not answer.
func (p *Publisher) leave(f *feed) {
	p.mu.Lock()
	until := p.goodbye
	p.mu.Unlock()
	switch {
	case p.ctx.Err() == nil:
		until = p.ctx // it is left for a better one
	case until == nil:
		until = p.client.farewell()
	}
	ctx, cancel := context.WithTimeout(until, closeTimeout)
	defer cancel()
	_ = f.sender.Close(ctx)
}

// withdraw takes back what a sender did not settle.
func (p *Publisher) withdraw(f *feed, connectionGoesOn bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.feed = nil
	if connectionGoesOn {
		p.blameLocked(f.err)
	} else {
		p.suspectLocked(f.err)
	}
	if p.options.NoConfirm && p.ctx.Err() == nil {
		for place := p.window.first; place < p.window.next; place++ {
			if e := p.window.at(place); e.outstanding() {
				p.settleLocked(e, unknown(endOf(f)))
			}
		}
	}
	p.window.rewind(!connectionGoesOn)
	if !f.ended {
		p.window.move(len(p.window.ring)) // it may be writing yet
	}
	p.trimLocked()
	return f.err
}

// endOf is why a sender has ended.
func endOf(f *feed) error {
	if f.err == nil {
		return ErrConnectionLost
	}
	return public(f.err)
}

// blameLocked finds the message because of which the broker ended the sender, if
// it was one: otherwise it would be sent again, and end the next. Where several
// were in flight, and the broker does not say which, they are sent again one at a
// time, so that the next time there is no doubt. Without confirms there always is.
func (p *Publisher) blameLocked(err error) {
	var e *link.Error
	if !errors.As(err, &e) || !culpable(err) && !suspicious(err) {
		return
	}
	culprit := p.window.outstanding(e.Tag)
	switch {
	case culprit != nil:
	case e.Kind == link.Unsendable || p.options.NoConfirm:
		return
	case p.window.flying != 1 || e.Tag != 0: // one that was given up and let go of, perhaps
		p.careful = max(p.careful, p.window.next)
		return
	default:
		culprit = p.window.alone()
	}
	switch why := refusal(err); {
	case !culpable(err):
		p.strikeLocked(culprit, err)
	case e.Kind == link.Unroutable && !p.mandatory:
		p.settleLocked(culprit, nil) // it was to be dropped
	case e.Kind != link.Unsendable && culprit.lost: // else it was sent on channels that it ended, or one before it did
		p.settleLocked(culprit, culprit.refused(why))
	default:
		p.settleLocked(culprit, why)
	}
}
