package adminserver

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/definitions"
)

// listConnections is GET /api/connections and /api/vhosts/vhost/connections: all of
// them for who watches over the broker, otherwise the own ones.
func (c *call) listConnections() error {
	f, p, err := c.filter(true)
	if err != nil {
		return err
	}
	if !c.monitors() {
		return c.ownConnections(&f)
	}
	list, err := c.b.Connections(f)
	return answerPage(c, &p, list, err, c.connection)
}

// ownConnections lists those of the user alone.
func (c *call) ownConnections(f *broker.Filter) error {
	all, err := c.b.Connections(broker.Filter{VHost: f.VHost, VHosts: f.VHosts})
	if err != nil {
		return viewFault(err)
	}
	return c.list(func(yield func(object) bool) {
		for i := range all.Items {
			if x := &all.Items[i]; x.User == c.who.Name && !yield(c.connection(x)) {
				return
			}
		}
	}, true)
}

// connectionsOfUser is GET /api/connections/username/user.
func (c *call) connectionsOfUser() error {
	all, err := c.b.Connections(broker.Filter{})
	if err != nil {
		return viewFault(err)
	}
	return c.list(func(yield func(object) bool) {
		for i := range all.Items {
			x := &all.Items[i]
			if x.User == c.arg("user") && (c.monitors() || x.User == c.who.Name) && !yield(c.connection(x)) {
				return
			}
		}
	}, true)
}

// findConnection is the connection that the path names, if the user may see it.
func (c *call) findConnection() (*broker.ConnectionView, error) {
	x, ok := c.b.Connection(c.arg("name"))
	if !ok {
		return nil, notFound()
	}
	if !c.monitors() && x.User != c.who.Name {
		return nil, notAuthorised("User not authorised to access object")
	}
	return &x, nil
}

// getConnection is GET /api/connections/name.
func (c *call) getConnection() error {
	x, err := c.findConnection()
	if err != nil {
		return err
	}
	return c.one(c.connection(x))
}

func (c *call) connection(x *broker.ConnectionView) object {
	client := definitions.Args(x.Client)
	out := object{
		"name": x.Name, "user": x.User, "vhost": x.VHost, "protocol": x.Protocol, "node": c.s.cfg.Name, "type": "network",
		"user_who_performed_action": x.User,
		"peer_host":                 host(x.Peer), "peer_port": x.Peer.Port(), "host": host(x.Local), "port": x.Local.Port(),
		"ssl": x.TLS, "auth_mechanism": x.Mechanism, "client_properties": client,
		"connected_at": x.Opened.UnixMilli(), "channel_max": x.ChannelMax, "frame_max": x.FrameMax, "timeout": int(x.Heartbeat / time.Second),
		"state": x.State, "channels": x.Channels,
		"recv_oct": x.Received, "recv_oct_details": noRate, "send_oct": x.Sent, "send_oct_details": noRate,
		"message_stats": stats{&x.Traffic, &x.Rates},
	}
	if name, ok := client["connection_name"].(string); ok {
		out["user_provided_name"] = name
	}
	return out
}

// host is an address without its port, "unknown" if there is none.
func host(a netip.AddrPort) string {
	if !a.IsValid() {
		return "unknown"
	}
	return a.Addr().Unmap().String()
}

// reasonMost is how many bytes of the reason for closing a connection its client is
// told.
const reasonMost = 200

// closeReason is why an operator closes a connection.
func (c *call) closeReason() string {
	if r := c.r.Header.Get("X-Reason"); r != "" {
		return printable(cutTo(r, reasonMost))
	}
	return "Closed via management plugin"
}

// deleteConnection is DELETE /api/connections/name.
func (c *call) deleteConnection() error {
	x, err := c.findConnection()
	if err != nil {
		return err
	}
	if !c.administrates() && x.User != c.who.Name {
		return notAuthorised("User not authorised to access object")
	}
	c.s.cfg.Logger.Info("connection closed by an operator", "conn", x.Name, "user", c.who.Name)
	if !c.b.CloseConnection(x.Name, c.closeReason()) {
		return notFound()
	}
	return c.done()
}

// deleteConnectionsOfUser is DELETE /api/connections/username/user.
func (c *call) deleteConnectionsOfUser() error {
	user := c.arg("user")
	n := c.b.CloseUser(user, c.closeReason())
	c.s.cfg.Logger.Info("connections of a user closed by an operator", "of", user, "count", n, "user", c.who.Name)
	return c.done()
}

// listChannels is GET /api/channels and /api/vhosts/vhost/channels.
func (c *call) listChannels() error {
	f, p, err := c.filter(true)
	if err != nil {
		return err
	}
	if c.monitors() {
		list, err := c.b.Channels(f)
		return answerPage(c, &p, list, err, c.channel)
	}
	all, err := c.b.Channels(broker.Filter{VHost: f.VHost, VHosts: f.VHosts})
	if err != nil {
		return viewFault(err)
	}
	return c.list(func(yield func(object) bool) {
		for i := range all.Items {
			if x := &all.Items[i]; x.User == c.who.Name && !yield(c.channel(x)) {
				return
			}
		}
	}, true)
}

