package model

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/message"
)

// begin draws what does not change, and opens a broker.
func (m *featureMachine) begin() {
	some := func(name string) string { return rapid.SampledFrom(features).Draw(m.t, name) }
	m.conf = &config{
		fan: []string{some("fan"), some("fan")}, once: []string{some("once")},
		dir: map[string]string{}, later: map[string]string{},
		seenMost: rapid.SampledFrom([]int{1, 3, 50}).Draw(m.t, "seen"),
	}
	for _, k := range features[:3] {
		m.conf.dir[k], m.conf.later[k] = some("dir"), some("later")
	}
	m.args, m.policies = map[string]rules{}, map[string]*rules{}
	for _, n := range features {
		m.args[n] = drawRules(m.t)
	}
	if m.args[m.conf.once[0]].transient {
		m.conf.seenMost = 50
	}
	if m.conf.seenMost == 50 {
		m.conf.seenAge = 15_000
	}
	m.worlds = []*world{{
		conf: m.conf, boxes: map[string]*box{}, out: map[string][]*letter{}, refused: map[int]bool{}, past: &m.past,
	}}
	m.open()
	m.declare()
	m.present()
}

func (m *featureMachine) outlet() *outlet {
	return m.outlets[rapid.IntRange(0, 1).Draw(m.t, "outlet")]
}

// inTime sees to it that there is time for something to be done.
func (m *featureMachine) inTime() {
	if nowMillis()%period.Milliseconds() > busyPart.Milliseconds() {
		m.sleep(1)
		m.observe()
	}
}

// sleep lets some periods pass.
func (m *featureMachine) sleep(periods int64) {
	now, p := nowMillis(), period.Milliseconds()
	until := (now/p + periods) * p
	m.pass(until)
	time.Sleep(time.Duration(until-now) * time.Millisecond)
}

// pass lets the worlds' time go on.
func (m *featureMachine) pass(until int64) {
	todo := m.worlds
	var done []*world
	known := map[string]bool{}
	for len(todo) > 0 {
		w := todo[0]
		todo = todo[1:]
		t := w.nextTime()
		if t > until {
			if w.now = until; !known[w.key()] {
				known[w.key()] = true
				done = append(done, w)
			}
			continue
		}
		w.now = t
		list := w.explore(t+slack, false)
		if list == nil || len(done)+len(todo)+len(list) > mostWorlds {
			m.over = true
			return
		}
		todo = append(todo, list...)
	}
	m.worlds = done
}

func (m *featureMachine) wait() { m.sleep(rapid.Int64Range(1, 2).Draw(m.t, "periods")) }

func (m *featureMachine) publish() {
	o := m.outlet()
	for range rapid.IntRange(1, 2).Draw(m.t, "publishes") {
		m.publishOne(o)
		m.observe()
	}
}

func (m *featureMachine) publishOne(o *outlet) {
	t := m.t
	m.ids++
	x := mail{
		id: m.ids, exchange: rapid.SampledFrom([]string{"", "", "", "fan", "dir", "once", "later"}).Draw(t, "exchange"),
		key: rapid.SampledFrom(features).Draw(t, "key"), expiration: unlimited, failed: -1,
		persistent: rapid.IntRange(0, 5).Draw(t, "persistent") > 0,
	}
	var props, headers []byte
	switch x.exchange {
	case "once":
		// What a restart forgets has made others be forgotten, which it may know again.
		x.persistent = x.persistent || m.conf.seenMost < 50
		if n := rapid.IntRange(0, 4).Draw(t, "value"); n > 0 {
			x.value = strconv.Itoa(n)
			headers = header(headers, "x-deduplication-header", x.value)
		}
	case "later":
		x.delay = rapid.SampledFrom([]int64{0, 700, 2100, 10_700}).Draw(t, "delay")
		headers = header(headers, "x-delay", x.delay)
	}
	if len(headers) > 0 {
		props = message.AppendField(props, message.Headers, headers)
	}
	if x.priority = rapid.IntRange(0, 3).Draw(t, "priority"); x.priority > 0 {
		props = message.AppendField(props, message.Priority, []byte{byte(x.priority)})
	}
	if x.expiration = rapid.SampledFrom(ttls).Draw(t, "expiration"); x.expiration != unlimited {
		props = message.AppendField(props, message.Expiration, strconv.AppendInt(nil, x.expiration, 10))
	}
	body := append(fmt.Appendf(nil, "%06d", x.id), make([]byte, rapid.SampledFrom([]int{0, 30, 200}).Draw(t, "size"))...)
	x.size = int64(len(body))
	m.must(o.ch.Publish(&broker.Publish{
		Exchange: []byte(x.exchange), Key: []byte(x.key), Persistent: x.persistent, Properties: props, Body: body,
	}))
	o.s.Flush()
	o.published++
	s := &sending{n: m.worlds[0].published + 1, id: x.id, queues: features}
	o.number[uint64(o.published)] = s
	m.step(one(func(w *world) { w.publish(&x) }))
}

