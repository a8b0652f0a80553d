package metrics

import (
	"fmt"

	"github.com/ferrymq/ferry/internal/broker"
)

// The families of objects, as RabbitMQ's plugin names them for /metrics/detailed.
const (
	familyChurn        = "connection_churn_metrics"
	familyNode         = "node_metrics"
	familyNodeCoarse   = "node_coarse_metrics"
	familyLogins       = "auth_attempt_metrics"
	familyQueueCoarse  = "queue_coarse_metrics"
	familyQueue        = "queue_metrics"
	familyConsumers    = "queue_consumer_count"
	familyConnections  = "connection_coarse_metrics"
	familyConnection   = "connection_metrics"
	familyChannel      = "channel_metrics"
	familyChannelCount = "channel_exchange_metrics"
	familyChannelQueue = "channel_queue_metrics"
	familyVHosts       = "vhost_status"
	familyExchanges    = "exchange_names"
	familyBindings     = "exchange_bindings"
)

// allFamilies are those of /metrics/per-object.
var allFamilies = map[string]bool{
	familyChurn: true, familyNode: true, familyNodeCoarse: true, familyLogins: true,
	familyQueueCoarse: true, familyQueue: true, familyConsumers: true,
	familyConnections: true, familyConnection: true,
	familyChannel: true, familyChannelCount: true, familyChannelQueue: true,
}

// perObject writes every object, and what has none.
func (h *Handler) perObject(e *exposition, b *broker.Broker) {
	h.objects(e, b, allFamilies, broker.Filter{})
	t := b.Totals(broker.Filter{})
	global(e, b.Protocols(), &t)
}

// objects writes the families that are wanted, with a sample for each object.
func (h *Handler) objects(e *exposition, b *broker.Broker, wanted map[string]bool, f broker.Filter) {
	if wanted[familyChurn] {
		t := b.Totals(broker.Filter{})
		churn(e, &t)
	}
	if wanted[familyNode] || wanted[familyNodeCoarse] {
		s := b.Store()
		h.node(e, &s)
	}
	if wanted[familyLogins] {
		h.logins(e)
	}
	queues(e, b, wanted, f)
	connections(e, b, wanted, f)
	channels(e, b, wanted, f)
	topology(e, b, wanted, f)
}

// A column is a family with a sample for each object.
type column[T any] struct {
	name, kind, help string
	value            func(*T) float64
}

// table writes columns for objects, each of which is visited once: a family stands
// together.
func table[T any](e *exposition, cols []column[T], each func(visit func(*T, encoded))) {
	if len(cols) == 0 {
		return
	}
	type row struct {
		labels encoded
		values []float64
	}
	var rows []row
	var room []float64
	each(func(x *T, labels encoded) {
		if len(room) < len(cols) {
			room = make([]float64, 256*len(cols))
		}
		values := room[:len(cols):len(cols)]
		room = room[len(cols):]
		for i := range cols {
			values[i] = cols[i].value(x)
		}
		rows = append(rows, row{labels, values})
	})
	for i := range cols {
		e.rabbit(cols[i].name, cols[i].kind, cols[i].help)
		for k := range rows {
			e.of(rows[k].labels, rows[k].values[i])
		}
		if e.err != nil {
			return
		}
	}
}

func queues(e *exposition, b *broker.Broker, wanted map[string]bool, f broker.Filter) {
	type count = broker.QueueCount
	var cols []column[count]
	if wanted[familyQueueCoarse] {
		cols = append(cols,
			column[count]{"queue_messages_ready", gauge, "Messages to be delivered.", func(q *count) float64 { return float64(q.Depth.Ready) }},
			column[count]{"queue_messages_unacked", gauge, "Messages that were delivered and are not settled.", func(q *count) float64 { return float64(q.Depth.Unacked) }},
			column[count]{"queue_messages", gauge, "Messages in the queue.", func(q *count) float64 { return float64(q.Depth.Messages()) }},
		)
	}
	if wanted[familyQueue] || wanted[familyConsumers] {
		cols = append(cols, column[count]{"queue_consumers", gauge, "Consumers of the queue.", func(q *count) float64 { return float64(q.Consumers) }})
	}
	if wanted[familyQueue] {
		cols = append(cols,
			column[count]{"queue_consumer_capacity", gauge, "Whether the queue's consumers would take a message now.", func(q *count) float64 { return q.Capacity }},
			column[count]{"queue_consumer_utilisation", gauge, "The same.", func(q *count) float64 { return q.Capacity }},
			column[count]{"queue_process_memory_bytes", gauge, "Memory that the queue takes beside the bodies of messages, about.", func(q *count) float64 { return float64(q.Memory) }},
			column[count]{"queue_messages_bytes", gauge, "Bytes of the messages in the queue.", func(q *count) float64 { return float64(q.Depth.Bytes) }},
			column[count]{"queue_messages_ready_bytes", gauge, "Bytes of the messages to be delivered.", func(q *count) float64 { return float64(q.Depth.ReadyBytes) }},
			column[count]{"queue_messages_unacked_bytes", gauge, "Bytes of the messages that are not to be delivered now.", func(q *count) float64 { return float64(q.Depth.Bytes - q.Depth.ReadyBytes) }},
			column[count]{"queue_messages_persistent", gauge, "Persistent messages.", func(q *count) float64 { return float64(q.Depth.Persistent) }},
			column[count]{"queue_messages_persistent_bytes", gauge, "Bytes of the persistent messages.", func(q *count) float64 { return float64(q.Depth.PersistentBytes) }},
			column[count]{"queue_messages_published_total", counter, "Messages that entered the queue.", func(q *count) float64 { return float64(q.Published) }},
		)
	}
	table(e, cols, func(visit func(*count, encoded)) {
		// The error is of filters by name and order.
		_ = b.CountQueues(f, func(q *count) bool {
			visit(q, encode("vhost", q.VHost, "queue", q.Name))
			return true
		})
	})
}

