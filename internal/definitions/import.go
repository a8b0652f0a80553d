package definitions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

// A Report is what became of the items of a document, each named.
type Report struct {
	Made     int      // items that are as the document says now
	Failed   []string // items that are not, and why
	Warnings []string // items that are, and have no effect, or not all of it
}

// Err says that items failed, nil if none did.
func (r *Report) Err() error {
	if len(r.Failed) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d definitions could not be made: %s", len(r.Failed), len(r.Failed)+r.Made, strings.Join(r.Failed, "; "))
}

// ErrDocument says that a text is no document of definitions: nothing was done.
var ErrDocument = errors.New("this is no JSON object of definitions")

// nameMost is how many bytes of a name are repeated in a report.
const nameMost = 128

// ImportOptions say how a document is meant.
type ImportOptions struct {
	// VHost is where the document's queues, exchanges, bindings, policies and
	// parameters go, which need not name one then; all else is left out. "": each
	// names its own.
	VHost string
	User  string // who imports; for the broker's records
}

// Import makes what a document says, in the order that the items need, and nothing
// else: what is there already stays, and what is there as the document says is no
// error, so that a document may be imported again. What cannot be made is in the
// report, and does not keep the rest from being made. It returns when all is durable,
// and policies are in force. The error is ErrDocument, or ctx's cause, or the broker's failure.
func Import(ctx context.Context, to Store, text []byte, o ImportOptions) (*Report, error) {
	// Windows' editors put a byte order mark before it.
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	var doc map[string]json.RawMessage
	if !utf8.Valid(text) || json.Unmarshal(text, &doc) != nil || doc == nil {
		return nil, ErrDocument
	}
	im := &importer{ctx: ctx, to: to, o: o, report: &Report{}, sessions: map[string]*broker.Session{}}
	defer im.close()
	for _, s := range im.sections() {
		items := doc[s.name]
		delete(doc, s.name)
		if len(items) == 0 || o.VHost != "" && s.whole {
			continue
		}
		if err := im.section(s, items); err != nil {
			return im.report, err
		}
	}
	if err := to.Broker.AwaitPolicies(ctx); err != nil {
		return im.report, err
	}
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		if !slices.Contains(about, name) {
			im.warn("section "+quote(name), "it is not known here, and was left out")
		}
	}
	return im.report, nil
}

// about are the members of a document that tell of it alone.
var about = []string{
	"rabbit_version", "rabbitmq_version", "product_name", "product_version", "rabbitmq_definition_format",
	"original_cluster_name", "original_vhost_name", "explanation", "metadata", "description", "default_queue_type", "$schema",
}

type importer struct {
	ctx      context.Context //nolint:containedctx // it is Import's, and ends with it
	to       Store
	o        ImportOptions
	report   *Report
	sessions map[string]*broker.Session
}

// A section is how the items of one are made. one returns what to call the item in
// the report.
type section struct {
	name  string
	whole bool // it is of a broker, not of a virtual host
	many  bool // its items are made without waiting for each other
	one   func(item json.RawMessage) (name string, err error)
}

func (im *importer) sections() []section {
	return []section{
		{sectionUsers, true, false, im.user},
		{sectionVHosts, true, false, im.vhost},
		{sectionPermissions, true, false, im.permission},
		{sectionTopicPermissions, true, false, im.topicPermission},
		{sectionParameters, false, false, im.parameter},
		{sectionGlobalParameters, true, false, im.globalParameter},
		{sectionPolicies, false, false, im.policy},
		{sectionQueues, false, true, im.queue},
		{sectionExchanges, false, true, im.exchange},
		{sectionBindings, false, true, im.binding},
	}
}

