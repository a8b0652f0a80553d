package adminserver

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/definitions"
)

// listExchanges is GET /api/exchanges and /api/exchanges/vhost.
func (c *call) listExchanges() error {
	f, p, err := c.filter(true)
	if err != nil {
		return err
	}
	list, err := c.b.Exchanges(f)
	return answerPage(c, &p, list, err, c.exchange)
}

// exchangeArg is the exchange that the path names so.
func (c *call) exchangeArg(name string) string {
	if x := c.arg(name); x != defaultExchange {
		return x
	}
	return ""
}

// getExchange is GET /api/exchanges/vhost/name.
func (c *call) getExchange() error {
	x, ok := c.b.Exchange(c.arg("vhost"), c.exchangeArg("name"))
	if !ok {
		return notFound()
	}
	out := c.exchange(&x)
	out["incoming"], out["outgoing"] = []any{}, []any{}
	return c.one(out)
}

func (c *call) exchange(x *broker.ExchangeView) object {
	out := object{
		"name": x.Name, "vhost": x.VHost, "type": x.Type,
		"durable": x.Durable, "auto_delete": x.AutoDelete, "internal": x.Internal,
		"arguments": definitions.Args(x.Args), "user_who_performed_action": "",
		"message_stats": object{
			"publish_in": x.Traffic[broker.PublishIn], "publish_in_details": rate(x.Rates[broker.PublishIn]),
			"publish_out": x.Traffic[broker.PublishOut], "publish_out_details": rate(x.Rates[broker.PublishOut]),
		},
	}
	if x.Policy != "" {
		out["policy"] = x.Policy
	}
	if x.Type == "x-delayed-message" {
		out["messages_delayed"] = x.Delayed
	}
	return out
}

// putExchange is PUT /api/exchanges/vhost/name.
func (c *call) putExchange() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	spec := broker.ExchangeSpec{Name: c.exchangeArg("name")}
	if spec.Type, err = f.text("type"); err != nil {
		return err
	}
	if spec.Type == "" {
		spec.Type = "direct"
	}
	if spec.Durable, err = f.truth("durable"); err != nil {
		return err
	}
	if spec.AutoDelete, err = f.truth("auto_delete"); err != nil {
		return err
	}
	if spec.Internal, err = f.truth("internal"); err != nil {
		return err
	}
	if spec.Args, err = f.args(); err != nil {
		return err
	}
	if err := checkName("exchange", spec.Name); err != nil {
		return err
	}
	return c.put(func(s *session) (bool, error) {
		_, there := c.b.Exchange(c.arg("vhost"), spec.Name)
		return there, s.DeclareExchange(spec)
	})
}

// deleteExchange is DELETE /api/exchanges/vhost/name.
func (c *call) deleteExchange() error {
	vhost, name := c.arg("vhost"), c.exchangeArg("name")
	if _, ok := c.b.Exchange(vhost, name); !ok {
		return notFound()
	}
	return c.act(func(s *session) error { return s.DeleteExchange(name, c.query.Get("if-unused") == "true") })
}

// bindingsOfSource is GET /api/exchanges/vhost/name/bindings/source.
func (c *call) bindingsOfSource() error {
	name := c.exchangeArg("name")
	return c.bindingsOfExchange(name, broker.BindingFilter{Source: &name})
}

// bindingsOfDestination is GET /api/exchanges/vhost/name/bindings/destination.
func (c *call) bindingsOfDestination() error {
	name := c.exchangeArg("name")
	return c.bindingsOfExchange(name, broker.BindingFilter{Destination: &name, ToExchange: new(true)})
}

func (c *call) bindingsOfExchange(name string, f broker.BindingFilter) error {
	if _, ok := c.b.Exchange(c.arg("vhost"), name); !ok {
		return notFound()
	}
	return c.bindings(c.b.Bindings(c.arg("vhost"), f))
}

// bindingsOfQueue is GET /api/queues/vhost/name/bindings.
func (c *call) bindingsOfQueue() error {
	name := c.arg("name")
	if _, ok := c.b.Queue(c.arg("vhost"), name); !ok {
		return notFound()
	}
	return c.bindings(c.b.Bindings(c.arg("vhost"), broker.BindingFilter{Destination: &name, ToExchange: new(false)}))
}

func (c *call) bindings(list []broker.BindingView) error {
	return c.list(func(yield func(object) bool) {
		for i := range list {
			if !yield(bindingObject(&list[i])) {
				return
			}
		}
	}, false)
}

func bindingObject(b *broker.BindingView) object {
	return object{
		"source": b.Source, "vhost": b.VHost, "destination": b.Destination, "destination_type": b.DestinationType(),
		"routing_key": b.Key, "arguments": definitions.Args(b.Args), "properties_key": b.PropertiesKey(),
	}
}

