package endpoint

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Parse reads what a user gives for the brokers:
//
//	amqp://user:password@host:5672/vhost?heartbeat=10
//	amqp://one,amqp://two,three:5673
//	failover:(amqp://one,amqps://two)?maxReconnectDelay=5000&nested.heartbeat=10
//
// A comma inside a URL is written %2C, but for that of STOMP's heart-beat; a
// host and port without a scheme are of amqp. Options of failover: whose name
// begins with nested. are parameters of each URL that understands them, and
// win over its own.
//
// The error names all faults, by the number of the URL, and quotes no secret.
func Parse(text string) (List, error) {
	return ParseAll([]string{text})
}

// ParseAll is Parse for brokers that are given one after the other, each as
// Parse takes them. Options of failover: are for the whole list; one that is
// given twice must have the same value.
func ParseAll(texts []string) (List, error) {
	r := reader{
		list:  List{MaxAttempts: -1, StartupMaxAttempts: -1},
		given: make(map[string]string),
	}
	for _, text := range texts {
		r.read(text)
	}
	if len(r.urls) == 0 && len(r.faults) == 0 {
		r.fault("no broker URL is given: write one such as " + defaultURL)
	}
	if l := r.list; l.InitialDelay > 0 && l.MaxDelay > 0 && l.InitialDelay > l.MaxDelay {
		r.fault("failover option initialReconnectDelay: is more than maxReconnectDelay")
	}
	var faults []error
	for i, u := range r.urls {
		name := "broker URL"
		if len(r.urls) > 1 {
			name = fmt.Sprintf("broker URL %d of %d", i+1, len(r.urls))
		}
		for _, err := range u.faults {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
		r.list.Endpoints = append(r.list.Endpoints, u.endpoint)
	}
	if faults = append(faults, r.faults...); len(faults) > 0 {
		return List{}, errors.Join(faults...)
	}
	return r.list, nil
}

// A reader gathers what the texts of ParseAll say.
type reader struct {
	list   List
	given  map[string]string // the options that were set, with their values
	urls   []*broker
	faults []error // of what is no part of a URL
}

func (r *reader) fault(text string) { r.faults = append(r.faults, errors.New(text)) }

// A source is one text that a user gave. From clear to dark there is nothing
// secret in it: what stands behind the last @ is of no URL's password, and what
// stands before the first parameter with a name such as password is of no
// key's.
type source struct {
	text        string
	clear, dark int
}

func newSource(text string) *source {
	s := &source{text: text, clear: strings.LastIndexByte(text, '@') + 1, dark: len(text)}
	for i := s.clear; i < len(text); i++ {
		rest := text[i:]
		const name = "pass"
		if len(rest) >= len(name) && strings.EqualFold(rest[:len(name)], name) ||
			len(rest) >= 2 && rest[0] == '%' && rest[1] >= '4' && rest[1] <= '7' { // a letter that hides in such a name
			s.dark = i
			break
		}
	}
	return s
}

// A piece is part of a source.
type piece struct {
	of   *source
	at   int // where it begins
	text string
}

// part is the piece of p from one byte to another.
func (p piece) part(from, to int) piece {
	return piece{p.of, p.at + from, p.text[from:to]}
}

// quote is the text in quotes behind a space, or nothing if it may be part of
// a secret.
func (p piece) quote() string {
	const longest = 64
	if p.at < p.of.clear || p.at+len(p.text) > p.of.dark || len(p.text) > longest {
		return ""
	}
	return " " + strconv.Quote(p.text)
}

const failoverPrefix = "failover:"

func hasFailover(text string) bool {
	return len(text) >= len(failoverPrefix) && strings.EqualFold(text[:len(failoverPrefix)], failoverPrefix)
}

// maxText is the longest text, in bytes: room for hundreds of brokers.
const maxText = 32 << 10

// read reads one text as Parse takes it.
func (r *reader) read(text string) {
	if i := strings.IndexFunc(text, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }); i >= 0 {
		r.urls = append(r.urls, broken("holds a space or a control character, at byte %d: a space is written %%20", i+1))
		return
	}
	if text == "" {
		r.urls = append(r.urls, broken("is empty"))
		return
	}
	if len(text) > maxText {
		r.urls = append(r.urls, broken("is longer than %d bytes", maxText))
		return
	}
	whole := piece{of: newSource(text), text: text}
	var query piece
	if hasFailover(text) {
		var ok bool
		if whole, query, ok = r.unwrap(whole); !ok {
			return
		}
	}
	urls := brokers(splitList(whole))
	r.urls = append(r.urls, urls...)
	r.readOptions(query, urls)
	for _, u := range urls {
		u.interpret()
	}
}

