package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferrytest"
)

// brokers are the URLs of two brokers, as Dial takes them. They are there for as
// long as the process, because an example has no end that could be waited for.
var brokers = sync.OnceValue(func() string { return startBroker().URL() + "," + startBroker().URL() })

func startBroker() *ferrytest.Broker { return ferrytest.Start(process{}) }

// process stands where a test would: a failure ends it, and so does its end.
type process struct{ testing.TB }

func (process) Helper()                             {}
func (process) Cleanup(func())                      {}
func (process) Failed() bool                        { return false }
func (process) Output() io.Writer                   { return io.Discard }
func (process) Logf(string, ...any)                 {}
func (p process) Errorf(format string, args ...any) { p.Fatalf(format, args...) }
func (process) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// clientWith dials the brokers, and declares queues.
func clientWith(queues ...ferry.Queue) (client *ferry.Client, done func()) {
	client, err := ferry.Dial(ctx, brokers(), ferry.WithTopology(ferry.Topology{Queues: queues}))
	if err != nil {
		process{}.Fatalf("%v", err)
	}
	return client, func() {
		if err := client.Close(ctx); err != nil {
			process{}.Fatalf("%v", err)
		}
	}
}

func unreachable(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("no route to host")
}
