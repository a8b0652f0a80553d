package metrics

import (
	"runtime"
	"strings"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
)

// identity tells who is asked. Panels join everything with it.
func (h *Handler) identity(e *exposition, endpoint string) {
	c := &h.cfg
	e.rabbit("identity_info", gauge, "The node and its cluster.")
	e.number(1,
		"rabbitmq_node", c.Node, "rabbitmq_cluster", c.Cluster,
		"rabbitmq_cluster_permanent_id", c.ClusterID, "rabbitmq_endpoint", endpoint)
	e.rabbit("build_info", gauge, "The product and its versions. rabbitmq_version is that of the API that tools find here.")
	e.number(1,
		"rabbitmq_version", c.Compatible, "prometheus_plugin_version", c.Compatible, "prometheus_client_version", c.Version,
		"erlang_version", strings.TrimPrefix(runtime.Version(), "go"), "product_version", c.Version, "product_name", "Ferry")
}

// aggregated writes the sums that RabbitMQ has.
func (h *Handler) aggregated(e *exposition, b *broker.Broker) {
	t := b.Totals(broker.Filter{})
	store := b.Store()
	protocols := b.Protocols()
	churn(e, &t)
	h.node(e, &store)
	h.logins(e)
	queueSums(e, &t)
	channelSums(e, &t)
	global(e, protocols, &t)
}

func churn(e *exposition, t *broker.Totals) {
	c := &t.Churn
	for _, m := range []struct {
		name, help string
		n          uint64
	}{
		{"connections_opened_total", "Connections that were opened.", c.ConnectionsOpened},
		{"connections_closed_total", "Connections that were closed or lost.", c.ConnectionsClosed},
		{"channels_opened_total", "Channels that were opened.", c.ChannelsOpened},
		{"channels_closed_total", "Channels that were closed.", c.ChannelsClosed},
		{"queues_declared_total", "Declarations of queues, also of those that were there.", c.QueuesDeclared},
		{"queues_created_total", "Queues that were created.", c.QueuesCreated},
		{"queues_deleted_total", "Queues that were deleted.", c.QueuesDeleted},
	} {
		e.rabbit(m.name, counter, m.help)
		e.count(m.n)
	}
	for _, m := range []struct {
		name, help string
		n          int
	}{
		{"connections", "Connections that are open.", t.Connections},
		{"channels", "Channels that are open.", t.Channels},
		{"consumers", "Consumers.", t.Consumers},
		{"queues", "Queues.", t.Queues},
	} {
		e.rabbit(m.name, gauge, m.help)
		e.number(float64(m.n))
	}
}

// node writes what RabbitMQ tells of a node's process and its machine.
func (h *Handler) node(e *exposition, s *broker.StoreView) {
	for _, m := range []struct {
		name, help string
		on         bool
	}{
		{"alarms_memory_used_watermark", "Whether publishers are blocked because of memory.", s.MemoryAlarm},
		{"alarms_free_disk_space_watermark", "Whether publishers are blocked because of disk space.", s.DiskAlarm},
		{"alarms_file_descriptor_limit", "Whether files or connections are refused for want of descriptors; never so.", false},
	} {
		e.rabbit(m.name, gauge, m.help)
		e.number(boolean(m.on))
	}
	p := h.process()
	for _, m := range []struct {
		name, help string
		v          float64
	}{
		{"process_open_fds", "Open file descriptors.", float64(p.openFiles)},
		{"process_max_fds", "Limit of open file descriptors.", float64(p.mostFiles)},
		{"process_resident_memory_bytes", "Memory of the process.", float64(p.resident)},
		{"resident_memory_limit_bytes", "Memory from which on publishers are blocked; 0: there is no limit.", float64(s.MemoryLimit)},
		{"disk_space_available_bytes", "Free disk space.", float64(s.DiskFree)},
		{"disk_space_available_limit_bytes", "Free disk space below which publishers are blocked; 0: there is no limit.", float64(s.DiskLimit)},
		{"erlang_processes_used", "Goroutines.", float64(runtime.NumGoroutine())},
		{"erlang_uptime_seconds", "Time since the process was started.", time.Since(h.cfg.Started).Seconds()},
	} {
		e.rabbit(m.name, gauge, m.help)
		e.number(m.v)
	}
	if s.Syncs != nil {
		e.rabbit("io_sync_ops_total", counter, "Syncs of the message store.")
		e.count(s.Syncs.Syncs.Total())
		e.rabbit("io_sync_time_seconds_total", counter, "Time that syncs of the message store took.")
		e.number(s.Syncs.Syncs.Sum.Seconds())
	}
	e.rabbit("io_write_ops_total", counter, "Batches that were written to the message store.")
	e.count(s.Batches)
	e.rabbit("io_write_bytes_total", counter, "Bytes that were written to the message store.")
	e.count(uint64(s.BatchBytes))
}

