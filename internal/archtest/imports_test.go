package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ferrymq/ferry"

// A layer is a set of packages and what they may import: dependencies point
// downward only. Paths are relative to the module; a path that ends with /...
// stands for itself and all below it. Packages of the standard library are
// allowed but for those in not.
type layer struct {
	packages string
	why      string
	mine     []string // packages of this module
	others   []string // packages of other modules
	not      []string // packages of the standard library
}

// What a pure function has no use for.
var impure = []string{"context", "log", "log/slog", "net", "net/http", "os", "os/exec", "syscall"}

// layers is read from the top: the first that holds a package is its own. A
// package that no layer holds fails the test, so that its place is decided
// when it is made.
var layers = []layer{
	{
		packages: "internal/archtest",
		why:      "it looks from outside",
	},
	{
		packages: "internal/message",
		why:      "what a message is: everything may import it, it imports nothing",
		not:      impure,
	},
	{
		packages: "internal/wire/...",
		why:      "pure codecs: bytes to values and back, shared by servers and clients",
		mine:     []string{"internal/message"},
		not:      append([]string{"sync", "sync/atomic"}, impure...),
	},
	{
		packages: "internal/route",
		why:      "pure: which bindings a message matches; whoever holds a table locks it",
		mine:     []string{"internal/message"},
		not:      impure,
	},
	{
		packages: "internal/pattern",
		why:      "pure: names against patterns, of permissions and policies alike",
		not:      impure,
	},
	{
		packages: "internal/vfs",
		why:      "the seam to the file system knows nothing above it",
		others:   []string{"golang.org/x/sys/..."},
		not:      []string{"net", "net/http"},
	},
	{
		packages: "internal/journal",
		why:      "the seam: bytes, not what they mean",
		not:      []string{"net", "net/http", "os"},
	},
	{
		packages: "internal/journal/journaltest",
		why:      "the suite that every journal passes knows only the seam",
		mine:     []string{"internal/journal"},
	},
	{
		packages: "internal/journal/memory",
		why:      "journals know the seam, neither the broker nor each other",
		mine:     []string{"internal/journal"},
		not:      []string{"net", "net/http", "os"},
	},
	{
		packages: "internal/journal/file",
		why:      "journals know the seam, neither the broker nor each other; files are reached through vfs",
		mine:     []string{"internal/journal", "internal/vfs"},
		not:      []string{"net", "net/http", "os"},
	},
	{
		packages: "internal/dbtest",
		why:      "databases for tests: the script that starts them, and the drivers",
		others:   []string{"github.com/go-sql-driver/mysql", "github.com/jackc/pgx/..."},
	},
	{
		packages: "internal/journal/sqldb",
		why:      "journals know the seam, neither the broker nor each other; the databases are reached through their drivers",
		mine:     []string{"internal/journal"},
		others:   []string{"github.com/jackc/pgx/v5/...", "github.com/go-sql-driver/mysql"},
		not:      []string{"net/http"},
	},
	{
		packages: "internal/auth",
		why:      "users, passwords and permissions, of no protocol",
		mine:     []string{"internal/pattern"},
		others:   []string{"golang.org/x/..."},
		not:      []string{"net", "net/http"},
	},
	{
		packages: "internal/broker",
		why:      "protocol-neutral: no wire format, no sockets, no files, no particular journal",
		mine:     []string{"internal/message", "internal/journal", "internal/route", "internal/auth", "internal/pattern"},
		others:   []string{"golang.org/x/..."},
		not:      []string{"database/sql", "net", "net/http", "os"},
	},
	{
		packages: "internal/history",
		why:      "judges brokers from outside: what their log means, and nothing of who writes it or serves",
		mine:     []string{"internal/broker", "internal/journal"},
		not:      []string{"context", "database/sql", "net", "net/http", "os"},
	},
	{
		packages: "internal/netserve",
		why:      "listeners and connections, of no protocol",
		others:   []string{"golang.org/x/..."},
	},
	{
		packages: "internal/pipenet",
		why:      "a network within a process, of no protocol",
	},
	{
		packages: "internal/faultbroker",
		why:      "a broker that misbehaves, for tests: of the product it knows only the wire format",
		mine:     []string{"internal/pipenet", "internal/wire/..."},
	},
	{
		packages: "internal/endpoint",
		why:      "brokers' URLs: it connects to nothing, and reads certificate files only",
		not:      []string{"context", "log", "net", "net/http", "os/exec", "syscall"},
	},
	{
		packages: "internal/amqpserver",
		why:      "one protocol: its wire format above, the broker below, no journal and no other protocol",
		mine:     []string{"internal/broker", "internal/wire/amqpwire", "internal/netserve", "internal/auth", "internal/message"},
		not:      []string{"database/sql", "os"},
	},
	{
		packages: "internal/stompserver",
		why:      "one protocol: its wire format above, the broker below, no journal and no other protocol",
		mine:     []string{"internal/broker", "internal/wire/stompwire", "internal/netserve", "internal/auth", "internal/message"},
		not:      []string{"database/sql", "os"},
	},
	{
		packages: "internal/gmqserver",
		why:      "one protocol: its wire format above, the broker below, no journal and no other protocol",
		mine:     []string{"internal/broker", "internal/wire/gmqwire", "internal/netserve", "internal/auth", "internal/message"},
		not:      []string{"database/sql", "os"},
	},
	{
		packages: "internal/definitions",
		why:      "what a broker was told to be, as RabbitMQ writes it down: no protocol, no files",
		mine:     []string{"internal/auth", "internal/broker", "internal/message"},
		not:      []string{"database/sql", "net", "net/http", "os"},
	},
	{
		packages: "internal/adminserver",
		why:      "one protocol: HTTP above, the broker and its users below, no journal and no other protocol",
		mine:     []string{"internal/auth", "internal/broker", "internal/definitions", "internal/message", "internal/pattern"},
		not:      []string{"database/sql"},
	},
	{
		packages: "internal/stompws",
		why:      "WebSockets become connections like others: it knows STOMP's frames apart, and nothing of who serves them",
		mine:     []string{"internal/netserve", "internal/pipenet"},
		others:   []string{"github.com/coder/websocket"},
		not:      []string{"database/sql", "os"},
	},
	{
		packages: "internal/link",
		why:      "the seam between the client and a protocol: no wire format, no sockets of its own",
		mine:     []string{"internal/endpoint"},
		not:      []string{"os"},
	},
	{
		packages: "internal/link/transport",
		why:      "what the links have in common below their protocols, of which it knows none",
		mine:     []string{"internal/link"},
	},
	{
		packages: "internal/link/linktest",
		why:      "what the tests of links have in common: it knows only the seam",
		mine:     []string{"internal/link"},
	},
	{
		packages: "internal/link/reply",
		why:      "what brokers answer in the terms of AMQP, of the links of all protocols",
		mine:     []string{"internal/link", "internal/wire/amqpwire"},
	},
	{
		packages: "internal/link/amqplink",
		why:      "one connection of one protocol: its wire format, and the seam; nothing of a server",
		mine:     []string{"internal/link", "internal/link/reply", "internal/link/transport", "internal/wire/amqpwire"},
	},
	{
		packages: "internal/link/stomplink",
		why:      "connections of one protocol: its wire format, and the seam; nothing of a server",
		mine: []string{
			"internal/link", "internal/link/reply", "internal/link/transport", "internal/wire/stompwire",
			"internal/endpoint", "internal/message",
		},
	},
	{
		packages: "internal/link/gmqlink",
		why:      "connections of one protocol: its wire format, and the seam; nothing of a server",
		mine:     []string{"internal/link", "internal/link/reply", "internal/link/transport", "internal/wire/gmqwire"},
	},
	{
		packages: "internal/outbox",
		why:      "what the client keeps until a broker has it: the file journal is all it knows of storage",
		mine:     []string{"internal/journal", "internal/journal/file", "internal/vfs", "internal/link", "internal/message"},
		not:      []string{"net", "net/http", "os"},
	},
	{
		packages: "",
		why:      "the public client: of storage it knows only the outbox",
		mine:     []string{"internal/endpoint", "internal/link/...", "internal/message", "internal/outbox"},
	},
	{
		packages: "internal/metrics",
		why:      "what Prometheus is told: the broker's views, and nothing of who serves them",
		mine:     []string{"internal/broker", "internal/journal"},
	},
	{
		packages: "internal/app",
		why:      "the composition root: it wires what is below, and only the command lines and ferrytest build on it",
		mine: []string{
			"internal/adminserver", "internal/amqpserver", "internal/auth", "internal/broker", "internal/definitions", "internal/gmqserver",
			"internal/journal/...", "internal/message", "internal/metrics", "internal/netserve", "internal/stompserver", "internal/stompws",
			"internal/vfs",
		},
		others: []string{"..."},
	},
	{
		packages: "internal/verify",
		why:      "counts what becomes of messages, by the public client alone",
		mine:     []string{""},
	},
	{
		packages: "internal/loadtest",
		why:      "load and its measures, by the public client alone",
		mine:     []string{""},
		others:   []string{"github.com/HdrHistogram/hdrhistogram-go"},
	},
	{
		packages: "internal/gateway",
		why:      "HTTP in, messages out: the public client, no flags and no command line",
		mine:     []string{""},
	},
	{
		packages: "ferrytest",
		why:      "a broker in a user's test process: no layer has it among what it may import, so only tests do",
		mine: []string{
			"internal/amqpserver", "internal/auth", "internal/broker", "internal/gmqserver", "internal/journal/...", "internal/netserve",
			"internal/stompserver", "internal/vfs", "internal/wire/...",
		},
	},
	{
		packages: "internal/cli",
		why:      "the command line: the root for servers, the public client for everything else",
		mine: []string{
			"", "internal/app", "internal/auth", "internal/broker", "internal/endpoint", "internal/gateway", "internal/journal/...",
			"internal/loadtest", "internal/verify", "internal/vfs",
		},
		others: []string{"..."},
	},
	{
		packages: "internal/gmqcli",
		why:      "GMQ's client: its wire format, and nothing of Ferry's client or broker",
		mine:     []string{"internal/wire/gmqwire"},
	},
	{
		packages: "internal/gmqcli/daemon",
		why:      "GMQ's configuration for the root for servers",
		mine:     []string{"internal/app", "internal/gmqserver"},
		others:   []string{"github.com/go-sql-driver/mysql"},
	},
	{
		packages: "cmd/...",
		why:      "a main does nothing but call the command line",
		mine:     []string{"internal/cli", "internal/gmqcli/..."},
	},
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Standard"}, args...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestDependenciesPointDownward checks what each package imports, its tests
// apart, against the layers. It looks at several systems, because files are
// chosen by it.
func TestDependenciesPointDownward(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		t.Run(goos, func(t *testing.T) {
			t.Setenv("GOOS", goos)
			t.Setenv("CGO_ENABLED", "0")
			std := make(map[string]bool)
			for _, p := range list(t, "std") {
				std[p.ImportPath] = true
			}
			packages := list(t, "./...")
			if len(packages) < 2 {
				t.Fatalf("go list found %d packages", len(packages))
			}
			for _, p := range packages {
				for _, complaint := range check(p, std) {
					t.Error(complaint)
				}
			}
		})
	}
}

