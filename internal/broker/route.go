package broker

import (
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
}

// route finds where a message goes. Routes that depend on nothing but exchange
// and key are remembered until the topology changes.
func (p *publisher) route(m *Publish) (*path, error) {
	v := p.s.v
	special := false
	p.bare, p.marked = nil, false
	switch {
	case len(m.Properties) == 0:
		p.id = nil
	case p.isPlain(m.Properties):
		p.id = m.Properties[p.idAt : p.idAt+p.idLen]
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
	if !special && p.lastRoute != nil && p.lastRoute.version == version && p.sameName(m) {
		return p.lastRoute.of(m), nil
	}
	p.rkey = append(append(append(p.rkey[:0], byte(len(m.Exchange))), m.Exchange...), m.Key...)
	if !special {
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
	if keep {
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
// lists of one publisher differ in the identities of its messages alone. None
// with an identity and a mark is ever found so: its mark is taken out first.
func (p *publisher) isPlain(props []byte) bool {
	if p.idLen == 0 || len(props) != len(p.checked) {
		return string(props) == string(p.checked)
	}
	at, end := p.idAt, p.idAt+p.idLen
	return string(props[end:]) == string(p.checked[end:]) && string(props[:at]) == string(p.checked[:at])
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
		}
		list = rest
	}
	if h.attempt && h.id.n > 0 {
		p.bare, p.marked = withoutMark(props)
		if !p.isPlain(p.bare) {
			return p.examine(p.bare)
		}
		p.id = p.bare[p.idAt : p.idAt+p.idLen]
		return false, nil
	}
	id := h.id
	p.duplicate = h.duplicate.n > 0 && !isID(props[headers+id.at:headers+id.at+id.n])
	if p.duplicate {
		id = h.duplicate
	}
	p.idAt, p.idLen, p.direct = headers+id.at, id.n, direct
	p.id = props[p.idAt : p.idAt+p.idLen]
	p.checked = p.checked[:0]
	if !h.special && (h.id.n == 0 || h.duplicate.n == 0) {
		p.checked = append(p.checked, props...)
	}
	return h.special, nil
}

// found is what headers have that the broker is to know of.
type found struct {
	special   bool   // further routing keys
	attempt   bool   // the number of an attempt
	id        extent // of an identity
	duplicate extent // a duplicate id
}

// extent is where in headers a text is, n bytes; 0: there is none.
type extent struct{ at, n int }

func examineHeaders(headers []byte) (f found) {
	for list := headers; ; {
		name, kind, v, rest, ok := message.NextHeader(list)
		if !ok {
			return f
		}
		switch string(name) {
		case "CC", "BCC":
			f.special = true
		case idHeader:
			if kind == 'S' && f.id.n == 0 {
				f.id = extent{len(headers) - len(rest) - len(v) + 4, len(v) - 4}
			}
		case duplicateHeader:
			if (kind == 'S' || kind == 'x') && f.duplicate.n == 0 {
				f.duplicate = extent{len(headers) - len(rest) - len(v) + 4, len(v) - 4}
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
	s := routing{r: r, keys: keys, props: props, keep: true}
	s.through(x)
	r.sort()
	return s.keep
}

// A routing is the search for the queues of one message.
type routing struct {
	r     *path
	keys  [][]byte // the routing key, and those of CC and BCC
	props []byte
	keep  bool // it depends on the keys alone

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
