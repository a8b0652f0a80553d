package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ferrymq/ferry"
)

var ctx = context.Background()

// A sender and a receiver. Whichever of the brokers dies meanwhile, the message
// arrives.
func Example() {
	client, err := ferry.Dial(ctx, brokers(), ferry.WithTopology(ferry.Topology{
		Queues: []ferry.Queue{{Name: "hello"}},
	}))
	if err != nil {
		log.Fatal(err)
	}

	// nil: the broker has confirmed it.
	if err := client.Publish(ctx, ferry.Message{Key: "hello", Body: []byte("Hello, World!")}); err != nil {
		log.Fatal(err)
	}

	receiving, stop := context.WithCancel(ctx)
	err = client.Consume(receiving, ferry.ConsumerOptions{Queue: "hello"}, func(_ context.Context, d *ferry.Delivery) error {
		fmt.Printf("%s\n", d.Body)
		stop()
		return nil // it is acknowledged
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Close(ctx); err != nil { // something is not confirmed
		log.Fatal(err)
	}
	// Output: Hello, World!
}

// Brokers are tried in the order of the list. The options say what happens when
// none answers.
func ExampleDial() {
	// One after the other, or: "failover:(amqp://a,amqp://b)?randomize=true"
	list := "amqp://user:secret@a.invalid:5672/,amqp://user:secret@b.invalid:5672/"
	_, err := ferry.Dial(ctx, list,
		ferry.WithConnectTimeout(2*time.Second), // of each attempt
		ferry.WithNetDial(unreachable),
	)
	fmt.Println(errors.Is(err, ferry.ErrNoBroker))

	// This one goes on trying for as long as its context lasts.
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = ferry.Dial(ctx, list,
		ferry.WithInitialRetry(),
		ferry.WithBackoff(time.Millisecond, 10*time.Millisecond),
		ferry.WithNetDial(unreachable),
	)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// true
	// true
}

// When the broker in use dies, its clients go on with the next of the list. The
// topology is declared there, too.
func Example_failover() {
	a, b := startBroker(), startBroker()
	client, err := ferry.Dial(ctx, a.URL()+","+b.URL(), ferry.WithTopology(ferry.Topology{
		Queues: []ferry.Queue{{Name: "orders"}},
	}))
	if err != nil {
		log.Fatal(err)
	}
	a.Kill()
	if err := client.Publish(ctx, ferry.Message{Key: "orders", Body: []byte("one")}); err != nil {
		log.Fatal(err)
	}
	queue, err := client.Inspect(ctx, "orders")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(queue.Messages, "message is in the queue of the second broker")
	if err := client.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: 1 message is in the queue of the second broker
}

// Publish returns when the outcome is known.
func ExampleClient_Publish() {
	client, done := clientWith(ferry.Queue{Name: "orders.publish"})
	defer done()
	err := client.Publish(ctx, ferry.Message{
		Key:         "orders.publish",
		Body:        []byte(`{"order": 1}`),
		ContentType: "application/json",
		Headers:     map[string]any{"tenant": "a"},
		Expiration:  time.Hour,
	})
	fmt.Println(err)
	err = client.Publish(ctx, ferry.Message{Key: "no such queue"})
	fmt.Println(errors.Is(err, ferry.ErrUnroutable))
	// Output:
	// <nil>
	// true
}

// What the errors of a publish mean, and what can be done about each.
func Example_errors() {
	whatNow := func(err error) string {
		switch {
		case err == nil:
			return "the broker has it"
		case errors.Is(err, ferry.ErrBlocked):
			return "the broker is short of memory or disk, and the context has ended"
		case errors.Is(err, ferry.ErrUnknown):
			return "the broker may have it: sending it again may double it"
		case errors.Is(err, ferry.ErrUnroutable):
			return "no queue takes it: declare one, or set PublisherOptions.DropUnroutable"
		case errors.Is(err, ferry.ErrNacked):
			return "a queue is full, say: later, or somewhere else"
		case errors.Is(err, ferry.ErrRefused):
			return "the broker says why (*BrokerError); it will not take this message"
		case errors.Is(err, ferry.ErrOutboxFull):
			return "no broker for a long time"
		case errors.Is(err, ferry.ErrNotSent):
			return "it never left: sending it again makes no double"
		default:
			return "there is something wrong with the message"
		}
	}
	client, done := clientWith()
	defer done()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range []error{
		client.Publish(ctx, ferry.Message{Key: "no such queue"}),
		client.Publish(ctx, ferry.Message{Exchange: "no such exchange"}),
		client.Publish(ended, ferry.Message{Key: "orders"}),
		client.Publish(ctx, ferry.Message{Key: "orders", Headers: map[string]any{"x": uint(1)}}),
	} {
		fmt.Println(whatNow(err))
	}
	// Output:
	// no queue takes it: declare one, or set PublisherOptions.DropUnroutable
	// the broker says why (*BrokerError); it will not take this message
	// it never left: sending it again makes no double
	// there is something wrong with the message
}

// Submit does not wait for outcomes; they come to a callback. It does wait while
// Window messages are without one.
func ExamplePublisher_Submit() {
	client, done := clientWith(ferry.Queue{Name: "measurements"})
	defer done()
	publisher, err := client.Publisher(ferry.PublisherOptions{Key: "measurements", Window: 500})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 2000 {
		m := ferry.Message{Body: fmt.Appendf(nil, "%d", i)}
		err := publisher.Submit(ctx, m, func(r ferry.Result) {
			if r.Err != nil {
				log.Printf("%s is %v after %d attempts: %v", r.ID(), r.Outcome(), r.Attempts, r.Err)
			}
		})
		if err != nil {
			log.Fatal(err) // not sent; there is no callback
		}
	}
	if err := publisher.Flush(ctx); err != nil { // all have their outcome
		log.Fatal(err)
	}
	s := publisher.Stats()
	fmt.Println(s.Confirmed, "confirmed,", s.Refused, "refused,", s.InFlight, "in flight")
	// Output: 2000 confirmed, 0 refused, 0 in flight
}

// What a handler returns decides what becomes of the message.
func ExampleClient_Consume() {
	client, done := clientWith(ferry.Queue{Name: "mails"})
	defer done()
	for _, body := range []string{"first", "unreadable", "last"} {
		if err := client.Publish(ctx, ferry.Message{Key: "mails", Body: []byte(body)}); err != nil {
			log.Fatal(err)
		}
	}

	ctx, stop := context.WithCancel(ctx) // a program would use signal.NotifyContext
	options := ferry.ConsumerOptions{Queue: "mails", Prefetch: 10}
	err := client.Consume(ctx, options, func(ctx context.Context, d *ferry.Delivery) error {
		// ctx ends when the delivery's connection is lost: then it comes again.
		switch string(d.Body) {
		case "unreadable":
			return fmt.Errorf("no such address: %w", ferry.ErrReject) // dropped, or dead-lettered
		case "last":
			stop()
		}
		fmt.Printf("%s\n", d.Body)
		return nil // acknowledged; any other error requeues
	})
	fmt.Println(err)
	// Output:
	// first
	// last
	// <nil>
}

// Deliveries as they come, settled by hand.
func ExampleConsumer_All() {
	client, done := clientWith(ferry.Queue{Name: "jobs"})
	defer done()
	for _, body := range []string{"a", "b", "c"} {
		if err := client.Publish(ctx, ferry.Message{Key: "jobs", Body: []byte(body)}); err != nil {
			log.Fatal(err)
		}
	}
	consumer, err := client.Consumer(ctx, ferry.ConsumerOptions{Queue: "jobs"})
	if err != nil {
		log.Fatal(err)
	}
	for d, err := range consumer.All(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", d.Body)
		if err := d.Ack(); errors.Is(err, ferry.ErrStale) {
			log.Print("its connection was lost: it comes again")
		}
		if string(d.Body) == "c" {
			break
		}
	}
	if err := consumer.Close(ctx); err != nil { // what was not received goes back
		log.Fatal(err)
	}
	// Output:
	// a
	// b
	// c
}

// Two brokers do not know what the other has. A consumer that has handled a
// message recognises its copy, whichever broker it comes from.
func ExampleConsumerOptions_dedup() {
	a, b := startBroker(), startBroker()
	client, err := ferry.Dial(ctx, a.URL()+","+b.URL(), ferry.WithTopology(ferry.Topology{
		Queues: []ferry.Queue{{Name: "payments"}},
	}))
	if err != nil {
		log.Fatal(err)
	}
	consumer, err := client.Consumer(ctx, ferry.ConsumerOptions{Queue: "payments", Dedup: 10_000})
	if err != nil {
		log.Fatal(err)
	}
	publish := func(id, body string, attempt int) {
		// The client makes IDs itself, and marks what it sends again because it has
		// not seen the confirm; here that is done by hand.
		m := ferry.Message{ID: id, Attempt: attempt, Key: "payments", Body: []byte(body)}
		if err := client.Publish(ctx, m); err != nil {
			log.Fatal(err)
		}
	}
	receive := func() {
		d, err := consumer.Receive(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", d.Body)
		if err := d.Ack(); err != nil {
			log.Fatal(err)
		}
	}
	publish("q3hx7fznk2ty5m4a-1", "pay 100", 1)
	receive()
	a.Kill()
	publish("q3hx7fznk2ty5m4a-1", "pay 100", 2) // the second broker has never seen it
	publish("q3hx7fznk2ty5m4a-2", "pay 200", 1)
	receive()
	fmt.Println(consumer.Stats().Duplicates, "duplicate")
	if err := client.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// pay 100
	// pay 200
	// 1 duplicate
}

// What is declared once is declared again on each new connection.
func ExampleClient_Declare() {
	client, done := clientWith()
	defer done()
	err := client.Declare(ctx, ferry.Topology{
		Exchanges: []ferry.Exchange{{Name: "events", Kind: "topic"}},
		Queues:    []ferry.Queue{{Name: "audit"}, {Name: "welcome"}},
		Bindings: []ferry.Binding{
			{Exchange: "events", Key: "#", Queue: "audit"},
			{Exchange: "events", Key: "user.created", Queue: "welcome"},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, key := range []string{"user.created", "user.deleted"} {
		if err := client.Publish(ctx, ferry.Message{Exchange: "events", Key: key}); err != nil {
			log.Fatal(err)
		}
	}
	for _, name := range []string{"audit", "welcome"} {
		queue, err := client.Inspect(ctx, name)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(queue.Name, queue.Messages)
	}

	// What is there and is different is told at once.
	err = client.Declare(ctx, ferry.Topology{Exchanges: []ferry.Exchange{{Name: "events", Kind: "fanout"}}})
	fmt.Println(errors.Is(err, ferry.ErrPrecondition))
	// Output:
	// audit 2
	// welcome 1
	// true
}

// A request, and whoever answers it.
func ExampleClient_Request() {
	client, done := clientWith(ferry.Queue{Name: "double"})
	defer done()

	serving, stop := context.WithCancel(ctx)
	var server sync.WaitGroup
	server.Go(func() {
		err := client.Consume(serving, ferry.ConsumerOptions{Queue: "double"}, func(ctx context.Context, d *ferry.Delivery) error {
			return d.Reply(ctx, ferry.Message{Body: slices.Repeat(d.Body, 2)})
		})
		if err != nil {
			log.Print(err)
		}
	})

	reply, err := client.Request(ctx, ferry.Message{Key: "double", Body: []byte("bon")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", reply.Body)
	stop()
	server.Wait()

	_, err = client.Request(ctx, ferry.Message{Key: "nobody serves this"})
	fmt.Println(errors.Is(err, ferry.ErrUnroutable))
	// Output:
	// bonbon
	// true
}

// With an outbox a publish is done when the message is on disk, broker or not.
func ExampleWithOutbox() {
	dir, err := os.MkdirTemp("", "outbox")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	broker := startBroker()
	broker.Stop()
	connect := func() *ferry.Client {
		client, err := ferry.Dial(ctx, broker.URL(), ferry.WithOutbox(dir, 0), ferry.WithTopology(ferry.Topology{
			Queues: []ferry.Queue{{Name: "telemetry"}},
		}))
		if err != nil {
			log.Fatal(err)
		}
		return client
	}

	client := connect()
	if err := client.Publish(ctx, ferry.Message{Key: "telemetry", Body: []byte("21.5")}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("no broker:", client.Status().Outbox.Messages, "in the outbox")
	if err := client.Close(ctx); err != nil { // it stays there
		log.Fatal(err)
	}

	broker.Start()
	client = connect() // of a program that was started again
	publisher, err := client.Publisher(ferry.PublisherOptions{})
	if err != nil {
		log.Fatal(err)
	}
	if err := publisher.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("a broker:", client.Status().Outbox.Messages, "in the outbox")
	if err := client.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// no broker: 1 in the outbox
	// a broker: 0 in the outbox
}

// Whoever watches over a program wants to know.
func ExampleWithEvents() {
	events := make(chan ferry.Event, 16)
	broker := startBroker()
	client, err := ferry.Dial(ctx, broker.URL(), ferry.WithEvents(func(e ferry.Event) {
		events <- e // e.String() is a line for a log
	}))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println((<-events).Kind)
	broker.Drop() // all connections are cut
	fmt.Println((<-events).Kind)
	fmt.Println((<-events).Kind)
	if err := client.Close(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println((<-events).Kind)
	// Output:
	// connected
	// disconnected
	// connected
	// closed
}

// Credentials that change are asked for at each connect.
func ExampleWithCredentials() {
	client, err := ferry.Dial(ctx, brokers(), ferry.WithCredentials(
		func(_ context.Context, endpoint string) (user, password string, err error) {
			return "guest", "guest", nil // from a vault, say
		},
	))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Status().Publish.State)
	if err := client.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: up
}

// What could not be confirmed in time is given back.
func ExampleClient_Close() {
	broker := startBroker()
	client, err := ferry.Dial(ctx, broker.URL())
	if err != nil {
		log.Fatal(err)
	}
	publisher, err := client.Publisher(ferry.PublisherOptions{Key: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	broker.Kill()
	for _, body := range []string{"one", "two"} {
		if err := publisher.Submit(ctx, ferry.Message{Body: []byte(body)}, nil); err != nil {
			log.Fatal(err)
		}
	}

	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	err = client.Close(ctx)
	if left := (*ferry.UnconfirmedError)(nil); errors.As(err, &left) {
		for _, m := range left.Messages {
			fmt.Printf("%s is not confirmed\n", m.Body) // with m.ID it can be sent again later
		}
	}
	// Output:
	// one is not confirmed
	// two is not confirmed
}
