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
		return p.lastRoute, nil
	}
	p.rkey = append(append(append(p.rkey[:0], byte(len(m.Exchange))), m.Exchange...), m.Key...)
	if !special {
		if r := p.routes[string(p.rkey)]; r != nil && r.version == version {
			p.lastRoute, p.lastName = r, append(p.lastName[:0], p.rkey...)
			return r, nil
		}
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
	return r, nil
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
	if err := checkProperties(props, p.s.cfg.User); err != nil {
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
	r = &path{version: version}
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
	keep = !special
	for _, k := range keys {
		keep = x.collect(r, k, m.Properties, map[*exchange]bool{}) && keep
	}
	r.sort()
	return r, keep, nil
}

func (r *path) sort() {
	slices.SortFunc(r.queues, byNumber)
	r.queues = slices.Compact(r.queues)
}

// collect gathers the queues that an exchange sends a message to, through other
// exchanges too. It tells whether that depends on nothing but the key.
func (x *exchange) collect(r *path, key, props []byte, seen map[*exchange]bool) (keep bool) {
	seen[x] = true
	keep = true
	visit := func(b *binding) {
		switch to := b.key.to.(type) {
		case *Queue:
			r.queues = append(r.queues, to)
		case *exchange:
			if !seen[to] {
				keep = to.collect(r, key, props, seen) && keep
			}
		}
	}
	switch x.spec.Type {
	case "direct":
		for _, b := range x.byKey[string(key)] {
			visit(b)
		}
	case "fanout":
		for _, b := range x.bindings {
			visit(b)
		}
	case "topic":
		x.topic.Match(key, visit)
	case "headers":
		keep = false
		headers := message.Field(props, message.Headers)
		for _, b := range x.headers {
			if b.match.Match(headers) {
				visit(b)
			}
		}
	}
	return keep
}