// section makes the items of one, and returns when they are durable.
func (im *importer) section(s section, text json.RawMessage) error {
	var items []json.RawMessage
	if json.Unmarshal(text, &items) != nil {
		im.fail(s.name, errors.New("it is no list"))
		return nil
	}
	if !s.many {
		return im.items(s, items)
	}
	// Those of one virtual host after those of another.
	by := map[string][]json.RawMessage{}
	for _, item := range items {
		var of struct {
			VHost string `json:"vhost"`
		}
		_ = json.Unmarshal(item, &of) // who makes it finds what is wrong
		vhost, err := im.in(of.VHost)
		if err != nil {
			vhost = "" // there is none of that name
		}
		by[vhost] = append(by[vhost], item)
	}
	for _, vhost := range slices.Sorted(maps.Keys(by)) {
		all := func() error { return im.items(s, by[vhost]) }
		if vhost == "" {
			if err := all(); err != nil {
				return err
			}
			continue
		}
		session, err := im.session(vhost)
		if err == nil {
			err = session.Bulk(all)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (im *importer) items(s section, items []json.RawMessage) error {
	for i, item := range items {
		if err := context.Cause(im.ctx); err != nil {
			return err
		}
		name, err := s.one(item)
		var e *broker.Error
		switch {
		case err == nil:
			im.report.Made++
		case errors.As(err, &e) && (e.Kind == broker.Internal || e.Kind == broker.Forced):
			return err
		case name == "":
			im.fail(fmt.Sprintf("%s, item %d", s.name, i+1), err)
		default:
			im.fail(name, err)
		}
	}
	return nil
}

func (im *importer) fail(what string, err error) {
	im.report.Failed = append(im.report.Failed, what+": "+short(err.Error()))
}

func (im *importer) warn(what, why string) {
	im.report.Warnings = append(im.report.Warnings, what+": "+why)
}

// quote is a name for people: bounded, and with nothing in it that a terminal or a
// log would act on.
func quote(name string) string {
	if len(name) > nameMost {
		name = name[:nameMost] + "…"
	}
	return fmt.Sprintf("%q", name)
}

// short bounds what an error says of a document.
func short(s string) string {
	const most = 1 << 10
	s = strings.TrimSpace(strings.ReplaceAll(s, "\n", " "))
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// decode reads an item. Numbers in arguments stay what they are.
func decode(item json.RawMessage, to any) error {
	d := json.NewDecoder(bytes.NewReader(item))
	d.UseNumber()
	if err := d.Decode(to); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return fmt.Errorf("%s must not be a JSON %s", quote(wrong.Field), wrong.Value)
		}
		return errors.New("it is not understood")
	}
	return nil
}

// in is the virtual host that an item goes to.
func (im *importer) in(vhost string) (string, error) {
	if im.o.VHost != "" {
		vhost = im.o.VHost
	}
	if vhost == "" {
		return "", errors.New("it does not say in which virtual host")
	}
	if !im.to.Broker.HasVHost(vhost) {
		return vhost, fmt.Errorf("there is no virtual host %s", quote(vhost))
	}
	return vhost, nil
}

// session is a connection to a virtual host that may do everything there: who
// imports has been asked for more.
func (im *importer) session(vhost string) (*broker.Session, error) {
	if s := im.sessions[vhost]; s != nil {
		return s, nil
	}
	s, err := im.to.Broker.OpenSession(broker.SessionConfig{
		VHost: vhost, User: im.o.User, Name: "definitions", Protocol: "definitions", Unlisted: true,
	})
	if err != nil {
		return nil, err
	}
	im.sessions[vhost] = s
	return s, nil
}

func (im *importer) close() {
	for _, s := range im.sessions {
		s.Close()
	}
}

func (im *importer) user(item json.RawMessage) (string, error) {
	var u userItem
	if err := decode(item, &u); err != nil {
		return "", err
	}
	name := "user " + quote(u.Name)
	// RabbitMQ's users of another way to log in have an empty hash.
	if u.PasswordHash != nil && *u.PasswordHash == "" {
		u.PasswordHash = nil
	}
	_, err := im.to.Users.PutUser(im.ctx, u.Name, auth.UserSpec{
		Password: u.Password, PasswordHash: u.PasswordHash, HashingAlgorithm: u.HashingAlgorithm, Tags: u.Tags,
	})
	if err != nil {
		return name, err
	}
	if len(u.Limits) > 0 {
		return name, im.limits(u.Limits, broker.Setting{Kind: broker.SettingUserLimit, Name: u.Name + "\x00"})
	}
	return name, nil
}

// limits sets those of a user or a virtual host, whose names begin with that of s.
func (im *importer) limits(all map[string]json.RawMessage, s broker.Setting) error {
	before := s.Name
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s.Name, s.Value = before+name, all[name]
		if err := im.to.Broker.PutSetting(s); err != nil {
			return fmt.Errorf("limit %s: %w", quote(name), err)
		}
	}
	return nil
}

func (im *importer) vhost(item json.RawMessage) (string, error) {
	var v vhostItem
	if err := decode(item, &v); err != nil {
		return "", err
	}
	name := "virtual host " + quote(v.Name)
	if v.Name == "" || len(v.Name) > auth.MaxName {
		return name, fmt.Errorf("its name must have 1 to %d bytes", auth.MaxName)
	}
	meta := metadata{v.Description, v.Tags, v.DefaultType}
	if v.Metadata != nil {
		if meta.Description == "" {
			meta.Description = v.Metadata.Description
		}
		if meta.Tags == nil {
			meta.Tags = v.Metadata.Tags
		}
		if meta.DefaultType == "" {
			meta.DefaultType = v.Metadata.DefaultType
		}
	}
	if meta.DefaultType == "undefined" { // as RabbitMQ writes that there is none
		meta.DefaultType = ""
	}
	if err := im.to.Broker.AddVHost(v.Name); err != nil || meta == (metadata{}) {
		return name, err
	}
	text, err := json.Marshal(meta)
	if err != nil {
		return name, err
	}
	return name, im.to.Broker.PutSetting(broker.Setting{Kind: broker.SettingVHost, Name: v.Name, Value: text})
}

func (im *importer) permission(item json.RawMessage) (string, error) {
	var p auth.Permissions
	if err := decode(item, &p); err != nil {
		return "", err
	}
	_, err := im.to.Users.PutPermission(p)
	return fmt.Sprintf("permissions of user %s in virtual host %s", quote(p.User), quote(p.VHost)), err
}

func (im *importer) topicPermission(item json.RawMessage) (string, error) {
	var p auth.TopicPermission
	if err := decode(item, &p); err != nil {
		return "", err
	}
	_, err := im.to.Users.PutTopicPermission(p)
	return fmt.Sprintf("topic permission of user %s for exchange %s in virtual host %s", quote(p.User), quote(p.Exchange), quote(p.VHost)), err
}

func (im *importer) parameter(item json.RawMessage) (string, error) {
	var p parameterItem
	if err := decode(item, &p); err != nil {
		return "", err
	}
	name := fmt.Sprintf("parameter %s of component %s in virtual host %s", quote(p.Name), quote(p.Component), quote(p.VHost))
	vhost, err := im.in(p.VHost)
	if err != nil {
		return name, err
	}
	switch {
	case p.Component == ComponentLimits:
		if string(bytes.TrimSpace(p.Value)) == "[]" { // as RabbitMQ writes that there are none
			return name, nil
		}
		var limits map[string]json.RawMessage
		if json.Unmarshal(p.Value, &limits) != nil {
			return name, errors.New("its value is no JSON object")
		}
		return name, im.limits(limits, broker.Setting{Kind: broker.SettingVHostLimit, VHost: vhost})
	case p.Component == ComponentOperator:
		return name, im.putPolicy(name, broker.Setting{Kind: broker.SettingOperatorPolicy, VHost: vhost, Name: p.Name, Value: p.Value})
	case !slices.Contains(Inert, p.Component):
		return name, fmt.Errorf("there is no component %s", quote(p.Component))
	case p.Name == "" || len(p.Value) == 0:
		return name, errors.New("it has no name or no value")
	}
	err = im.to.Broker.PutSetting(broker.Setting{Kind: broker.SettingParameter, VHost: vhost, Name: p.Component + "\x00" + p.Name, Value: p.Value})
	if err == nil {
		im.warn(name, "it is kept, and has no effect")
	}
	return name, err
}

func (im *importer) globalParameter(item json.RawMessage) (string, error) {
	var p globalItem
	if err := decode(item, &p); err != nil {
		return "", err
	}
	name := "global parameter " + quote(p.Name)
	switch {
	case p.Name == internalCluster:
		return name, nil
	case p.Name == "" || len(p.Name) > auth.MaxName || len(p.Value) == 0:
		return name, errors.New("it has no name, or one that is too long, or no value")
	}
	return name, im.to.Broker.PutSetting(broker.Setting{Kind: broker.SettingGlobalParameter, Name: p.Name, Value: p.Value})
}

func (im *importer) policy(item json.RawMessage) (string, error) {
	var p policyItem
	if err := decode(item, &p); err != nil {
		return "", err
	}
	vhost, err := im.in(p.VHost)
	name := fmt.Sprintf("policy %s in virtual host %s", quote(p.Name), quote(vhost))
	if err != nil {
		return name, err
	}
	value, err := json.Marshal(policyItem{Pattern: p.Pattern, ApplyTo: p.ApplyTo, Definition: p.Definition, Priority: p.Priority})
	if err != nil {
		return name, err
	}
	return name, im.putPolicy(name, broker.Setting{Kind: broker.SettingPolicy, VHost: vhost, Name: p.Name, Value: value})
}

// putPolicy sets a policy, and notes what of it does nothing.
func (im *importer) putPolicy(name string, s broker.Setting) error {
	if s.Name == "" {
		return errors.New("it has no name")
	}
	if err := im.to.Broker.PutSetting(s); err != nil {
		return err
	}
	var p struct {
		Definition json.RawMessage `json:"definition"`
	}
	if json.Unmarshal(s.Value, &p) == nil {
		for _, key := range broker.PolicyWithoutEffect(p.Definition) {
			im.warn(name, "its key "+quote(key)+" has no effect")
		}
	}
	return nil
}

func (im *importer) queue(item json.RawMessage) (string, error) {
	var q queueItem
	if err := decode(item, &q); err != nil {
		return "", err
	}
	vhost, err := im.in(q.VHost)
	name := fmt.Sprintf("queue %s in virtual host %s", quote(q.Name), quote(vhost))
	if err != nil {
		return name, err
	}
	if q.Arguments["x-queue-type"] == nil && q.Type != "" && q.Type != im.defaultType(vhost) {
		if q.Arguments == nil {
			q.Arguments = map[string]any{}
		}
		q.Arguments["x-queue-type"] = q.Type
	}
	spec := broker.QueueSpec{Name: q.Name, Durable: q.Durable, AutoDelete: q.AutoDelete}
	if spec.Args, err = AppendArgs(nil, q.Arguments); err != nil {
		return name, err
	}
	if q.Name == "" || len(q.Name) > 255 {
		return name, errors.New("its name must have 1 to 255 bytes")
	}
	s, err := im.session(vhost)
	if err != nil {
		return name, err
	}
	_, err = s.DeclareQueue(spec)
	return name, err
}

// defaultType is what a queue of a virtual host becomes that does not say what.
func (im *importer) defaultType(vhost string) string {
	var m metadata
	if value, ok := im.to.Broker.Setting(broker.SettingVHost, "", vhost); ok && json.Unmarshal(value, &m) == nil && m.DefaultType != "" {
		return m.DefaultType
	}
	return "classic"
}

func (im *importer) exchange(item json.RawMessage) (string, error) {
	var x exchangeItem
	if err := decode(item, &x); err != nil {
		return "", err
	}
	vhost, err := im.in(x.VHost)
	name := fmt.Sprintf("exchange %s in virtual host %s", quote(x.Name), quote(vhost))
	if err != nil {
		return name, err
	}
	if x.Name == "" || len(x.Name) > 255 {
		return name, errors.New("its name must have 1 to 255 bytes")
	}
	spec := broker.ExchangeSpec{Name: x.Name, Type: x.Type, Durable: x.Durable, AutoDelete: x.AutoDelete, Internal: x.Internal}
	if spec.Args, err = AppendArgs(nil, x.Arguments); err != nil {
		return name, err
	}
	s, err := im.session(vhost)
	if err != nil {
		return name, err
	}
	return name, s.DeclareExchange(spec)
}

func (im *importer) binding(item json.RawMessage) (string, error) {
	var b bindingItem
	if err := decode(item, &b); err != nil {
		return "", err
	}
	vhost, err := im.in(b.VHost)
	name := fmt.Sprintf("binding of %s %s to exchange %s with key %s in virtual host %s",
		b.DestinationType, quote(b.Destination), quote(b.Source), quote(b.RoutingKey), quote(vhost))
	if err != nil {
		return name, err
	}
	if len(b.RoutingKey) > 255 {
		return name, errors.New("its key has more than 255 bytes")
	}
	args, err := AppendArgs(nil, b.Arguments)
	if err != nil {
		return name, err
	}
	s, err := im.session(vhost)
	if err != nil {
		return name, err
	}
	switch b.DestinationType {
	case "queue":
		return name, s.BindQueue(b.Destination, b.Source, b.RoutingKey, args)
	case "exchange":
		return name, s.BindExchange(b.Destination, b.Source, b.RoutingKey, args)
	}
	return "", fmt.Errorf("the destination of a binding is no %s", quote(b.DestinationType))
}