// listBindings is GET /api/bindings and /api/bindings/vhost.
func (c *call) listBindings() error {
	return c.list(func(yield func(object) bool) {
		for _, vhost := range c.vhosts() {
			for _, b := range c.b.Bindings(vhost, broker.BindingFilter{}) {
				if !yield(bindingObject(&b)) {
					return
				}
			}
		}
	}, false)
}

// between are the bindings between the source and the destination of the path.
func (c *call) between() ([]broker.BindingView, error) {
	vhost, source, destination := c.arg("vhost"), c.exchangeArg("source"), c.exchangeArg("destination")
	toExchange := c.toExchange()
	if !toExchange {
		destination = c.arg("destination")
	}
	_, ok := c.b.Exchange(vhost, source)
	if toExchange {
		_, ok2 := c.b.Exchange(vhost, destination)
		ok = ok && ok2
	} else {
		_, ok2 := c.b.Queue(vhost, destination)
		ok = ok && ok2
	}
	if !ok {
		return nil, notFound()
	}
	return c.b.Bindings(vhost, broker.BindingFilter{Source: &source, Destination: &destination, ToExchange: &toExchange}), nil
}

// toExchange tells whether the path is of bindings to an exchange: …/e/{source}/e/….
func (c *call) toExchange() bool { return c.route.segments()[4] == "e" }

// bindingsBetween is GET /api/bindings/vhost/e/source/q|e/destination.
func (c *call) bindingsBetween() error {
	list, err := c.between()
	if err != nil {
		return err
	}
	return c.bindings(list)
}

// findBinding is the binding that the path names.
func (c *call) findBinding() (*broker.BindingView, error) {
	list, err := c.between()
	if err != nil {
		return nil, err
	}
	asked := c.arg("properties")
	i := slices.IndexFunc(list, func(b broker.BindingView) bool { return b.PropertiesKey() == asked })
	if i < 0 {
		i = slices.IndexFunc(list, func(b broker.BindingView) bool { return unquotedIs(asked, &b) })
	}
	if i < 0 {
		return nil, notFound()
	}
	return &list[i], nil
}

// unquotedIs tells whether a properties key that was put into a path as it is, and
// has lost its quotes there, but for pluses, is that of a binding: RabbitMQ takes it,
// too.
func unquotedIs(asked string, b *broker.BindingView) bool {
	hash := ""
	if key := b.PropertiesKey(); len(b.Args) > 0 {
		hash = key[strings.LastIndexByte(key, '~'):]
	}
	if asked == b.Key+hash {
		return true
	}
	plain, err := url.QueryUnescape(asked)
	return err == nil && plain == b.Key+hash
}

// getBinding is GET /api/bindings/vhost/e/source/q|e/destination/properties.
func (c *call) getBinding() error {
	b, err := c.findBinding()
	if err != nil {
		return err
	}
	return c.one(bindingObject(b))
}

// deleteBinding is DELETE /api/bindings/vhost/e/source/q|e/destination/properties.
func (c *call) deleteBinding() error {
	b, err := c.findBinding()
	if err != nil {
		return err
	}
	return c.act(func(s *session) error {
		if b.ToExchange {
			return s.UnbindExchange(b.Destination, b.Source, b.Key, b.Args)
		}
		return s.UnbindQueue(b.Destination, b.Source, b.Key, b.Args)
	})
}

// postBinding is POST /api/bindings/vhost/e/source/q|e/destination.
func (c *call) postBinding() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	b := broker.BindingView{Source: c.exchangeArg("source"), Destination: c.arg("destination"), ToExchange: c.toExchange()}
	if b.Key, err = f.text("routing_key"); err != nil {
		return err
	}
	if len(b.Key) > 255 {
		return badRequest("a routing key may have 255 bytes, not %d", len(b.Key))
	}
	if b.Args, err = f.args(); err != nil {
		return err
	}
	s, err := c.session(c.arg("vhost"))
	if err != nil {
		return err
	}
	defer s.close()
	if b.ToExchange {
		err = s.BindExchange(b.Destination, b.Source, b.Key, b.Args)
	} else {
		err = s.BindQueue(b.Destination, b.Source, b.Key, b.Args)
	}
	if err != nil {
		return err
	}
	// It is relative to where it was asked for, as RabbitMQ's.
	c.w.Header().Set("Location", url.PathEscape(b.Destination)+"/"+url.PathEscape(b.PropertiesKey()))
	c.w.WriteHeader(http.StatusCreated)
	return nil
}
