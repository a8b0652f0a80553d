package stompwire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

type destination = stompwire.Destination

// What RabbitMQ 3.10.8 makes of these was seen there; the rows of Plain names it
// refuses.
func TestDestinationsMeanWhatRabbitMQMeans(t *testing.T) {
	for _, test := range []struct {
		text string
		want destination
	}{
		{"/queue/a", destination{Kind: stompwire.QueueDestination, Name: "a"}},
		{"/queue/a%2Fb", destination{Kind: stompwire.QueueDestination, Name: "a/b"}},
		{"/queue/%2F", destination{Kind: stompwire.QueueDestination, Name: "/"}},
		{"/queue/a%2fb", destination{Kind: stompwire.QueueDestination, Name: "a%2fb"}},
		{"/queue/a%zz", destination{Kind: stompwire.QueueDestination, Name: "a%zz"}},
		{"/queue/50%", destination{Kind: stompwire.QueueDestination, Name: "50%"}},
		{"/queue/a%20b", destination{Kind: stompwire.QueueDestination, Name: "a%20b"}},
		{"/queue/a%7Fb", destination{Kind: stompwire.QueueDestination, Name: "a%7Fb"}},
		{"/queue/caf\xc3\xa9", destination{Kind: stompwire.QueueDestination, Name: "café"}},
		{"/topic/a.*.#", destination{Kind: stompwire.Topic, Name: "a.*.#"}},
		{"/exchange/n", destination{Kind: stompwire.ExchangeDestination, Name: "n"}},
		{"/exchange/n/", destination{Kind: stompwire.ExchangeDestination, Name: "n", HasKey: true}},
		{"/exchange/n/k", destination{Kind: stompwire.ExchangeDestination, Name: "n", Key: "k", HasKey: true}},
		{"/exchange/n%2Fm/k%2Fl", destination{Kind: stompwire.ExchangeDestination, Name: "n/m", Key: "k/l", HasKey: true}},
		{"/amq/queue/q", destination{Kind: stompwire.AMQQueue, Name: "q"}},
		{"/temp-queue/x", destination{Kind: stompwire.TempQueue, Name: "x"}},
		{"/reply-queue/x", destination{Kind: stompwire.ReplyQueue, Name: "x"}},
		{"/reply-queue/x/y%2Fz", destination{Kind: stompwire.ReplyQueue, Name: "x/y/z"}},
		{"/reply-queue//x", destination{Kind: stompwire.ReplyQueue, Name: "/x"}},
		{"plain", destination{Name: "plain"}},

		// RabbitMQ writes these and does not read them again.
		{"/queue/a%25b", destination{Kind: stompwire.QueueDestination, Name: "a%b"}},
		{"/queue/caf%C3%A9", destination{Kind: stompwire.QueueDestination, Name: "café"}},
		{"/queue/%0A%1F", destination{Kind: stompwire.QueueDestination, Name: "\n\x1f"}},

		{"/test/message", destination{Name: "/test/message"}},
		{"/amq/x", destination{Name: "/amq/x"}},
		{"/queues/x", destination{Name: "/queues/x"}},
		{"/Queue/x", destination{Name: "/Queue/x"}},
		{"/", destination{Name: "/"}},
		{"queue/a", destination{Name: "queue/a"}},
		{"queue://a", destination{Name: "queue://a"}},
		{"a::q", destination{Name: "a::q"}},
		{"a%2Fb", destination{Name: "a%2Fb"}},
	} {
		got, err := stompwire.ParseDestination(test.text)
		if err != nil || got != test.want {
			t.Errorf("%q: got %+v, %v; want %+v", test.text, got, err, test.want)
		}
	}
}

