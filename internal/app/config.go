package app

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/gmqserver"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
	"github.com/ferrymq/ferry/internal/stompws"
	"github.com/ferrymq/ferry/internal/vfs"
)

// Defaults of Config.
const (
	DefaultStore = "file:ferry-data"
	DefaultAMQP  = ":5672"
	DefaultSTOMP = ":61613"
	DefaultGMQ   = ":4567"
	DefaultHTTP  = ":15672"
	DefaultUser  = "guest" // with the same password; from loopback only

	// DefaultLease is how long a silent owner keeps a shared store, LeaseLeast the
	// least that leaves time to write and to be read several times, LeaseMost the
	// most that anybody will wait for after a crash.
	DefaultLease = 5 * time.Second
	LeaseLeast   = time.Second
	LeaseMost    = 10 * time.Minute
)

// What a standby does with clients: their listeners are closed, or connections are
// passed through to the broker that is live.
const (
	StandbyRefuse = "refuse"
	StandbyProxy  = "proxy"
)

// The limits that block publishers, as in RabbitMQ 4 where it has them.
var (
	DefaultMemoryLimit   = Limit{Share: 0.6}
	DefaultDiskFreeLimit = Limit{Bytes: 2 << 30, Share: 0.05}
)

// Config is what a broker's process is made of. Every address is host:port; the
// empty one switches its listener off.
type Config struct {
	Store string // "memory:", "file:DIR", or the URL of a database
	AMQP  string
	STOMP string
	GMQ   string
	HTTP  string // health, the list of nodes, and STOMP over WebSocket
	PProf string // profiles, for developers

	// GMQNoTokens refuses clients of GMQ that log in with the tokens of its first
	// version, from which everyone can read the password. GMQLimits are those of its
	// configuration.
	GMQNoTokens bool
	GMQLimits   gmqserver.Limits

	// WSOrigins are the web sites whose pages may connect over WebSocket, beside
	// those of the same host: with commas between, or * for all.
	WSOrigins string

	// The first user, who is made where the store has none, and who may do everything
	// in the virtual host / and in VHost, which is made too. Without a password it is
	// guest with RabbitMQ's default password, which serves from the broker's own machine
	// only; but with a name, or where the process is a container's only one, a password
	// is made up: see Told.
	User, Password, VHost string

	// Files in PEM. With a certificate every listener also serves TLS. With an
	// authority (CA), who connects with TLS must show a certificate of it.
	TLSCert, TLSKey, TLSCA string
	// TLSClientsOptional also lets in who shows none; one that is shown is verified.
	TLSClientsOptional bool
	// CertificateFrom says what in a client's certificate is its user, for clients that
	// log in with nothing else (SASL EXTERNAL). "": auth.FromCommonName.
	CertificateFrom auth.CertificateFrom

	// Definitions is a file of RabbitMQ's definitions.json, loaded each time before
	// clients are let in; empty: there is none.
	Definitions string

	// Node names this process among those that share its store; "": the host's name
	// and the port of the first listener. Advertise is the host at which others reach
	// it; "": that of each listener, or the host's name where that is any.
	Node, Advertise string

	// Of stores that several brokers share. Lease is how long an owner that says
	// nothing keeps the store; 0: DefaultLease. It is the same for all of them.
	Lease   time.Duration
	Standby string // StandbyRefuse or StandbyProxy; "": StandbyRefuse

	MemoryLimit   Limit // of the process's memory, of the machine's or the container's
	DiskFreeLimit Limit // of what must stay free where the store is

	Logger  *slog.Logger // nil: nothing is logged
	Version string       // told to peers

	inContainer  *bool         // whether the process is a container's only one; nil: look
	fs           vfs.FS        // of a file store; nil: the operating system's
	loginTimeout time.Duration // 0: netserve's
}

// CheckOrigins says what is wrong with a list of origins.
func CheckOrigins(list string) error {
	_, err := stompws.ParseOrigins(list)
	return err
}

// A Limit is a number of bytes, a share of the whole, or the smaller of both.
// The zero value is no limit.
type Limit struct {
	Bytes int64   // 0: not this
	Share float64 // 0: not this; at most 1
}

// of is the limit in bytes, 0 if there is none, as when total is not known and
// the limit is a share of it.
func (l Limit) of(total int64) int64 {
	share := int64(l.Share * float64(total))
	switch {
	case l.Bytes == 0:
		return share
	case share == 0:
		return l.Bytes
	}
	return min(l.Bytes, share)
}

// lease is how long a silent owner keeps a shared store.
func (c *Config) lease() time.Duration { return cmp.Or(c.Lease, DefaultLease) }

// A StoreKind is where messages are kept.
type StoreKind int

// The stores there are. Those in databases may be shared by several brokers.
const (
	MemoryStore StoreKind = iota + 1
	FileStore
	DatabaseStore
)

// errDatabase does not repeat what was given, for the password in it.
var errDatabase = errors.New("a database is given as a URL: postgres://USER:PASSWORD@HOST:5432/DATABASE or mysql://USER:PASSWORD@HOST:3306/DATABASE; a directory as file:DIR")

// ParseStore takes a store's URL apart. place is the directory of a FileStore, and
// the URL of a DatabaseStore. Nothing is opened.
func ParseStore(url string) (kind StoreKind, place string, err error) {
	scheme, rest, ok := strings.Cut(url, ":")
	if strings.Contains(scheme, "=") { // host=... password=..., as libpq is told of a database
		return 0, "", errDatabase
	}
	if !ok {
		return 0, "", fmt.Errorf("%q is not a store; write file:%s to keep messages in that directory, or memory: to keep them only while the broker runs", url, url)
	}
	switch scheme {
	case "memory":
		if strings.Trim(rest, "/") != "" {
			return 0, "", fmt.Errorf("%q has something behind memory: where nothing can stand", url)
		}
		return MemoryStore, "", nil
	case "file":
		if rest = strings.TrimPrefix(rest, "//"); rest == "" {
			return 0, "", fmt.Errorf("%q does not say which directory; write file:DIR", url)
		}
		return FileStore, rest, nil
	case "postgres", "postgresql", "mysql", "mariadb":
		return DatabaseStore, url, sqldb.CheckURL(url)
	case "nats":
		return 0, "", fmt.Errorf("a store in %s is not in this version yet; use memory:, file:DIR, postgres:// or mysql://", scheme)
	}
	if strings.Contains(rest, "@") && !strings.HasPrefix(rest, "//") { // user:password@tcp(...)/..., as Go's driver for MySQL is
		return 0, "", errDatabase
	}
	return 0, "", fmt.Errorf("%q is not a kind of store; there are memory:, file:DIR, postgres:// and mysql://", scheme+":")
}
