package broker

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ferrymq/ferry/internal/pattern"
)

// A Policy says what the queues and exchanges of a virtual host are to do whose name
// its pattern is in. Of those that have the pattern the one of the highest priority
// counts, and of these the first by name; and beside it one operator policy, chosen
// the same way.
type Policy struct {
	Pattern    string          `json:"pattern"`
	Definition json.RawMessage `json:"definition"` // an object, its keys those of RabbitMQ's policies
	Priority   json.Number     `json:"priority"`
	ApplyTo    string          `json:"apply-to"` // "all", "queues", "exchanges", "classic_queues", "quorum_queues" or "streams"
}

// definition is what a policy says: its keys, with values of the types int64,
// string and bool, and of those that mean nothing here whatever they are in JSON.
type definition map[string]any

// policy is one that is in force.
type policy struct {
	name     string
	pattern  *pattern.Pattern
	priority float64
	applyTo  string
	def      definition
}

// Values of apply-to.
const (
	toAll       = "all"
	toQueues    = "queues"
	toExchanges = "exchanges"
	toClassic   = "classic_queues"
	toQuorum    = "quorum_queues"
	toStreams   = "streams" // of which there are none
)

// readPolicy reads the value of a setting of kind SettingPolicy or
// SettingOperatorPolicy, and returns the value in full. The error has kind Invalid,
// and says what is wrong in RabbitMQ's words.
func readPolicy(name string, value []byte, operator bool) (*policy, []byte, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(value, &fields) != nil || fields == nil {
		return nil, nil, errorf(Invalid, "not_json")
	}
	for _, key := range []string{"pattern", "definition"} {
		if fields[key] == nil {
			return nil, nil, errorf(Invalid, "[{key_missing,%s}]", key)
		}
	}
	p := &policy{name: name}
	full := Policy{Definition: fields["definition"]}
	var wrong []string
	add := func(text string) {
		if text != "" {
			wrong = append(wrong, text)
		}
	}
	add(p.readPattern(fields["pattern"]))
	add(p.readDefinition(fields["definition"], operator))
	add(p.readApplyTo(fields["apply-to"]))
	add(p.readPriority(fields["priority"]))
	if len(wrong) > 0 {
		return nil, nil, errorf(Invalid, "Validation failed\n\n%s\n", strings.Join(wrong, "\n"))
	}
	full.Pattern, full.ApplyTo = p.pattern.String(), p.applyTo
	full.Priority = json.Number(strconv.FormatFloat(p.priority, 'f', -1, 64))
	out, err := json.Marshal(full)
	if err != nil {
		return nil, nil, errorf(Invalid, "not_json")
	}
	return p, out, nil
}

func (p *policy) readPattern(raw json.RawMessage) string {
	text, ok := decodeValue(raw).(string)
	if !ok {
		return "pattern should be a binary but was " + term(decodeValue(raw))
	}
	var err error
	if p.pattern, err = pattern.Compile(text); err != nil {
		return "pattern should be regular expression but is invalid: " + err.Error()
	}
	return ""
}

func (p *policy) readApplyTo(raw json.RawMessage) string {
	p.applyTo = toAll
	if raw == nil {
		return ""
	}
	v := decodeValue(raw)
	p.applyTo, _ = v.(string)
	switch p.applyTo {
	case toAll, toQueues, toExchanges, toClassic, toQuorum, toStreams:
		return ""
	}
	s, ok := v.(string)
	if !ok {
		s = term(v)
	}
	return "apply-to '" + s + "' unrecognised; should be one of: 'queues', 'exchanges', 'classic_queues', 'quorum_queues', 'streams' or 'all'"
}

func (p *policy) readPriority(raw json.RawMessage) string {
	if raw == nil {
		return ""
	}
	switch n := decodeValue(raw).(type) {
	case int64:
		p.priority = float64(n)
	case float64:
		p.priority = n
	default:
		return "priority should be a number, actually was " + term(n)
	}
	return ""
}

func (p *policy) readDefinition(raw json.RawMessage, operator bool) string {
	all, ok := decodeValue(raw).(map[string]any)
	if !ok {
		return "definition must be a dictionary: " + term(decodeValue(raw))
	}
	if len(all) == 0 {
		return "no policy provided"
	}
	p.def = all
	unknown := []string{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		k, ok := policyKeys[key]
		switch {
		case !ok || operator && !k.operator:
			unknown = append(unknown, "{"+term(key)+","+term(all[key])+"}")
		case !k.check(all[key]):
			return term(all[key]) + " is not a valid " + k.what
		}
	}
	if len(unknown) > 0 {
		return "[" + strings.Join(unknown, ",") + "] are not recognised policy settings"
	}
	return checkMirrors(all)
}

// checkMirrors checks what RabbitMQ 3 checks of mirrored queues, so that what is
// taken here is also taken there.
func checkMirrors(all definition) string {
	mode, ok := all["ha-mode"]
	if !ok {
		for _, key := range []string{"ha-params", "ha-sync-mode", "ha-sync-batch-size", "ha-promote-on-shutdown", "ha-promote-on-failure"} {
			if _, ok := all[key]; ok {
				return "ha-mode must be specified to specify ha-params, ha-sync-mode or ha-promote-on-shutdown"
			}
		}
		return ""
	}
	params, given := all["ha-params"]
	said := "none given"
	if given {
		said = "given " + term(params)
	}
	switch mode {
	case "exactly":
		if n, ok := params.(int64); !ok || n < 1 {
			return `ha-mode="exactly" takes an integer, ` + said
		}
	case "nodes":
		if list, ok := params.([]any); !ok || len(list) == 0 {
			return `ha-mode="nodes" takes a list of strings, ` + said
		}
	}
	return ""
}

