package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/app"
	"github.com/ferrymq/ferry/internal/auth"
)

// off switches a listener off.
const off = "off"

// serveConfig is what `ferry serve` is told.
type serveConfig struct {
	app      app.Config
	logLevel slog.Level
	logJSON  bool
	notes    []note // for the log, once there is one

	forShared []string // settings that were given and are about shared stores
}

// A note is something that is said about the configuration when the broker
// starts.
type note struct {
	level slog.Level
	text  string
}

func (c *serveConfig) note(level slog.Level, format string, args ...any) {
	c.notes = append(c.notes, note{level, fmt.Sprintf(format, args...)})
}

// An option is a setting of `ferry serve`: a flag, an environment variable and a
// key of the configuration file, all of one name.
type option struct {
	name   string
	value  string // the default
	meta   string // what stands for the value in the help
	usage  string
	alias  string // RabbitMQ's environment variable for it, which Ferry's goes before
	hidden bool
	noFile bool // it may not stand in a file

	// set takes the value over. explicit is false for the default.
	set func(c *serveConfig, value string, explicit bool) error
}

// serveOptions are in the order of the help. All of them are there from the
// first version on; those of features to come say so when they are used.
func serveOptions() []option {
	return []option{
		{
			name: "store", value: app.DefaultStore, meta: "URL",
			usage: "where messages are kept: file:DIR, memory:, postgres://USER:PASSWORD@HOST/DB or mysql://...; brokers with the same database share them",
			set: func(c *serveConfig, v string, _ bool) error {
				_, _, err := app.ParseStore(v)
				c.app.Store = v
				return err
			},
		},
		{
			name: "amqp", value: app.DefaultAMQP, meta: "ADDR",
			usage: "listen for AMQP 0-9-1 here, or off",
			set:   func(c *serveConfig, v string, _ bool) error { return setAddress(&c.app.AMQP, v) },
		},
		{
			name: "stomp", value: app.DefaultSTOMP, meta: "ADDR",
			usage: "listen for STOMP here, or off",
			set:   func(c *serveConfig, v string, _ bool) error { return setAddress(&c.app.STOMP, v) },
		},
		{
			name: "gmq", value: app.DefaultGMQ, meta: "ADDR",
			usage: "listen for GMQ here, or off",
			set:   func(c *serveConfig, v string, _ bool) error { return setAddress(&c.app.GMQ, v) },
		},
		{
			name: "gmq-token-auth", value: "on", meta: "on|off",
			usage: "whether clients of GMQ may log in with its tokens, from which everyone can read the password",
			set: func(c *serveConfig, v string, _ bool) error {
				if c.app.GMQNoTokens = v == off; !c.app.GMQNoTokens && v != "on" {
					return fmt.Errorf("%q is neither on nor off", v)
				}
				return nil
			},
		},
		{
			name: "http", value: app.DefaultHTTP, meta: "ADDR",
			usage: "answer the management API at /api, /metrics, /livez and /readyz here, and STOMP over WebSocket at /ws, or off",
			set:   func(c *serveConfig, v string, _ bool) error { return setAddress(&c.app.HTTP, v) },
		},
		{
			name: "ws-origins", meta: "LIST",
			usage: "web sites whose pages may use /ws, beside those of the same host: https://app.example.com,..., or *",
			set: func(c *serveConfig, v string, _ bool) error {
				c.app.WSOrigins = v
				return app.CheckOrigins(v)
			},
		},
		{
			name: "user", value: app.DefaultUser, meta: "NAME",
			usage: "the first user, made when there is none; guest may connect from this machine only",
			alias: "RABBITMQ_DEFAULT_USER",
			set: func(c *serveConfig, v string, explicit bool) error {
				if explicit {
					c.app.User = v
				}
				return notEmpty(v)
			},
		},
		{
			name: "password", value: app.DefaultUser, meta: "TEXT",
			usage: "its password; other users of the machine do not see it in $FERRY_PASSWORD or the file; another user than guest, and one in a container, gets one that is printed once",
			alias: "RABBITMQ_DEFAULT_PASS",
			set: func(c *serveConfig, v string, explicit bool) error {
				if explicit {
					c.app.Password = v
				}
				return notEmpty(v)
			},
		},
		{
			name: "password-file", meta: "FILE",
			usage: "its password is what this file holds, without the line's end",
			set:   func(c *serveConfig, v string, _ bool) error { return setPassword(c, v) },
		},
		{
			name: "vhost", meta: "NAME",
			usage: "virtual host to make with the first user, beside /",
			alias: "RABBITMQ_DEFAULT_VHOST",
			set: func(c *serveConfig, v string, _ bool) error {
				c.app.VHost = v
				return nil
			},
		},
		{
			name: "tls-cert", meta: "FILE",
			usage: "certificate (PEM): every listener also serves TLS; read again when it changes",
			set:   func(c *serveConfig, v string, _ bool) error { return setFile(&c.app.TLSCert, v) },
		},
		{
			name: "tls-key", meta: "FILE",
			usage: "its private key (PEM)",
			set:   func(c *serveConfig, v string, _ bool) error { return setFile(&c.app.TLSKey, v) },
		},
		{
			name: "tls-ca", meta: "FILE",
			usage: "authorities (PEM): who connects with TLS must show a certificate of theirs",
			set:   func(c *serveConfig, v string, _ bool) error { return setFile(&c.app.TLSCA, v) },
		},
		{
			name: "tls-clients", value: "required", meta: "required|optional",
			usage: "whether who connects with TLS may show no certificate where there is --tls-ca, and log in with a password",
			set: func(c *serveConfig, v string, _ bool) error {
				if c.app.TLSClientsOptional = v == "optional"; !c.app.TLSClientsOptional && v != "required" {
					return fmt.Errorf("%q is neither required nor optional", v)
				}
				return nil
			},
		},
		{
			name: "tls-user", value: string(auth.FromCommonName), meta: "PART",
			usage: "what in a client's certificate is its user, for logins without a password: common_name, distinguished_name or subject_alternative_name",
			set: func(c *serveConfig, v string, _ bool) (err error) {
				c.app.CertificateFrom, err = auth.ParseCertificateFrom(v)
				return err
			},
		},
		{
			name: "memory-limit", value: "60%", meta: "SIZE",
			usage: "publishers are blocked while more is in use: bytes (512MiB), or percent of the machine or container",
			set:   func(c *serveConfig, v string, _ bool) error { return setLimit(&c.app.MemoryLimit, v) },
		},
		{
			name: "disk-free-limit", value: "2GiB,5%", meta: "SIZE",
			usage: "publishers are blocked while less of the disk is free: bytes, percent, or the smaller of both",
			set:   func(c *serveConfig, v string, _ bool) error { return setLimit(&c.app.DiskFreeLimit, v) },
		},
		{
			name: "log-level", value: "info", meta: "LEVEL",
			usage: "debug, info, warn or error",
			set: func(c *serveConfig, v string, _ bool) error {
				if c.logLevel.UnmarshalText([]byte(v)) != nil {
					return fmt.Errorf("%q is not a level; there are debug, info, warn and error", v)
				}
				return nil
			},
		},
		{
			name: "log-format", value: "text", meta: "FORMAT",
			usage: "text or json",
			set: func(c *serveConfig, v string, _ bool) error {
				if c.logJSON = v == "json"; !c.logJSON && v != "text" {
					return fmt.Errorf("%q is not a format; there are text and json", v)
				}
				return nil
			},
		},
		{
			name: "lease", value: app.DefaultLease.String(), meta: "D",
			usage: "how long a broker that says nothing keeps a shared store; the same for all that share it",
			set: func(c *serveConfig, v string, explicit bool) error {
				c.shared("lease", explicit)
				d, err := time.ParseDuration(v)
				if err != nil {
					return fmt.Errorf("%q is not a duration, such as 5s", v)
				}
				if c.app.Lease = d; d < app.LeaseLeast {
					return fmt.Errorf("%v is less than %v: a broker must be able to say something several times within it", d, app.LeaseLeast)
				}
				if d > app.LeaseMost {
					return fmt.Errorf("%v is more than %v: for so long nobody would serve after a crash", d, app.LeaseMost)
				}
				return nil
			},
		},
		{
			name: "standby", value: app.StandbyRefuse, meta: "HOW",
			usage: "what a broker does with clients while another one with its store is live: refuse them, or proxy, which passes them through to that one",
			set: func(c *serveConfig, v string, explicit bool) error {
				c.shared("standby", explicit)
				if c.app.Standby = v; v != app.StandbyRefuse && v != app.StandbyProxy {
					return fmt.Errorf("%q is neither refuse nor proxy", v)
				}
				return nil
			},
		},
		{
			name: "node", meta: "NAME",
			usage: "name of this broker among those that share its store (default: the host's name and the port of the first listener)",
			set: func(c *serveConfig, v string, _ bool) error {
				c.app.Node = v
				return checkNode(v)
			},
		},
		{
			name: "advertise", meta: "HOST",
			usage: "host by which the others that share the store reach this broker (default: that of the listener, or the host's name)",
			set: func(c *serveConfig, v string, explicit bool) error {
				c.shared("advertise", explicit && v != "")
				c.app.Advertise = strings.Trim(v, "[]")
				return checkHost(v)
			},
		},
		{
			name: "peers", meta: "ADDRS",
			usage: "the other nodes of the cluster (not in this version yet)",
			set:   laterRefused("clusters are not in this version yet, and a broker that is expected to replicate must not start without"),
		},
		{
			name: "definitions", meta: "FILE",
			usage: "RabbitMQ's definitions.json, or what ferry definitions export has written, to load at each start: what is there already stays",
			set: func(c *serveConfig, v string, _ bool) error {
				c.app.Definitions = v
				return nil
			},
		},
		{
			name: "config", meta: "FILE", noFile: true,
			usage: "TOML file with these settings, the flags' names as keys",
			set:   func(*serveConfig, string, bool) error { return nil },
		},
		{
			name: "pprof", meta: "ADDR", hidden: true,
			usage: "serve profiles of this process here",
			set: func(c *serveConfig, v string, _ bool) error {
				if v == "" {
					return nil
				}
				return setAddress(&c.app.PProf, v)
			},
		},
	}
}