// queueName picks a queue.
func (m *featureMachine) queueName() string {
	list := slices.Clone(features)
	for _, n := range m.worlds[0].names() {
		if isParked(n) {
			list = append(list, n)
		}
	}
	return rapid.SampledFrom(list).Draw(m.t, "queue")
}

func (m *featureMachine) get() {
	m.getFrom(m.outlet(), m.queueName(), rapid.IntRange(0, 3).Draw(m.t, "noAck") == 0)
}

// getFrom asks for a message, and tells whether there was one.
func (m *featureMachine) getFrom(o *outlet, name string, noAck bool) bool {
	m.got = nil
	found, err := o.ch.Get(name, noAck)
	m.must(err)
	m.take(o)
	if found != (m.got != nil) {
		m.t.Fatalf("get: %v, got %v", found, m.got)
	}
	o.tags++
	key := fmt.Sprint("got", m.ids, ".", len(m.held), ".", o.n, ".", o.tags)
	var left []*world
	want := []string{}
	for _, w := range m.worlds {
		l := w.boxes[name].next(false)
		face := ""
		if l != nil {
			face = w.boxes[name].shown(l, true)
		}
		want = append(want, face)
		if found && face == m.got.face || !found && face == "" {
			left = append(left, w)
		}
	}
	if len(left) == 0 {
		m.t.Fatalf("from %s I got %v, want %q", name, m.got, want)
	}
	m.worlds = left
	if !found {
		return false
	}
	m.step(one(func(w *world) {
		q := w.boxes[name]
		l := q.next(false)
		if noAck {
			w.remove(q, l)
		} else {
			l.holder, l.tag = key, m.got.tag
		}
	}))
	if !noAck {
		m.held = append(m.held, holding{o, name, key, m.got.tag})
	}
	return true
}

func (q *box) heldBy(key string, tag uint64) *letter {
	for _, l := range q.letters {
		if l.holder == key && l.tag == tag {
			return l
		}
	}
	return nil
}