// check says what a package imports that its layer does not allow.
func check(p pkg, std map[string]bool) []string {
	path := relative(p.ImportPath)
	i := slices.IndexFunc(layers, func(l layer) bool { return holds(l.packages, path) })
	if i < 0 {
		return []string{fmt.Sprintf("%s is in no layer: give it one in internal/archtest", path)}
	}
	l := layers[i]
	var complaints []string
	for _, imported := range p.Imports {
		var allowed bool
		switch {
		case imported == module || strings.HasPrefix(imported, module+"/"):
			imported = relative(imported)
			allowed = slices.ContainsFunc(l.mine, func(pattern string) bool { return holds(pattern, imported) })
		case std[imported] || imported == "C":
			allowed = !slices.Contains(l.not, imported)
		default:
			allowed = slices.ContainsFunc(l.others, func(pattern string) bool { return holds(pattern, imported) })
		}
		if !allowed {
			complaints = append(complaints, fmt.Sprintf("%s imports %s (%s)", path, imported, l.why))
		}
	}
	return complaints
}

// relative is an import path without the module's; that of the root is empty.
func relative(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
}

// holds says whether a path is one that the pattern stands for.
func holds(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if above, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == above || strings.HasPrefix(path, above+"/")
	}
	return path == pattern
}

// TestClientLinksOnlyTheStandardLibrary keeps who imports the client from
// inheriting anything.
func TestClientLinksOnlyTheStandardLibrary(t *testing.T) {
	for _, p := range list(t, "-deps", module) {
		if !p.Standard && p.ImportPath != module && !strings.HasPrefix(p.ImportPath, module+"/") {
			t.Errorf("the client links %s", p.ImportPath)
		}
	}
}

