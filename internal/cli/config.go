package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/v2"
	"github.com/pelletier/go-toml/v2"
)

// environmentPrefix begins the names of environment variables: FERRY_TLS_CERT
// is --tls-cert.
const environmentPrefix = "FERRY_"

func environmentName(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// A setting is a value and where it comes from, for people.
type setting struct{ value, from string }

// A layer is what one source says, by the names of options. It is a provider of
// koanf's.
type layer map[string]setting

// Read implements koanf.Provider.
func (l layer) Read() (map[string]any, error) {
	values := make(map[string]any, len(l))
	for name, s := range l {
		values[name] = s.value
	}
	return values, nil
}

// ReadBytes implements koanf.Provider.
func (layer) ReadBytes() ([]byte, error) { return nil, errors.New("settings are not bytes") }

// sources are where the settings of a command come from.
type sources struct {
	flags  map[string]string // those that were given
	getenv func(string) string
}

// configure makes the configuration of `ferry serve`: flags before environment
// variables before the file before the defaults. Its error is a *faults with
// everything that is wrong.
func configure(src sources) (*serveConfig, error) {
	options := serveOptions()
	var wrong faults
	defaults, environment, flags := layer{}, layer{}, layer{}
	for _, o := range options {
		defaults[o.name] = setting{o.value, "the default of --" + o.name}
		// An empty variable is one that is not set, as compose files leave it.
		for _, name := range []string{environmentName(o.name), o.alias} {
			if name != "" && src.getenv(name) != "" {
				environment[o.name] = setting{src.getenv(name), "$" + name}
				break
			}
		}
		if v, ok := src.flags[o.name]; ok {
			flags[o.name] = setting{v, "--" + o.name}
		}
	}
	file := layer{}
	if s, ok := first("config", flags, environment); ok && s.value != "" {
		var faults []error
		file, faults = readFile(s, options)
		wrong = append(wrong, faults...)
	}
	merged := koanf.New(".")
	for _, l := range []layer{defaults, file, environment, flags} {
		if err := merged.Load(l, nil); err != nil {
			return nil, err
		}
	}
	c := &serveConfig{}
	for _, o := range options {
		from, explicit := first(o.name, flags, environment, file)
		if !explicit {
			from = defaults[o.name]
		}
		if err := o.set(c, merged.String(o.name), explicit); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", from.from, err))
		}
	}
	wrong = append(wrong, c.check()...)
	if len(wrong) > 0 {
		return nil, &wrong
	}
	return c, nil
}

// first finds an option in the first layer that has it.
func first(name string, layers ...layer) (setting, bool) {
	for _, l := range layers {
		if s, ok := l[name]; ok {
			return s, true
		}
	}
	return setting{}, false
}

// readFile reads a configuration file. Its keys are names of options.
func readFile(at setting, options []option) (layer, []error) {
	name := at.value
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, []error{fmt.Errorf("%s: cannot read the file: %w", at.from, err)}
	}
	var values map[string]any
	if err := toml.Unmarshal(text, &values); err != nil {
		var d *toml.DecodeError
		if errors.As(err, &d) {
			row, column := d.Position()
			return nil, []error{fmt.Errorf("%s:%d:%d: this is not TOML: %w", name, row, column, err)}
		}
		return nil, []error{fmt.Errorf("%s: this is not TOML: %w", name, err)}
	}
	byName := map[string]option{}
	var names []string
	for _, o := range options {
		if !o.noFile {
			byName[o.name] = o
			if !o.hidden {
				names = append(names, o.name)
			}
		}
	}
	found := layer{}
	var wrong []error
	for _, kv := range inOrder(text, values) {
		where := fmt.Sprintf("%s:%d", name, kv.line)
		_, known := byName[kv.key]
		switch {
		case kv.key == "config":
			wrong = append(wrong, fmt.Errorf("%s: %q is for the command line; a file cannot name another", where, kv.key))
		case !known:
			wrong = append(wrong, fmt.Errorf("%s: unknown key %q%s", where, kv.key, suggestion(kv.key, names, "%q")))
		default:
			v, err := textOf(kv.value)
			if err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %s: %w", where, kv.key, err))
				continue
			}
			found[kv.key] = setting{v, where + ": " + kv.key}
		}
	}
	return found, wrong
}

// A keyValue is a value of a TOML document. The keys of tables within tables
// have dots.
type keyValue struct {
	key   string
	value any
	line  int
}

// inOrder lists the values of a document in its order.
func inOrder(text []byte, values map[string]any) []keyValue {
	list := flatten(nil, "", values)
	lines := keyLines(text)
	for i := range list {
		// The lines of what is in a table may be known by the table's alone.
		for key := list[i].key; list[i].line == 0 && key != ""; key = key[:max(0, strings.LastIndexByte(key, '.'))] {
			list[i].line = lines[key]
		}
	}
	slices.SortStableFunc(list, func(a, b keyValue) int { return a.line - b.line })
	return list
}

func flatten(dst []keyValue, prefix string, table map[string]any) []keyValue {
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if inner, ok := table[key].(map[string]any); ok {
			dst = flatten(dst, prefix+key+".", inner)
			continue
		}
		dst = append(dst, keyValue{key: prefix + key, value: table[key]})
	}
	return dst
}

// keyLines says on which lines the keys of a TOML document stand: to a decoder
// that knows no key, all are strange.
func keyLines(text []byte) map[string]int {
	var none struct{}
	d := toml.NewDecoder(strings.NewReader(string(text))).DisallowUnknownFields()
	var strange *toml.StrictMissingError
	lines := map[string]int{}
	if errors.As(d.Decode(&none), &strange) {
		for _, e := range strange.Errors {
			row, _ := e.Position()
			lines[strings.Join(e.Key(), ".")] = row
		}
	}
	return lines
}

// textOf writes a value as a flag's would be written.
func textOf(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case []any:
		var parts []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return "", errors.New("a list must be of texts")
			}
			parts = append(parts, s)
		}
		return strings.Join(parts, ","), nil
	case time.Time, toml.LocalDate, toml.LocalTime, toml.LocalDateTime:
		return "", errors.New("a time is not expected here")
	}
	return "", fmt.Errorf("a text is expected here, not %v; write it in quotes", v)
}
