package conformance

import (
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Receiving: subscriptions, acknowledgements, topics, replies.

// received is what STOMP shows of a message that AMQP published.
func received(name string, p amqp.Publishing) scenario {
	return scenario{name, func(s *stage) {
		s.declare("$q", nil)
		s.publish("", "$q", p)
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.expect(1)
	}}
}

// acking is what is said to an ACK of the one message there is.
func acking(name, version, mode string, frame func(m stompFrame) string) scenario {
	return scenario{name, func(s *stage) {
		fill(s, "$q", "one")
		a := s.connectAs("a", version)
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:" + mode)
		m := a.expect(1)
		a.send(frame(m))
		a.expect(1)
	}}
}

var stompReceiveScenarios = []scenario{
	// Subscribing.

	{"subscribe_queue_declares_it", func(s *stage) {
		a := s.connect("a")
		a.send("SUBSCRIBE\nid:0\ndestination:/queue/$q\nreceipt:r")
		a.expect(1)
		s.declared("$q", true, false, false, nil)
	}},
	{"subscribe_versions", func(s *stage) {
		for _, version := range []string{"1.0", "1.1", "1.2"} {
			a := s.connectAs(version, version)
			a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client")
			a.send("SEND\ndestination:/queue/$q\n\nhello")
			m := a.expect(1)
			if version == "1.2" {
				a.do("ACK\nid:" + m.get("ack"))
			} else {
				a.do("ACK\nsubscription:0\nmessage-id:" + m.get("message-id"))
			}
			a.do("DISCONNECT")
		}
		s.count("$q", 0)
	}},
	{"subscribe_without_id_1_0", func(s *stage) {
		a := s.connectAs("a", "1.0")
		a.do("SUBSCRIBE\ndestination:/queue/$q\nack:client")
		a.send("SEND\ndestination:/queue/$q\n\nhello")
		m := a.expect(1)
		a.do("ACK\nmessage-id:" + m.get("message-id"))
		a.send("UNSUBSCRIBE\ndestination:/queue/$q\nreceipt:u")
		a.expect(1)
	}},
	{"subscribe_without_id_1_2", func(s *stage) {
		a := s.connect("a")
		a.send("SUBSCRIBE\ndestination:/queue/$q\nreceipt:s")
		a.expect(1)
	}},
	asking("subscribe_without_destination", "1.2", "SUBSCRIBE\nid:0"),
	asking("subscribe_with_nothing", "1.2", "SUBSCRIBE"),
	asking("subscribe_ack_mode_unknown", "1.2", "SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:sometimes"),
	asking("subscribe_id_of_a_temp_queue", "1.2", "SUBSCRIBE\nid:/temp-queue/0\ndestination:/queue/$q"),
	asking("subscribe_temp_queue", "1.2", "SUBSCRIBE\nid:0\ndestination:/temp-queue/a"),
	asking("subscribe_destination_unknown", "1.2", "SUBSCRIBE\nid:0\ndestination:/nowhere/at/all"),
	asking("subscribe_queue_with_two_names", "1.2", "SUBSCRIBE\nid:0\ndestination:/queue/a/b"),
	asking("subscribe_exchange_without_name", "1.2", "SUBSCRIBE\nid:0\ndestination:/exchange/"),
	{"subscribe_amq_queue_missing", func(s *stage) {
		a := s.connect("a")
		a.send("SUBSCRIBE\nid:0\ndestination:/amq/queue/$q")
		a.expect(1)
		a.closed()
	}},
	{"subscribe_exchange_missing", func(s *stage) {
		a := s.connect("a")
		a.send("SUBSCRIBE\nid:0\ndestination:/exchange/$q/key")
		a.expect(1)
		a.closed()
	}},
	{"subscribe_id_twice", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.send("SUBSCRIBE\nid:0\ndestination:/queue/$q.2")
		a.expect(1)
		a.closed()
	}},
	{"subscribe_two_to_one_queue", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.do("SUBSCRIBE\nid:1\ndestination:/queue/$q")
		a.send("SEND\ndestination:/queue/$q\n\none")
		a.send("SEND\ndestination:/queue/$q\n\ntwo")
		a.expect(2)
	}},
	{"subscribe_amq_queue", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/amq/queue/$q")
		a.expect(1)
	}},
	{"subscribe_name_without_slash", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:$q")
		a.expect(1)
	}},
	{"subscribe_arguments_declare_the_queue", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nx-max-length:3\nx-message-ttl:60000")
		s.declared("$q", true, false, false, amqp.Table{"x-max-length": int64(3), "x-message-ttl": int64(60000)})
	}},
	{"subscribe_arguments_other_than_the_queue_has", func(s *stage) {
		s.declare("$q", nil)
		a := s.connect("a")
		a.send("SUBSCRIBE\nid:0\ndestination:/queue/$q\nx-max-length:3")
		a.expect(1)
		a.closed()
	}},
	{"subscribe_auto_delete_queue_goes", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\ndurable:false\nauto-delete:true\nexclusive:false")
		a.do("UNSUBSCRIBE\nid:0")
		s.gone("$q")
	}},
	{"subscribe_selector", func(s *stage) {
		a := s.connect("a")
		a.send("SUBSCRIBE\nid:0\ndestination:/queue/$q\nselector:colour = 'red'\nreceipt:r")
		a.expect(1)
	}},
	{"subscribe_queue_deleted", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		if _, err := s.amqp().QueueDelete(s.queue, false, false, false); err != nil {
			s.t.Fatal(err)
		}
		a.expect(1)
	}},
	{"subscribe_queue_deleted_the_others_go_on", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.do("SUBSCRIBE\nid:1\ndestination:/queue/$q.2")
		if _, err := s.amqp().QueueDelete(s.queue, false, false, false); err != nil {
			s.t.Fatal(err)
		}
		a.expect(1)
		a.send("SEND\ndestination:/queue/$q.2\n\nstill here")
		a.expect(1)
	}},

	// Unsubscribing.

	{"unsubscribe_no_more_messages", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.do("UNSUBSCRIBE\nid:0")
		a.do("SEND\ndestination:/queue/$q\n\nhello")
		a.quiet()
		s.count("$q", 1)
	}},
	{"unsubscribe_and_subscribe_again", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.do("UNSUBSCRIBE\nid:0")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.send("SEND\ndestination:/queue/$q\n\nhello")
		a.expect(1)
	}},
	asking("unsubscribe_unknown_id", "1.2", "UNSUBSCRIBE\nid:none"),
	asking("unsubscribe_unknown_destination", "1.0", "UNSUBSCRIBE\ndestination:/queue/none"),
	asking("unsubscribe_without_id", "1.2", "UNSUBSCRIBE"),
	asking("unsubscribe_temp_queue", "1.2", "UNSUBSCRIBE\nid:/temp-queue/a"),
	{"unsubscribe_with_messages_not_acknowledged", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.do("UNSUBSCRIBE\nid:0")
		a.send("ACK\nid:" + m.get("ack") + "\nreceipt:a")
		a.expect(1)
		_ = a.conn.Close()
		b := s.connect("b")
		b.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		b.take(1, time.Second)
	}},

	// Acknowledging.

	{"ack_auto_needs_none", func(s *stage) {
		fill(s, "$q", "one", "two")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.expect(2)
		a.do("DISCONNECT")
		s.count("$q", 0)
	}},
	{"ack_client_is_cumulative", func(s *stage) {
		fill(s, "$q", "one", "two", "three")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client")
		a.expect(1)
		second := a.expect(1)
		a.expect(1)
		a.do("ACK\nid:" + second.get("ack"))
		a.do("DISCONNECT")
		s.count("$q", 1)
		s.get("$q")
	}},
	{"ack_client_is_cumulative_in_its_subscription", func(s *stage) {
		fill(s, "$q", "one")
		fill(s, "$q.2", "two")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client")
		a.expect(1)
		a.do("SUBSCRIBE\nid:1\ndestination:/queue/$q.2\nack:client")
		other := a.expect(1)
		a.do("ACK\nid:" + other.get("ack"))
		a.do("DISCONNECT")
		s.count("$q", 1)
		s.count("$q.2", 0)
	}},
	{"ack_client_individual_is_of_one", func(s *stage) {
		fill(s, "$q", "one", "two", "three")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		a.expect(1)
		second := a.expect(1)
		a.expect(1)
		a.do("ACK\nid:" + second.get("ack"))
		a.do("DISCONNECT")
		s.count("$q", 2)
		s.get("$q")
		s.get("$q")
	}},
	{"ack_none_the_messages_come_again", func(s *stage) {
		fill(s, "$q", "one", "two")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client")
		a.expect(2)
		_ = a.conn.Close()
		b := s.connect("b")
		b.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		b.expect(2)
	}},
	{"nack_returns_the_message", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.send("NACK\nid:" + m.get("ack"))
		a.expect(1)
	}},
	{"nack_requeue_true", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.send("NACK\nid:" + m.get("ack") + "\nrequeue:true")
		a.expect(1)
	}},
	{"nack_requeue_false_dead_letters", func(s *stage) {
		s.declare("$q", amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": s.queue + ".2"})
		s.declare("$q.2", nil)
		s.publish("", "$q", amqp.Publishing{Body: []byte("bad")})
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/amq/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.do("NACK\nid:" + m.get("ack") + "\nrequeue:false")
		s.count("$q.2", 1)
		a.do("DISCONNECT")
		s.count("$q", 0)
	}},
	{"nack_client_is_cumulative", func(s *stage) {
		fill(s, "$q", "one", "two", "three")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client")
		a.expect(1)
		second := a.expect(1)
		a.expect(1)
		a.do("NACK\nid:" + second.get("ack") + "\nrequeue:false")
		a.do("DISCONNECT")
		s.count("$q", 1)
	}},
	{"nack_1_1", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connectAs("a", "1.1")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.send("NACK\nsubscription:0\nmessage-id:" + m.get("message-id"))
		a.expect(1)
	}},
	acking("nack_1_0", "1.0", "client", func(m stompFrame) string {
		return "NACK\nrequeue:false\nreceipt:n\nmessage-id:" + m.get("message-id")
	}),
	acking("ack_without_id_1_2", "1.2", "client", func(m stompFrame) string {
		return "ACK\nsubscription:0\nmessage-id:" + m.get("message-id")
	}),
	acking("ack_without_id_1_1", "1.1", "client", func(stompFrame) string { return "ACK\nsubscription:0" }),
	acking("ack_without_subscription_1_1", "1.1", "client", func(m stompFrame) string {
		return "ACK\nreceipt:r\nmessage-id:" + m.get("message-id")
	}),
	acking("nack_without_id_1_2", "1.2", "client", func(stompFrame) string { return "NACK" }),
	acking("ack_id_garbage", "1.2", "client", func(stompFrame) string { return "ACK\nid:garbage" }),
	acking("ack_id_unknown", "1.2", "client", func(m stompFrame) string {
		return "ACK\nid:" + strings.Replace(m.get("ack"), "T_0", "T_9", 1)
	}),
	acking("ack_transaction_unknown", "1.2", "client", func(m stompFrame) string {
		return "ACK\ntransaction:none\nid:" + m.get("ack")
	}),
	acking("ack_in_auto_mode", "1.1", "auto", func(m stompFrame) string {
		return "ACK\nsubscription:0\nmessage-id:" + m.get("message-id")
	}),
	{"ack_twice", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.do("ACK\nid:" + m.get("ack"))
		a.send("ACK\nid:" + m.get("ack"))
		a.expect(1)
		a.closed()
	}},
	{"ack_of_another_connection", func(s *stage) {
		fill(s, "$q", "one")
		a, b := s.connect("a"), s.connect("b")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		b.send("ACK\nid:" + m.get("ack"))
		b.expect(1)
	}},

	// Prefetch.

	{"prefetch_count", func(s *stage) {
		fill(s, "$q", "one", "two", "three")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual\nprefetch-count:1")
		m := a.expect(1)
		a.quiet()
		a.send("ACK\nid:" + m.get("ack"))
		a.expect(1)
		a.quiet()
	}},
	{"prefetch_count_is_of_its_subscription", func(s *stage) {
		fill(s, "$q", "one", "two", "three")
		fill(s, "$q.2", "four", "five", "six")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client\nprefetch-count:1")
		a.expect(1)
		a.quiet()
		a.do("SUBSCRIBE\nid:1\ndestination:/queue/$q.2\nack:client\nprefetch-count:2")
		a.expect(2)
		a.quiet()
	}},
	{"prefetch_count_left_out_later", func(s *stage) {
		fill(s, "$q", "one", "two")
		fill(s, "$q.2", "three", "four")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client\nprefetch-count:1")
		a.expect(1)
		a.do("SUBSCRIBE\nid:1\ndestination:/queue/$q.2\nack:client")
		a.expect(1)
		a.quiet()
	}},
	{"prefetch_count_zero_is_no_limit", func(s *stage) {
		fill(s, "$q", "one", "two", "three")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client\nprefetch-count:0")
		a.expect(3)
	}},
	{"prefetch_count_in_auto_mode_limits_nothing", func(s *stage) {
		fill(s, "$q", "one", "two", "three")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nprefetch-count:1")
		a.expect(3)
	}},
	asking("prefetch_count_no_number", "1.2", "SUBSCRIBE\nid:0\ndestination:/queue/$q\nprefetch-count:few"),

	// Properties and headers, from AMQP.

	received("receive_bare_message", amqp.Publishing{Body: []byte("hello")}),
	received("receive_properties", amqp.Publishing{
		ContentType: "text/plain", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 5,
		CorrelationId: "c1", ReplyTo: "/queue/answers", Expiration: "60000", MessageId: "m1", Timestamp: stamp,
		Type: "order", UserId: "guest", AppId: "app", Body: []byte("hello"),
	}),
	received("receive_transient", amqp.Publishing{DeliveryMode: amqp.Transient, Body: []byte("hello")}),
	received("receive_reply_to_name", amqp.Publishing{ReplyTo: "answers", Body: []byte("hello")}),
	received("receive_reply_to_destination", amqp.Publishing{ReplyTo: "/topic/answers", Body: []byte("hello")}),
	received("receive_header_types", amqp.Publishing{Headers: amqp.Table{
		"string": "text", "int32": int32(-7), "int64": int64(1) << 40, "int16": int16(-3), "int8": int8(-2), "byte": byte(9), "bool": true,
		"float32": float32(1.5), "float64": 2.25, "time": stamp, "void": nil, "bytes": []byte("raw"),
		"list": []any{"a", int32(1)}, "table": amqp.Table{"k": "v"}, "decimal": amqp.Decimal{Scale: 2, Value: 314},
	}, Body: []byte("hello")}),
	received("receive_headers_that_need_escapes", amqp.Publishing{Headers: amqp.Table{
		"a:b": "x:y", "line": "one\ntwo\r", `back\slash`: `c:\n`, "empty": "", "ünï": "żółw",
	}, Body: []byte("hello")}),
	received("receive_headers_of_the_frame", amqp.Publishing{Headers: amqp.Table{
		"destination": "elsewhere", "message-id": "mine", "subscription": "9", "ack": "no", "receipt": "r", "redelivered": "maybe",
		"content-length": "1", "content-type": "mine",
	}, ContentType: "text/plain", Body: []byte("hello")}),
	{"receive_headers_1_0_are_not_escaped", func(s *stage) {
		s.declare("$q", nil)
		s.publish("", "$q", amqp.Publishing{Headers: amqp.Table{"windows": `c:\new`}, Body: []byte("hello")})
		a := s.connectAs("a", "1.0")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.expect(1)
	}},
	{"receive_what_was_sent", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.send("SEND\ndestination:/queue/$q\ncontent-type:text/plain\ncontent-encoding:utf-8\npersistent:true\n" +
			"priority:5\ncorrelation-id:c1\nreply-to:/queue/answers\nexpiration:60000\namqp-message-id:m1\n" +
			"timestamp:1700000000\ntype:order\nuser-id:guest\napp-id:app\nname:value\n\nhello")
		a.expect(1)
	}},
	{"receive_expires_of_activemq", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.send("SEND\ndestination:/queue/$q\nexpires:0\ntimestamp:1700000000000\n\nhello") // it counts milliseconds
		a.expect(1)
	}},
	{"receive_what_was_sent_with_a_receipt", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		a.send("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\nreceipt:r\ntransaction:t\ncontent-length:5\n\nhello")
		a.send("COMMIT\ntransaction:t")
		a.expect(2)
	}},

	// Topics and exchanges.

	bothWays("topic", "/topic/$q.a"),
	{"topic_wildcards", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:star\ndestination:/topic/$q.*.c")
		a.do("SUBSCRIBE\nid:hash\ndestination:/topic/$q.#")
		a.send("SEND\ndestination:/topic/$q.b.c\n\nboth")
		a.expectAll(2)
		a.send("SEND\ndestination:/topic/$q\n\nhash")
		a.expect(1)
	}},
	{"topic_each_subscriber_has_a_copy", func(s *stage) {
		a, b := s.connect("a"), s.connect("b")
		a.do("SUBSCRIBE\nid:0\ndestination:/topic/$q")
		b.do("SUBSCRIBE\nid:0\ndestination:/topic/$q")
		a.do("SEND\ndestination:/topic/$q\n\nhello")
		a.expect(1)
		b.expect(1)
	}},
	{"topic_from_amqp", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/topic/$q.#")
		s.publish("amq.topic", "$q.x/y", amqp.Publishing{Body: []byte("hello")})
		a.expect(1)
	}},
	{"topic_queue_goes_with_the_subscription", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/topic/$q\nx-queue-name:$q")
		s.count("$q", 0)
		a.do("UNSUBSCRIBE\nid:0")
		s.gone("$q")
	}},
	{"topic_queue_name_declared", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/topic/$q\nx-queue-name:$q\nx-max-length:4")
		s.declared("$q", false, true, false, amqp.Table{"x-max-length": int64(4)})
	}},
	{"topic_durable", func(s *stage) {
		const subscribe = "SUBSCRIBE\nid:0\ndestination:/topic/$q\ndurable:true\nauto-delete:false\nack:client"
		a := s.connect("a")
		a.do(subscribe)
		a.do("DISCONNECT")
		b := s.connect("b")
		b.do("SEND\ndestination:/topic/$q\n\nmeanwhile")
		c := s.connect("c")
		c.do(subscribe)
		m := c.expect(1)
		c.do("ACK\nid:" + m.get("ack"))
		c.do("UNSUBSCRIBE\nid:0\ndestination:/topic/$q\ndurable:true\nauto-delete:false")
		b.do("SEND\ndestination:/topic/$q\n\ntoo late")
		c.do(subscribe)
		c.quiet()
		c.do("UNSUBSCRIBE\nid:0\ndestination:/topic/$q\ndurable:true\nauto-delete:false")
	}},
	{"topic_durable_by_persistent", func(s *stage) {
		const subscribe = "SUBSCRIBE\nid:0\ndestination:/topic/$q\npersistent:true\nauto-delete:false\nx-queue-name:$q"
		a := s.connect("a")
		a.do(subscribe)
		a.do("DISCONNECT")
		s.declared("$q", true, false, false, nil)
		b := s.connect("b")
		b.do("SEND\ndestination:/topic/$q\n\nmeanwhile")
		s.count("$q", 1)
	}},
	{"topic_durable_unsubscribed_without_the_header_stays", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/topic/$q\ndurable:true\nauto-delete:false\nx-queue-name:$q")
		a.do("UNSUBSCRIBE\nid:0")
		a.do("SEND\ndestination:/topic/$q\n\nhello")
		s.count("$q", 1)
	}},
	{"topic_durable_twice_at_once_share", func(s *stage) {
		const subscribe = "SUBSCRIBE\nid:0\ndestination:/topic/$q\ndurable:true\nauto-delete:false"
		a, b := s.connect("a"), s.connect("b")
		a.do(subscribe)
		b.do(subscribe)
		b.do("UNSUBSCRIBE\nid:0") // it only leaves
		s.publish("amq.topic", "$q", amqp.Publishing{Body: []byte("one")})
		s.publish("amq.topic", "$q", amqp.Publishing{Body: []byte("two")})
		a.expect(2)
		a.do("UNSUBSCRIBE\nid:0\ndurable:true")
	}},
	asking("topic_durable_without_id", "1.2", "SUBSCRIBE\ndestination:/topic/$q\ndurable:true\nauto-delete:false"),
	asking("topic_durable_unsubscribe_without_id", "1.2", "UNSUBSCRIBE\ndestination:/topic/$q\ndurable:true\nauto-delete:false"),
	bothWays("exchange_and_key", "/exchange/amq.direct/$q"),
	{"exchange_fanout_without_key", func(s *stage) {
		if err := s.amqp().ExchangeDeclare(s.queue, "fanout", false, false, false, false, nil); err != nil {
			s.t.Fatal(err)
		}
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/exchange/$q")
		a.send("SEND\ndestination:/exchange/$q\n\none")
		a.expect(1)
		a.send("SEND\ndestination:/exchange/$q/key\n\ntwo")
		a.expect(1)
		if err := s.amqp().ExchangeDelete(s.queue, false, false); err != nil {
			s.t.Fatal(err)
		}
	}},
	{"exchange_queue_name", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/exchange/amq.topic/$q.*\nx-queue-name:$q")
		s.declared("$q", false, true, false, nil)
		a.send("SEND\ndestination:/topic/$q.a\n\nhello")
		a.expect(1)
	}},
	{"exchange_durable", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/exchange/amq.direct/$q\nx-queue-name:$q\ndurable:true\nauto-delete:false")
		a.do("DISCONNECT")
		s.publish("amq.direct", "$q", amqp.Publishing{Body: []byte("meanwhile")})
		s.count("$q", 1)
		s.declared("$q", true, false, false, nil)
	}},

	// Requests and replies.

	{"temp_queue_between_stomp_clients", func(s *stage) {
		server, client := s.connect("server"), s.connect("client")
		server.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		client.send("SEND\ndestination:/queue/$q\nreply-to:/temp-queue/answers\ncorrelation-id:1\n\nquestion")
		m := server.expect(1)
		server.send("SEND\ndestination:" + m.get("reply-to") + "\ncorrelation-id:1\n\nanswer")
		client.expect(1)
		client.send("SEND\ndestination:/queue/$q\nreply-to:/temp-queue/answers\ncorrelation-id:2\n\nquestion")
		again := server.expect(1)
		s.record(map[string]any{"reply-to": "the same", "is": again.get("reply-to") == m.get("reply-to")})
		client.send("SEND\ndestination:/queue/$q\nreply-to:/temp-queue/others\ncorrelation-id:3\n\nquestion")
		other := server.expect(1)
		s.record(map[string]any{"reply-to": "another", "is": other.get("reply-to") != m.get("reply-to")})
	}},
	{"temp_queue_goes_with_its_connection", func(s *stage) {
		server, client := s.connect("server"), s.connect("client")
		server.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		client.send("SEND\ndestination:/queue/$q\nreply-to:/temp-queue/answers\n\nquestion")
		m := server.expect(1)
		client.do("DISCONNECT")
		client.closed()
		server.send("SEND\ndestination:" + m.get("reply-to") + "\nreceipt:r\n\nanswer")
		server.expect(1)
	}},
	{"temp_queue_answered_by_amqp", func(s *stage) {
		s.declare("$q", nil)
		client := s.connect("client")
		client.do("SEND\ndestination:/queue/$q\nreply-to:/temp-queue/answers\ncorrelation-id:7\n\nquestion")
		d, ok, err := s.amqp().Get(s.queue, true)
		if err != nil || !ok {
			s.t.Fatal(ok, err)
		}
		s.record(map[string]any{"amqp": "get", "message": s.showDelivery(d)})
		s.publish("", d.ReplyTo, amqp.Publishing{CorrelationId: d.CorrelationId, Body: []byte("answer")})
		client.expect(1)
	}},
	{"reply_queue_to_amqp", func(s *stage) {
		q, err := s.amqp().QueueDeclare("", false, true, true, false, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		server := s.connect("server")
		server.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		s.publish("", "$q", amqp.Publishing{ReplyTo: q.Name, CorrelationId: "7", Body: []byte("question")})
		m := server.expect(1)
		server.do("SEND\ndestination:" + m.get("reply-to") + "\ncorrelation-id:" + m.get("correlation-id") + "\n\nanswer")
		s.get(q.Name)
	}},
	{"reply_queue_to_amqp_without_a_queue", func(s *stage) {
		ch := s.amqp()
		answers, err := ch.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		server := s.connect("server")
		server.do("SUBSCRIBE\nid:0\ndestination:/queue/$q")
		question := amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to", CorrelationId: "7", Body: []byte("question")}
		if err := ch.PublishWithContext(s.t.Context(), "", s.queue, false, false, question); err != nil {
			s.t.Fatal(err)
		}
		m := server.expect(1)
		server.do("SEND\ndestination:" + m.get("reply-to") + "\ncorrelation-id:" + m.get("correlation-id") + "\n\nanswer")
		select {
		case d := <-answers:
			s.record(map[string]any{"amqp": "answer", "message": s.showDelivery(d)})
		case <-time.After(stompPatience):
			s.record(map[string]any{"amqp": "answer", "message": nil})
		}
	}},
	asking("temp_queue_without_name", "1.2", "SEND\ndestination:/queue/$q\nreply-to:/temp-queue/\n\nquestion"),
	withHeader("reply_to_topic", "reply-to:/topic/answers"),
	asking("reply_to_nonsense", "1.2", "SEND\ndestination:/queue/$q\nreply-to:/nowhere/at/all\n\nquestion"),
}
