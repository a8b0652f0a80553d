package conformance

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Sending: destinations, receipts, properties, transactions.

// sending is a SEND to a destination that AMQP then looks for.
func sending(name, destination, queue string) scenario {
	return scenario{name, func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:" + destination + "\n\nhello")
		s.get(queue)
	}}
}

// bothWays sends to a destination and receives from it.
func bothWays(name, destination string) scenario {
	return scenario{name, func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:s\ndestination:" + destination)
		a.send("SEND\ndestination:" + destination + "\n\nhello")
		a.expect(1)
	}}
}

// refusedSend is a SEND whose destination is refused.
func refusedSend(name, destination string) scenario {
	return asking(name, "1.2", "SEND\ndestination:"+destination+"\n\nhello")
}

// withHeader is a SEND with a header, and what AMQP makes of it.
func withHeader(name, header string) scenario {
	return scenario{name, func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\n" + header + "\n\nhello")
		s.get("$q")
	}}
}

var stompSendScenarios = []scenario{
	// Destinations.

	sending("send_queue_declares_it", "/queue/$q", "$q"),
	{"send_queue_is_durable", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\n\nhello")
		s.declared("$q", true, false, false, nil)
	}},
	sending("send_name_without_slash_is_a_queue", "$q", "$q"),
	{"send_amq_queue", func(s *stage) {
		s.declare("$q", nil)
		a := s.connect("a")
		a.do("SEND\ndestination:/amq/queue/$q\n\nhello")
		s.get("$q")
	}},
	{"send_amq_queue_missing_is_dropped", func(s *stage) {
		a := s.connect("a")
		a.send("SEND\ndestination:/amq/queue/$q\nreceipt:r\npersistent:true\n\nhello")
		a.expect(1)
		s.gone("$q")
	}},
	{"send_topic_without_subscriber_is_dropped", func(s *stage) {
		a := s.connect("a")
		a.send("SEND\ndestination:/topic/$q\nreceipt:r\npersistent:true\n\nhello")
		a.expect(1)
	}},
	{"send_reply_queue_is_the_default_exchange", func(s *stage) {
		s.declare("$q", nil)
		a := s.connect("a")
		a.do("SEND\ndestination:/reply-queue/$q\n\nhello")
		s.get("$q")
	}},
	{"send_exchange_and_key", func(s *stage) {
		s.declare("$q", nil)
		bind(s, "amq.direct", "$q.key")
		a := s.connect("a")
		a.do("SEND\ndestination:/exchange/amq.direct/$q.key\n\nhello")
		s.get("$q")
	}},
	{"send_exchange_without_key", func(s *stage) {
		s.declare("$q", nil)
		bind(s, "amq.direct", "")
		a := s.connect("a")
		a.do("SEND\ndestination:/exchange/amq.direct\n\nhello")
		s.get("$q")
		if err := s.amqp().QueueUnbind(s.queue, "", "amq.direct", nil); err != nil {
			s.t.Fatal(err)
		}
	}},
	{"send_exchange_missing", func(s *stage) {
		a := s.connect("a")
		a.send("SEND\ndestination:/exchange/$q/key\n\nhello")
		a.expect(1)
		a.closed()
	}},
	refusedSend("send_destination_missing_type", "/nowhere/at/all"),
	refusedSend("send_queue_without_name", "/queue"),
	refusedSend("send_queue_with_empty_name", "/queue/"),
	refusedSend("send_queue_with_two_names", "/queue/a/b"),
	refusedSend("send_topic_without_name", "/topic"),
	refusedSend("send_topic_with_two_names", "/topic/a/b"),
	refusedSend("send_amq_queue_without_name", "/amq/queue"),
	refusedSend("send_amq_queue_with_two_names", "/amq/queue/a/b"),
	refusedSend("send_exchange_without_name", "/exchange"),
	refusedSend("send_exchange_with_empty_name", "/exchange/"),
	refusedSend("send_exchange_with_three_names", "/exchange/a/b/c"),
	refusedSend("send_temp_queue", "/temp-queue/a"),
	refusedSend("send_reply_queue_without_name", "/reply-queue"),
	refusedSend("send_destination_empty", ""),
	refusedSend("send_destination_slash", "/"),
	asking("send_without_destination", "1.2", "SEND\n\nhello"),
	asking("send_with_message_id", "1.2", "SEND\ndestination:/queue/$q\nmessage-id:1\n\nhello"),

	// Percent escapes.

	sending("send_escaped_slash", "/queue/$q%2Fslash", "$q/slash"),
	bothWays("both_escaped_slash", "/queue/$q%2Fslash"),
	sending("send_escaped_percent", "/queue/$q%25", "$q%"),
	bothWays("both_escaped_percent", "/queue/$q%25"),
	sending("send_escaped_utf_8", "/queue/$q.%C3%A9", "$q.é"),
	bothWays("both_escaped_utf_8", "/queue/$q.%C3%A9"),
	sending("send_plain_utf_8", "/queue/$q.é", "$q.é"),
	bothWays("both_plain_utf_8", "/queue/$q.é"),
	sending("send_percent_alone", "/queue/$q%", "$q%"),
	bothWays("both_topic_escaped_slash", "/topic/$q%2Fslash"),
	bothWays("both_exchange_escaped_slash", "/exchange/amq.direct/$q%2Fslash"),

	// Receipts.

	{"receipt_of_every_command", func(s *stage) {
		a := s.connect("a")
		for _, frame := range []string{
			"SEND\ndestination:/queue/$q\nreceipt:send\n\nhello",
			"SEND\ndestination:/queue/$q\npersistent:true\nreceipt:send persistent\n\nhello",
			"SEND\ndestination:/topic/$q.nobody\npersistent:true\nreceipt:send to nobody\n\nhello",
			"BEGIN\ntransaction:t\nreceipt:begin",
			"COMMIT\ntransaction:t\nreceipt:commit",
			"BEGIN\ntransaction:t\nreceipt:begin again",
			"ABORT\ntransaction:t\nreceipt:abort",
			"SUBSCRIBE\nid:0\ndestination:/topic/$q\nreceipt:subscribe",
			"UNSUBSCRIBE\nid:0\nreceipt:unsubscribe",
			"DISCONNECT\nreceipt:disconnect",
		} {
			a.send(frame)
			a.expect(1)
		}
		a.closed()
	}},
	{"receipt_of_ack_and_nack", func(s *stage) {
		fill(s, "$q", "one", "two")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		first, second := a.expect(1), a.expect(1)
		a.send("ACK\nid:" + first.get("ack") + "\nreceipt:ack")
		a.expect(1)
		a.send("NACK\nid:" + second.get("ack") + "\nrequeue:false\nreceipt:nack")
		a.expect(1)
	}},
	{"receipt_texts", func(s *stage) {
		a := s.connect("a")
		for _, id := range []string{"", "with spaces ", "c\\colon\\nline\\\\", "ünï"} {
			a.send("BEGIN\ntransaction:" + id + "\nreceipt:" + id)
			a.expect(1)
		}
	}},
	{"receipts_of_many_sends_in_order", func(s *stage) {
		a := s.connect("a")
		for _, id := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
			a.send("SEND\ndestination:/queue/$q\npersistent:true\nreceipt:" + id + "\n\nhello")
		}
		a.expect(8)
		s.count("$q", 8)
	}},

	// Properties and headers, to AMQP.

	{"send_properties_to_amqp", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\ncontent-type:text/plain\ncontent-encoding:utf-8\npersistent:true\n" +
			"priority:5\ncorrelation-id:c1\nreply-to:/queue/answers\nexpiration:60000\namqp-message-id:m1\n" +
			"timestamp:1700000000\ntype:order\nuser-id:guest\napp-id:app\n\nhello")
		s.get("$q")
	}},
	{"send_user_headers_to_amqp", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\nname:value\nnumber:7\nempty:\nx-other:y\n\nhello")
		s.get("$q")
	}},
	{"send_headers_of_the_frame_to_amqp", func(s *stage) {
		a := s.connect("a")
		a.send("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\ntransaction:t\ncontent-length:5\nreceipt:r\n\nhello")
		a.do("COMMIT\ntransaction:t")
		s.get("$q")
	}},
	withHeader("send_persistent_true", "persistent:true"),
	withHeader("send_persistent_capital", "persistent:True"),
	withHeader("send_persistent_false", "persistent:false"),
	asking("send_persistent_unknown", "1.2", "SEND\ndestination:/queue/$q\npersistent:yes\n\nhello"),
	withHeader("send_reply_to_name", "reply-to:answers"),
	withHeader("send_priority_in_spaces", "priority: 3 "),
	asking("send_priority_no_number", "1.2", "SEND\ndestination:/queue/$q\npriority:high\n\nhello"),
	asking("send_timestamp_no_number", "1.2", "SEND\ndestination:/queue/$q\ntimestamp:now\n\nhello"),
	{"send_user_id_of_another", func(s *stage) {
		a := s.connect("a")
		a.send("SEND\ndestination:/queue/$q\nuser-id:other\n\nhello")
		a.expect(1)
		a.closed()
	}},
	{"send_expiration_no_number", func(s *stage) {
		a := s.connect("a")
		a.send("SEND\ndestination:/queue/$q\nexpiration:soon\n\nhello")
		a.expect(1)
		a.closed()
	}},
	{"send_expiration", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\nexpiration:1\n\nhello")
		s.count("$q", 0)
	}},

	// Queue arguments.

	{"send_arguments_declare_the_queue", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\nx-dead-letter-exchange:amq.direct\nx-dead-letter-routing-key:key\nx-expires: 600000\n" +
			"x-message-ttl:60000\nx-max-length:10\nx-max-length-bytes:10000\nx-max-priority:5\n\nhello")
		s.declared("$q", true, false, false, amqp.Table{
			"x-dead-letter-exchange": "amq.direct", "x-dead-letter-routing-key": "key", "x-expires": int64(600000),
			"x-message-ttl": int64(60000), "x-max-length": int64(10), "x-max-length-bytes": int64(10000), "x-max-priority": int64(5),
		})
		s.declared("$q", true, false, false, nil)
	}},
	{"send_arguments_other_than_the_queue_has", func(s *stage) {
		s.declare("$q", nil)
		a := s.connect("a")
		a.send("SEND\ndestination:/queue/$q\nx-message-ttl:1000\n\nhello")
		a.expect(1)
		a.closed()
	}},
	{"send_arguments_once_declared_are_not_compared", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\n\nhello")
		a.do("SEND\ndestination:/queue/$q\nx-message-ttl:1000\n\nhello")
		s.count("$q", 2)
	}},
	asking("send_argument_no_number", "1.2", "SEND\ndestination:/queue/$q\nx-message-ttl:soon\n\nhello"),
	{"send_argument_refused", func(s *stage) {
		a := s.connect("a")
		a.send("SEND\ndestination:/queue/$q\nx-message-ttl:-5\n\nhello")
		a.expect(1)
		a.closed()
	}},
	{"send_queue_type_classic", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\nx-queue-type:classic\n\nhello")
		s.declared("$q", true, false, false, amqp.Table{"x-queue-type": "classic"})
	}},
	{"send_not_durable_auto_delete", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\ndurable:false\nauto-delete:true\nexclusive:false\n\nhello")
		s.declared("$q", false, true, false, nil)
	}},
	{"send_exclusive", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\nexclusive:true\n\nhello")
		s.declared("$q", true, false, false, nil)
	}},
	{"send_persistent_false_is_of_the_queue_too", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\npersistent:false\n\nhello")
		s.declared("$q", true, false, false, nil)
	}},
	{"send_overflow_argument", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\nx-max-length:1\nx-overflow:reject-publish\n\nhello")
		s.declared("$q", true, false, false, amqp.Table{"x-max-length": int64(1)})
	}},

	// Transactions.

	{"transaction_commit", func(s *stage) {
		a := s.connect("a")
		a.do("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\ntransaction:t\n\none")
		a.send("SEND\ndestination:/queue/$q\ntransaction:t\n\ntwo")
		a.do("BEGIN\ntransaction:other")
		s.count("$q", 0)
		a.do("COMMIT\ntransaction:t")
		s.count("$q", 2)
		s.get("$q")
		s.get("$q")
	}},
	{"transaction_abort", func(s *stage) {
		a := s.connect("a")
		a.do("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\ntransaction:t\n\none")
		a.do("ABORT\ntransaction:t")
		s.count("$q", 0)
	}},
	{"transaction_abort_declares_the_queue", func(s *stage) {
		a := s.connect("a")
		a.send("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\nx-max-length:3\ntransaction:t\n\none")
		a.do("ABORT\ntransaction:t")
		s.count("$q", 0)
		s.declared("$q", true, false, false, amqp.Table{"x-max-length": int64(3)})
	}},
	{"transaction_two_at_once", func(s *stage) {
		a := s.connect("a")
		a.send("BEGIN\ntransaction:1")
		a.send("BEGIN\ntransaction:2")
		a.send("SEND\ndestination:/queue/$q\ntransaction:1\n\none")
		a.send("SEND\ndestination:/queue/$q\ntransaction:2\n\ntwo")
		a.do("SEND\ndestination:/queue/$q\n\nthree")
		a.do("COMMIT\ntransaction:2")
		a.do("ABORT\ntransaction:1")
		s.count("$q", 2)
		s.get("$q")
		s.get("$q")
	}},
	{"transaction_receipts_at_commit", func(s *stage) {
		a := s.connect("a")
		a.do("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\ntransaction:t\nreceipt:sent\n\none")
		a.quiet()
		a.send("COMMIT\ntransaction:t")
		a.expect(1)
	}},
	{"transaction_receipts_at_abort", func(s *stage) {
		a := s.connect("a")
		a.do("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\ntransaction:t\nreceipt:sent\n\none")
		a.send("ABORT\ntransaction:t\nreceipt:aborted")
		a.expect(1)
		a.quiet()
	}},
	{"transaction_with_ack", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.send("BEGIN\ntransaction:t")
		a.send("ACK\nid:" + m.get("ack") + "\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q.2\ntransaction:t\n\nanswer")
		a.do("COMMIT\ntransaction:t")
		a.do("DISCONNECT")
		s.count("$q", 0)
		s.count("$q.2", 1)
	}},
	{"transaction_with_ack_aborted", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.send("BEGIN\ntransaction:t")
		a.send("ACK\nid:" + m.get("ack") + "\ntransaction:t")
		a.do("ABORT\ntransaction:t")
		a.do("DISCONNECT")
		s.count("$q", 1)
	}},
	{"transaction_with_nack", func(s *stage) {
		fill(s, "$q", "one")
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:0\ndestination:/queue/$q\nack:client-individual")
		m := a.expect(1)
		a.send("BEGIN\ntransaction:t")
		a.send("NACK\nid:" + m.get("ack") + "\ntransaction:t")
		a.quiet()
		a.send("COMMIT\ntransaction:t")
		a.expect(1)
	}},
	{"transaction_open_at_the_end", func(s *stage) {
		s.declare("$q", nil)
		a := s.connect("a")
		a.send("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\ntransaction:t\n\none")
		a.do("DISCONNECT")
		s.count("$q", 0)
	}},
	asking("transaction_unknown_send", "1.2", "SEND\ndestination:/queue/$q\ntransaction:none\n\nhello"),
	asking("transaction_unknown_commit", "1.2", "COMMIT\ntransaction:none"),
	asking("transaction_unknown_abort", "1.2", "ABORT\ntransaction:none"),
	asking("transaction_begin_without_header", "1.2", "BEGIN"),
	asking("transaction_commit_without_header", "1.2", "COMMIT"),
	asking("transaction_abort_without_header", "1.2", "ABORT"),
	{"transaction_commit_twice", func(s *stage) {
		a := s.connect("a")
		a.do("BEGIN\ntransaction:t")
		a.do("COMMIT\ntransaction:t")
		a.send("COMMIT\ntransaction:t")
		a.expect(1)
	}},
	{"transaction_begin_twice", func(s *stage) {
		a := s.connect("a")
		a.do("BEGIN\ntransaction:t")
		a.send("SEND\ndestination:/queue/$q\ntransaction:t\n\none")
		a.send("BEGIN\ntransaction:t\nreceipt:r")
		a.expect(1)
	}},

	// The end.

	{"disconnect_without_receipt", func(s *stage) {
		a := s.connect("a")
		a.send("DISCONNECT")
		a.closed()
	}},
	{"disconnect_is_the_last_frame", func(s *stage) {
		a := s.connect("a")
		a.write("SEND\ndestination:/queue/$q\n\none\x00DISCONNECT\nreceipt:r\n\n\x00SEND\ndestination:/queue/$q\n\ntwo\x00")
		a.expect(1)
		a.closed()
		s.count("$q", 1)
	}},
	{"connection_cut_after_sends", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:/queue/$q\n\none")
		_ = a.conn.Close()
		s.count("$q", 1)
	}},
}

// fill puts messages into a queue by AMQP, which declares it.
func fill(s *stage, queue string, bodies ...string) {
	s.t.Helper()
	s.declare(queue, nil)
	for _, b := range bodies {
		s.publish("", queue, amqp.Publishing{Body: []byte(b)})
	}
}

func bind(s *stage, exchange, key string) {
	s.t.Helper()
	if err := s.amqp().QueueBind(s.queue, s.expand(key), exchange, false, nil); err != nil {
		s.t.Fatal(err)
	}
}

// stamp is the time that properties have here.
var stamp = time.Unix(1700000000, 0)