func (h *Handler) logins(e *exposition) {
	if h.cfg.Logins == nil {
		return
	}
	list := h.cfg.Logins()
	for _, m := range []struct {
		name, help string
		n          func(l *Login) uint64
	}{
		{"auth_attempts_total", "Logins that were tried.", func(l *Login) uint64 { return l.Succeeded + l.Failed }},
		{"auth_attempts_succeeded_total", "Logins that succeeded.", func(l *Login) uint64 { return l.Succeeded }},
		{"auth_attempts_failed_total", "Logins that were refused.", func(l *Login) uint64 { return l.Failed }},
	} {
		e.rabbit(m.name, counter, m.help)
		for i := range list {
			e.count(m.n(&list[i]), "protocol", protocolLabel(list[i].Protocol))
		}
	}
}

func queueSums(e *exposition, t *broker.Totals) {
	d := &t.Depth
	for _, m := range []struct {
		name, help string
		v          float64
	}{
		{"queue_messages_ready", "Messages to be delivered.", float64(d.Ready)},
		{"queue_messages_unacked", "Messages that were delivered and are not settled.", float64(d.Unacked)},
		{"queue_messages", "Messages in queues.", float64(d.Messages())},
		{"queue_messages_bytes", "Bytes of the messages in queues.", float64(d.Bytes)},
		{"queue_messages_ready_bytes", "Bytes of the messages to be delivered.", float64(d.ReadyBytes)},
		{"queue_messages_unacked_bytes", "Bytes of the messages that are not to be delivered now.", float64(d.Bytes - d.ReadyBytes)},
		{"queue_messages_persistent", "Persistent messages.", float64(d.Persistent)},
		{"queue_messages_persistent_bytes", "Bytes of the persistent messages.", float64(d.PersistentBytes)},
		{"queue_consumers", "Consumers of queues.", float64(t.QueueConsumers)},
		{"queue_process_memory_bytes", "Memory that queues take beside the bodies of messages, about.", float64(t.QueueMemory)},
	} {
		e.rabbit(m.name, gauge, m.help)
		e.number(m.v)
	}
	e.rabbit("queue_messages_published_total", counter, "Messages that entered queues, once for each queue.")
	n := uint64(0)
	for i := range t.QueueTraffic {
		n += t.QueueTraffic[i][broker.Published]
	}
	e.count(n)
}

func channelSums(e *exposition, t *broker.Totals) {
	for _, m := range []struct {
		name, help string
		n          int
	}{
		{"channel_consumers", "Consumers of channels.", t.Consumers},
		{"channel_messages_unacked", "Messages that were delivered and are not settled.", t.Depth.Unacked},
		{"channel_messages_unconfirmed", "Publishes that await their confirms.", t.Unconfirmed},
		{"channel_messages_uncommitted", "Publishes of transactions that are open.", t.Uncommitted},
	} {
		e.rabbit(m.name, gauge, m.help)
		e.number(float64(m.n))
	}
	for _, m := range channelCounters {
		e.rabbit(m.name, counter, m.help)
		e.count(t.Traffic[m.stat])
	}
	e.rabbit("connection_incoming_bytes_total", counter, "Bytes that came by connections.")
	e.count(t.Received)
	e.rabbit("connection_outgoing_bytes_total", counter, "Bytes that went out by connections.")
	e.count(t.Sent)
}

// channelCounters are what RabbitMQ counts of channels.
var channelCounters = []struct {
	name, help string
	stat       broker.Stat
}{
	{"channel_messages_published_total", "Messages that were published.", broker.Published},
	{"channel_messages_confirmed_total", "Publishes that were confirmed.", broker.Confirmed},
	{"channel_messages_unroutable_returned_total", "Messages that went back to their publishers because no queue took them.", broker.ReturnUnroutable},
	{"channel_messages_unroutable_dropped_total", "Messages that were dropped because no queue took them.", broker.DropUnroutable},
	{"channel_get_ack_total", "Messages that were got, to be acknowledged.", broker.Got},
	{"channel_get_total", "Messages that were got without acknowledgement.", broker.GotNoAck},
	{"channel_get_empty_total", "Requests for a message that found none.", broker.GotEmpty},
	{"channel_messages_delivered_ack_total", "Messages that were delivered to consumers, to be acknowledged.", broker.Delivered},
	{"channel_messages_delivered_total", "Messages that were delivered to consumers without acknowledgement.", broker.DeliveredNoAck},
	{"channel_messages_redelivered_total", "Messages that were delivered again.", broker.Redelivered},
	{"channel_messages_acked_total", "Messages that were acknowledged.", broker.Acked},
}

// queueTypes are what RabbitMQ's metrics call the types of queues, in the order of
// broker.QueueTypes.
var queueTypes = [len(broker.QueueTypes)]string{"rabbit_classic_queue", "rabbit_quorum_queue"}

