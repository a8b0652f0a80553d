package adminserver

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
)

// policyKind is which policies the route is of.
func (c *call) policyKind() string {
	if c.route.segments()[0] == "operator-policies" {
		return broker.SettingOperatorPolicy
	}
	return broker.SettingPolicy
}

// policy is one as RabbitMQ's API shows it, and beside that which of its keys have no
// effect, if there are any.
func policy(s *broker.Setting) object {
	out := members(s.Value)
	out["vhost"], out["name"] = s.VHost, s.Name
	if out["apply-to"] == nil {
		out["apply-to"] = "all"
	}
	if out["priority"] == nil {
		out["priority"] = 0
	}
	if def, ok := out["definition"].(json.RawMessage); ok {
		if keys := broker.PolicyWithoutEffect(def); len(keys) > 0 {
			out["without_effect"] = keys
		}
	}
	return out
}

// members are those of a JSON object.
func members(value []byte) object {
	var raw map[string]json.RawMessage
	if json.Unmarshal(value, &raw) != nil {
		return object{}
	}
	out := object{}
	for k, v := range raw {
		out[k] = v
	}
	return out
}

// listPolicies is GET /api/policies, with or without a virtual host, and the same of
// operator policies.
func (c *call) listPolicies() error {
	vhost := c.arg("vhost")
	return c.list(func(yield func(object) bool) {
		for _, s := range c.b.Settings(c.policyKind()) {
			if vhost != "" && s.VHost != vhost || vhost == "" && !c.sees(s.VHost) {
				continue
			}
			if !yield(policy(&s)) {
				return
			}
		}
	}, false)
}

// getPolicy is GET /api/policies/vhost/name.
func (c *call) getPolicy() error {
	s := broker.Setting{Kind: c.policyKind(), VHost: c.arg("vhost"), Name: c.arg("name")}
	var ok bool
	if s.Value, ok = c.b.Setting(s.Kind, s.VHost, s.Name); !ok {
		return notFound()
	}
	return c.one(policy(&s))
}

// putPolicy is PUT /api/policies/vhost/name.
func (c *call) putPolicy() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	if err := f.need("pattern", "definition"); err != nil {
		return err
	}
	return c.storePolicy(c.policyKind(), c.arg("name"), f)
}

