package sqldb

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
)

// Limits and defaults of what a URL says.
const (
	defaultName        = "ferry"
	maxName            = 128 // characters of a journal's name, as ferry_journal has it
	defaultConnections = 5
	minConnections     = 3 // one to append, one to read, one to read what is found missing then
)

// A target is what a URL names. One of pg and my is set.
type target struct {
	pg          *pgx.ConnConfig
	my          *mysql.Config
	database    string
	journal     string // "" if the URL says nothing
	connections int
}

// CheckURL says in plain words what is wrong with a URL, nil if nothing is. It
// connects to nothing; certificate files that the URL names are read.
func CheckURL(rawURL string) error {
	_, err := parseURL(rawURL)
	return err
}

// Redact is a URL without the passwords in it, for logs and messages. Of what is not
// well-formed it shows too little rather than too much.
func Redact(rawURL string) string {
	const mask = "xxxxx"
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", rawURL
	}
	before, parameters, found := strings.Cut(rest, "?")
	if found {
		list := strings.Split(parameters, "&")
		for i, p := range list {
			key, _, valued := strings.Cut(p, "=")
			if name, err := url.QueryUnescape(key); valued && (err != nil || secretParameter(name)) {
				list[i] = key + "=" + mask
			}
		}
		rest = before + "?" + strings.Join(list, "&")
	}
	// A password that should have been escaped may hold anything: it ends at the
	// last @ there is.
	if end := strings.LastIndexByte(rest, '@'); end >= 0 {
		if user, _, secret := strings.Cut(rest[:end], ":"); secret {
			rest = user + ":" + mask + rest[end:]
		}
	}
	return scheme + rest
}

// secretParameter tells whether the value of a parameter is a password or a way to
// one.
func secretParameter(name string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "pass") || strings.Contains(name, "secret") || strings.Contains(name, "token")
}

func parseURL(rawURL string) (target, error) {
	scheme, _, ok := strings.Cut(rawURL, "://")
	if !ok {
		return target{}, errors.New("the URL of a database begins with postgres:// or mysql://")
	}
	address, parameters, _ := strings.Cut(rawURL, "?")
	if i := strings.IndexByte(parameters, '#'); i >= 0 || strings.Contains(address, "#") {
		return target{}, fmt.Errorf("%s: a # in the URL must be written as %%23", Redact(rawURL))
	}
	if err := checkUser(address, parameters); err != nil {
		return target{}, fmt.Errorf("%s: %w", Redact(rawURL), err)
	}
	values, err := url.ParseQuery(parameters)
	if err != nil {
		return target{}, fmt.Errorf("%s: the parameters after the ? are not well-formed; write %% as %%25, ; as %%3B", Redact(rawURL))
	}
	t := target{connections: defaultConnections}
	if err := t.own(values); err != nil {
		return target{}, fmt.Errorf("%s: %w", Redact(rawURL), err)
	}
	switch scheme {
	case "postgres", "postgresql":
		err = t.parsePostgres(address, values)
	case "mysql", "mariadb":
		err = t.parseMySQL(address, values)
	default:
		return target{}, fmt.Errorf("%s: databases are reached by postgres:// or mysql://, not by %s://", Redact(rawURL), scheme)
	}
	if err != nil {
		return target{}, fmt.Errorf("%s: %w", Redact(rawURL), err)
	}
	return t, nil
}

// checkUser finds passwords that were not escaped. What is behind their special
// characters would be taken for a host, and shown.
func checkUser(address, parameters string) error {
	_, rest, _ := strings.Cut(address, "://")
	authority, path, _ := strings.Cut(rest, "/")
	escape := errors.New("special characters in the user, the password or a parameter must be escaped: @ is %40, / is %2F, ? is %3F, : is %3A")
	switch {
	case strings.Count(authority, "@") > 1, strings.Contains(path, "@"):
		return escape
	case strings.Contains(authority, ":") && !strings.Contains(authority, "@") && strings.Contains(parameters, "@"):
		return escape
	}
	return nil
}

// own takes the parameters that are Ferry's out of those of the driver.
func (t *target) own(values url.Values) error {
	for name, list := range values {
		if len(list) > 1 {
			return fmt.Errorf("the parameter %s is given %d times", name, len(list))
		}
	}
	if values.Has("journal") {
		t.journal = values.Get("journal")
		if err := checkName(t.journal); err != nil {
			return fmt.Errorf("journal=%s: %w", t.journal, err)
		}
		values.Del("journal")
	}
	if values.Has("connections") {
		n, err := strconv.Atoi(values.Get("connections"))
		if err != nil || n < minConnections || n > 1000 {
			return fmt.Errorf("connections=%s: it is a number from %d to 1000", values.Get("connections"), minConnections)
		}
		t.connections = n
		values.Del("connections")
	}
	return nil
}

