package definitions

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

// About is what a document tells of who wrote it.
type About struct {
	Compatible string // the version of RabbitMQ that it is for
	Product    string
	Version    string
	Cluster    string
}

// Export writes a document from which Import, or a RabbitMQ, makes what is here. With
// a virtual host it has the queues, exchanges, bindings, policies and parameters of
// that one alone. Exclusive queues, and what every virtual host
// has by itself, are not in it.
//
// A RabbitMQ takes all of it but for passwords that were set here: their hashes are
// of a kind that it does not have (auth.Argon2id), so that their users cannot log in
// there until they are given a password again. Those that came from a RabbitMQ go
// back to it as they were.
func Export(w io.Writer, of Store, vhost string, about About) error {
	x := &exporter{out: bufio.NewWriterSize(w, 64<<10), of: of, vhost: vhost}
	x.text("{\n  ")
	x.member("rabbit_version", about.Compatible)
	x.member("rabbitmq_version", about.Compatible)
	x.member("product_name", about.Product)
	x.member("product_version", about.Version)
	if vhost == "" {
		x.member("rabbitmq_definition_format", "cluster")
		x.member("original_cluster_name", about.Cluster)
		x.users()
		x.vhosts()
		x.rights()
	} else {
		x.member("rabbitmq_definition_format", "single_virtual_host")
		x.member("original_vhost_name", vhost)
	}
	x.parameters()
	if vhost == "" {
		x.list(sectionGlobalParameters)
		for _, s := range of.Broker.Settings(broker.SettingGlobalParameter) {
			x.item(globalItem{s.Name, s.Value})
		}
	}
	x.policies()
	x.queues()
	x.exchanges()
	x.bindings()
	x.text("\n  ]\n}\n")
	if x.err == nil {
		x.err = x.out.Flush()
	}
	return x.err
}

type exporter struct {
	out   *bufio.Writer
	of    Store
	vhost string
	err   error
	open  bool // a list has begun
	items int  // of that list
}

func (x *exporter) text(s string) {
	if x.err == nil {
		_, x.err = x.out.WriteString(s)
	}
}

func (x *exporter) value(v any) {
	b, err := json.Marshal(v)
	if x.err == nil {
		x.err = err
	}
	if x.err == nil {
		_, x.err = x.out.Write(b)
	}
}

func (x *exporter) member(name, text string) {
	x.value(name)
	x.text(": ")
	x.value(text)
	x.text(",\n  ")
}

// list begins a list, and ends the one before.
func (x *exporter) list(name string) {
	if x.open {
		x.text("\n  ],\n  ")
	}
	x.open, x.items = true, 0
	x.value(name)
	x.text(": [")
}

func (x *exporter) item(v any) {
	if x.items > 0 {
		x.text(",")
	}
	x.items++
	x.text("\n    ")
	x.value(v)
}

func (x *exporter) users() {
	limits := map[string]map[string]json.RawMessage{}
	for _, s := range x.of.Broker.Settings(broker.SettingUserLimit) {
		user, limit, _ := strings.Cut(s.Name, "\x00")
		if limits[user] == nil {
			limits[user] = map[string]json.RawMessage{}
		}
		limits[user][limit] = s.Value
	}
	x.list(sectionUsers)
	for _, u := range x.of.Users.List() {
		l := limits[u.Name]
		if l == nil {
			l = map[string]json.RawMessage{}
		}
		x.item(userItem{Name: u.Name, PasswordHash: &u.PasswordHash, HashingAlgorithm: u.HashingAlgorithm, Tags: &u.Tags, Limits: l})
	}
}

func (x *exporter) vhosts() {
	x.list(sectionVHosts)
	for _, name := range x.of.Broker.VHostNames() {
		item := vhostItem{Name: name, Tags: &auth.Tags{}, Metadata: &metadata{Tags: &auth.Tags{}}}
		if value, ok := x.of.Broker.Setting(broker.SettingVHost, "", name); ok {
			var m metadata
			if json.Unmarshal(value, &m) == nil {
				if m.Tags == nil {
					m.Tags = &auth.Tags{}
				}
				item.Description, item.Tags, item.DefaultType, item.Metadata = m.Description, m.Tags, m.DefaultType, &m
			}
		}
		x.item(item)
	}
}

