package stompserver

import (
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
)

// What is sent to a destination is received from it and from others that mean the
// same, and says where it was sent.
func TestDestinations(t *testing.T) {
	for _, row := range []struct {
		name      string
		subscribe []string
		send      []string
		says      string // destination of the MESSAGE; "": nothing comes
	}{
		{"a queue", []string{"destination:/queue/a"}, []string{"destination:/queue/a"}, "/queue/a"},
		{"a queue of AMQP", []string{"destination:/amq/queue/there"}, []string{"destination:/queue/there"}, "/queue/there"},
		{"to a queue of AMQP", []string{"destination:/queue/there"}, []string{"destination:/amq/queue/there"}, "/queue/there"},
		{"a reply queue", []string{"destination:/reply-queue/there"}, []string{"destination:/reply-queue/there"}, "/queue/there"},
		{"an escaped name", []string{`destination:/queue/a%2Fb%25`}, []string{`destination:/queue/a%2Fb%25`}, "/queue/a%2Fb%25"},
		{"a name with a colon", []string{`destination:/queue/a\cb`}, []string{`destination:/queue/a\cb`}, "/queue/a:b"},
		{"a topic", []string{"destination:/topic/a.*"}, []string{"destination:/topic/a.b"}, "/topic/a.b"},
		{"another topic", []string{"destination:/topic/a.*"}, []string{"destination:/topic/b.b"}, ""},
		{"an exchange", []string{"destination:/exchange/amq.direct/k"}, []string{"destination:/exchange/amq.direct/k"}, "/exchange/amq.direct/k"},
		{"an exchange alone", []string{"destination:/exchange/amq.fanout"}, []string{"destination:/exchange/amq.fanout"}, "/exchange/amq.fanout"},
		{"the exchange of topics", []string{"destination:/exchange/amq.topic/a.#"}, []string{"destination:/topic/a.b.c"}, "/topic/a.b.c"},
		{"a plain name", []string{"destination:orders"}, []string{"destination:orders"}, "orders"},
		{"a plain name, typed", []string{"destination:orders", "subscription-type:ANYCAST"}, []string{"destination:orders", "destination-type:ANYCAST"}, "orders"},
		{"a path", []string{"destination:/test/message"}, []string{"destination:/test/message"}, "/test/message"},
		{"a plain name is a queue", []string{"destination:/queue/orders"}, []string{"destination:orders"}, "/queue/orders"},
		{"a plain topic", []string{"destination:news.*", "subscription-type:MULTICAST"}, []string{"destination:news.a", "destination-type:MULTICAST"}, "news.a"},
		{"a plain topic is a topic", []string{"destination:/topic/news.#"}, []string{"destination:news.a", "destination-type:MULTICAST"}, "/topic/news.a"},
		{"a plain topic is no queue", []string{"destination:news", "subscription-type:MULTICAST"}, []string{"destination:news"}, ""},
		{"a queue of an address", []string{"destination:news::mine"}, []string{"destination:/queue/mine"}, "news::mine"},
		{"a queue of a topic", []string{"destination:news::mine", "subscription-type:MULTICAST"}, []string{"destination:news", "destination-type:MULTICAST"}, "news::mine"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			if _, err := f.session().DeclareQueue(broker.QueueSpec{Name: "there", Durable: true}); err != nil {
				t.Fatal(err)
			}
			p, q := f.connect(), f.connect()
			p.call("SUBSCRIBE", append(row.subscribe, "id:1")...)
			q.call("SEND", append(row.send, "", "body")...)
			if row.says == "" {
				p.ping()
				return
			}
			if m := p.expectMessage("body"); m.get("destination") != row.says {
				t.Errorf("got %v, want %s", m, row.says)
			}
			p.call("UNSUBSCRIBE", "id:1")
			q.call("SEND", append(row.send, "", "body")...)
			p.ping()
		})
	}
}

