package adminserver

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// Where Ferry answers otherwise than RabbitMQ 3.10, with the reason.
var differs = map[string]map[string]map[string]int{
	// RabbitMQ fails with 500 for those who may not see others' connections. Here they
	// see their own.
	"GET /api/connections/username/{other}":    {"own": {"policymaker": 200, "management": 200}},
	"GET /api/connections/username/{self}":     {"own": {"policymaker": 200, "management": 200}},
	"DELETE /api/connections/username/{other}": {"own": {"monitoring": 401, "policymaker": 401, "management": 401}},
	// In RabbitMQ a policymaker who may not set limits may set them as parameters.
	"PUT /api/parameters/vhost-limits/{v}/limits":    {"own": {"policymaker": 401}},
	"DELETE /api/parameters/vhost-limits/{v}/limits": {"own": {"policymaker": 401}},
}

// What RabbitMQ 3.10 does not have, and who may use it: the roles, in order.
var newer = []struct {
	request
	own, foreign [5]int
}{
	{request{"GET", "/api/version", ""}, [5]int{200, 200, 200, 200, 401}, [5]int{}},
	{request{"GET", "/api/ferry/nodes", ""}, [5]int{200, 200, 401, 401, 401}, [5]int{}},
	{request{"GET", "/api/deprecated-features", ""}, [5]int{200, 401, 401, 401, 401}, [5]int{}},
	{request{"GET", "/api/deprecated-features/used", ""}, [5]int{200, 401, 401, 401, 401}, [5]int{}},
	{request{"GET", "/api/federation-links", ""}, [5]int{200, 200, 401, 401, 401}, [5]int{}},
	{request{"GET", "/api/federation-links/{v}", ""}, [5]int{200, 200, 401, 401, 401}, [5]int{200, 401, 401, 401, 401}},
	{request{"GET", "/api/shovels", ""}, [5]int{200, 200, 401, 401, 401}, [5]int{}},
	{request{"GET", "/api/shovels/{v}", ""}, [5]int{200, 200, 401, 401, 401}, [5]int{200, 401, 401, 401, 401}},
	{request{"GET", "/api/queues/detailed", ""}, [5]int{200, 200, 200, 200, 401}, [5]int{}},
	{request{"DELETE", "/api/topic-permissions/{v}/{other}/amq.topic", ""}, [5]int{204, 401, 401, 401, 401}, [5]int{204, 401, 401, 401, 401}},
	{request{"GET", "/api/health/checks/is-in-service", ""}, [5]int{200, 200, 200, 200, 401}, [5]int{}},
	{request{"GET", "/api/health/checks/ready-to-serve-clients", ""}, [5]int{200, 200, 200, 200, 401}, [5]int{}},
	{request{"GET", "/api/health/checks/below-node-connection-limit", ""}, [5]int{200, 200, 200, 200, 401}, [5]int{}},
	{request{"GET", "/api/health/checks/metadata-store/initialized", ""}, [5]int{200, 200, 200, 200, 401}, [5]int{}},
}

// TestWhoMayDoWhat makes every request in every role, for the own and for a foreign
// virtual host, and holds the answers against those of RabbitMQ.
func TestWhoMayDoWhat(t *testing.T) {
	o := newOwn(t)
	all := slices.Clone(requests)
	want := readMatrix(t)
	for name, m := range differs {
		for v, by := range m {
			maps.Copy(want[name][v], by)
		}
	}
	for _, n := range newer {
		all = append(all, n.request)
		m := map[string]map[string]int{"own": {}}
		for i, role := range roles {
			m["own"][role] = n.own[i]
		}
		if strings.Contains(n.path, "{v}") {
			m["foreign"] = map[string]int{}
			for i, role := range roles {
				m["foreign"][role] = n.foreign[i]
			}
		}
		want[n.String()] = m
	}
	got := o.walk(all)
	for _, r := range all {
		for v, by := range want[r.String()] {
			for role, status := range by {
				if g := got[r.String()][v][role]; g != status {
					t.Errorf("%s in the %s virtual host as %s: %d, want %d", r, v, role, g, status)
				}
			}
		}
	}
}

// TestEveryRouteIsInTheMatrix keeps a route from being added of which nobody has said
// who may use it.
func TestEveryRouteIsInTheMatrix(t *testing.T) {
	s := New(Config{})
	walked := map[*route]bool{}
	all := slices.Clone(requests)
	for _, n := range newer {
		all = append(all, n.request)
	}
	for _, r := range all {
		path := strings.NewReplacer("{v}", "v").Replace(strings.TrimPrefix(r.path, "/api/"))
		found, _ := s.find(r.method, strings.Split(path, "/"))
		if found == nil {
			t.Errorf("%s is not served", r)
		}
		walked[found] = true
	}
	for i := range table {
		if r := &table[i]; !walked[r] {
			t.Errorf("nobody has said who may use %s %s", r.method, r.path)
		}
	}
}

// TestNobodyIsLetInUnknown asks for everything without a password and with a wrong
// one.
func TestNobodyIsLetInUnknown(t *testing.T) {
	o := newOwn(t)
	for i := range table {
		r := &table[i]
		path := "/api/" + r.path
		for _, user := range []string{"", "guest"} {
			got := o.call(user, "wrong", r.method, path, "")
			if got.status != 401 || !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Basic ") ||
				string(got.body) != `{"error":"not_authorized","reason":"Login failed"}` {
				t.Fatalf("%s %s as %q: %d %s %v", r.method, path, user, got.status, got.body, got.header)
			}
		}
	}
}
