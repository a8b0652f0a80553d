package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/app"
	"github.com/ferrymq/ferry/internal/gmqserver"
	"github.com/ferrymq/ferry/internal/journal/sqldb"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gmq.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The example that GMQ's repository has.
const example = `{
 "auth":{"user":"gmq","password":"gmqpass"},
 "network":{"port":"48844","interface":"0.0.0.0","protocol":"tcp4"},
 "cluster":{"proto":"tcp","cluster_port":"4812","timeout_msec":4000,"cidr":"192.168.0.0/24"},
 "queue":{"queue_type":3,"max_queue_number":32,"max_message_length":4096,"max_queue_capacity":4096},
 "database":{"vendor":"mysql","dsn":"user:password@(hostname:port)/dbname"},
 "filesystem":{"path":"./fs/"},
 "log":{"path":"./log/","name":"gmq.log"}
}`

func TestConfigurationOfTheOriginal(t *testing.T) {
	c, notes, err := readConfig(write(t, example))
	if err != nil {
		t.Fatal(err)
	}
	var got app.Config
	if err := c.apply(&got); err != nil {
		t.Fatal(err)
	}
	if got.Store != "file:fs/ferry" || got.GMQ != "0.0.0.0:48844" || got.User != "gmq" || got.Password != "gmqpass" ||
		got.GMQLimits != (gmqserver.Limits{Queues: 32, QueueMessages: 4096, Message: 4096}) || got.AMQP+got.STOMP+got.HTTP != "" {
		t.Errorf("%+v", got)
	}
	if c.logFile() != "log/gmq.log" {
		t.Errorf("the log is %s", c.logFile())
	}
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "cluster has no effect") {
		t.Errorf("notes %q", notes)
	}
}

const limits = `"max_queue_number":1,"max_message_length":1,"max_queue_capacity":1`

func TestDefaultsOfTheConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		`{"queue":{"queue_type":1,` + limits + `}}`:                                                            "memory: :4884 guest guest ",
		`{"queue":{"queue_type":1,` + limits + `},"network":{"port":"","interface":"","protocol":""}}`:         "memory: :4884 guest guest ",
		`{"QUEUE":{"Queue_Type":1,` + limits + `},"network":{"port":5000,"protocol":"tcp4"}}`:                  "memory: 0.0.0.0:5000 guest guest ",
		`{"queue":{"queue_type":1,` + limits + `},"network":{"interface":"::1","protocol":"tcp6"}}`:            "memory: [::1]:4884 guest guest ",
		`{"queue":{"queue_type":3,` + limits + `},"filesystem":{"path":"/q"},"log":{"path":"/l/g.log"}}`:       "file:/q/ferry :4884 guest guest /l/g.log",
		`{"queue":{"queue_type":2,` + limits + `},"database":{"vendor":"mysql","dsn":"u:p@tcp(h)/d"}}`:         "mysql://u:p@h:3306/d :4884 guest guest ",
		`{"queue":{"queue_type":1,` + limits + `},"auth":{"user":"a","password":"b"},"cluster":null}`:          "memory: :4884 a b ",
		`{"queue":{"queue_type":1,` + limits + `},"network":{"port":"http"},"auth":{"user":"","password":""}}`: "memory: :http guest guest ",
	} {
		c, notes, err := readConfig(write(t, text))
		if err != nil || len(notes) > 0 {
			t.Errorf("%s: %v, %q", text, err, notes)
			continue
		}
		var a app.Config
		err = c.apply(&a)
		if got := a.Store + " " + a.GMQ + " " + a.User + " " + a.Password + " " + c.logFile(); err != nil || got != want {
			t.Errorf("%s:\ngot  %s, %v\nwant %s", text, got, err, want)
		}
	}
}

