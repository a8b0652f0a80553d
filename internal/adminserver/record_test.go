package adminserver

import (
	"encoding/json"
	"flag"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
)

// What RabbitMQ answers is recorded with
//
//	go test -run Record ./internal/adminserver -rabbitmq-api URL -rabbitmq URL
//
// the URLs being those that scripts/rabbitmq start --management prints.
var (
	recordAPI  = flag.String("rabbitmq-api", "", "the management API of a RabbitMQ to record the answers of")
	recordAMQP = flag.String("rabbitmq", "", "that RabbitMQ's AMQP URL")
)

func TestRecord(t *testing.T) {
	if *recordAPI == "" {
		t.Skip("there is no RabbitMQ to record")
	}
	base, err := url.Parse(*recordAPI)
	if err != nil {
		t.Fatal(err)
	}
	amqp, err := url.Parse(*recordAMQP)
	if err != nil {
		t.Fatal(err)
	}
	base.Path = ""
	w := &world{t: t, base: base.String(), user: "guest", password: "guest"}
	open := map[string]*ferry.Client{}
	w.connect = func(user, vhost string) {
		if open[user+"@"+vhost] != nil {
			return // it may be closed: see missing
		}
		u := *amqp
		u.User, u.Path = url.UserPassword(user, secret), "/"+vhost
		c, err := ferry.Dial(t.Context(), u.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"}); err != nil {
			t.Fatal(err)
		}
		open[user+"@"+vhost] = c
	}
	tries := 0
	w.missing = func(_, user, vhost string) bool {
		if tries++; tries%20 == 0 {
			if c := open[user+"@"+vhost]; c != nil {
				delete(open, user+"@"+vhost)
				_ = c.Close(t.Context())
			}
			w.connect(user, vhost)
		}
		// RabbitMQ lists what happened some time later.
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
		}
		return tries < 10000
	}
	var nodes []struct{ Name string }
	if err := json.Unmarshal(w.do("GET", "/api/nodes?columns=name", ""), &nodes); err != nil {
		t.Fatal(err)
	}
	w.node = nodes[0].Name
	write := func(file string, v any) {
		text, err := json.MarshalIndent(v, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.furnish()
	w.work()
	select {
	case <-time.After(12 * time.Second): // it gathers what it counts every five
	case <-t.Context().Done():
	}
	write(shapesFile, w.shapes())
	write(authorisationFile, w.walk(requests))
}