// protocolLabel is what RabbitMQ's metrics would call a protocol: "AMQP 0-9-1" is
// amqp091.
func protocolLabel(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		}
		return -1
	}, name)
}

// amqp is the protocol that is told of even if nobody has spoken it yet, so that
// rates can be taken from the first message on.
const amqp = "AMQP 0-9-1"

func global(e *exposition, protocols []broker.ProtocolView, t *broker.Totals) {
	known := false
	for i := range protocols {
		known = known || protocols[i].Protocol == amqp
	}
	if !known {
		protocols = append(protocols, broker.ProtocolView{Protocol: amqp})
	}
	labels := make([]string, len(protocols))
	for i := range protocols {
		labels[i] = protocolLabel(protocols[i].Protocol)
	}
	sum := func(p *broker.ProtocolView, s broker.Stat) uint64 {
		n := uint64(0)
		for i := range p.Traffic {
			n += p.Traffic[i][s]
		}
		return n
	}
	for _, m := range []struct {
		name, help string
		stat       broker.Stat
	}{
		{"received", "Messages that came from publishers.", broker.Published},
		{"received_confirm", "Messages that came from publishers that want confirms.", broker.PublishConfirm},
		{"confirmed", "Messages whose publishers were told that they are safe.", broker.Confirmed},
		{"routed", "Messages that went to queues, once for each queue.", broker.PublishOut},
		{"unroutable_dropped", "Messages that were dropped because no queue took them.", broker.DropUnroutable},
		{"unroutable_returned", "Messages that went back to their publishers because no queue took them.", broker.ReturnUnroutable},
	} {
		e.rabbit("global_messages_"+m.name+"_total", counter, m.help)
		for i := range protocols {
			e.count(sum(&protocols[i], m.stat), "protocol", labels[i])
		}
	}
	for _, m := range []struct {
		name, help string
		n          func(t *broker.Traffic) uint64
	}{
		{"delivered", "Messages that were delivered or got.", (*broker.Traffic).DeliverGet},
		{"delivered_consume_manual_ack", "Messages that were delivered to consumers, to be acknowledged.", stat(broker.Delivered)},
		{"delivered_consume_auto_ack", "Messages that were delivered to consumers without acknowledgement.", stat(broker.DeliveredNoAck)},
		{"delivered_get_manual_ack", "Messages that were got, to be acknowledged.", stat(broker.Got)},
		{"delivered_get_auto_ack", "Messages that were got without acknowledgement.", stat(broker.GotNoAck)},
		{"get_empty", "Requests for a message that found none.", stat(broker.GotEmpty)},
		{"redelivered", "Messages that were delivered again.", stat(broker.Redelivered)},
		{"acknowledged", "Messages that were acknowledged.", stat(broker.Acked)},
	} {
		e.rabbit("global_messages_"+m.name+"_total", counter, m.help)
		for i := range protocols {
			for k := range queueTypes {
				e.count(m.n(&protocols[i].Traffic[k]), "protocol", labels[i], "queue_type", queueTypes[k])
			}
		}
	}
	e.rabbit("global_publishers", gauge, "Channels that have published.")
	for i := range protocols {
		e.number(float64(protocols[i].Publishers), "protocol", labels[i])
	}
	e.rabbit("global_consumers", gauge, "Consumers.")
	for i := range protocols {
		e.number(float64(protocols[i].Consumers), "protocol", labels[i])
	}
	for _, m := range []struct {
		name, help string
		stat       broker.Stat
	}{
		{"expired", "Messages that left their queues because their time was over.", broker.DeadExpired},
		{"rejected", "Messages that left their queues because a consumer refused them.", broker.DeadRejected},
		{"maxlen", "Messages that left their queues because these were full.", broker.DeadMaxlen},
		{"delivery_limit", "Messages that left their queues because they were delivered in vain too often.", broker.DeadDeliveries},
		{"confirmed", "Messages that dead-letter exchanges' queues have taken.", broker.DeadLettered},
	} {
		e.rabbit("global_messages_dead_lettered_"+m.name+"_total", counter, m.help)
		for k := range queueTypes {
			e.count(t.QueueTraffic[k][m.stat], "queue_type", queueTypes[k], "dead_letter_strategy", "at_least_once")
		}
	}
	e.rabbit("message_size_bytes", histogram, "Bodies of the messages that came from publishers.")
	for i := range protocols {
		s := &protocols[i].Sizes
		e.classes(sizeBounds[:], s.Counts[:], float64(s.Sum), "protocol", labels[i])
	}
}

// sizeBounds are broker.SizeBounds as RabbitMQ writes them, which panels match.
var sizeBounds = [len(broker.SizeBounds)]string{"100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08"}

func stat(s broker.Stat) func(t *broker.Traffic) uint64 {
	return func(t *broker.Traffic) uint64 { return t[s] }
}
