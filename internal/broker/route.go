package broker

import (
	"bytes"
	"slices"

	"github.com/ferrymq/ferry/internal/message"
)

// path is where messages of one exchange and key go.
type path struct {
	version uint64
	queues  []*Queue // by number, each once
	reply   *Consumer
	choice  *choice // instead: one of several paths, by more than the key
	counts  *exchangeCounts

	filters []*window // of exchanges that drop repeats, on the way to queues
	ways    []*path   // by which of filters have seen a message; nil: all queues are behind each filter
	delays  bool      // an exchange that delays messages is on the way; if this one is delayed, it is in that one's queue
}

// route finds where a message goes. Routes that depend on nothing but exchange
// and key are remembered until the topology changes.
func (p *publisher) route(m *Publish) (*path, error) {
	v := p.s.v
	special := false
	p.bare, p.marked, p.blind = nil, false, false
	switch {
	case len(m.Properties) == 0:
		p.id, p.ttl, p.priority, p.value, p.delay = nil, 0, 0, header{}, 0
	case p.isPlain(m.Properties):
		p.id, p.priority = m.Properties[p.idAt:p.idAt+p.idLen], p.urgency
		p.value, p.delay = header{p.valueKind, m.Properties[p.valueAt.at : p.valueAt.at+p.valueAt.n]}, p.delayed
	default:
		var err error
		if special, err = p.examine(m.Properties); err != nil {
			return nil, err
		}
		if p.bare != nil {
			bare := *m
			bare.Properties = p.bare
			m = &bare
		}
	}
	version := v.version.Load()
	remembered := !special && p.delay == 0 // what is delayed goes another way
	if remembered && p.lastRoute != nil && p.lastRoute.version == version && p.sameName(m) {
		return p.lastRoute.of(m), nil
	}
	p.rkey = append(append(append(p.rkey[:0], byte(len(m.Exchange))), m.Exchange...), m.Key...)
	if remembered {
		if r := p.routes[string(p.rkey)]; r != nil && r.version == version {
			p.lastRoute, p.lastName = r, append(p.lastName[:0], p.rkey...)
			return r.of(m), nil
		}
	}
	if err := p.mayPublish(m, version, special); err != nil {
		return nil, err
	}
	r, keep, err := v.findRoute(m, version, special)
	if err != nil {
		return nil, err
	}
	if keep && remembered {
		if p.routes == nil || len(p.routes) >= routeCacheMax {
			p.routes = map[string]*path{}
		}
		p.routes[string(p.rkey)] = r
		p.lastRoute, p.lastName = r, append(p.lastName[:0], p.rkey...)
	}
	return r.of(m), nil
}

// of is the path of one message.
func (r *path) of(m *Publish) *path {
	if r.choice == nil {
		return r
	}
	return r.choice.path(m)
}

// isPlain tells whether a property list was found to need nothing special. The
// lists of one publisher differ in the identities of its messages alone, and in how
// long they last, which is noted in ttl. None with an identity and a mark is ever
// found so: its mark is taken out first.
func (p *publisher) isPlain(props []byte) bool {
	if p.timed.n > 0 {
		return p.isPlainTimed(props)
	}
	p.ttl = 0
	if len(props) != len(p.checked) {
		return false
	}
	return p.isPlainUpTo(props, len(props))
}

// isPlainUpTo compares two lists, of at least n bytes, but for the identity.
func (p *publisher) isPlainUpTo(props []byte, n int) bool {
	at, end := p.idAt, p.idAt+p.idLen
	if p.idLen == 0 {
		return string(props[:n]) == string(p.checked[:n])
	}
	return string(props[end:n]) == string(p.checked[end:n]) && string(props[:at]) == string(p.checked[:at])
}

// isPlainTimed is isPlain when checked has an expiration, which is behind what has an
// identity.
func (p *publisher) isPlainTimed(props []byte) bool {
	at, end := p.timed.at, p.timed.at+p.timed.n
	if len(props) <= at || !p.isPlainUpTo(props, at) {
		return false
	}
	field, v, rest, ok := message.NextField(props[at:])
	if !ok || field != message.Expiration || string(rest) != string(p.checked[end:]) {
		return false
	}
	p.ttl, ok = expirationTTL(v)
	return ok
}