// Everything that is wrong is said at once, in GMQ's words where it has some.
func TestMistakesInTheConfiguration(t *testing.T) {
	for text, want := range map[string][]string{
		`{`:                    {"Unable to parse configuration file, check JSON is well formed", "(line 1)"},
		"{\n\n\"queue\": x\n}": {"check JSON is well formed", "(line 3)"},
		`{"queue":5}`:          {"check JSON is well formed"},
		`{}`: {
			"Please configure MAX_QUEUE_NUMBER with a positive number", "Please configure MAX_QUEUE_CAPACITY with a positive number",
			"Please configure MAX_MESSAGE_LENGTH with a positive number", "Please configure QUEUE_TYPE with 1 (memory), 2 (database) or 3 (filesystem)",
		},
		`{"queue":{"queue_type":3,` + limits + `}}`:                                              {"filesystem: path is missing"},
		`{"queue":{"queue_type":2,` + limits + `}}`:                                              {"database: vendor is missing"},
		`{"queue":{"queue_type":2,` + limits + `},"database":{"vendor":"oracle"}}`:               {`vendor "oracle" is not supported`},
		`{"queue":{"queue_type":2,` + limits + `},"database":{"vendor":"mysql"}}`:                {"dsn is missing"},
		`{"queue":{"queue_type":1,` + limits + `},"network":{"port":"http x","protocol":"udp"}}`: {`network: "http x" is not a port`},
		`{"queue":{"queue_type":1,` + limits + `},"network":{"protocol":"udp"}}`:                 {`network: protocol "udp" is not one`},
		`{"queue":{"queue_type":1,` + limits + `},"auth":{"user":"me"}}`:                         {"auth: user and password go together"},
	} {
		c, _, err := readConfig(write(t, text))
		if err == nil {
			err = c.apply(&app.Config{})
		}
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %v, want %q", text, err, part)
			}
		}
	}
	if _, _, err := readConfig(filepath.Join(t.TempDir(), "none")); err == nil || !strings.HasPrefix(err.Error(), "Configuration file not available") {
		t.Errorf("no file: %v", err)
	}
}

func TestUnknownKeysAreNoted(t *testing.T) {
	_, notes, err := readConfig(write(t, `{"queue":{"queue_typ":1,"MAX_queue_number":2},"que":{}}`))
	if err != nil || len(notes) != 2 || !strings.HasSuffix(notes[0], "que has no meaning here") || !strings.HasSuffix(notes[1], "queue.queue_typ has no meaning here") {
		t.Errorf("%q, %v", notes, err)
	}
}

func TestDatabaseNames(t *testing.T) {
	for _, c := range []struct{ vendor, dsn, want string }{
		{"mysql", "user:password@(hostname:3307)/dbname", "mysql://user:password@hostname:3307/dbname"},
		{"mysql", "user:password@tcp(hostname)/dbname", "mysql://user:password@hostname:3306/dbname"},
		{"MySQL", "root@tcp([::1]:3306)/q", "mysql://root@[::1]:3306/q"},
		{"mysql", "u:p@ss:w/ord?@tcp(h:3306)/d?tls=skip-verify&timeout=5s", "mysql://u:p%40ss%3Aw%2Ford%3F@h:3306/d?tls=skip-verify&timeout=5s"},
		{"mariadb", "/d", "mysql://127.0.0.1:3306/d"},
		{"mysql", "mysql://u:p@h/d?journal=a", "mysql://u:p@h/d?journal=a"},
		{"postgres", "postgres://u:p@h/d?sslmode=disable", "postgres://u:p@h/d?sslmode=disable"},
		{"postgres", "postgresql://u:p@h/d", "postgresql://u:p@h/d"},
		{"postgresql", "host=h port=5433 user=u password=p dbname=d sslmode=disable", "postgres://u:p@h:5433/d?sslmode=disable"},
		{"postgres", `user = u password='p w\'d\\' dbname=d`, `postgres://u:p%20w%27d%5C@localhost:5432/d`},
	} {
		got, err := databaseURL(c.vendor, c.dsn)
		if err != nil || got != c.want {
			t.Errorf("%s %s:\ngot  %s, %v\nwant %s", c.vendor, c.dsn, got, err, c.want)
			continue
		}
		if err := sqldb.CheckURL(got); err != nil {
			t.Errorf("%s: the store does not take it: %v", got, err)
		}
	}
	for _, c := range []struct{ vendor, dsn, want string }{
		{"mysql", "user:secret@unix(/tmp/s)/d", "not by \"unix\""},
		{"mysql", "user:secret@tcp(h)/", "no name of a database"},
		{"mysql", "user:secret@tcp(h", "write user:password@tcp(host:3306)/name"},
		{"mysql", "postgres://u:secret@h/d", "dsn begins with postgres://"},
		{"postgres", "mysql://u:secret@h/d", "dsn begins with mysql://"},
		{"postgres", "secret", "write postgres://"},
		{"postgres", "password='secret", "no closing quote"},
		{"postgres", "host=/run user=u", "host is the directory of a socket"},
	} {
		_, err := databaseURL(c.vendor, c.dsn)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s %s: got %v, want %q", c.vendor, c.dsn, err, c.want)
		}
	}
}

func FuzzDatabaseNames(f *testing.F) {
	for _, dsn := range []string{"user:password@(hostname:3307)/dbname?a=b", "host=h password='a b'", "mysql://u@h/d", "a=b'c'", "=", "'"} {
		f.Add("mysql", dsn)
		f.Add("postgres", dsn)
	}
	f.Fuzz(func(t *testing.T, vendor, dsn string) {
		if got, err := databaseURL(vendor, dsn); err == nil && !strings.Contains(got, "://") {
			t.Errorf("%q is no URL", got)
		}
	})
}
