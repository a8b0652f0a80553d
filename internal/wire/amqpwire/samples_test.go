package amqpwire

import (
	"math"
	"time"
)

// sampleTable has every type that a table can hold, none of them zero.
func sampleTable() Table {
	return Table{
		"array":   []any{int32(1), "two", []any{true}, Table{"three": int8(3)}},
		"bool":    true,
		"bytes":   []byte{0, 1, 0xFF},
		"decimal": Decimal{Scale: 2, Value: -314},
		"double":  math.Pi,
		"float":   float32(1.5),
		"int16":   int16(-16),
		"int32":   int32(-32),
		"int64":   int64(math.MinInt64),
		"int8":    int8(-8),
		"nil":     nil,
		"string":  "text",
		"table":   Table{"nested": Table{"deeper": "value"}},
		"time":    time.Unix(1700000000, 0).UTC(),
		"uint16":  uint16(65535),
		"uint32":  uint32(4294967295),
		"uint8":   uint8(255),
	}
}

// samples are all methods with every field non-zero.
func samples() []Method {
	t := Table{"key": "value"}
	return []Method{
		&ConnectionStart{VersionMajor: 1, VersionMinor: 9, ServerProperties: sampleTable(), Mechanisms: "PLAIN AMQPLAIN", Locales: "en_US"},
		&ConnectionStartOk{ClientProperties: Table{"capabilities": Table{"basic.nack": true}}, Mechanism: "PLAIN", Response: []byte("\x00guest\x00guest"), Locale: "en_US"},
		&ConnectionSecure{Challenge: []byte("challenge")},
		&ConnectionSecureOk{Response: []byte("response")},
		&ConnectionTune{ChannelMax: 2047, FrameMax: 131072, Heartbeat: 60},
		&ConnectionTuneOk{ChannelMax: 2046, FrameMax: 131071, Heartbeat: 59},
		&ConnectionOpen{VirtualHost: "/vhost"},
		&ConnectionOpenOk{},
		&ConnectionClose{ReplyCode: 320, ReplyText: "CONNECTION_FORCED - bye", ClassID: 60, MethodID: 40},
		&ConnectionCloseOk{},
		&ConnectionBlocked{Reason: "low on memory"},
		&ConnectionUnblocked{},
		&ConnectionUpdateSecret{NewSecret: []byte("token"), Reason: "expiry"},
		&ConnectionUpdateSecretOk{},

		&ChannelOpen{},
		&ChannelOpenOk{},
		&ChannelFlow{Active: true},
		&ChannelFlowOk{Active: true},
		&ChannelClose{ReplyCode: 404, ReplyText: "NOT_FOUND - no queue 'q'", ClassID: 50, MethodID: 10},
		&ChannelCloseOk{},

		&AccessRequest{Realm: "/data", Exclusive: true, Passive: true, Active: true, Write: true, Read: true},
		&AccessRequestOk{Ticket: 1},

		&ExchangeDeclare{Exchange: "exchange", Type: "topic", Passive: true, Durable: true, AutoDelete: true, Internal: true, NoWait: true, Arguments: t},
		&ExchangeDeclareOk{},
		&ExchangeDelete{Exchange: "exchange", IfUnused: true, NoWait: true},
		&ExchangeDeleteOk{},
		&ExchangeBind{Destination: "to", Source: "from", RoutingKey: "key", NoWait: true, Arguments: t},
		&ExchangeBindOk{},
		&ExchangeUnbind{Destination: "to", Source: "from", RoutingKey: "key", NoWait: true, Arguments: t},
		&ExchangeUnbindOk{},

		&QueueDeclare{Queue: "queue", Passive: true, Durable: true, Exclusive: true, AutoDelete: true, NoWait: true, Arguments: t},
		&QueueDeclareOk{Queue: "queue", MessageCount: 0x01020304, ConsumerCount: 0x05060708},
		&QueueBind{Queue: "queue", Exchange: "exchange", RoutingKey: "key", NoWait: true, Arguments: t},
		&QueueBindOk{},
		&QueuePurge{Queue: "queue", NoWait: true},
		&QueuePurgeOk{MessageCount: 0x01020304},
		&QueueDelete{Queue: "queue", IfUnused: true, IfEmpty: true, NoWait: true},
		&QueueDeleteOk{MessageCount: 0x01020304},
		&QueueUnbind{Queue: "queue", Exchange: "exchange", RoutingKey: "key", Arguments: t},
		&QueueUnbindOk{},

		&BasicQos{PrefetchSize: 0x01020304, PrefetchCount: 0x0506, Global: true},
		&BasicQosOk{},
		&BasicConsume{Queue: "queue", ConsumerTag: "tag", NoLocal: true, NoAck: true, Exclusive: true, NoWait: true, Arguments: t},
		&BasicConsumeOk{ConsumerTag: "tag"},
		&BasicCancel{ConsumerTag: "tag", NoWait: true},
		&BasicCancelOk{ConsumerTag: "tag"},
		&BasicPublish{Exchange: "exchange", RoutingKey: "key", Mandatory: true, Immediate: true},
		&BasicReturn{ReplyCode: 312, ReplyText: "NO_ROUTE", Exchange: "exchange", RoutingKey: "key"},
		&BasicDeliver{ConsumerTag: "tag", DeliveryTag: 0x0102030405060708, Redelivered: true, Exchange: "exchange", RoutingKey: "key"},
		&BasicGet{Queue: "queue", NoAck: true},
		&BasicGetOk{DeliveryTag: 0x0102030405060708, Redelivered: true, Exchange: "exchange", RoutingKey: "key", MessageCount: 0x01020304},
		&BasicGetEmpty{},
		&BasicAck{DeliveryTag: 0x0102030405060708, Multiple: true},
		&BasicReject{DeliveryTag: 0x0102030405060708, Requeue: true},
		&BasicRecoverAsync{Requeue: true},
		&BasicRecover{Requeue: true},
		&BasicRecoverOk{},
		&BasicNack{DeliveryTag: 0x0102030405060708, Multiple: true, Requeue: true},

		&ConfirmSelect{NoWait: true},
		&ConfirmSelectOk{},

		&TxSelect{},
		&TxSelectOk{},
		&TxCommit{},
		&TxCommitOk{},
		&TxRollback{},
		&TxRollbackOk{},
	}
}

// sampleProperties has every property, none of them zero.
func sampleProperties() Properties {
	return Properties{
		ContentType:     "text/plain",
		ContentEncoding: "gzip",
		Headers:         sampleTable(),
		DeliveryMode:    Persistent,
		Priority:        9,
		CorrelationID:   "correlation",
		ReplyTo:         "reply",
		Expiration:      "60000",
		MessageID:       "message",
		Timestamp:       time.Unix(1700000000, 0).UTC(),
		Type:            "type",
		UserID:          "guest",
		AppID:           "app",
		ClusterID:       "cluster",
	}
}
