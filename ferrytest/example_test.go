package ferrytest_test

import (
	"context"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/ferrymq/ferry/ferrytest"
)

// t is that of the test that an example stands in.
var t *testing.T

// connect stands for the client that is tested.
func connect(rawURL string) net.Conn {
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A broker in a test, one line. It is gone when the test has ended.
func ExampleStart() {
	b := ferrytest.Start(t)
	c := connect(b.URL())
	defer c.Close()
}

// The same broker for clients of STOMP, on the same queues.
func ExampleBroker_STOMPURL() {
	b := ferrytest.Start(t)
	c := connect(b.STOMPURL())
	defer c.Close()
}

// What was confirmed survives a kill -9.
func ExampleBroker_Kill() {
	b := ferrytest.Start(t, ferrytest.Dir(t.TempDir()))
	// ... publish, and wait for the confirms ...
	b.Kill()
	b.Start()
	// ... consume: everything that was confirmed is there.
}

// A client that was cut off connects again, without a sleep in the test.
func ExampleProxy_Drop() {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b := ferrytest.Start(t)
	// ... a client connects ...
	if err := b.WaitAccepted(ctx, 1); err != nil {
		t.Fatal(err)
	}
	b.Drop()
	// ... and comes back by itself.
	if err := b.WaitAccepted(ctx, 2); err != nil {
		t.Fatal(err)
	}
}

// A publisher meets a broker that refuses two of its messages, and then one that
// dies in the middle of a third.
func ExampleProxy_Nack() {
	b := ferrytest.Start(t)
	b.Nack(2)
	// ... the next two publishes get a basic.nack and are stored nowhere ...
	b.CutAfter(100)
	// ... 100 bytes later the connection is reset ...
	b.Heal()
	// ... and all is well again.
}

// The same faults in front of any other broker.
func ExampleNewProxy() {
	p := ferrytest.NewProxy(t, "rabbitmq.test:5672")
	c := connect("amqp://guest:guest@" + p.Addr() + "/")
	defer c.Close()
	p.Pause() // the broker is there, and never answers
}