func (m *featureMachine) settle() {
	if len(m.held) == 0 {
		m.t.Skip("nothing is held")
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(m.t, "which")
	m.settleOne(i, rapid.SampledFrom([]settlement{ack, discard, discard, nack, fail, fail}).Draw(m.t, "how"))
}

func (m *featureMachine) settleOne(i int, how settlement) {
	h := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	switch how {
	case ack:
		m.must(h.from.ch.Ack(h.tag, false))
	case discard:
		m.must(h.from.ch.Nack(h.tag, false, false))
	case nack:
		m.must(h.from.ch.Nack(h.tag, false, true))
	case fail:
		m.must(h.from.ch.Reject(h.tag, true))
	}
	m.step(func(w *world) []*world {
		q := w.boxes[h.queue]
		return w.settle(q, []*letter{q.heldBy(h.key, h.tag)}, how)
	})
}

func (m *featureMachine) consume() {
	o, name := m.outlet(), rapid.SampledFrom(features).Draw(m.t, "queue")
	r := m.args[name]
	for _, s := range m.subs {
		if s.queue == name && (!r.single || s.from == o) {
			m.t.Skip("it has one")
		}
	}
	o.tags++
	m.ids++
	c := subscriber{
		key: fmt.Sprintf("c%d.%d", o.n, m.ids), peer: o.n, prefetch: rapid.IntRange(0, 2).Draw(m.t, "prefetch"),
		priority: rapid.IntRange(0, 1).Draw(m.t, "consumer priority"), arrived: m.ids,
	}
	o.ch.Qos(uint32(c.prefetch), false)
	k, err := o.ch.Consume(broker.ConsumeSpec{Queue: name, Tag: c.key, Args: header(nil, "x-priority", int64(c.priority))})
	m.must(err)
	m.subs = append(m.subs, holding{from: o, queue: name, key: c.key})
	k.Start()
	m.step(one(func(w *world) { s := c; w.join(w.boxes[name], &s) }))
}

func (m *featureMachine) cancel() {
	if len(m.subs) == 0 {
		m.t.Skip("no consumer")
	}
	m.cancelOne(rapid.IntRange(0, len(m.subs)-1).Draw(m.t, "which"))
}

func (m *featureMachine) cancelOne(i int) {
	s := m.subs[i]
	s.from.ch.Cancel(s.key)
	m.step(one(func(w *world) { w.cancel(w.boxes[s.queue], s.key) }))
	m.observe()
	m.subs = slices.Delete(m.subs, i, i+1)
}

// closeChannel gives back all that a channel has.
func (m *featureMachine) closeChannel() {
	o := m.outlet()
	o.ch.Close()
	m.closed(o)
	m.observe()
	m.forget(o)
	o.ch = o.s.OpenChannel(1)
	m.must(o.ch.ConfirmSelect())
	o.published = 0
	clear(o.number)
}

// closed is what a channel's end does to the worlds.
func (m *featureMachine) closed(o *outlet) {
	m.step(func(w *world) []*world {
		worlds := []*world{w}
		then := func(do func(w *world) []*world) {
			var next []*world
			for _, w := range worlds {
				for _, v := range w.explore(w.now, true) {
					if len(next) > mostWorlds {
						m.over = true
						return
					}
					next = append(next, do(v.clone())...)
				}
			}
			worlds = next
		}
		for _, s := range m.subs {
			if s.from == o {
				then(one(func(w *world) { w.cancel(w.boxes[s.queue], s.key) }))
			}
		}
		names := []string{}
		for _, h := range m.held {
			if h.from == o && !slices.Contains(names, h.queue) {
				names = append(names, h.queue)
			}
		}
		slices.SortFunc(names, func(a, b string) int { return cmp.Compare(w.boxes[a].num, w.boxes[b].num) })
		for _, n := range names {
			then(func(w *world) []*world {
				var list []*letter
				for _, h := range m.held {
					if h.from == o && h.queue == n {
						list = append(list, w.boxes[n].heldBy(h.key, h.tag))
					}
				}
				return w.settle(w.boxes[n], list, fail)
			})
		}
		return worlds
	})
}

func (m *featureMachine) forget(o *outlet) {
	m.subs = slices.DeleteFunc(m.subs, func(s holding) bool { return s.from == o })
	m.held = slices.DeleteFunc(m.held, func(h holding) bool { return h.from == o })
}

func (m *featureMachine) policy() {
	name := rapid.SampledFrom(features).Draw(m.t, "queue")
	var p *rules
	if rapid.IntRange(0, 2).Draw(m.t, "clear") > 0 {
		r := drawPolicy(m.t)
		p = &r
		m.must(m.b.PutSetting(broker.Setting{Kind: broker.SettingPolicy, VHost: "/", Name: "of " + name, Value: r.policy("^" + name + "$")}))
	} else {
		_, err := m.b.DeleteSetting(broker.SettingPolicy, "/", "of "+name)
		m.must(err)
	}
	m.must(m.b.AwaitPolicies(context.Background()))
	m.policies[name] = p
	m.step(one(func(w *world) { w.boxes[name].policy = p }))
	m.present()
	m.step(one(func(w *world) { w.dispatch(w.boxes[name]) }))
}

func (m *featureMachine) purge() {
	name := m.queueName()
	_, err := m.outlets[0].s.PurgeQueue(name)
	m.must(err)
	m.step(one(func(w *world) {
		q := w.boxes[name]
		for l := q.next(false); l != nil; l = q.next(false) {
			w.remove(q, l)
		}
	}))
}

// restart stops the broker in order.
func (m *featureMachine) restart() {
	for len(m.subs) > 0 && !m.over {
		m.cancelOne(0)
	}
	for _, o := range m.outlets {
		o.s.Close()
		m.closed(o)
		m.forget(o)
		synctest.Wait()
		if m.over {
			return
		}
	}
	m.close()
	for _, w := range m.worlds {
		clear(w.out)
	}
	m.present()
	m.reopen()
}

// crash takes the power away.
func (m *featureMachine) crash() {
	time.Sleep(time.Duration(rapid.IntRange(0, 4).Draw(m.t, "ms")) * time.Millisecond)
	m.observe()
	percent := rapid.SampledFrom([]int{0, 50, 100}).Draw(m.t, "kept")
	left := m.disk.CrashClone(percent, rand.New(rand.NewPCG(rapid.Uint64().Draw(m.t, "seed"), 0)))
	m.close()
	m.disk = left
	m.reopen()
}

// reopen begins with what is on the disk.
func (m *featureMachine) reopen() {
	if m.over {
		return
	}
	published := m.worlds[0].published
	if n := rapid.Int64Range(0, 2).Draw(m.t, "down"); n > 0 {
		p := period.Milliseconds()
		now := nowMillis()
		time.Sleep(time.Duration((now/p+n)*p-now) * time.Millisecond)
	}
	var list []*world
	for _, k := range slices.Sorted(maps.Keys(m.past)) {
		if w := m.past[k]; w.published >= m.sure {
			list = append(list, w.clone())
		}
	}
	m.open()
	synctest.Wait()
	m.worlds = nil
	known := map[string]bool{}
	for _, w := range list {
		w.now, w.late, w.published = nowMillis(), true, published
		found := w.explore(w.now, false)
		if found == nil || len(m.worlds) > mostWorlds {
			m.over = true
			return
		}
		for _, v := range found {
			if v.late = false; !known[v.key()] {
				known[v.key()] = true
				m.worlds = append(m.worlds, v)
			}
		}
	}
	m.observe()
	m.look()
	m.declare()
	m.flush()
}

// look takes all there is, and gives it back.
func (m *featureMachine) look() {
	for _, n := range m.worlds[0].names() {
		if n == "" {
			continue
		}
		for !m.over && m.getFrom(m.outlets[0], n, false) {
		}
	}
	m.observe()
	for len(m.held) > 0 && !m.over {
		m.settleOne(0, nack)
		m.observe()
	}
}