// check finds what is wrong with values that are right one by one.
func (c *serveConfig) check() []error {
	var faults []error
	if (c.app.TLSCert == "") != (c.app.TLSKey == "") {
		faults = append(faults, errors.New("--tls-cert and --tls-key go together, and only one of them is given"))
	}
	if c.app.TLSCA != "" && c.app.TLSCert == "" {
		faults = append(faults, errors.New("--tls-ca is about TLS, which needs --tls-cert and --tls-key"))
	}
	if c.app.AMQP == "" && c.app.STOMP == "" && c.app.GMQ == "" && c.app.HTTP == "" {
		faults = append(faults, errors.New("every listener is off: nobody could reach the broker"))
	}
	if kind, _, err := app.ParseStore(c.app.Store); err == nil && kind != app.DatabaseStore {
		for _, name := range c.forShared {
			c.note(slog.LevelWarn, "--%s has no effect: it is about stores that several brokers share, postgres:// and mysql://", name)
		}
	}
	return faults
}

// shared remembers a setting that is about shared stores, if it was given.
func (c *serveConfig) shared(name string, given bool) {
	if given {
		c.forShared = append(c.forShared, name)
	}
}

// nodeMax is how long the name of a node may be, bytes: it is in the log, and in what
// each connection is told.
const nodeMax = 128

