package adminserver

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/definitions"
)

// parameters are those of a component in a virtual host; "" stands for all that the
// user sees.
func (c *call) parameters(component, vhost string) []object {
	list := []object{}
	wanted := func(k, v string) bool {
		if component != "" && k != component {
			return false
		}
		if vhost != "" {
			return v == vhost
		}
		return c.sees(v)
	}
	for _, s := range c.b.Settings(broker.SettingParameter) {
		if k, name, _ := strings.Cut(s.Name, "\x00"); wanted(k, s.VHost) {
			list = append(list, object{"component": k, "vhost": s.VHost, "name": name, "value": json.RawMessage(s.Value)})
		}
	}
	limits := c.vhostLimits()
	for _, v := range c.b.VHostNames() {
		if l := limits[v]; l != nil && wanted(definitions.ComponentLimits, v) {
			list = append(list, object{"component": definitions.ComponentLimits, "vhost": v, "name": "limits", "value": l})
		}
	}
	for _, s := range c.b.Settings(broker.SettingOperatorPolicy) {
		if wanted(definitions.ComponentOperator, s.VHost) {
			list = append(list, object{"component": definitions.ComponentOperator, "vhost": s.VHost, "name": s.Name, "value": json.RawMessage(s.Value)})
		}
	}
	return list
}

// listParameters is GET /api/parameters, with or without a component and a virtual
// host.
func (c *call) listParameters() error {
	return c.list(slices.Values(c.parameters(c.arg("component"), c.arg("vhost"))), false)
}

// getParameter is GET /api/parameters/component/vhost/name.
func (c *call) getParameter() error {
	for _, p := range c.parameters(c.arg("component"), c.arg("vhost")) {
		if p["name"] == c.arg("name") {
			return c.one(p)
		}
	}
	return notFound()
}

// mayRestrict refuses parameters that tell what may be done in a virtual host to who
// does not administrate it, as the paths of their own do. RabbitMQ lets policymakers
// change limits here.
func (c *call) mayRestrict(component string) error {
	if (component == definitions.ComponentLimits || component == definitions.ComponentOperator) && !c.administrates() {
		return notAuthorised("Not administrator user")
	}
	return nil
}

// putParameter is PUT /api/parameters/component/vhost/name.
func (c *call) putParameter() error {
	v, err := c.value()
	if err != nil {
		return err
	}
	component, name := c.arg("component"), c.arg("name")
	if err := c.mayRestrict(component); err != nil {
		return err
	}
	switch m, isObject := v.(map[string]any); {
	case component == definitions.ComponentLimits && isObject:
		return c.storeVHostLimits(m)
	case component == definitions.ComponentOperator && isObject:
		return c.storePolicy(broker.SettingOperatorPolicy, name, m)
	case component == definitions.ComponentLimits, component == definitions.ComponentOperator:
		return badValue("not_object", "value")
	case !slices.Contains(definitions.Inert, component):
		return badRequest("Validation failed\n\ncomponent %s not found\n", cut(component))
	}
	c.s.cfg.Logger.Warn("a parameter is kept, but has no effect", "component", component, "name", printable(name), "by", c.who.Name)
	return c.storeSetting(broker.Setting{Kind: broker.SettingParameter, VHost: c.arg("vhost"), Name: component + "\x00" + name}, v)
}

// storeSetting puts a setting that needs no check.
func (c *call) storeSetting(s broker.Setting, v any) error {
	if err := checkName("parameter", s.Name); err != nil {
		return err
	}
	var err error
	if s.Value, err = json.Marshal(v); err != nil {
		return err
	}
	_, there := c.b.Setting(s.Kind, s.VHost, s.Name)
	if err := c.b.PutSetting(s); err != nil {
		return err
	}
	return c.putDone(!there)
}

// deleteParameter is DELETE /api/parameters/component/vhost/name.
func (c *call) deleteParameter() error {
	vhost, name, component := c.arg("vhost"), c.arg("name"), c.arg("component")
	if err := c.mayRestrict(component); err != nil {
		return err
	}
	switch component {
	case definitions.ComponentLimits:
		l := c.vhostLimits()[vhost]
		if l == nil || name != "limits" {
			return notFound()
		}
		for limit := range l {
			if _, err := c.b.DeleteSetting(broker.SettingVHostLimit, vhost, limit); err != nil {
				return err
			}
		}
		return c.done()
	case definitions.ComponentOperator:
		return c.deleteSetting(broker.SettingOperatorPolicy, vhost, name)
	default:
		return c.deleteSetting(broker.SettingParameter, vhost, component+"\x00"+name)
	}
}

func globalParameter(s *broker.Setting) object {
	return object{"name": s.Name, "value": json.RawMessage(s.Value)}
}

// listGlobalParameters is GET /api/global-parameters.
func (c *call) listGlobalParameters() error {
	return c.list(func(yield func(object) bool) {
		for _, s := range c.b.Settings(broker.SettingGlobalParameter) {
			if !yield(globalParameter(&s)) {
				return
			}
		}
	}, false)
}

// getGlobalParameter is GET /api/global-parameters/name.
func (c *call) getGlobalParameter() error {
	s := broker.Setting{Kind: broker.SettingGlobalParameter, Name: c.arg("name")}
	var ok bool
	if s.Value, ok = c.b.Setting(s.Kind, "", s.Name); !ok {
		return notFound()
	}
	return c.one(globalParameter(&s))
}

// mayName refuses the global parameter that has a path of its own, which is an
// administrator's, to others.
func (c *call) mayName() error {
	if c.arg("name") == clusterParameter && !c.administrates() {
		return notAuthorised("Not administrator user")
	}
	return nil
}

// putGlobalParameter is PUT /api/global-parameters/name.
func (c *call) putGlobalParameter() error {
	if err := c.mayName(); err != nil {
		return err
	}
	v, err := c.value()
	if err != nil {
		return err
	}
	return c.storeSetting(broker.Setting{Kind: broker.SettingGlobalParameter, Name: c.arg("name")}, v)
}

// deleteGlobalParameter is DELETE /api/global-parameters/name.
func (c *call) deleteGlobalParameter() error {
	if err := c.mayName(); err != nil {
		return err
	}
	return c.deleteSetting(broker.SettingGlobalParameter, "", c.arg("name"))
}
