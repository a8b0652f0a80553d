package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal/file"
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

// never is when something happens that does not.
const never = math.MaxInt

// A note is a message of a story, in one of its queues. Times are numbers of
// changes of the file system, or of the journal if there is a tape of it.
type note struct {
	text     string
	queue    string
	id       string // its identity, empty: it has none
	dupl     string // its duplicate id, empty: it has none
	begun    int    // when it was about to be published
	sure     int    // when it was known to be safe
	settling int    // when its settlement was about to begin
	settled  int    // when that was known to be safe
}

// An action is a change of topology.
type action struct {
	begun, sure int
	name        string // of a queue, or "exchange key queue" of a binding
	gone        bool
}

// A whole is a transaction.
type whole struct{ publishes, settles []*note }

// A story is what was done to a broker, and when what was true of it.
type story struct {
	*world
	tape    *tape   // nil: the file system keeps its history
	notes   []*note // in the order of their publishing
	actions []action
	wholes  []whole
	count   int
	ids     map[string]int // the last number of each producer
}

// tiny settings make a small journal do all that a large one does.
func tiny(c *Config) {
	c.SegmentBytes, c.CleanEvery, c.HotBytes = 4<<10, time.Millisecond, 1<<10
	c.batchBytes, c.partBytes = 600, 900
}

func newStory(t *testing.T) *story {
	m := vfs.NewMem()
	m.Record()
	s := &story{world: &world{t: t, fs: m, wrap: func(m *vfs.Mem) vfs.FS { return noBallast{m} }}, ids: map[string]int{}}
	s.start(tiny)
	return s
}

func (s *story) now() int {
	if s.tape != nil {
		return len(s.tape.history())
	}
	return len(s.fs.History())
}