// expirationTTL is what an expiration means to arrival.ttl, if it is written in
// decimal digits, as it should be.
func expirationTTL(v []byte) (ttl int64, ok bool) {
	n := int64(0)
	for _, c := range v {
		if c < '0' || c > '9' || n > maxDuration {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n + 1, len(v) > 0 && n <= maxDuration
}

// lifeOf is what a list of properties, which was found to be good, says of how long
// a message lasts, as in arrival, and of its priority.
func lifeOf(props []byte) (ttl int64, priority uint8) {
	for {
		field, v, rest, ok := message.NextField(props)
		if !ok {
			return ttl, priority
		}
		switch {
		case field == message.Priority && len(v) == 1:
			priority = v[0]
		case field == message.Expiration:
			ttl, _ = expirationTTL(bytes.TrimLeft(v, "+-")) // a -0 is one, too
		}
		props = rest
	}
}

// examine checks a property list, finds in it what the broker is to know of,
// and remembers it, unless the message is routed by more than its key. Of a
// message with an identity all of this is done to the list without its mark.
func (p *publisher) examine(props []byte) (special bool, err error) {
	if err := checkProperties(props, &p.s.cfg); err != nil {
		return false, err
	}
	var h found
	headers, direct := 0, false // where the headers begin
	timed := extent{}
	for list := props; ; {
		field, v, rest, ok := message.NextField(list)
		if !ok {
			break
		}
		switch field {
		case message.Headers:
			h, headers = examineHeaders(v), len(props)-len(rest)-len(v)
		case message.ReplyTo:
			direct = string(v) == ReplyTo
		case message.Expiration:
			timed = extent{len(props) - len(list), len(list) - len(rest)}
		}
		list = rest
	}
	if h.attempt && h.id.n > 0 {
		p.bare, p.marked = withoutMark(props)
		if !p.isPlain(p.bare) {
			return p.examine(p.bare)
		}
		p.id, p.priority = p.bare[p.idAt:p.idAt+p.idLen], p.urgency
		p.value, p.delay = header{p.valueKind, p.bare[p.valueAt.at : p.valueAt.at+p.valueAt.n]}, p.delayed
		return false, nil
	}
	id := h.id
	p.duplicate = h.duplicate.n > 0 && !isID(props[headers+id.at:headers+id.at+id.n])
	if p.duplicate {
		id = h.duplicate
	}
	p.idAt, p.idLen, p.direct, p.blind = headers+id.at, id.n, direct, h.blind
	p.id = props[p.idAt : p.idAt+p.idLen]
	p.valueAt, p.valueKind, p.age = extent{headers + h.value.at, h.value.n}, h.valueKind, h.age
	p.delay, p.delayed = h.delay, h.delay
	p.value = header{p.valueKind, props[p.valueAt.at : p.valueAt.at+p.valueAt.n]}
	p.ttl, p.priority = lifeOf(props)
	p.checked, p.timed, p.urgency = p.checked[:0], extent{}, p.priority
	inOrder := timed.n == 0 || p.idLen == 0 || p.idAt+p.idLen <= timed.at
	if !h.special && inOrder && (h.id.n == 0 || h.duplicate.n == 0) {
		p.checked, p.timed = append(p.checked, props...), timed
	}
	return h.special, nil
}

// found is what headers have that the broker is to know of.
type found struct {
	special   bool   // further routing keys
	blind     bool   // some that consumers do not see
	attempt   bool   // the number of an attempt
	id        extent // of an identity
	duplicate extent // a duplicate id
	value     extent // that of dedupHeader, and its kind; 0: there is none
	valueKind byte
	age       int64 // that of dedupAgeHeader, as ageOf reads it
	delay     int64 // that of delayHeader, as delayOf reads it
}

// extent is where in headers a text is, n bytes; 0: there is none.
type extent struct{ at, n int }

func examineHeaders(headers []byte) (f found) {
	delayed := false
	for list := headers; ; {
		name, kind, v, rest, ok := message.NextHeader(list)
		if !ok {
			return f
		}
		switch string(name) {
		case "CC":
			f.special = true
		case message.BCC:
			f.special, f.blind = true, true
		case idHeader:
			if kind == 'S' && f.id.n == 0 {
				f.id = extent{len(headers) - len(rest) - len(v) + 4, len(v) - 4}
			}
		case duplicateHeader:
			if (kind == 'S' || kind == 'x') && f.duplicate.n == 0 {
				f.duplicate = extent{len(headers) - len(rest) - len(v) + 4, len(v) - 4}
			}
		case dedupHeader:
			if f.valueKind == 0 {
				f.value, f.valueKind = extent{len(headers) - len(rest) - len(v), len(v)}, kind
			}
		case dedupAgeHeader:
			f.age = ageOf(kind, v)
		case delayHeader:
			if !delayed {
				f.delay, delayed = delayOf(kind, v), true
			}
		case attemptHeader:
			f.attempt = true
		}
		list = rest
	}
}

func (p *publisher) sameName(m *Publish) bool {
	n := len(m.Exchange)
	return len(p.lastName) == 1+n+len(m.Key) && p.lastName[0] == byte(n) &&
		string(p.lastName[1:1+n]) == string(m.Exchange) && string(p.lastName[1+n:]) == string(m.Key)
}

func (v *VHost) findRoute(m *Publish, version uint64, special bool) (r *path, keep bool, err error) {
	r = &path{version: version, counts: &v.defaultCounts}
	if len(m.Exchange) == 0 && isReplyKey(m.Key) {
		r.reply = v.b.replies.find(m.Key)
		return r, false, nil
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.gone.Load() {
		return nil, false, v.isDeleted()
	}
	keys := [][]byte{m.Key}
	if special {
		ccKeys(m.Properties, func(k []byte) { keys = append(keys, k) })
	}
	if len(m.Exchange) == 0 {
		for _, k := range keys {
			if q := v.queues[string(k)]; q != nil {
				r.queues = append(r.queues, q)
			}
		}
		r.sort()
		return r, !special, nil
	}
	x := v.exchanges[string(m.Exchange)]
	if x == nil {
		return nil, false, v.noExchange(string(m.Exchange))
	}
	if x.spec.Internal {
		return nil, false, errorf(AccessRefused, "cannot publish to internal exchange '%s' in vhost '%s'", x.spec.Name, v.name)
	}
	r.counts = &x.counts
	if x.kept != nil && propertiesDelay(m.Properties) > 0 {
		return x.keeps, false, nil
	}
	if !special {
		if c := x.remembered(); c != nil {
			r.choice = c
			return r, true, nil
		}
	}
	keep = x.route(r, keys, m.Properties)
	return r, keep && !special, nil
}

func (r *path) sort() {
	slices.SortFunc(r.queues, byNumber)
	r.queues = slices.Compact(r.queues)
}

// route finds the queues that an exchange sends a message to, through other
// exchanges too. It tells whether that depends on nothing but the keys. v.mu is
// held.
func (x *exchange) route(r *path, keys [][]byte, props []byte) (keep bool) {
	return x.find(routing{r: r, keys: keys, props: props, keep: true})
}

// routeOnward is route for a message that an exchange has delayed: none does again.
func (x *exchange) routeOnward(r *path, keys [][]byte, props []byte) (keep bool) {
	return x.find(routing{r: r, keys: keys, props: props, keep: true, onward: true})
}

func (x *exchange) find(s routing) (keep bool) {
	as := s
	s.through(x)
	s.r.sort()
	if s.partly {
		x.findWays(as)
	}
	return s.keep
}

// A routing is the search for the queues of one message.
type routing struct {
	r     *path
	keys  [][]byte // the routing key, and those of CC and BCC
	props []byte
	keep  bool // it depends on the keys alone

	onward  bool // it has been delayed
	blocked int  // which of the path's filters have seen the message, as bits
	partly  bool // not all that is found is behind a filter

	first *exchange
	seen  map[*exchange]struct{} // beside first
}

// visits notes that an exchange is gone through, which is done once.
func (s *routing) visits(x *exchange) bool {
	if s.first == nil {
		s.first = x
		return true
	}
	if _, ok := s.seen[x]; ok || s.first == x {
		return false
	}
	if s.seen == nil {
		s.seen = map[*exchange]struct{}{}
	}
	s.seen[x] = struct{}{}
	return true
}

// through adds what an exchange sends the message to; what it has nobody for goes
// to its alternate exchange. Where that leads back, it ends.
func (s *routing) through(x *exchange) {
	for s.visits(x) && !s.bound(x) {
		name, ok := x.alternate()
		if !ok {
			return
		}
		if x = x.v.exchanges[name]; x == nil { // as in RabbitMQ the default exchange is none
			return
		}
	}
}

// bound adds what the exchange's own bindings send the message to, and tells
// whether there was any, even if that leads to no queue.
func (s *routing) bound(x *exchange) (found bool) {
	if x.kept != nil && !s.onward {
		s.r.delays = true
		if propertiesDelay(s.props) > 0 {
			s.r.queues = append(s.r.queues, x.kept)
			return true
		}
	}
	visit := func(b *binding) {
		found = true
		s.to(b.key.to)
	}
	switch x.typ {
	case direct:
		for _, k := range s.keys {
			for _, b := range x.byKey[string(k)] {
				visit(b)
			}
		}
	case fanout:
		for _, b := range x.bindings {
			visit(b)
		}
	case deduplication:
		if s.filter(x) {
			return true
		}
		for _, b := range x.bindings {
			visit(b)
		}
	case topic:
		for _, k := range s.keys {
			x.topic.Match(k, visit)
		}
	case headers:
		s.keep = false
		headers := message.Field(s.props, message.Headers)
		for _, b := range x.headers {
			if b.match.Match(headers) {
				visit(b)
			}
		}
	case consistentHash, modulusHash, random, localRandom:
		c := x.choose()
		s.keep = s.keep && c.by == byRoutingKey
		if i := c.index(s.keys[0], s.props); i >= 0 {
			found = true
			s.to(c.to[i])
		}
	}
	return found
}

func (s *routing) to(destination any) {
	switch to := destination.(type) {
	case *Queue:
		s.r.queues = append(s.r.queues, to)
	case *exchange:
		s.through(to)
	}
}
