package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// databaseURL makes an URL of what GMQ calls a database: a vendor and a data source
// name, which is what the vendor's driver in Go takes, or an URL already. What it
// says may be wrong is without the password.
func databaseURL(vendor, dsn string) (string, error) {
	scheme := ""
	switch strings.ToLower(vendor) {
	case "mysql", "mariadb":
		scheme = "mysql"
	case "postgres", "postgresql", "pgx", "pq":
		scheme = "postgres"
	case "":
		return "", errors.New("vendor is missing: mysql or postgres")
	default:
		return "", fmt.Errorf("vendor %q is not supported; there are mysql and postgres", vendor)
	}
	if dsn == "" {
		return "", errors.New("dsn is missing: where the database is, such as user:password@tcp(host:3306)/name for mysql or postgres://user:password@host:5432/name")
	}
	if given, _, ok := strings.Cut(dsn, "://"); ok && !strings.ContainsAny(given, "@(/ =") {
		if given != scheme && !(scheme == "postgres" && given == "postgresql") && !(scheme == "mysql" && given == "mariadb") {
			return "", fmt.Errorf("vendor is %s, but dsn begins with %s://", vendor, given)
		}
		return dsn, nil
	}
	if scheme == "mysql" {
		return mysqlURL(dsn)
	}
	return postgresURL(dsn)
}

// mysqlURL makes an URL of user:password@tcp(host:port)/name?parameters.
func mysqlURL(dsn string) (string, error) {
	c, err := mysql.ParseDSN(dsn)
	if err != nil {
		return "", errors.New("dsn is not one of MySQL's: write user:password@tcp(host:3306)/name")
	}
	if c.Net != "tcp" {
		return "", fmt.Errorf("dsn: the database is reached by TCP, not by %q: write user:password@tcp(host:3306)/name", c.Net)
	}
	if c.DBName == "" {
		return "", errors.New("dsn has no name of a database: write user:password@tcp(host:3306)/name")
	}
	u := url.URL{Scheme: "mysql", Host: c.Addr, Path: "/" + c.DBName, User: userinfo(c.User, c.Passwd)}
	if i := strings.LastIndexByte(dsn, '?'); i >= 0 && i > strings.LastIndexByte(dsn, '/') {
		u.RawQuery = dsn[i+1:]
	}
	return u.String(), nil
}

func userinfo(user, password string) *url.Userinfo {
	switch {
	case password != "":
		return url.UserPassword(user, password)
	case user != "":
		return url.User(user)
	}
	return nil
}

// postgresURL makes an URL of host=... user=..., as libpq has it (PostgreSQL,
// "Keyword/Value Connection Strings").
func postgresURL(dsn string) (string, error) {
	values, err := keywords(dsn)
	if err != nil {
		return "", err
	}
	take := func(key, otherwise string) string {
		v, ok := values[key]
		if delete(values, key); !ok || v == "" {
			return otherwise
		}
		return v
	}
	host, port := take("host", "localhost"), take("port", "5432")
	if strings.HasPrefix(host, "/") {
		return "", fmt.Errorf("dsn: host is the directory of a socket, %s: write an URL, postgres:///name?host=%s", host, url.QueryEscape(host))
	}
	u := url.URL{Scheme: "postgres", Host: net.JoinHostPort(host, port), User: userinfo(take("user", ""), take("password", "")), Path: "/" + take("dbname", "")}
	query := url.Values{}
	for key, v := range values {
		query.Set(key, v)
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// keywords takes key=value pairs apart. Values may stand in single quotes, in which
// a \ takes the next for what it is.
func keywords(dsn string) (map[string]string, error) {
	values := map[string]string{}
	for rest := strings.TrimSpace(dsn); rest != ""; rest = strings.TrimSpace(rest) {
		key, tail, ok := strings.Cut(rest, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" || strings.ContainsAny(key, " \t'") {
			return nil, errors.New("dsn is not one of Postgres's: write postgres://user:password@host:5432/name, or host=HOST user=USER password=PASSWORD dbname=NAME")
		}
		var value strings.Builder
		tail = strings.TrimLeft(tail, " \t")
		quoted := strings.HasPrefix(tail, "'")
		if quoted {
			tail = tail[1:]
		}
		closed := !quoted
		i := 0
		for ; i < len(tail); i++ {
			c := tail[i]
			if quoted && c == '\'' {
				closed = true
				i++
				break
			}
			if !quoted && (c == ' ' || c == '\t' || c == '\n') {
				break
			}
			if c == '\\' && i+1 < len(tail) {
				i++
				c = tail[i]
			}
			value.WriteByte(c)
		}
		if !closed {
			return nil, fmt.Errorf("dsn: the value of %s has no closing quote", key)
		}
		values[key], rest = value.String(), tail[i:]
	}
	return values, nil
}