func checkNode(v string) error {
	if len(v) > nodeMax {
		return fmt.Errorf("it has %d bytes, and may have %d", len(v), nodeMax)
	}
	if !utf8.ValidString(v) || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("%q has something in it that is no letter, digit or sign", v)
	}
	return nil
}

// checkHost takes a name or an address without a port.
func checkHost(v string) error {
	if strings.ContainsAny(v, "/ @") {
		return fmt.Errorf("%q is not a host; write a name or an address", v)
	}
	if _, _, err := net.SplitHostPort(v); err == nil {
		return fmt.Errorf("%q has a port, which is that of each listener; write the host alone", v)
	}
	return nil
}

// laterRefused is for a setting without which the broker would not be what was
// asked for.
func laterRefused(why string) func(*serveConfig, string, bool) error {
	return func(_ *serveConfig, v string, _ bool) error {
		if v != "" {
			return errors.New(why)
		}
		return nil
	}
}

func notEmpty(v string) error {
	if v == "" {
		return errors.New("it must not be empty")
	}
	return nil
}

// The functions below take a value over even when it is wrong, so that check
// does not report what follows from that.

// setAddress takes host:port, :port, or off.
func setAddress(dst *string, v string) error {
	if v == off {
		*dst = ""
		return nil
	}
	*dst = v
	_, port, err := net.SplitHostPort(v)
	if err == nil {
		if _, err := net.LookupPort("tcp", port); err != nil {
			return fmt.Errorf("%q is not a port", port)
		}
		return nil
	}
	hint := ""
	if _, err := strconv.ParseUint(v, 10, 16); err == nil {
		hint = fmt.Sprintf("; did you mean :%s?", v)
	}
	return fmt.Errorf("%q is not an address; write host:port, :port for every address of this machine, or off%s", v, hint)
}

