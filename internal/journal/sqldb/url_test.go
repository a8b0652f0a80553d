package sqldb_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

func TestCheckURL(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"postgres://u:p@h/db", ""},
		{"postgresql://u:p@h:5432/db?sslmode=require&journal=other", ""},
		{"postgres://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write&connections=9", ""},
		{"postgres://u:p@[::1]:5432/db", ""},
		{"postgres:///db?host=/run/postgresql&user=u", ""},
		{"postgres://u:p%40%2F%3F@h/a%20b%25", ""},
		{"mysql://u:p@h/db", ""},
		{"mariadb://u:p@h/db", ""},
		{"mysql://u:p%40%2F%3F%3A%29%28@h:3306/d%C3%BCr%20b", ""},
		{"mysql://u@[::1]/db?tls=skip-verify&timeout=3s&journal=x%20y", ""},
		{"mysql://u:p@/db?socket=/run/mysqld/mysqld.sock", ""},

		{"", "begins with postgres:// or mysql://"},
		{"host=h password=p", "begins with postgres:// or mysql://"},
		{"redis://h/db", "not by redis://"},
		{"postgres://u:p@h", "the database is missing"},
		{"postgres://u:p@h/db?sslmode=sometimes", "sslmode"},
		{"postgres://u:p@h:port/db", "port"},
		{"postgres://u:p@h/db?journal=", "is not empty"},
		{"postgres://u:p@h/db?journal=a&journal=b", "journal is given 2 times"},
		{"postgres://u:p@h/db?journal=" + strings.Repeat("x", 200), "at most 128 bytes"},
		{"postgres://u:p@h/db?journal=a%00b", "control characters"},
		{"postgres://u:p@h/db?connections=2", "a number from 3"},
		{"postgres://u:p@h/db?connections=many", "a number from 3"},
		{"postgres://u:p@h/db#here", "%23"},
		{"postgres://u:p@ss@h/db", "@ is %40"},
		{"postgres://u:p/ss@h/db", "/ is %2F"},
		{"mysql://u:p?ss@h/db", "? is %3F"},
		{"postgres://h/db?user=name@server", ""},
		{"mysql://u:p@h", "the database is missing"},
		{"mysql://u:p@/db", "the host is missing"},
		{"mysql://u:p@h:0/db", "port 0"},
		{"mysql://u:p@h:99999/db", "port 99999"},
		{"mysql://u:p@h:port/db", "not well-formed"},
		{"mysql://u:p^@h/db?a=%zz", "not well-formed"},
		{"mysql://u:p%zz@h/db", "not well-formed"},
		{"mysql://u:p@h/db?timeout=soon", "soon"},
		{"mysql://u:p@h/db?tls=mine", "mine"},
		{"mysql://u:p@h/db?tls-ca=/does/not/exist.pem", "tls-ca"},
		{"mysql://u:p@h/db?tls=skip-verify&tls-ca=/does/not/exist.pem", "does not go with"},
		{"mysql://u:p@h/db?socket=/run/x", "one of them is enough"},
	} {
		err := sqldb.CheckURL(c.url)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", c.url, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want something with %q", c.url, err, c.want)
		}
	}
}

func TestRedact(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"postgres://u:secret@h/db", "postgres://u:xxxxx@h/db"},
		{"postgres://u@h/db?sslmode=require", "postgres://u@h/db?sslmode=require"},
		{"postgres://h/db?user=u&password=secret&sslpassword=secret&journal=j", "postgres://h/db?user=u&password=xxxxx&sslpassword=xxxxx&journal=j"},
		{"postgres://h/db?p%61ssword=secret", "postgres://h/db?p%61ssword=xxxxx"},
		{"mysql://u:sec@ret@h:3306/db", "mysql://u:xxxxx@h:3306/db"},
		{"mysql://u:sec/ret@h/db?journal=x", "mysql://u:xxxxx@h/db?journal=x"},
		{"mysql://u:sec?ret@h/db", "mysql://u:xxxxx@h/db"},
		{"mysql://u:sec@?ret@h/db", "mysql://u:xxxxx@h/db"},
		{"mysql://u:secret@h/db?journal=a@b", "mysql://u:xxxxx@b"},
		{"postgres://h:5432/db?password=sec@ret&journal=j", "postgres://h:5432/db?password=xxxxx&journal=j"},
		{"u:secret@h/db", "u:xxxxx@h/db"},
		{"memory:", "memory:"},
		{"file:/var/lib/ferry", "file:/var/lib/ferry"},
		{"", ""},
	} {
		if got := sqldb.Redact(c.url); got != c.want {
			t.Errorf("%s: got %s, want %s", c.url, got, c.want)
		}
	}
}

// FuzzURL looks for URLs whose password gets into a message.
func FuzzURL(f *testing.F) {
	f.Add("postgres", "s3cr3t!", "h:5432/db?sslmode=bad")
	f.Add("mysql", "s3:cr3t@(/", "h/db?timeout=x")
	f.Add("mysql", "%zz?#[s3cr3t", "h:x/db")
	f.Add("mysql", "@?s3cr3t", "h")
	f.Add("postgres", "s3cr3t", "h:p/%zz?journal=%zz")
	f.Fuzz(func(t *testing.T, scheme, password, rest string) {
		// A mark that is in no message by chance.
		const mark = "Zq7Wx"
		for _, secret := range []string{password + mark, url.QueryEscape(password + mark)} {
			if strings.Contains(rest, mark) || strings.ContainsAny(rest, "@") || strings.Contains(scheme, "://") {
				t.Skip()
			}
			raw := scheme + "://user:" + secret + "@" + rest
			if got := sqldb.Redact(raw); strings.Contains(got, mark) {
				t.Errorf("%q is shown as %q", raw, got)
			}
			if err := sqldb.CheckURL(raw); err != nil && strings.Contains(err.Error(), mark) {
				t.Errorf("%q: the message holds the password: %v", raw, err)
			}
		}
	})
}