// storePolicy sets a policy of the path's virtual host.
func (c *call) storePolicy(kind, name string, f fields) error {
	value := object{}
	for _, k := range []string{"pattern", "apply-to", "priority", "definition"} {
		if v := f[k]; v != nil {
			value[k] = v
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	set := broker.Setting{Kind: kind, VHost: c.arg("vhost"), Name: name, Value: text}
	_, there := c.b.Setting(set.Kind, set.VHost, set.Name)
	if err := c.b.PutSetting(set); err != nil {
		return err
	}
	c.awaitPolicies()
	what := []any{"kind", kind, "name", printable(name), "vhost", set.VHost}
	if keys := policy(&set)["without_effect"]; keys != nil {
		what = append(what, "without_effect", keys)
	}
	c.note("policy was set", what...)
	return c.putDone(!there)
}

// deletePolicy is DELETE /api/policies/vhost/name.
func (c *call) deletePolicy() error {
	return c.deleteSetting(c.policyKind(), c.arg("vhost"), c.arg("name"))
}

// awaitPolicies waits until policies that have changed are in force, so that who set
// them can go by them: for as long as that is no burden.
func (c *call) awaitPolicies() {
	ctx, cancel := context.WithTimeout(c.r.Context(), answerMost)
	defer cancel()
	_ = c.b.AwaitPolicies(ctx) // they are set, and will be in force
}

// deleteSetting removes one that must be there.
func (c *call) deleteSetting(kind, vhost, name string) error {
	found, err := c.b.DeleteSetting(kind, vhost, name)
	switch {
	case err != nil:
		return err
	case !found:
		return notFound()
	}
	if kind == broker.SettingPolicy || kind == broker.SettingOperatorPolicy {
		c.awaitPolicies()
	}
	c.note("setting was deleted", "kind", kind, "name", printable(name), "vhost", vhost)
	return c.done()
}

// limitsOf gathers settings that are limits, whose names owner tells apart into that
// of whom they limit and their own.
func (c *call) limitsOf(kind string, owner func(s *broker.Setting) (whom, name string)) map[string]object {
	all := map[string]object{}
	for _, s := range c.b.Settings(kind) {
		whom, name := owner(&s)
		if all[whom] == nil {
			all[whom] = object{}
		}
		all[whom][name] = json.RawMessage(s.Value)
	}
	return all
}

func (c *call) vhostLimits() map[string]object {
	return c.limitsOf(broker.SettingVHostLimit, func(s *broker.Setting) (string, string) { return s.VHost, s.Name })
}

func (c *call) userLimits() map[string]object {
	return c.limitsOf(broker.SettingUserLimit, func(s *broker.Setting) (string, string) {
		user, limit, _ := strings.Cut(s.Name, "\x00")
		return user, limit
	})
}

// listVHostLimits is GET /api/vhost-limits, with or without a virtual host.
func (c *call) listVHostLimits() error {
	limits, vhost := c.vhostLimits(), c.arg("vhost")
	return c.list(func(yield func(object) bool) {
		for _, name := range c.b.VHostNames() {
			if vhost != "" && name != vhost || vhost == "" && !c.monitors() && !c.member(name) {
				continue
			}
			if l := limits[name]; l != nil && !yield(object{"vhost": name, "value": l}) {
				return
			}
		}
	}, false)
}

// value is the member "value", which must be there.
func (c *call) value() (any, error) {
	f, err := c.fields()
	if err != nil {
		return nil, err
	}
	if err := f.need("value"); err != nil {
		return nil, err
	}
	return f["value"], nil
}

// putVHostLimit is PUT /api/vhost-limits/vhost/name.
func (c *call) putVHostLimit() error {
	v, err := c.value()
	if err != nil {
		return err
	}
	return c.storeVHostLimits(object{c.arg("name"): v})
}

// storeVHostLimits sets limits of the path's virtual host.
func (c *call) storeVHostLimits(limits object) error {
	return c.storeLimits(limits, broker.Setting{Kind: broker.SettingVHostLimit, VHost: c.arg("vhost")})
}

// storeLimits sets limits, whose names begin with that of s.
func (c *call) storeLimits(limits object, s broker.Setting) error {
	before := s.Name
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		text, err := json.Marshal(limits[name])
		if err != nil {
			return err
		}
		s.Name, s.Value = before+name, text
		if err := c.b.PutSetting(s); err != nil {
			return err
		}
		c.note("limit was set", "limit", name, "to", string(text), "vhost", s.VHost, "of", strings.TrimSuffix(before, "\x00"))
	}
	return c.done()
}

// deleteVHostLimit is DELETE /api/vhost-limits/vhost/name. One that is not there is
// no error, as in RabbitMQ.
func (c *call) deleteVHostLimit() error {
	if _, err := c.b.DeleteSetting(broker.SettingVHostLimit, c.arg("vhost"), c.arg("name")); err != nil {
		return err
	}
	return c.done()
}

// listUserLimits is GET /api/user-limits. RabbitMQ shows them to all; here a user
// that does not watch over the broker sees its own.
func (c *call) listUserLimits() error {
	limits := c.userLimits()
	return c.list(func(yield func(object) bool) {
		for _, u := range c.users.List() {
			l := limits[u.Name]
			if l != nil && (c.monitors() || u.Name == c.who.Name) && !yield(object{"user": u.Name, "value": l}) {
				return
			}
		}
	}, false)
}

// getUserLimits is GET /api/user-limits/user.
func (c *call) getUserLimits() error {
	user := c.arg("user")
	if !c.monitors() && user != c.who.Name {
		return c.empty()
	}
	if _, ok := c.users.User(user); !ok {
		return notFound()
	}
	list := []object{}
	if l := c.userLimits()[user]; l != nil {
		list = append(list, object{"user": user, "value": l})
	}
	answer(c.w, http.StatusOK, list)
	return nil
}

// putUserLimit is PUT /api/user-limits/user/name.
func (c *call) putUserLimit() error {
	v, err := c.value()
	if err != nil {
		return err
	}
	user := c.arg("user")
	if _, ok := c.users.User(user); !ok {
		return badValue("no_such_user", user)
	}
	return c.storeLimits(object{c.arg("name"): v}, broker.Setting{Kind: broker.SettingUserLimit, Name: user + "\x00"})
}

// deleteUserLimit is DELETE /api/user-limits/user/name.
func (c *call) deleteUserLimit() error {
	if _, err := c.b.DeleteSetting(broker.SettingUserLimit, "", c.arg("user")+"\x00"+c.arg("name")); err != nil {
		return err
	}
	return c.done()
}