func (x *exporter) rights() {
	x.list(sectionPermissions)
	for _, p := range x.of.Users.Permissions() {
		x.item(p)
	}
	x.list(sectionTopicPermissions)
	for _, p := range x.of.Users.TopicPermissions() {
		x.item(p)
	}
}

// in tells whether something of a virtual host is in the document, and what it says
// there of it.
func (x *exporter) in(vhost string) (said string, ok bool) {
	if x.vhost != "" {
		return "", vhost == x.vhost
	}
	return vhost, true
}

func (x *exporter) parameters() {
	x.list(sectionParameters)
	b := x.of.Broker
	for _, s := range b.Settings(broker.SettingParameter) {
		if _, ok := x.in(s.VHost); ok {
			component, name, _ := strings.Cut(s.Name, "\x00")
			x.item(parameterItem{s.VHost, component, name, s.Value})
		}
	}
	for _, v := range b.VHostNames() {
		limits := map[string]json.RawMessage{}
		for _, s := range b.Settings(broker.SettingVHostLimit) {
			if s.VHost == v {
				limits[s.Name] = s.Value
			}
		}
		if _, ok := x.in(v); ok && len(limits) > 0 {
			value, err := json.Marshal(limits)
			if x.err == nil {
				x.err = err
			}
			x.item(parameterItem{v, ComponentLimits, "limits", value})
		}
	}
	for _, s := range b.Settings(broker.SettingOperatorPolicy) {
		if _, ok := x.in(s.VHost); ok {
			x.item(parameterItem{s.VHost, ComponentOperator, s.Name, s.Value})
		}
	}
}

func (x *exporter) policies() {
	x.list(sectionPolicies)
	for _, s := range x.of.Broker.Settings(broker.SettingPolicy) {
		var p policyItem
		if _, ok := x.in(s.VHost); ok && json.Unmarshal(s.Value, &p) == nil {
			p.VHost, p.Name = s.VHost, s.Name
			x.item(p)
		}
	}
}

func (x *exporter) queues() {
	x.list(sectionQueues)
	err := x.of.Broker.EachQueue(broker.Filter{VHost: x.vhost}, func(q *broker.QueueView) bool {
		if said, ok := x.in(q.VHost); ok && !q.Exclusive {
			x.item(queueItem{Name: q.Name, VHost: said, Type: q.Type, Durable: q.Durable, AutoDelete: q.AutoDelete, Arguments: Args(q.Args)})
		}
		return x.err == nil
	})
	if x.err == nil {
		x.err = err
	}
}

func (x *exporter) exchanges() {
	x.list(sectionExchanges)
	all, err := x.of.Broker.Exchanges(broker.Filter{VHost: x.vhost})
	if x.err == nil {
		x.err = err
	}
	for i := range all.Items {
		v := &all.Items[i]
		if said, ok := x.in(v.VHost); ok && v.Name != "" && !strings.HasPrefix(v.Name, "amq.") {
			x.item(exchangeItem{v.Name, said, v.Type, v.Durable, v.AutoDelete, v.Internal, Args(v.Args)})
		}
	}
}

func (x *exporter) bindings() {
	x.list(sectionBindings)
	for _, vhost := range x.of.Broker.VHostNames() {
		said, ok := x.in(vhost)
		if !ok {
			continue
		}
		list := x.of.Broker.Bindings(vhost, broker.BindingFilter{})
		exclusive := x.exclusive(vhost)
		for i := range list {
			b := &list[i]
			if b.Source == "" || !b.ToExchange && exclusive[b.Destination] {
				continue
			}
			x.item(bindingItem{b.Source, said, b.Destination, b.DestinationType(), b.Key, Args(b.Args)})
		}
	}
}

// exclusive are the exclusive queues of a virtual host.
func (x *exporter) exclusive(vhost string) map[string]bool {
	names := map[string]bool{}
	_ = x.of.Broker.EachQueue(broker.Filter{VHost: vhost}, func(q *broker.QueueView) bool { // the filter is right
		if q.Exclusive {
			names[q.Name] = true
		}
		return true
	})
	return names
}