func TestCheckComplains(t *testing.T) {
	std := map[string]bool{"net": true, "fmt": true}
	for _, c := range []struct {
		path     string
		imports  []string
		complain bool
	}{
		{"internal/broker", []string{"fmt", module + "/internal/journal"}, false},
		{"internal/broker", []string{"net"}, true},
		{"internal/broker", []string{module + "/internal/wire/amqpwire"}, true},
		{"internal/broker", []string{module + "/internal/journal/file"}, true},
		{"internal/broker", []string{"github.com/someone/something"}, true},
		{"internal/broker", []string{"golang.org/x/crypto/argon2"}, false},
		{"internal/journal/file", []string{module + "/internal/journal/memory"}, true},
		{"internal/wire/amqpwire", []string{module + "/internal/message"}, false},
		{"internal/wire/amqpwire", []string{module + "/internal/broker"}, true},
		{"internal/amqpserver", []string{module + "/internal/app"}, true},
		{"internal/app", []string{module + "/internal/cli"}, true},
		{"cmd/ferry", []string{module + "/internal/app"}, true},
		{"internal/cli", []string{module + "/ferrytest"}, true},
		{"internal/cli", []string{module + "/internal/faultbroker"}, true},
		{"internal/unheardof", nil, true},
	} {
		complaints := check(pkg{ImportPath: module + "/" + c.path, Imports: c.imports}, std)
		if got := len(complaints) > 0; got != c.complain {
			t.Errorf("%s importing %v: complaints %q, want any: %v", c.path, c.imports, complaints, c.complain)
		}
	}
}