func connections(e *exposition, b *broker.Broker, wanted map[string]bool, f broker.Filter) {
	type view = broker.ConnectionView
	var cols []column[view]
	if wanted[familyConnections] {
		cols = append(cols,
			column[view]{"connection_incoming_bytes_total", counter, "Bytes that came by the connection.", func(c *view) float64 { return float64(c.Received) }},
			column[view]{"connection_outgoing_bytes_total", counter, "Bytes that went out by the connection.", func(c *view) float64 { return float64(c.Sent) }},
		)
	}
	if wanted[familyConnection] {
		cols = append(cols,
			column[view]{"connection_channels", gauge, "Channels of the connection.", func(c *view) float64 { return float64(c.Channels) }},
		)
	}
	if len(cols) == 0 {
		return
	}
	page, err := b.Connections(f)
	if err != nil {
		return
	}
	table(e, cols, func(visit func(*view, encoded)) {
		for i := range page.Items {
			c := &page.Items[i]
			visit(c, encode("connection", c.Name, "vhost", c.VHost))
		}
	})
}

func channels(e *exposition, b *broker.Broker, wanted map[string]bool, f broker.Filter) {
	type view = broker.ChannelView
	var cols []column[view]
	if wanted[familyChannel] {
		cols = append(cols,
			column[view]{"channel_consumers", gauge, "Consumers of the channel.", func(c *view) float64 { return float64(c.Consumers) }},
			column[view]{"channel_messages_unacked", gauge, "Messages that were delivered and are not settled.", func(c *view) float64 { return float64(c.Unacked) }},
			column[view]{"channel_messages_unconfirmed", gauge, "Publishes that await their confirms.", func(c *view) float64 { return float64(c.Unconfirmed) }},
			column[view]{"channel_messages_uncommitted", gauge, "Publishes of the transaction that is open.", func(c *view) float64 { return float64(c.Uncommitted) }},
			column[view]{"consumer_prefetch", gauge, "Prefetch of each consumer to come; 0: no limit.", func(c *view) float64 { return float64(c.Prefetch) }},
			column[view]{"channel_prefetch", gauge, "Prefetch of all consumers together; 0: no limit.", func(c *view) float64 { return float64(c.GlobalPrefetch) }},
		)
	}
	if wanted[familyChannelCount] || wanted[familyChannelQueue] {
		for _, m := range channelCounters {
			published := m.stat == broker.Published || m.stat == broker.Confirmed || m.stat == broker.ReturnUnroutable || m.stat == broker.DropUnroutable
			if published && wanted[familyChannelCount] || !published && wanted[familyChannelQueue] {
				cols = append(cols, column[view]{m.name, counter, m.help, func(c *view) float64 { return float64(c.Traffic[m.stat]) }})
			}
		}
	}
	if len(cols) == 0 {
		return
	}
	page, err := b.Channels(f)
	if err != nil {
		return
	}
	table(e, cols, func(visit func(*view, encoded)) {
		for i := range page.Items {
			c := &page.Items[i]
			visit(c, encode("channel", fmt.Sprintf("%s (%d)", c.Connection, c.Number), "vhost", c.VHost))
		}
	})
}

// topology writes what is there of virtual hosts and exchanges. RabbitMQ prefixes
// these with cluster_, whatever prefix the others have.
func topology(e *exposition, b *broker.Broker, wanted map[string]bool, f broker.Filter) {
	allowed := func(vhost string) bool { return f.VHosts == nil || f.VHosts(vhost) }
	if wanted[familyVHosts] {
		e.family("rabbitmq_cluster_vhost_status", gauge, "Whether the virtual host is served.")
		for _, v := range b.VHostNames() {
			if allowed(v) {
				e.number(1, "vhost", v)
			}
		}
	}
	if wanted[familyExchanges] {
		if page, err := b.Exchanges(f); err == nil {
			e.family("rabbitmq_cluster_exchange_name", gauge, "An exchange.")
			for i := range page.Items {
				x := &page.Items[i]
				e.number(1, "vhost", x.VHost, "exchange", x.Name, "type", x.Type)
			}
		}
	}
	if wanted[familyBindings] {
		e.family("rabbitmq_cluster_exchange_bindings", gauge, "How many bindings an exchange is the source of.")
		for _, v := range b.VHostNames() {
			if !allowed(v) {
				continue
			}
			bindings := b.Bindings(v, broker.BindingFilter{})
			for from := 0; from < len(bindings); {
				n, source := from, bindings[from].Source
				for n < len(bindings) && bindings[n].Source == source {
					n++
				}
				e.number(float64(n-from), "vhost", v, "exchange", source)
				from = n
			}
		}
	}
}