// maxPasswordFile is how large a file with a password may be, bytes: more is none.
const maxPasswordFile = 64 << 10

// setPassword reads the first user's password from a file. The empty name is none.
func setPassword(c *serveConfig, file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot read the file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was read only
	b, err := io.ReadAll(io.LimitReader(f, maxPasswordFile))
	if err != nil {
		return fmt.Errorf("cannot read the file: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case text == "":
		return fmt.Errorf("%s is empty", file)
	case c.app.Password != "":
		return errors.New("the password itself is given, too; only one of them can hold")
	}
	c.app.Password = text
	return nil
}

// setFile takes the name of a file that can be read. The empty one is none.
func setFile(dst *string, v string) error {
	*dst = v
	if v == "" {
		return nil
	}
	f, err := os.Open(v)
	if err != nil {
		return fmt.Errorf("cannot read the file: %w", err)
	}
	return f.Close()
}

var units = []struct {
	suffix string
	bytes  float64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
	{"", 1},
}

// setLimit takes bytes, percent, or both with a comma between; off is no limit.
func setLimit(dst *app.Limit, v string) error {
	var l app.Limit
	if v == off {
		*dst = l
		return nil
	}
	for part := range strings.SplitSeq(v, ",") {
		part = strings.TrimSpace(part)
		if number, ok := strings.CutSuffix(part, "%"); ok {
			n, err := strconv.ParseFloat(number, 64)
			if err != nil || n <= 0 || n > 100 || l.Share != 0 {
				return fmt.Errorf("%q is not a percentage", part)
			}
			l.Share = n / 100
			continue
		}
		n, ok := parseBytes(part)
		if !ok || l.Bytes != 0 {
			return fmt.Errorf("%q is not a size; write bytes, such as 512MiB, or percent, such as 60%%, or off", part)
		}
		l.Bytes = n
	}
	*dst = l
	return nil
}

func parseBytes(v string) (int64, bool) {
	for _, u := range units {
		number, ok := strings.CutSuffix(v, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		b := n * u.bytes
		return int64(b), err == nil && b >= 1 && b < 1<<62
	}
	return 0, false
}
