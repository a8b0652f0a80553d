package adminserver

import (
	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

// need is what a user must be to use a route, as in RabbitMQ.
type need uint8

const (
	anyone      need = iota // with one of the tags
	monitor                 // monitoring, or administrator
	policymaker             // or administrator
	administrator
)

// reach is what a user must have to do with the virtual host of a path, which must
// be there.
type reach uint8

const (
	nowhere   reach = iota // nothing; whether it is there is the handler's to ask
	anywhere               // nothing
	member                 // permissions in it, whatever they are
	visible                // permissions in it, but for an administrator
	monitored              // permissions in it, but for who watches over the broker
)

// administrates tells whether the user may do everything.
func (c *call) administrates() bool { return c.who.Is(auth.TagAdministrator) }

// monitors tells whether the user may see what other users do.
func (c *call) monitors() bool {
	return c.who.Is(auth.TagMonitoring) || c.who.Is(auth.TagAdministrator)
}

// authorise tells whether the user may use the route, with its virtual host.
func (c *call) authorise() error {
	switch c.route.need {
	case anyone:
		if !c.monitors() && !c.who.Is(auth.TagManagement) && !c.who.Is(auth.TagPolicymaker) {
			return notAuthorised("Not management user")
		}
	case monitor:
		if !c.monitors() {
			return notAuthorised("Not monitor user")
		}
	case policymaker:
		if !c.administrates() && !c.who.Is(auth.TagPolicymaker) {
			return notAuthorised("User not authorised to access object")
		}
	case administrator:
		if !c.administrates() {
			return notAuthorised("Not administrator user")
		}
	}
	if c.route.reach == nowhere {
		return nil
	}
	vhost := c.arg("vhost")
	if !c.hasVHost(vhost) {
		return notFound()
	}
	var may bool
	switch c.route.reach {
	case nowhere, anywhere:
		may = true
	case member:
		may = c.member(vhost)
	case visible:
		may = c.administrates() || c.member(vhost)
	case monitored:
		may = c.monitors() || c.member(vhost)
	}
	if !may {
		return notAuthorised("User not authorised to access virtual host")
	}
	return nil
}

func (c *call) hasVHost(name string) bool { return c.b.HasVHost(name) }

// member tells whether the user has permissions in a virtual host.
func (c *call) member(vhost string) bool {
	_, ok := c.who.Access(vhost)
	return ok
}

// access is what the user may do in a virtual host.
func (c *call) access(vhost string) broker.Access {
	a, _ := c.who.Access(vhost) // that it may use it at all was asked before
	return a
}

// sees tells whether what is in a virtual host is in the user's lists.
func (c *call) sees(vhost string) bool { return c.administrates() || c.member(vhost) }

// vhosts are those that a list is of: that of the path, or all that the user sees.
func (c *call) vhosts() []string {
	if v := c.arg("vhost"); v != "" {
		return []string{v}
	}
	var names []string
	for _, name := range c.b.VHostNames() {
		if c.sees(name) {
			names = append(names, name)
		}
	}
	return names
}

// filter is what a list is asked for: of the virtual host of the path, or of all
// that the user sees.
func (c *call) filter(paged bool) (broker.Filter, page, error) {
	p, err := parsePage(c.query, paged)
	if err != nil {
		return broker.Filter{}, p, err
	}
	f := broker.Filter{
		VHost: c.arg("vhost"), Sort: c.query.Get("sort"), Reverse: p.reverse, Page: p.number, Size: p.size,
		Name: p.name, Regexp: p.pattern != nil,
	}
	if f.VHost == "" && !c.administrates() {
		f.VHosts = c.member
	}
	return f, p, nil
}
