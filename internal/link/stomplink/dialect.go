package stomplink

import (
	"fmt"
	"strings"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// A dialect is what a broker makes of destinations and headers where the
// specification leaves that to it.
type dialect uint8

const (
	unknown dialect = iota
	rabbitmq
	ferry
	artemis
	activemq // Classic
)

var dialects = map[string]dialect{"rabbitmq": rabbitmq, "ferry": ferry, "artemis": artemis, "activemq": activemq}

// servers are the beginnings of the server header of CONNECTED.
var servers = []struct {
	prefix  string
	dialect dialect
}{
	{"RabbitMQ/", rabbitmq},
	{"Ferry/", ferry},
	{"ActiveMQ-Artemis/", artemis},
	{"ActiveMQ/", activemq},
}

func dialectOf(server string) dialect {
	for _, s := range servers {
		if strings.HasPrefix(server, s.prefix) {
			return s.dialect
		}
	}
	return unknown
}

// name is the broker's, for errors.
func (d dialect) name() string {
	return [...]string{unknown: "the broker", rabbitmq: "RabbitMQ", ferry: "Ferry", artemis: "Artemis", activemq: "ActiveMQ"}[d]
}

// hasExchanges tells whether the broker is one of AMQP 0-9-1 behind its STOMP.
func (d dialect) hasExchanges() bool { return d == rabbitmq || d == ferry }

// nacksRequeue tells whether NACK can give a message back. To Artemis a NACK is an
// ACK (its StompConnection: "this eventually means discard it"), to ActiveMQ a
// poisoned message.
func (d dialect) nacksRequeue() bool { return d.hasExchanges() }

const topicExchange = "amq.topic"

// A place is where messages go to, or come from: headers of SEND and SUBSCRIBE.
type place struct {
	destination string
	kind        string // ANYCAST or MULTICAST of Artemis, else ""
}

// Values of destination-type and subscription-type.
const (
	anycast   = "ANYCAST"
	multicast = "MULTICAST"
)

// place is that of an exchange and a key; the empty exchange is that of queues.
func (d dialect) place(exchange, key string) (place, error) {
	if key == "" && (exchange == "" || !d.hasExchanges()) {
		return place{}, notAllowed("STOMP has no destination without a name: an exchange and a key, or the name of a queue, are needed")
	}
	switch {
	case d.hasExchanges():
		return d.amqpPlace(exchange, key)
	case exchange != "" && exchange != topicExchange:
		return place{}, notAllowed(fmt.Sprintf("%s has no exchanges: messages go to a queue, by its name, or to a topic, by exchange %q and its name as the key", d.name(), topicExchange))
	case d == activemq && exchange == "":
		return place{destination: "/queue/" + key}, nil
	case d == activemq:
		return place{destination: "/topic/" + key}, nil
	case exchange == "":
		return place{key, anycast}, nil
	}
	return place{key, multicast}, nil
}

func (d dialect) amqpPlace(exchange, key string) (place, error) {
	to := stompwire.Destination{Kind: stompwire.ExchangeDestination, Name: exchange, Key: key, HasKey: key != ""}
	switch {
	case exchange == "":
		to = stompwire.Destination{Kind: stompwire.AMQQueue, Name: key}
	case exchange == topicExchange && key != "":
		to = stompwire.Destination{Kind: stompwire.Topic, Name: key}
	}
	return d.named(to)
}

// named is the place of a destination in RabbitMQ's spelling.
func (d dialect) named(to stompwire.Destination) (place, error) {
	if d == ferry {
		return place{destination: to.String()}, nil
	}
	// RabbitMQ escapes many an octet in what it sends, and unescapes %2F alone in
	// what it is sent: anything else is to be written as it is.
	for _, name := range []string{to.Name, to.Key} {
		if strings.Contains(strings.ToUpper(name), "%2F") {
			return place{}, notAllowed(fmt.Sprintf("RabbitMQ takes %%2F in a destination for a slash: %q cannot be named", name))
		}
	}
	const mark = "x"
	text := stompwire.Destination{Kind: to.Kind, Name: mark}.String()
	text = strings.TrimSuffix(text, mark) + escapeSlashes(to.Name)
	if to.HasKey {
		text += "/" + escapeSlashes(to.Key)
	}
	return place{destination: text}, nil
}

func escapeSlashes(name string) string { return strings.ReplaceAll(name, "/", "%2F") }

// source is where a message came from, by the destination of its MESSAGE.
func (d dialect) source(destination []byte, multi bool) (exchange, key string) {
	if d == artemis {
		if multi {
			return topicExchange, string(destination)
		}
		return "", string(destination)
	}
	to, err := stompwire.ParseDestination(destination)
	if err != nil {
		return "", string(destination)
	}
	exchange, key, ok := to.Route()
	if !ok {
		return "", to.Name
	}
	return exchange, key
}

// hasDuplicateIDs tells whether the broker drops a message with a _AMQ_DUPL_ID that
// it has had.
func (d dialect) hasDuplicateIDs() bool { return d == artemis || d == activemq }

func notAllowed(text string) *link.Error { return &link.Error{Kind: link.NotAllowed, Text: text} }