func (s *story) confirming() *client {
	c := s.client()
	if err := c.ch.ConfirmSelect(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// change does something to the topology.
func (s *story) change(name string, gone bool, do func() error) {
	s.t.Helper()
	a := action{begun: s.now(), name: name, gone: gone}
	if err := do(); err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	a.sure = s.now()
	s.actions = append(s.actions, a)
}

func (s *story) declare(c *client, queue string) {
	s.t.Helper()
	s.change(queue, false, func() error {
		_, err := c.DeclareQueue(QueueSpec{Name: queue, Durable: true})
		return err
	})
}

func (s *story) remove(c *client, queue string) {
	s.t.Helper()
	began := s.now()
	s.change(queue, true, func() error {
		_, err := c.DeleteQueue(queue, false, false)
		return err
	})
	for _, n := range s.notes {
		if n.queue == queue {
			n.settling, n.settled = min(n.settling, began), min(n.settled, s.now())
		}
	}
}

func (s *story) bind(c *client, exchange, key, queue string) {
	s.t.Helper()
	s.change(exchange+" "+key+" "+queue, false, func() error { return c.BindQueue(queue, exchange, key, nil) })
}

func (s *story) unbind(c *client, exchange, key, queue string) {
	s.t.Helper()
	s.change(exchange+" "+key+" "+queue, true, func() error { return c.UnbindQueue(queue, exchange, key, nil) })
}

// post publishes a message of a size, and notes it for all queues that get it.
// Most have an identity, or a duplicate id, and some expire, long after the story.
func (s *story) post(c *client, exchange, key string, size int, persistent bool, queues ...string) []*note {
	s.t.Helper()
	return s.postFor(c, []string{"", "3600000", "1000000000"}[s.count%3], exchange, key, size, persistent, queues...)
}

// storyPriority is that of all messages: those of a priority come in their order.
const storyPriority = 2

func (s *story) postFor(c *client, expiration, exchange, key string, size int, persistent bool, queues ...string) []*note {
	s.t.Helper()
	last := lastingProps(storyPriority, expiration)
	s.count++
	text := noteText(s.count, size)
	id := ""
	if s.count%4 > 0 {
		p := "p" + strings.Repeat("q", s.count%4-1)
		s.ids[p]++
		id = fmt.Sprint(p, "-", s.ids[p])
	}
	dupl := ""
	if id == "" && exchange == "" {
		dupl = fmt.Sprint("d", s.count)
	}
	var list []*note
	for _, q := range queues {
		list = append(list, &note{text, q, id, dupl, s.now(), never, never, never})
	}
	props := []byte(nil)
	switch {
	case id != "":
		props = named(id)
	case dupl != "":
		props = duplicate(dupl)
	}
	c.publishWith(exchange, key, append(props, last...), text, persistent)
	if persistent {
		s.notes = append(s.notes, list...)
	}
	return list
}

// noteText is the body of a message: all follows from its number and its size.
func noteText(number, size int) string {
	text := fmt.Sprintf("%05d %d ", number, size)
	return text + strings.Repeat(string(rune('a'+number%26)), max(size-len(text), 0))
}

// confirm waits for the confirms of all that c published.
func (s *story) confirm(c *client, list ...[]*note) {
	s.t.Helper()
	for c.told() < c.ch.published {
		c.next(EventConfirm)
	}
	for _, notes := range list {
		for _, n := range notes {
			n.sure = s.now()
		}
	}
}

// told is up to which publish all are confirmed.
func (c *client) told() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ch.conf.told
}

// get takes a message that must be n.
func (s *story) get(c *client, n *note) uint64 {
	s.t.Helper()
	found, err := c.ch.Get(n.queue, false)
	if !found || err != nil {
		s.t.Fatalf("get %s: %v %v", n.queue, found, err)
	}
	e := c.next(EventGot)
	if body(e) != n.text {
		s.t.Fatalf("got %.20q from %s, want %.20q", body(e), n.queue, n.text)
	}
	return e.Tag
}

// ack settles a message that was got.
func (s *story) ack(c *client, tag uint64, notes ...*note) {
	s.t.Helper()
	for _, n := range notes {
		n.settling = s.now()
	}
	if err := c.ch.Ack(tag, len(notes) > 1); err != nil {
		s.t.Fatal(err)
	}
}

// sure makes what was settled durable, by something behind it that is.
func (s *story) sure(c *client, notes ...*note) {
	s.t.Helper()
	s.confirm(c, s.post(c, "", "sure", 20, true, "sure"))
	for _, n := range notes {
		n.settled = s.now()
	}
}

// tell does all that is durable in a small way.
func (s *story) tell() {
	c := s.confirming()
	for _, q := range []string{"a", "b", "sure", "parked"} {
		s.declare(c, q)
	}
	if err := c.DeclareExchange(ExchangeSpec{Name: "x", Type: "topic", Durable: true}); err != nil {
		s.t.Fatal(err)
	}
	s.bind(c, "x", "k.*", "a")
	s.bind(c, "x", "k.*", "b")

	// Persistent, transient, in many queues, in parts, several at once.
	a1, a2 := s.post(c, "", "a", 40, true, "a"), s.post(c, "", "a", 50, true, "a")
	s.post(c, "", "a", 40, false)
	many := s.post(c, "x", "k.v", 60, true, "a", "b")
	s.confirm(c, a1, a2, many)
	large := s.post(c, "x", "k.w", 3000, true, "a", "b")
	s.confirm(c, large)
	run := [][]*note{}
	for range 5 {
		run = append(run, s.post(c, "", "b", 30, true, "b"))
	}
	s.confirm(c, run...)

	// A queue with priorities, and messages that expire.
	s.change("urgent", false, func() error {
		_, err := c.DeclareQueue(QueueSpec{Name: "urgent", Durable: true, Args: args{"x-max-priority": 5, "x-max-length-bytes": 1 << 20}.list()})
		return err
	})
	s.declare(c, "brief")
	u1, u2, u3 := s.post(c, "", "urgent", 40, true, "urgent"), s.post(c, "", "urgent", 1200, true, "urgent"), s.post(c, "", "urgent", 40, true, "urgent")
	s.confirm(c, u1, u2, u3)
	tag := s.get(c, u1[0])
	s.ack(c, tag, u1[0])
	s.sure(c, u1[0])
	for range 3 {
		gone := s.postFor(c, "1", "", "brief", 50, true, "brief")
		gone[0].settling, gone[0].settled = gone[0].begun, gone[0].begun
		s.confirm(c, gone)
	}
	s.confirm(c, s.post(c, "", "brief", 50, true, "brief"))
	eventually(s.t, func() bool {
		info, err := c.CheckQueue("brief")
		return err == nil && info.Messages == 1
	})

	// Settlements: one, several, one queue of many, given back, and with its
	// channel.
	t1 := s.get(c, a1[0])
	t2 := s.get(c, a2[0])
	if found, err := c.ch.Get("a", true); !found || err != nil { // the transient one
		s.t.Fatal(found, err)
	}
	c.next(EventGot)
	s.ack(c, t2, a1[0], a2[0])
	_ = t1
	s.sure(c, a1[0], a2[0])
	tag = s.get(c, many[1])
	s.ack(c, tag, many[1])
	s.sure(c, many[1])
	tag = s.get(c, large[1])
	if err := c.ch.Nack(tag, false, true); err != nil {
		s.t.Fatal(err)
	}
	tag = s.get(c, large[1])
	s.ack(c, tag, large[1])
	s.sure(c, large[1])

	// A transaction that spans batches, and settles.
	tx := s.client()
	if err := tx.ch.TxSelect(); err != nil {
		s.t.Fatal(err)
	}
	w := whole{settles: []*note{run[0][0], run[1][0]}}
	tag = s.get(tx, run[0][0])
	s.ack(tx, tag, run[0][0])
	other := &client{t: s.t, Session: tx.Session, ch: tx.OpenChannel(2)}
	tag = s.get(other, run[1][0])
	run[1][0].settling = s.now()
	if err := tx.ch.TxAck(other.ch, tag, false); err != nil {
		s.t.Fatal(err)
	}
	for i := range 4 {
		w.publishes = append(w.publishes, s.post(tx, "x", "k.t", 100+900*(i%2), true, "a", "b")...)
	}
	for range 4 {
		w.publishes = append(w.publishes, s.post(tx, "", "b", 100, true, "b")...)
	}
	s.wholes = append(s.wholes, w)
	if err := tx.ch.TxCommit(); err != nil {
		s.t.Fatal(err)
	}
	for _, n := range w.publishes {
		n.sure = s.now()
	}
	for _, n := range w.settles {
		n.settled = s.now()
	}
	tx.Close()

	// Purge, and delete and redeclare.
	s.declare(c, "p")
	p1 := s.post(c, "", "p", 30, true, "p")
	s.confirm(c, p1)
	p1[0].settling = s.now()
	if _, err := c.PurgeQueue("p"); err != nil {
		s.t.Fatal(err)
	}
	p1[0].settled = s.now()
	p2 := s.post(c, "", "p", 30, true, "p")
	s.confirm(c, p2)
	s.remove(c, "p")
	s.declare(c, "p")
	s.confirm(c, s.post(c, "", "p", 30, true, "p"))
	s.unbind(c, "x", "k.*", "b")
	c.Close()

	// Another owner, and then so much that is settled that segments are
	// cleaned, while some of it is not.
	s.restart(tiny)
	c = s.confirming()
	s.churn(c, 150, true)
	s.restart(tiny)
	c = s.confirming()
	s.churn(c, 15, false)
	s.confirm(c, s.post(c, "x", "k.z", 20, true, "a"))
	c.Close()
	s.stop()
}

// churn publishes and settles, and lets some stay.
func (s *story) churn(c *client, rounds int, clean bool) {
	s.t.Helper()
	s.declare(c, "churn")
	before := s.cleaned()
	for i := range rounds {
		n := s.post(c, "", "churn", 200, true, "churn")
		s.confirm(c, n)
		if i%25 == 5 {
			s.confirm(c, s.post(c, "", "parked", 100+i*20, true, "parked"))
		}
		tag := s.get(c, n[0])
		s.ack(c, tag, n[0])
		n[0].settled = never
		if i%4 == 3 {
			s.sure(c, n[0])
		}
	}
	if clean {
		eventually(s.t, func() bool { return s.cleaned() > before })
	}
}

// cleaned is how many segments were dropped.
func (s *story) cleaned() (n int) {
	if s.tape != nil {
		return s.tape.drops()
	}
	for _, c := range s.fs.History() {
		if c.Op == vfs.OpRemove && strings.HasSuffix(c.Name, ".seg") {
			n++
		}
	}
	return n
}

// found is what a broker has, by queue.
func (w *world) found(c *client) (map[string][]string, error) {
	all := map[string][]string{}
	for name := range w.b.vhost("/").queues {
		all[name] = nil
		seen := uint64(0)
		for {
			ok, err := c.ch.Get(name, false)
			if err != nil {
				return nil, fmt.Errorf("get %s: %w", name, err)
			}
			if !ok {
				break
			}
			e := c.next(EventGot)
			if !e.Redelivered {
				return nil, fmt.Errorf("%.20q in %s is not redelivered", body(e), name)
			}
			all[name] = append(all[name], body(e))
			seen++
		}
	}
	return all, nil
}

// bring publishes a message with an identity.
func (c *client) bring(exchange, key, id, text string, persistent bool, more ...[]byte) {
	c.t.Helper()
	c.publishWith(exchange, key, named(id, more...), text, persistent)
}

// put publishes a message with a duplicate id.
func (c *client) put(exchange, key, id, text string, persistent bool) {
	c.t.Helper()
	c.publishWith(exchange, key, duplicate(id), text, persistent)
}

func (c *client) publishWith(exchange, key string, props []byte, text string, persistent bool) {
	c.t.Helper()
	err := c.ch.Publish(&Publish{
		Exchange: []byte(exchange), Key: []byte(key), Persistent: persistent, Properties: props, Body: []byte(text),
	})
	if err != nil {
		c.t.Fatalf("publish %.20s: %v", text, err)
	}
	c.Flush()
}

// resend brings messages again, to another queue if they have an identity, as
// publishers do after a crash that left all. Those that were confirmed, and those
// that are there, must be dropped; those that are lost must not, nor copies that
// others publish.
func (s *story) resend(w *world, at int, all map[string][]string) error {
	c := w.client()
	defer c.Close()
	for _, q := range []string{"resent", "copied"} {
		if _, err := c.DeclareQueue(QueueSpec{Name: q, Durable: true}); err != nil {
			return err
		}
	}
	if err := c.ch.ConfirmSelect(); err != nil {
		return err
	}
	begun := 0
	for begun < len(s.notes) && s.notes[begun].begun <= at {
		begun++
	}
	type state struct{ there, sure, lost bool }
	known := map[string]*state{}
	queueOf := map[string]string{} // messages with duplicate ids
	for i, n := range s.notes {
		if near := i > begun-40 && i < begun+3; n.id+n.dupl == "" || !near && i%23 > 0 && !long {
			continue
		}
		if _, ok := all[n.queue]; n.dupl != "" && !ok {
			continue
		}
		x := known[n.id+n.dupl]
		if x == nil {
			x = &state{}
			known[n.id+n.dupl] = x
			if n.dupl != "" {
				queueOf[n.dupl] = n.queue
				c.put("", n.queue, n.dupl, n.dupl, true)
				c.put("", n.queue, n.dupl, n.dupl, true)
				c.put("", "copied", n.dupl, n.dupl, true)
			} else {
				c.bring("", "resent", n.id, n.id, true, mark(2))
				c.bring("", "resent", n.id, n.id, true, mark(3))
				c.bring("", "copied", n.id, n.id, true)
			}
		}
		there := slices.Contains(all[n.queue], n.text)
		x.there = x.there || there
		x.sure = x.sure || n.sure <= at
		x.lost = x.lost || !there && n.settling > at
	}
	for c.told() < c.ch.published {
		c.next(EventConfirm)
	}
	if n := len(c.drain("copied")); n != len(known) {
		return fmt.Errorf("of %d copies %d are stored", len(known), n)
	}
	taken := c.drain("resent")
	for _, q := range slices.Compact(slices.Sorted(maps.Values(queueOf))) {
		taken = append(taken, c.drain(q)...)
	}
	for id, x := range known {
		n := 0
		for _, t := range taken {
			if t == id {
				n++
			}
		}
		switch {
		case n > 1:
			return fmt.Errorf("%s is taken %d times", id, n)
		case n > 0 && x.sure:
			return fmt.Errorf("%s is taken again, it was confirmed", id)
		case n > 0 && x.there:
			return fmt.Errorf("%s is taken again, it is there", id)
		case n == 0 && x.lost && !x.there && !x.sure:
			return fmt.Errorf("%s is dropped, and is not there", id)
		}
	}
	return nil
}

// check compares a broker that was started on what a crash at a time left.
func (s *story) check(w *world, at int) error {
	c := w.client()
	defer c.Close()
	if at == 0 {
		return nil
	}
	all, err := w.found(c)
	if err == nil {
		err = s.resend(w, at, all)
	}
	if err != nil {
		return err
	}
	type key struct{ queue, text string }
	known := map[key]int{}
	for i, n := range s.notes {
		known[key{n.queue, n.text}] = i
	}
	has := map[*note]bool{}
	for queue, texts := range all {
		last := -1
		for _, text := range texts {
			i, ok := known[key{queue, text}]
			switch {
			case !ok:
				return fmt.Errorf("%.20q in %s was never published", text, queue)
			case s.notes[i].begun > at:
				return fmt.Errorf("%.20q in %s is not published yet", text, queue)
			case i <= last:
				return fmt.Errorf("%.20q in %s is there twice or behind %.20q", text, queue, s.notes[last].text)
			case s.notes[i].settled <= at:
				return fmt.Errorf("%.20q in %s is back, it was settled at %d", text, queue, s.notes[i].settled)
			}
			last = i
			has[s.notes[i]] = true
		}
	}
	for _, n := range s.notes {
		if n.sure <= at && n.settling > at && !has[n] {
			return fmt.Errorf("%.20q in %s is lost, it was confirmed at %d", n.text, n.queue, n.sure)
		}
	}
	for _, t := range s.wholes {
		done := slices.ContainsFunc(t.publishes, func(n *note) bool { return has[n] })
		for _, n := range t.publishes {
			if done && !has[n] && n.settling > at {
				return fmt.Errorf("%.20q of a transaction is missing in %s", n.text, n.queue)
			}
		}
		for _, n := range t.settles {
			if has[n] == done && n.sure <= at {
				return fmt.Errorf("%.20q in %s: there %v, its transaction %v", n.text, n.queue, has[n], done)
			}
		}
	}
	return s.checkTopology(w, c, at)
}

func (s *story) checkTopology(w *world, c *client, at int) error {
	latest := map[string]action{}
	open := map[string]bool{} // whether it may be either
	for _, a := range s.actions {
		switch {
		case a.sure <= at:
			latest[a.name], open[a.name] = a, false
		case a.begun <= at:
			open[a.name] = true
		}
	}
	for name, a := range latest {
		if open[name] {
			continue
		}
		parts := strings.Fields(name)
		if len(parts) == 1 {
			_, err := c.CheckQueue(name)
			if (err != nil) != a.gone {
				return fmt.Errorf("queue %s, gone %v: %w", name, a.gone, err)
			}
			continue
		}
		if _, err := c.CheckQueue(parts[2]); err != nil {
			continue
		}
		r, err := c.pub.route(&Publish{Exchange: []byte(parts[0]), Key: []byte("k.probe")})
		if err != nil {
			return fmt.Errorf("binding %s: %w", name, err)
		}
		if bound := slices.ContainsFunc(r.queues, func(q *Queue) bool { return q.name == parts[2] }); bound == a.gone {
			return fmt.Errorf("binding %s: there %v, gone %v", name, bound, a.gone)
		}
	}
	return nil
}

// goOn uses a broker that was started after a crash.
func goOn(w *world, salt int) (queue string, texts []string, err error) {
	c := w.client()
	defer c.Close()
	queue = "after"
	if _, err := c.DeclareQueue(QueueSpec{Name: queue, Durable: true}); err != nil {
		return "", nil, err
	}
	if err := c.ch.ConfirmSelect(); err != nil {
		return "", nil, err
	}
	for i := range 3 {
		text := noteText(90000+10*salt+i, 100)
		c.publish("", queue, text, true)
		texts = append(texts, text)
	}
	for c.told() < 3 {
		c.next(EventConfirm)
	}
	ok, err := c.ch.Get(queue, true)
	if !ok || err != nil {
		return "", nil, fmt.Errorf("get %s: %v %w", queue, ok, err)
	}
	if got := body(c.next(EventGot)); got != texts[0] {
		return "", nil, fmt.Errorf("got %.20q, want %.20q", got, texts[0])
	}
	return queue, texts[1:], nil
}

// crash checks what is left of a crash, goes on with it, and crashes again.
func (s *story) crash(left *vfs.Mem, at, percent int, seed uint64) (err error) {
	w := &world{t: s.t, fs: left, wrap: s.wrap}
	if err := w.tryStart(tiny); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := s.check(w, at); err != nil {
		return errors.Join(err, w.tryStop())
	}
	queue, texts, err := goOn(w, 0)
	if err != nil {
		return errors.Join(fmt.Errorf("afterwards: %w", err), w.tryStop())
	}
	if !long && at%4 != 0 {
		return w.tryStop()
	}
	again := left.CrashClone(percent, rand.New(rand.NewPCG(seed, 1)))
	if err := w.tryStop(); err != nil {
		return err
	}
	w = &world{t: s.t, fs: again, wrap: s.wrap}
	if err := w.tryStart(tiny); err != nil {
		return fmt.Errorf("start after the second crash: %w", err)
	}
	c := w.client()
	all, err := w.found(c)
	c.Close()
	// What was got without acknowledgement may be back.
	if got := all[queue]; err == nil && !slices.Equal(got[max(len(got)-len(texts), 0):], texts) {
		err = fmt.Errorf("after the second crash %s has %d messages, want %d", queue, len(got), len(texts))
	}
	return errors.Join(err, w.tryStop())
}

// cuts calls try with crashes at every change of the story.
func (s *story) cuts(bytes func(c vfs.Change) []int) {
	history := s.fs.History()
	for at := 0; at <= len(history); at++ {
		places := []int{0}
		if at < len(history) && history[at].Op == vfs.OpWrite && (long || at%2 == 0 || len(history) < 100) {
			places = append(places, bytes(history[at])...)
		}
		for _, n := range places {
			for k, percent := range []int{0, 50, 100} {
				if !long && (at+n)%3 != k {
					continue
				}
				seed := uint64(at)<<32 | uint64(n)
				left := s.fs.Cut(at, n, percent, rand.New(rand.NewPCG(seed, 0)))
				if err := s.crash(left, at, percent, seed); err != nil {
					s.t.Fatalf("crash during change %d of %d, after %d bytes of it, %d %% of what is unsynced kept: %v",
						at, len(history), n, percent, err)
				}
			}
		}
	}
}

// lively is how many bytes of a write there are before the zeros at its end.
func lively(c vfs.Change) int {
	n := len(c.Data)
	for n > 0 && c.Data[n-1] == 0 {
		n--
	}
	return min(n+1, len(c.Data))
}

// TestCrash cuts the power at every change that a broker makes of its files,
// and, of writes, at some of their bytes.
func TestCrash(t *testing.T) {
	s := newStory(t)
	s.tell()
	rng := rand.New(rand.NewPCG(1, 2))
	ops := map[vfs.Op]int{}
	for _, c := range s.fs.History() {
		ops[c.Op]++
	}
	t.Logf("%d changes: %v", s.now(), ops)
	j, err := file.Open(s.fsys(), "data", file.Options{Logger: discard})
	if err != nil || j.Info().Checkpoint == 0 {
		t.Fatalf("no checkpoint in the story: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	s.cuts(func(c vfs.Change) []int {
		if n := lively(c); n > 1 {
			places := []int{1 + rng.IntN(n-1)}
			for i := 0; long && i < 16; i++ {
				places = append(places, 1+rng.IntN(n-1))
			}
			slices.Sort(places)
			return slices.Compact(places)
		}
		return nil
	})
}

// TestCrashAtEveryByte does so at every byte, of a small story.
func TestCrashAtEveryByte(t *testing.T) {
	s := newStory(t)
	c := s.confirming()
	s.declare(c, "sure")
	s.declare(c, "a")
	n := s.post(c, "", "a", 30, true, "a")
	s.confirm(c, n)
	s.ack(c, s.get(c, n[0]), n[0])
	s.sure(c, n[0])
	c.Close()
	s.stop()
	total := 0
	step := 3
	if long {
		step = 1
	}
	s.cuts(func(c vfs.Change) (places []int) {
		for n := 1; n < lively(c); n += step {
			places = append(places, n)
		}
		total += len(places)
		return places
	})
	t.Logf("%d changes, %d bytes", s.now(), total)
}

// start and stop without a test that fails.

func (w *world) tryStart(change ...func(*Config)) error {
	j, err := w.openJournal()
	if err != nil {
		return err
	}
	cfg := Config{Journal: j}
	for _, f := range change {
		f(&cfg)
	}
	b, err := Open(context.Background(), cfg)
	if err != nil {
		return errors.Join(err, j.Close())
	}
	w.j, w.b = j, b
	return nil
}

func (w *world) tryStop() error {
	if err := w.b.Close(context.Background()); err != nil {
		return errors.Join(err, w.b.Cause(), w.j.Close())
	}
	return w.j.Close()
}