// Headers that say how a queue is to be.
func TestQueuesAreDeclaredByHeaders(t *testing.T) {
	f := newFixture(t)
	s := f.session()
	const long = "\x00\x00\x00\x00\x00\x00\x00\x0a"
	for name, row := range map[string]struct {
		lines []string
		spec  broker.QueueSpec
	}{
		"plain":     {nil, broker.QueueSpec{Durable: true}},
		"transient": {[]string{"durable:false"}, broker.QueueSpec{}},
		"auto":      {[]string{"auto-delete:true"}, broker.QueueSpec{Durable: true, AutoDelete: true}},
		"arguments": {
			[]string{"x-max-length:10", "x-dead-letter-exchange:dlx", "x-single-active-consumer:true"},
			broker.QueueSpec{Durable: true, Args: []byte("\x16x-dead-letter-exchangeS\x00\x00\x00\x03dlx" +
				"\x0cx-max-lengthl" + long + "\x18x-single-active-consumert\x01")},
		},
	} {
		for _, command := range []string{"SEND", "SUBSCRIBE"} {
			p := f.connect()
			queue := name + " by " + command
			p.call(command, append([]string{"destination:/queue/" + queue, "id:1"}, row.lines...)...)
			row.spec.Name = queue
			if _, err := s.DeclareQueue(row.spec); err != nil {
				t.Errorf("%s: %v", queue, err)
			}
		}
	}
	// On a SEND persistent is of the message, on a SUBSCRIBE of the queue.
	p := f.connect()
	p.call("SEND", "destination:/queue/sent", "persistent:false")
	p.call("SUBSCRIBE", "destination:/queue/subscribed", "id:1", "persistent:false")
	for name, durable := range map[string]bool{"sent": true, "subscribed": false} {
		if _, err := s.DeclareQueue(broker.QueueSpec{Name: name, Durable: durable}); err != nil {
			t.Error(err)
		}
	}
}

func TestSubscriptionQueuesGo(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SUBSCRIBE", "destination:/topic/a", "id:1", "x-queue-name:mine")
	if f.ready("mine") != 0 {
		t.Error("there is no queue")
	}
	p.call("UNSUBSCRIBE", "id:1")
	if f.ready("mine") != -1 {
		t.Error("the queue stays")
	}
	q := f.connect()
	p.call("SUBSCRIBE", "destination:/topic/a", "id:1", "x-queue-name:mine")
	q.call("SUBSCRIBE", "destination:/topic/a", "id:1", "x-queue-name:mine") // it is shared
	q.call("DISCONNECT")
	p.call("DISCONNECT")
	if f.ready("mine") != -1 {
		t.Error("the queue stays")
	}
}

func TestDurableSubscriptions(t *testing.T) {
	rabbit := []string{"destination:/topic/a.b", "id:s1", "durable:true", "auto-delete:false"}
	artemis := []string{"destination:a.b", "subscription-type:MULTICAST", "id:s1", "durable-subscription-name:sub"}
	active := []string{"destination:/topic/a.b", "id:s1", "activemq.subscriptionName:sub"}
	for name, row := range map[string]struct {
		subscribe, delete []string
		queue             string
	}{
		"RabbitMQ": {rabbit, rabbit, "stomp-subscription-tZkUyKxczL6C9kpilXdR9w"}, // its own name for this one
		"Artemis":  {artemis, []string{"durable-subscriber-name:sub"}, "client.sub"},
		"ActiveMQ": {active, active, "client.sub"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := f.connect("client-id:client")
			p.call("SUBSCRIBE", append(row.subscribe, "ack:client")...)
			p.call("DISCONNECT")
			q := f.connect()
			q.call("SEND", "destination:/topic/a.b", "persistent:true", "", "kept")
			if n := f.ready(row.queue); n != 1 {
				t.Fatalf("%d messages wait", n)
			}
			p = f.connect("client-id:client")
			p.send("SUBSCRIBE", append(row.subscribe, "ack:client")...)
			m := p.expectMessage("kept")
			p.call("ACK", m.ack())
			p.call("UNSUBSCRIBE", "id:s1") // ends it, and keeps it
			q.call("SEND", "destination:/topic/a.b", "", "kept too")
			p.send("SUBSCRIBE", row.subscribe...)
			p.expectMessage("kept too")
			p.call("UNSUBSCRIBE", row.delete...)
			if n := f.ready(row.queue); n != -1 {
				t.Errorf("the queue is there, with %d messages", n)
			}
		})
	}
}

func TestTempQueues(t *testing.T) {
	f := newFixture(t)
	client, server := f.connect(), f.connect()
	server.call("SUBSCRIBE", "destination:/queue/requests", "id:1")
	for _, body := range []string{"first", "second"} {
		client.call("SEND", "destination:/queue/requests", "reply-to:/temp-queue/mine", "correlation-id:7", "", body)
		m := server.expectMessage(body)
		to := m.get("reply-to")
		if !strings.HasPrefix(to, "/reply-queue/amq.gen-") {
			t.Fatalf("got %v", m)
		}
		server.send("SEND", "destination:"+to, "correlation-id:"+m.get("correlation-id"), "", "reply to "+body)
		r := client.expectMessage("reply to " + body)
		if r.get("subscription") != "/temp-queue/mine" || r.get("correlation-id") != "7" || r.has("ack") {
			t.Errorf("got %v", r)
		}
	}
	// Nobody else may read it, and it goes with its connection.
	client.send("SEND", "destination:/queue/requests", "reply-to:/temp-queue/mine", "", "third")
	to := server.expectMessage("third").get("reply-to")
	server.send("SUBSCRIBE", "destination:"+to, "id:2")
	server.expectError("resource_locked")
	client.call("DISCONNECT")
	late := f.connect()
	late.call("SEND", "destination:"+to, "", "nobody is there")
}

