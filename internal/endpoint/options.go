package endpoint

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// options are what may stand behind failover:(…), by ActiveMQ's names
// (https://activemq.apache.org/components/classic/documentation/failover-transport-reference).
// Those that mean the same have the same canonical name.
var options = []struct {
	name      string
	canonical string
	set       func(l *List, value string) error
}{
	{"randomize", "", func(l *List, value string) error { return boolean(&l.Randomize, value) }},
	{"failback", "", func(l *List, value string) error { return boolean(&l.Failback, value) }},
	{"priorityBackup", "failback", func(l *List, value string) error { return boolean(&l.Failback, value) }},
	{"initialReconnectDelay", "", func(l *List, value string) error { return delay(&l.InitialDelay, value) }},
	{"maxReconnectDelay", "", func(l *List, value string) error { return delay(&l.MaxDelay, value) }},
	{"maxReconnectAttempts", "", func(l *List, value string) error { return attempts(&l.MaxAttempts, value) }},
	{"startupMaxReconnectAttempts", "", func(l *List, value string) error { return attempts(&l.StartupMaxAttempts, value) }},
	{"timeout", "", func(l *List, value string) error {
		if value == "-1" {
			l.Timeout = 0
			return nil
		}
		d, err := milliseconds(value, 0)
		if err != nil {
			return errors.New("must be a number of milliseconds, or -1 for none")
		}
		l.Timeout = d
		return nil
	}},
}

// A foreignOption is one that there is nothing to choose of.
type foreignOption struct {
	why    string   // what is the case here
	values []string // in lower case: those that ask for just that, which are accepted
}

var (
	isTrue  = []string{"true"}
	isFalse = []string{"false"}
)

// foreignOptions are ActiveMQ's others.
var foreignOptions = map[string]foreignOption{
	"backup":                       {"no second connection is held ready", isFalse},
	"maxCacheSize":                 {"what is not confirmed is always kept and sent again", nil},
	"priorityURIs":                 {"the first of the list is the preferred one", nil},
	"reconnectDelayExponent":       {"delays double, with jitter", []string{"2", "2.0"}},
	"reconnectSupported":           {"no broker can tell the client to move", isFalse},
	"soTimeout":                    {"heart-beats find a broker that is dead: parameter heartbeat of its URL", []string{"0"}},
	"trackMessages":                {"what is not confirmed is always kept and sent again", isTrue},
	"updateURIsSupported":          {"no broker changes the list", isFalse},
	"updateURIsURL":                {"no file changes the list", nil},
	"useExponentialBackOff":        {"delays double, with jitter", isTrue},
	"warnAfterReconnectAttempts":   {"each failed attempt is reported", []string{"1"}},
	"rebalanceClusterClients":      {"no broker can tell the client to move", isFalse},
	"updateClusterClients":         {"no broker changes the list", isFalse},
	"updateClusterClientsOnRemove": {"no broker changes the list", isFalse},
}

// isOption tells whether a name is that of an option of failover:, here or of
// ActiveMQ's.
func isOption(name string) bool {
	_, foreign := foreignOptions[name]
	return foreign || slices.Contains(optionNames(), name)
}

func optionNames() []string {
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.name
	}
	return names
}

// applyOption sets one option of a list. given has the options that were set
// before, with their values; the error does not name the option.
func (l *List) applyOption(name, value string, given map[string]string) (known bool, err error) {
	for _, o := range options {
		if o.name != name {
			continue
		}
		canonical := o.canonical
		if canonical == "" {
			canonical = o.name
		}
		if before, twice := given[canonical]; twice && before != value {
			return true, errors.New("is given twice, with different values")
		}
		given[canonical] = value
		return true, o.set(l, value)
	}
	if o, ok := foreignOptions[name]; ok {
		if slices.Contains(o.values, strings.ToLower(value)) {
			return true, nil
		}
		return true, errors.New("is not an option here, leave it out: " + o.why)
	}
	return false, nil
}

func boolean(field *bool, value string) error {
	switch strings.ToLower(value) {
	case "true":
		*field = true
	case "false":
		*field = false
	default:
		return errors.New("must be true or false")
	}
	return nil
}

func delay(field *time.Duration, value string) (err error) {
	*field, err = milliseconds(value, 1)
	return err
}

func attempts(field *int, value string) error {
	n, err := number(value, -1, 1<<31-1, "attempts, or -1 for no limit,")
	*field = int(n)
	return err
}

var withoutDashes = strings.NewReplacer("-", "", "_", "")

// nearest is a half sentence with the name that is most like one that is not
// known, or nothing. It holds nothing of the unknown name.
func nearest(unknown string, names []string) string {
	const (
		longest  = 64 // a longer one is no slip of the hand
		furthest = 3
	)
	if len(unknown) > longest {
		return ""
	}
	plain := func(s string) string { return withoutDashes.Replace(strings.ToLower(s)) }
	best, distance := "", furthest+1
	for _, name := range names {
		if d := edits(plain(unknown), plain(name)); d < distance && d < len(name)/2+1 {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// edits is how many bytes must be put in, left out or changed to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
