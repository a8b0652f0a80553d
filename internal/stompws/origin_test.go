package stompws

import (
	"net/http"
	"strings"
	"testing"
)

func TestOrigins(t *testing.T) {
	for _, row := range []struct {
		list, host string
		origin     []string
		ok         bool
	}{
		{"", "a.example:15672", nil, true},
		{"", "a.example:15672", []string{"http://a.example:15672"}, true},
		{"", "a.example", []string{"https://A.Example"}, true},
		{"", "[::1]:15672", []string{"http://[::1]:15672"}, true},
		{"", "a.example:15672", []string{"http://a.example"}, false},
		{"", "a.example", []string{"https://b.example"}, false},
		{"", "a.example", []string{"https://a.example.b.example"}, false},
		{"", "a.example", []string{"https://a.example@b.example"}, false},
		{"", "a.example", []string{"null"}, false},
		{"", "", []string{"null"}, false},
		{"", "", []string{""}, false},
		{"", "a.example", []string{"%zz"}, false},
		{"", "a.example", []string{"https://a.example", "https://b.example"}, false},
		{"https://b.example", "a.example", []string{"https://b.example"}, true},
		{"https://b.example", "a.example", []string{"http://b.example"}, false},
		{"https://b.example", "a.example", []string{"https://b.example:8443"}, false},
		{"https://b.example:443, http://B.example:80/,http://c:3000", "a.example", []string{"https://b.example"}, true},
		{"https://b.example:443, http://B.example:80/,http://c:3000", "a.example", []string{"http://b.example"}, true},
		{"https://b.example:443, http://B.example:80/,http://c:3000", "a.example", []string{"http://c:3000"}, true},
		{"https://b.example", "a.example", []string{"https://c.example"}, false},
		{"*", "a.example", []string{"https://c.example"}, true},
		{"https://b.example,*", "a.example", []string{"null"}, true},
	} {
		o, err := ParseOrigins(row.list)
		if err != nil {
			t.Errorf("%q: %v", row.list, err)
			continue
		}
		r := &http.Request{Host: row.host, Header: http.Header{}}
		if row.origin != nil {
			r.Header["Origin"] = row.origin
		}
		if err := o.check(r); (err == nil) != row.ok {
			t.Errorf("%q at %q with %q: %v", row.origin, row.host, row.list, err)
		}
	}
}

// A page whose host's name was made to point to this machine is not of this machine.
func TestOriginsOfReboundNames(t *testing.T) {
	for _, row := range []struct {
		list, host, peer string
		ok               bool
	}{
		{"", "evil.example:15672", "127.0.0.1:999", false},
		{"", "evil.example:15672", "[::1]:999", false},
		{"", "localhost.evil.example:15672", "127.0.0.1:999", false},
		{"", "evil.example:15672", "192.0.2.1:999", true}, // guest is not let in from there
		{"", "localhost:15672", "127.0.0.1:999", true},
		{"", "LocalHost:15672", "[::1]:999", true},
		{"", "app.localhost:15672", "127.0.0.1:999", true},
		{"", "127.0.0.1:15672", "127.0.0.1:999", true},
		{"", "[::1]:15672", "[::1]:999", true},
		{"http://app.example:15672", "app.example:15672", "127.0.0.1:999", true},
	} {
		o, err := ParseOrigins(row.list)
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Host: row.host, RemoteAddr: row.peer, Header: http.Header{"Origin": {"http://" + row.host}}}
		if err := o.check(r); (err == nil) != row.ok {
			t.Errorf("%q from %s with %q: %v", row.host, row.peer, row.list, err)
		}
	}
}

func TestWhatIsNoOrigin(t *testing.T) {
	for _, list := range []string{"b.example", "https://", "https://b.example/path", "ftp://b.example", "https://u@b.example", "https://b.example,,", "https://b.example?x", "%zz"} {
		if _, err := ParseOrigins(list); err == nil || !strings.Contains(err.Error(), "is not an origin; write") {
			t.Errorf("%q: %v", list, err)
		}
	}
}