func TestPriorityOfConsumers(t *testing.T) {
	for _, header := range []string{"x-priority", "activemq.priority"} {
		f := newFixture(t)
		low, high := f.connect(), f.connect()
		low.call("SUBSCRIBE", "destination:/queue/a", "id:1", "ack:client", header+":1")
		high.call("SUBSCRIBE", "destination:/queue/a", "id:1", "ack:client", header+":2")
		high.send("SEND", "destination:/queue/a", "", "x")
		high.expectMessage("x")
	}
}

func TestSubscriberIsToldThatItsQueueIsGone(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SUBSCRIBE", "destination:/queue/a", "id:1")
	if _, err := f.session().DeleteQueue("a", false, false); err != nil {
		t.Fatal(err)
	}
	e := p.expectError("Server cancelled subscription")
	if e.get("subscription") != "1" || e.body != "The server has canceled a subscription.\nNo more messages will be delivered for \"id='1'\".\n" {
		t.Errorf("got %v", e)
	}
}

// What is in a message's way to its consumer when that ends arrives before the
// receipt.
func TestUnsubscribeWhileMessagesCome(t *testing.T) {
	f := newFixture(t)
	p, q := f.connect(), f.connect()
	for range 20 {
		p.send("SUBSCRIBE", "destination:/queue/a", "id:1")
		for range 50 {
			q.send("SEND", "destination:/queue/a", "", "x")
		}
		p.send("UNSUBSCRIBE", "id:1", "receipt:r")
		for {
			m := p.receive()
			if m.command == "RECEIPT" {
				break
			}
			if m.command != "MESSAGE" || m.get("subscription") != "1" {
				t.Fatal(m)
			}
		}
	}
}

func TestSendToQueueThatIsGone(t *testing.T) {
	for _, destination := range []string{"/queue/a", "a"} {
		f := newFixture(t)
		p := f.connect()
		p.call("SEND", "destination:"+destination, "", "x")
		if _, err := f.session().DeleteQueue("a", false, false); err != nil {
			t.Fatal(err)
		}
		p.send("SEND", "destination:"+destination, "receipt:lost", "", "x")
		if e := p.expectError("no_route"); e.get("receipt-id") != "lost" {
			t.Errorf("got %v", e)
		}
		// It is made again by who comes again.
		q := f.connect()
		q.call("SEND", "destination:"+destination, "", "x")
		if n := f.ready("a"); n != 1 {
			t.Errorf("%d messages are there", n)
		}
	}
}

// Also who says goodbye with the message still on its way is told of its loss.
func TestLastMessageToQueueThatIsGone(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("SEND", "destination:/queue/a")
	if _, err := f.session().DeleteQueue("a", false, false); err != nil {
		t.Fatal(err)
	}
	p.write(text("SEND", "destination:/queue/a", "", "x") + text("DISCONNECT", "receipt:bye"))
	p.expectError("no_route")
}

// A client makes a queue and sends nothing by a SEND in a transaction that it
// aborts.
func TestQueueIsMadeBySendInTransaction(t *testing.T) {
	f := newFixture(t)
	p := f.connect()
	p.call("BEGIN", "transaction:t")
	p.send("SEND", "destination:/queue/a", "x-max-length:10", "transaction:t")
	p.call("ABORT", "transaction:t")
	if n := f.ready("a"); n != 0 {
		t.Errorf("%d messages are there, want an empty queue", n)
	}
	q := f.connect()
	q.send("SEND", "destination:/queue/a", "receipt:other")
	if e := q.expectError("precondition_failed"); e.get("receipt-id") != "other" {
		t.Errorf("got %v", e)
	}
}

func TestPlainNameIsTheQueueThatIsThere(t *testing.T) {
	f := newFixture(t)
	s := f.session()
	if _, err := s.DeclareQueue(broker.QueueSpec{Name: "a", Args: []byte("\x0cx-max-lengthI\x00\x00\x00\x0a")}); err != nil {
		t.Fatal(err)
	}
	p := f.connect()
	p.call("SUBSCRIBE", "destination:a", "id:1")
	p.send("SEND", "destination:a", "", "x")
	p.expectMessage("x")
	if _, err := s.DeclareQueue(broker.QueueSpec{Name: "mine", Exclusive: true}); err != nil {
		t.Fatal(err)
	}
	p.send("SEND", "destination:mine", "", "x")
	p.expectError("resource_locked")
}
