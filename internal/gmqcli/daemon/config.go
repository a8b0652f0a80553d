package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ferrymq/ferry/internal/app"
	"github.com/ferrymq/ferry/internal/gmqserver"
)

// defaultPort is GMQ's.
const defaultPort = "4884"

// storeDir is where messages are, below filesystem.path: files of GMQ's own that
// are there are left alone.
const storeDir = "ferry"

// The values of queue.queue_type.
const (
	inMemory     = 1
	inDatabase   = 2
	inFilesystem = 3
)

// config is GMQ's configuration. Its keys are found in any case, as everything in
// Go's JSON.
type config struct {
	Auth struct {
		User     string `json:"user"`
		Password string `json:"password"`
	} `json:"auth"`
	Network struct {
		Port     portText `json:"port"`
		Inet     string   `json:"interface"`
		Protocol string   `json:"protocol"`
	} `json:"network"`
	Cluster json.RawMessage `json:"cluster"`
	Queue   struct {
		Type     int `json:"queue_type"`
		Queues   int `json:"max_queue_number"`
		Message  int `json:"max_message_length"`
		Capacity int `json:"max_queue_capacity"`
	} `json:"queue"`
	Database struct {
		Vendor string `json:"vendor"`
		DSN    string `json:"dsn"`
	} `json:"database"`
	Filesystem struct {
		Path string `json:"path"`
	} `json:"filesystem"`
	Log struct {
		Path string `json:"path"`
		Name string `json:"name"`
	} `json:"log"`
}

// portText is a port, which GMQ has as a text, and everybody else as a number.
type portText string

// UnmarshalJSON implements json.Unmarshaler.
func (p *portText) UnmarshalJSON(b []byte) error {
	var n json.Number
	if json.Unmarshal(b, &n) == nil { // also of a text that is one
		*p = portText(n)
		return nil
	}
	return json.Unmarshal(b, (*string)(p))
}

// readConfig reads a configuration. notes are what is in it that has no effect.
func readConfig(file string) (c *config, notes []string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("Configuration file not available: %w", err) //nolint:staticcheck // GMQ's words
	}
	c = &config{}
	if err := json.Unmarshal(text, c); err != nil {
		where := ""
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			where = fmt.Sprintf(" (line %d)", 1+bytes.Count(text[:min(int(syntax.Offset), len(text))], []byte{'\n'}))
		}
		return nil, nil, fmt.Errorf("Unable to parse configuration file, check JSON is well formed: %s%s: %w", file, where, err) //nolint:staticcheck // GMQ's words
	}
	for _, key := range unknownKeys(text) {
		notes = append(notes, fmt.Sprintf("%s: %s has no meaning here", file, key))
	}
	if len(c.Cluster) > 0 && string(c.Cluster) != "null" {
		notes = append(notes, "cluster has no effect: servers with the same database find each other by it, one serves and the others stand by")
	}
	return c, notes, nil
}

// known are the keys there are, by the sections that they are in.
var known = map[string][]string{
	"auth":       {"user", "password"},
	"network":    {"port", "interface", "protocol"},
	"cluster":    {"proto", "cluster_port", "timeout_msec", "cidr"},
	"queue":      {"queue_type", "max_queue_number", "max_message_length", "max_queue_capacity"},
	"database":   {"vendor", "dsn"},
	"filesystem": {"path"},
	"log":        {"path", "name"},
}

// unknownKeys finds what GMQ does not look at, and nobody else: mostly mistyped.
func unknownKeys(text []byte) []string {
	var sections map[string]json.RawMessage
	if json.Unmarshal(text, &sections) != nil {
		return nil
	}
	var unknown []string
	for _, section := range slices.Sorted(maps.Keys(sections)) {
		keys, ok := known[strings.ToLower(section)]
		if !ok {
			unknown = append(unknown, section)
			continue
		}
		var values map[string]json.RawMessage
		_ = json.Unmarshal(sections[section], &values) // what is no section is null
		for _, key := range slices.Sorted(maps.Keys(values)) {
			if !slices.Contains(keys, strings.ToLower(key)) {
				unknown = append(unknown, section+"."+key)
			}
		}
	}
	return unknown
}

// apply makes of the configuration that of the broker. The error has everything
// that is wrong.
func (c *config) apply(to *app.Config) error {
	var faults []error
	for _, limit := range []struct {
		name  string
		value int
	}{
		{"MAX_QUEUE_NUMBER", c.Queue.Queues}, {"MAX_QUEUE_CAPACITY", c.Queue.Capacity}, {"MAX_MESSAGE_LENGTH", c.Queue.Message},
	} {
		if limit.value < 1 {
			faults = append(faults, fmt.Errorf("Please configure %s with a positive number", limit.name)) //nolint:staticcheck // GMQ's words
		}
	}
	to.GMQLimits = gmqserver.Limits{Queues: c.Queue.Queues, QueueMessages: c.Queue.Capacity, Message: c.Queue.Message}
	var err error
	if to.Store, err = c.store(); err != nil {
		faults = append(faults, err)
	}
	if to.GMQ, err = c.address(); err != nil {
		faults = append(faults, err)
	}
	to.User, to.Password = c.Auth.User, c.Auth.Password
	switch {
	case to.User == "" && to.Password == "":
		to.User, to.Password = app.DefaultUser, app.DefaultUser
	case to.User == "" || to.Password == "":
		faults = append(faults, errors.New("auth: user and password go together, and only one of them is given"))
	}
	return errors.Join(faults...)
}

// store is where messages are kept, as an URL.
func (c *config) store() (string, error) {
	switch c.Queue.Type {
	case inMemory:
		return "memory:", nil
	case inDatabase:
		url, err := databaseURL(c.Database.Vendor, c.Database.DSN)
		if err != nil {
			return "", fmt.Errorf("database: %w", err)
		}
		return url, nil
	case inFilesystem:
		if c.Filesystem.Path == "" {
			return "", errors.New("filesystem: path is missing, the directory to keep messages in")
		}
		return "file:" + filepath.Join(c.Filesystem.Path, storeDir), nil
	}
	return "", errors.New("Please configure QUEUE_TYPE with 1 (memory), 2 (database) or 3 (filesystem)") //nolint:staticcheck // GMQ's words
}

// address is where the server listens.
func (c *config) address() (string, error) {
	host, port := c.Network.Inet, string(c.Network.Port)
	if port == "" {
		port = defaultPort
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", fmt.Errorf("network: %q is not a port", port)
	}
	switch c.Network.Protocol {
	case "", "tcp":
	case "tcp4":
		if host == "" {
			host = net.IPv4zero.String()
		}
	case "tcp6":
		if host == "" {
			host = net.IPv6zero.String()
		}
	default:
		return "", fmt.Errorf("network: protocol %q is not one; there are tcp, tcp4 and tcp6", c.Network.Protocol)
	}
	return net.JoinHostPort(host, port), nil
}

// logFile is the file to log to, "" if there is none. GMQ puts path and name
// together as they are; here a path may also be a directory without a slash.
func (c *config) logFile() string {
	if c.Log.Path == "" {
		return ""
	}
	return filepath.Join(c.Log.Path, c.Log.Name)
}