// channelsOfConnection is GET /api/connections/name/channels.
func (c *call) channelsOfConnection() error {
	x, err := c.findConnection()
	if err != nil {
		return err
	}
	list, ok := c.b.ConnectionChannels(x.Name)
	if !ok {
		return notFound()
	}
	return c.list(func(yield func(object) bool) {
		for i := range list {
			if !yield(c.channel(&list[i])) {
				return
			}
		}
	}, false)
}

// getChannel is GET /api/channels/name.
func (c *call) getChannel() error {
	name := c.arg("name")
	connection, ok := cutChannel(name)
	list, there := c.b.ConnectionChannels(connection)
	if !ok || !there {
		return notFound()
	}
	for i := range list {
		x := &list[i]
		if x.Name() != name {
			continue
		}
		if !c.monitors() && x.User != c.who.Name {
			return notAuthorised("User not authorised to access object")
		}
		out := c.channel(x)
		of := []broker.ConsumerView{}
		for _, k := range c.b.Consumers(broker.Filter{VHost: x.VHost}) {
			if k.Connection == x.Connection && k.Channel == x.Number {
				of = append(of, k)
			}
		}
		out["consumer_details"], out["publishes"], out["deliveries"] = c.consumers(of), []any{}, []any{}
		return c.one(out)
	}
	return notFound()
}

func (c *call) channel(x *broker.ChannelView) object {
	return object{
		"name": x.Name(), "number": x.Number, "user": x.User, "vhost": x.VHost, "node": c.s.cfg.Name,
		"user_who_performed_action": x.User,
		"connection_details":        object{"name": x.Connection, "peer_host": host(x.Peer), "peer_port": x.Peer.Port()},
		"state":                     x.State, "confirm": x.Confirms, "transactional": x.Transactional,
		"consumer_count": x.Consumers, "prefetch_count": x.Prefetch, "global_prefetch_count": x.GlobalPrefetch,
		"messages_unacknowledged": x.Unacked, "messages_unconfirmed": x.Unconfirmed, "messages_uncommitted": x.Uncommitted,
		"acks_uncommitted": 0, "pending_raft_commands": 0,
		"message_stats": stats{&x.Traffic, &x.Rates},
	}
}

// listConsumers is GET /api/consumers and /api/consumers/vhost.
func (c *call) listConsumers() error {
	f, _, err := c.filter(false)
	if err != nil {
		return err
	}
	of := c.b.Consumers(f)
	return c.list(func(yield func(object) bool) {
		for i := range of {
			if x := &of[i]; (c.monitors() || x.User == c.who.Name) && !yield(c.consumer(x)) {
				return
			}
		}
	}, false)
}

func (c *call) consumers(list []broker.ConsumerView) []object {
	out := make([]object, len(list))
	for i := range list {
		out[i] = c.consumer(&list[i])
	}
	return out
}

func (c *call) consumer(x *broker.ConsumerView) object {
	status := "up"
	if !x.Active {
		status = "waiting"
	}
	return object{
		"consumer_tag": x.Tag, "exclusive": x.Exclusive, "ack_required": x.AckRequired, "active": x.Active, "activity_status": status,
		"prefetch_count": x.Prefetch, "priority": x.Priority, "consumer_timeout": x.Timeout.Milliseconds(),
		"arguments": definitions.Args(x.Args), "queue": object{"name": x.Queue, "vhost": x.VHost},
		"channel_details": object{
			"name": x.ChannelName(), "number": x.Channel, "connection_name": x.Connection, "node": c.s.cfg.Name,
			"user": x.User, "peer_host": host(x.Peer), "peer_port": x.Peer.Port(),
		},
	}
}

// answerPage answers with a list, or the page of it that was asked for.
func answerPage[T any](c *call, p *page, list broker.Page[T], err error, show func(*T) object) error {
	if err != nil {
		return viewFault(err)
	}
	if p.number == 0 {
		stream(c.w, func(yield func(object) bool) {
			for i := range list.Items {
				if !yield(choose(show(&list.Items[i]), p.columns)) {
					return
				}
			}
		})
		return nil
	}
	items := make([]object, len(list.Items))
	for i := range list.Items {
		items[i] = choose(show(&list.Items[i]), p.columns)
	}
	pages := list.Pages
	if list.Filtered == 0 {
		pages = 0
	}
	answer(c.w, http.StatusOK, object{
		"page": list.Page, "page_size": list.Size, "page_count": pages,
		"item_count": len(items), "filtered_count": list.Filtered, "total_count": list.Total, "items": items,
	})
	return nil
}