// The texts are RabbitMQ 3.10.8's, but for that of /reply-queue, which it calls
// unknown, and those on lengths, on which the plugin's channel dies or the name is
// cut.
func TestDestinationsThatAreNone(t *testing.T) {
	long := strings.Repeat("n", 256)
	tooLong := "a name of 256 bytes: at most 255 are allowed: \"" + long[:32] + "\"..."
	for text, want := range map[string]string{
		"":                     "Destination cannot be blank",
		"/queue":               "'' is not a valid queue destination",
		"/queue/":              "'/' is not a valid queue destination",
		"/queue//":             "'//' is not a valid queue destination",
		"/queue/a/b":           "'/a/b' is not a valid queue destination",
		"/topic":               "'' is not a valid topic destination",
		"/topic/a/b":           "'/a/b' is not a valid topic destination",
		"/exchange":            "'' is not a valid exchange destination",
		"/exchange/":           "'/' is not a valid exchange destination",
		"/exchange//k":         "'//k' is not a valid exchange destination",
		"/exchange/n/k/l":      "'/n/k/l' is not a valid exchange destination",
		"/exchange/n/k/":       "'/n/k/' is not a valid exchange destination",
		"/amq/queue":           "'' is not a valid amqqueue destination",
		"/amq/queue/":          "'/' is not a valid amqqueue destination",
		"/amq/queue/q/r":       "'/q/r' is not a valid amqqueue destination",
		"/temp-queue":          "'' is not a valid temp_queue destination",
		"/temp-queue/x/y":      "'/x/y' is not a valid temp_queue destination",
		"/reply-queue":         "'' is not a valid reply_queue destination",
		"/reply-queue/":        "'/' is not a valid reply_queue destination",
		"/queue/" + long:       tooLong,
		"/exchange/n/" + long:  tooLong,
		"/exchange/" + long:    tooLong,
		long:                   tooLong,
		"/reply-queue/" + long: tooLong,
	} {
		_, err := stompwire.ParseDestination([]byte(text))
		var e *stompwire.Error
		if !errors.As(err, &e) || e.Text != want {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	name := strings.Repeat("%2F", 255)
	if d, err := stompwire.ParseDestination("/queue/" + name); err != nil || len(d.Name) != 255 {
		t.Errorf("a name of 255 bytes with escapes: %v", err)
	}
}

func TestDestinationRoutes(t *testing.T) {
	for _, test := range []struct {
		text, exchange, key string
		ok                  bool
	}{
		{"/queue/a%2Fb", "", "a/b", true},
		{"/amq/queue/q", "", "q", true},
		{"/reply-queue/amq.gen-x", "", "amq.gen-x", true},
		{"/topic/a.b", "amq.topic", "a.b", true},
		{"/exchange/x", "x", "", true},
		{"/exchange/x/k", "x", "k", true},
		{"/temp-queue/x", "", "", false},
		{"/test/message", "", "/test/message", true},
		{"address::queue", "", "queue", true},
		{"a::q::r", "", "q::r", true},
		{"a::", "", "a::", true},
		{"::q", "", "::q", true},
		{"/queue/a::q", "", "a::q", true},
	} {
		d, err := stompwire.ParseDestination(test.text)
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		exchange, key, ok := d.Route()
		if exchange != test.exchange || key != test.key || ok != test.ok {
			t.Errorf("%q: got %q %q %t", test.text, exchange, key, ok)
		}
	}
	d, _ := stompwire.ParseDestination("orders::audit")
	if address, queue, ok := d.Qualified(); address != "orders" || queue != "audit" || !ok {
		t.Errorf("got %q %q %t", address, queue, ok)
	}
}

// Seen at RabbitMQ 3.10.8: 127 is not escaped, the digits are in upper case.
func TestRoutesAreEscapedAsRabbitMQDoes(t *testing.T) {
	for _, test := range []struct{ exchange, key, want string }{
		{"", "q", "/queue/q"},
		{"", "a/b%c\x7f \x1f\xc3\xa9", "/queue/a%2Fb%25c\x7f %1F%C3%A9"},
		{"amq.topic", "a.b", "/topic/a.b"},
		{"amq.topic", "", "/topic/"},
		{"x/y", "", "/exchange/x%2Fy"},
		{"x", "k/l", "/exchange/x/k%2Fl"},
	} {
		if got := string(stompwire.AppendRoute(nil, test.exchange, test.key)); got != test.want {
			t.Errorf("%q %q: got %q, want %q", test.exchange, test.key, got, test.want)
		}
	}
}

func TestAppendRouteDoesNotAllocate(t *testing.T) {
	dst := make([]byte, 0, 256)
	exchange, key := []byte("orders"), []byte("eu/paris")
	if n := testing.AllocsPerRun(100, func() { dst = stompwire.AppendRoute(dst[:0], exchange, key) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