func checkName(name string) error {
	if name == "" {
		return errors.New("the name of a journal is not empty")
	}
	if len(name) > maxName {
		return fmt.Errorf("the name of a journal has at most %d bytes", maxName)
	}
	for _, c := range name {
		if c < ' ' || c == '\uFFFD' {
			return errors.New("the name of a journal is text in UTF-8, without control characters")
		}
	}
	return nil
}

func (t *target) parsePostgres(address string, values url.Values) error {
	full := address
	if len(values) > 0 {
		full += "?" + values.Encode()
	}
	cfg, err := pgx.ParseConfig(full)
	if err != nil {
		return errors.New(withoutURL(err, full, "not a URL that Postgres takes"))
	}
	if cfg.Database == "" {
		return errors.New("the database is missing: postgres://USER:PASSWORD@HOST/DATABASE")
	}
	t.pg, t.database = cfg, cfg.Database
	return nil
}

// withoutURL is what a driver says of a URL, without repeating it: it may hold a
// password.
func withoutURL(err error, full, instead string) string {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		text := inner.Error()
		if _, rest, ok := strings.Cut(text, "`: "); ok {
			text = rest
		}
		if !strings.Contains(text, "://") && !mentionsSecret(text, full) {
			return text
		}
	}
	return instead
}

// mentionsSecret tells whether a text holds a piece of what may be a password in
// the URL.
func mentionsSecret(text, full string) bool {
	_, rest, _ := strings.Cut(full, "://")
	end := strings.LastIndexByte(rest, '@')
	if end < 0 {
		return false
	}
	_, secret, ok := strings.Cut(rest[:end], ":")
	if !ok || secret == "" {
		return false
	}
	plain, err := url.PathUnescape(secret)
	return strings.Contains(text, secret) || err == nil && strings.Contains(text, plain)
}

func (t *target) parseMySQL(address string, values url.Values) error {
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("not well-formed: mysql://USER:PASSWORD@HOST:3306/DATABASE, where a password's special characters are written as %XX")
	}
	t.database = strings.TrimPrefix(u.Path, "/")
	if t.database == "" {
		return errors.New("the database is missing: mysql://USER:PASSWORD@HOST:3306/DATABASE")
	}
	network, host := "tcp", u.Host
	if socket := values.Get("socket"); socket != "" {
		if host != "" && host != "localhost" {
			return errors.New("a host and a socket are given: one of them is enough")
		}
		network, host = "unix", socket
	} else {
		if u.Hostname() == "" {
			return errors.New("the host is missing: mysql://USER:PASSWORD@HOST:3306/DATABASE")
		}
		port := u.Port()
		if port == "" {
			port = "3306"
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("the port %s is not a number from 1 to 65535", port)
		}
		host = net.JoinHostPort(u.Hostname(), port)
	}
	values.Del("socket")
	secured, err := tlsFiles(values, u.Hostname())
	if err != nil {
		return err
	}
	// Only the parameters go through the driver's own form of address, which
	// has no way to write every password.
	var dsn strings.Builder
	for name, list := range values {
		if dsn.Len() > 0 {
			dsn.WriteByte('&')
		}
		dsn.WriteString(name + "=" + url.QueryEscape(list[0]))
	}
	cfg, err := mysql.ParseDSN("tcp(127.0.0.1)/?" + dsn.String())
	if err != nil {
		return err
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	cfg.Net, cfg.Addr, cfg.DBName = network, host, t.database
	if secured != nil {
		cfg.TLS, cfg.AllowFallbackToPlaintext = secured, false
	} else if cfg.TLS != nil {
		cfg.TLS.ServerName = u.Hostname() // ParseDSN was shown another host
	}
	t.my = cfg
	return nil
}

// tlsFiles is the configuration that tls-ca, tls-cert and tls-key ask for, nil
// if none of them is given. It takes them out of the values.
func tlsFiles(values url.Values, host string) (*tls.Config, error) {
	ca, cert, key := values.Get("tls-ca"), values.Get("tls-cert"), values.Get("tls-key")
	for _, name := range []string{"tls-ca", "tls-cert", "tls-key"} {
		values.Del(name)
	}
	if ca == "" && cert == "" && key == "" {
		return nil, nil
	}
	if mode := values.Get("tls"); mode != "" && mode != "true" {
		return nil, fmt.Errorf("tls=%s does not go with tls-ca, tls-cert or tls-key, which mean tls=true", mode)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("tls-ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls-ca: no certificate in %s", ca)
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("tls-cert and tls-key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