// decodeValue decodes JSON: numbers become int64 where they are integers that fit,
// otherwise float64.
func decodeValue(raw json.RawMessage) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	return numbers(v)
}

func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	}
	return v
}

// term prints a value of JSON as RabbitMQ does: as Erlang's term.
func term(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "<<" + strconv.Quote(v) + ">>"
	case float64:
		if s := strconv.FormatFloat(v, 'f', -1, 64); strings.Contains(s, ".") {
			return s
		}
		return strconv.FormatFloat(v, 'f', 1, 64)
	case []any:
		list := make([]string, len(v))
		for i := range v {
			list[i] = term(v[i])
		}
		return "[" + strings.Join(list, ",") + "]"
	case map[string]any:
		list := []string{}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			list = append(list, term(k)+" => "+term(v[k]))
		}
		return "#{" + strings.Join(list, ",") + "}"
	}
	return fmt.Sprint(v)
}

// covers tells whether a policy is for a queue, of quorum's kind or not.
func (p *policy) covers(name string, quorum bool) bool {
	switch p.applyTo {
	case toAll, toQueues:
	case toClassic:
		if quorum {
			return false
		}
	case toQuorum:
		if !quorum {
			return false
		}
	default:
		return false
	}
	return p.pattern.Match(name)
}

// policySet is what policies a virtual host has. It is not changed but for what it
// remembers.
type policySet struct {
	user, operator []*policy // the first that matches counts

	mu    sync.Mutex // guards what follows
	rules map[rulesKey]*rules
}

// rulesKey is what rules follow from.
type rulesKey struct {
	args  string
	found policies
}

// rulesKept is how many sets of rules a virtual host remembers: those of queues that
// are declared alike are one.
const rulesKept = 1024

// with is the set with one policy more, another, or (p nil) one less.
func (s *policySet) with(name string, operator bool, p *policy) *policySet {
	n := &policySet{user: s.user, operator: s.operator}
	list := &n.user
	if operator {
		list = &n.operator
	}
	*list = slices.DeleteFunc(slices.Clone(*list), func(o *policy) bool { return o.name == name })
	if p != nil {
		i, _ := slices.BinarySearchFunc(*list, p, comparePolicies)
		*list = slices.Insert(*list, i, p)
	}
	return n
}

func comparePolicies(x, y *policy) int {
	return cmp.Or(cmp.Compare(y.priority, x.priority), cmp.Compare(x.name, y.name))
}

func (s *policySet) empty() bool { return len(s.user) == 0 && len(s.operator) == 0 }

// policies are those of one queue or exchange; nil: there is none.
type policies struct{ user, operator *policy }

func (s *policySet) ofQueue(spec *QueueSpec) policies {
	if s.empty() {
		return policies{}
	}
	quorum := spec.kind() == queueQuorum
	return s.find(func(p *policy) bool { return p.covers(spec.Name, quorum) })
}

func (s *policySet) ofExchange(name string) policies {
	return s.find(func(p *policy) bool {
		return (p.applyTo == toAll || p.applyTo == toExchanges) && p.pattern.Match(name)
	})
}

// find finds the first of each list that is for something.
func (s *policySet) find(is func(p *policy) bool) (found policies) {
	if i := slices.IndexFunc(s.user, is); i >= 0 {
		found.user = s.user[i]
	}
	if i := slices.IndexFunc(s.operator, is); i >= 0 {
		found.operator = s.operator[i]
	}
	return found
}

// rulesOf are the rules of a queue with these arguments and policies. Those that are
// declared alike share them.
func (s *policySet) rulesOf(args []byte, found policies) *rules {
	if len(args) == 0 && found == (policies{}) {
		return noRules
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := rulesKey{string(args), found}
	if r := s.rules[k]; r != nil {
		return r
	}
	if s.rules == nil || len(s.rules) >= rulesKept {
		s.rules = map[rulesKey]*rules{}
	}
	r := rulesOf(args, found.user.definition(), found.operator.definition())
	s.rules[k] = r
	return r
}

func (p *policy) definition() definition {
	if p == nil {
		return nil
	}
	return p.def
}

// names are those of the policies, or empty.
func (f policies) names() (user, operator string) {
	if f.user != nil {
		user = f.user.name
	}
	if f.operator != nil {
		operator = f.operator.name
	}
	return user, operator
}

// effective is what the policies say together, as a JSON object: of limits the lower,
// otherwise the operator's word. It is nil if there are none.
func (f policies) effective() []byte {
	if f == (policies{}) {
		return nil
	}
	all := definition{}
	maps.Copy(all, f.user.definition())
	for k, v := range f.operator.definition() {
		if old, ok := all[k].(int64); ok {
			if n, ok := v.(int64); ok && old < n {
				continue
			}
		}
		all[k] = v
	}
	b, _ := json.Marshal(all) // it was read from JSON
	return b
}