// unwrap takes apart failover:(list)?options, failover://(list)?options and
// failover:list.
func (r *reader) unwrap(whole piece) (list, query piece, ok bool) {
	p := whole.part(len(failoverPrefix), len(whole.text))
	if strings.HasPrefix(p.text, "//") {
		p = p.part(len("//"), len(p.text))
	}
	if !strings.HasPrefix(p.text, "(") {
		return p, piece{}, true
	}
	end := strings.LastIndexByte(p.text, ')')
	if end < 0 {
		r.fault("failover: the list that begins with ( does not end with )")
		return piece{}, piece{}, false
	}
	list, tail := p.part(1, end), p.part(end+1, len(p.text))
	switch {
	case tail.text == "":
	case strings.HasPrefix(tail.text, "?"):
		query = tail.part(1, len(tail.text))
	default:
		r.fault("failover: only ?options may stand behind the list in ( )")
		return piece{}, piece{}, false
	}
	return list, query, true
}

const nestedPrefix = "nested."

// readOptions reads the options of failover:, and puts nested ones into the
// URLs that understand them.
func (r *reader) readOptions(query piece, urls []*broker) {
	pairs, faults := splitQuery(query)
	for _, err := range faults {
		r.faults = append(r.faults, fmt.Errorf("failover: %w", err))
	}
	replaced := make(map[string]bool) // nested parameters that were given before
	for _, o := range pairs {
		name, nested := strings.CutPrefix(o.name, nestedPrefix)
		if nested {
			if name == "" || !nest(urls, name, o, !replaced[name]) {
				r.fault("failover: no URL of the list understands the nested option" + o.source.quote() + nearest(name, nestable(urls)))
			}
			replaced[name] = true
			continue
		}
		known, err := r.list.applyOption(name, o.value, r.given)
		switch {
		case !known:
			names := optionNames()
			hint := nearest(name, names)
			if hint == "" {
				hint = "; known are " + strings.Join(names, ", ") + " and " + nestedPrefix + "PARAMETER"
			}
			r.fault("failover: unknown option" + o.source.quote() + hint)
		case err != nil:
			r.faults = append(r.faults, fmt.Errorf("failover option %s: %w", name, err))
		}
	}
}

// nestable are the parameters that any of the URLs understands.
func nestable(urls []*broker) []string {
	var names []string
	for _, u := range urls {
		for _, name := range parameterNames(u.scheme) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// nest gives the URLs that understand it a parameter, and says whether any
// does. With replace it is instead of those that they have by that name.
func nest(urls []*broker, name string, o pair, replace bool) bool {
	known, isKnown := parameterOf(name)
	understood := false
	for _, u := range urls {
		switch {
		case u.scheme.name == "": // it is faulty, and who knows
			understood = true
			continue
		case !isKnown || !known.fits(u.scheme):
			continue
		}
		understood = true
		if replace {
			u.query = slices.DeleteFunc(u.query, func(p pair) bool { return p.name == name })
		}
		u.query = append(u.query, pair{name: name, value: o.value, source: o.source})
	}
	return understood
}

// splitList splits at commas, but for that of STOMP's heart-beat=1000,1000.
func splitList(list piece) []piece {
	var pieces []piece
	begin := 0
	for i := range len(list.text) + 1 {
		if i < len(list.text) && (list.text[i] != ',' || isHeartBeat(list.text[begin:i], list.text[i+1:])) {
			continue
		}
		pieces = append(pieces, list.part(begin, i))
		begin = i + 1
	}
	return pieces
}

// isHeartBeat says whether a comma between these is the one in the value of
// heart-beat: of a parameter by that name, and between two numbers.
func isHeartBeat(before, after string) bool {
	const digits = "0123456789"
	name := strings.TrimRight(before, digits)
	if name == before || !strings.HasSuffix(name, "?heart-beat=") && !strings.HasSuffix(name, "&heart-beat=") {
		return false
	}
	rest := strings.TrimLeft(after, digits)
	return rest != after && (rest == "" || rest[0] == '&' || rest[0] == ',')
}

// brokers reads the URLs of a list, but for their parameters.
func brokers(list []piece) []*broker {
	var urls []*broker
	var begins []int // the piece that each URL begins with
	for i, p := range list {
		u, begin := readURL(p), i
		switch {
		case i == 0:
		case schemeEnd(p.text) < 0 && strings.Contains(p.text, "@"):
			// The end of a URL whose user or password holds a comma: none of
			// the pieces since its scheme is what it seems to be.
			u = broken("holds a comma before its @: in a user or password it is written %%2C")
			for begin == i || begin > 0 && schemeEnd(list[begin].text) < 0 {
				last := len(urls) - 1
				begin, urls, begins = begins[last], urls[:last], begins[:last]
			}
		case u.bare && !strings.Contains(p.text, ":") && strings.Contains(list[i-1].text, "?"):
			u = broken("is a name without a port behind parameters: if it belongs to them, its comma is written %%2C")
		}
		urls, begins = append(urls, u), append(begins, begin)
	}
	return urls
}
