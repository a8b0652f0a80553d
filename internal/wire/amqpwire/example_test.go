package amqpwire_test

import (
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A message is a method frame, a content header frame and body frames.
func Example_message() {
	properties, err := amqpwire.AppendProperties(nil, &amqpwire.Properties{
		ContentType:  "text/plain",
		DeliveryMode: amqpwire.Persistent,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	body := []byte("hello")
	wire, err := amqpwire.AppendPublish(nil, 1, "amq.topic", "greeting", false)
	if err != nil {
		fmt.Println(err)
		return
	}
	wire = amqpwire.AppendContentHeader(wire, 1, uint64(len(body)), properties)
	wire = amqpwire.AppendBody(wire, 1, body, amqpwire.DefaultFrameMax)

	for len(wire) > 0 {
		f, n, err := amqpwire.ParseFrame(wire, amqpwire.DefaultFrameMax)
		if err != nil {
			fmt.Println(err)
			return
		}
		if n == 0 {
			return // read more
		}
		switch f.Type {
		case amqpwire.FrameMethod:
			p, err := amqpwire.ParsePublish(f.Payload)
			fmt.Printf("publish %s %s %v\n", p.Exchange, p.RoutingKey, err)
		case amqpwire.FrameHeader:
			h, err := amqpwire.ParseContentHeader(f.Payload)
			fmt.Printf("header %d bytes %v\n", h.BodySize, err)
		case amqpwire.FrameBody:
			fmt.Printf("body %s\n", f.Payload)
		}
		wire = wire[n:]
	}
	// Output:
	// publish amq.topic greeting <nil>
	// header 5 bytes <nil>
	// body hello
}

// An error carries what the peer is to be told.
func ExampleError() {
	_, err := amqpwire.ParseMethod([]byte{0, 50, 0, 10, 0, 0, 32, 'a', 'b', 'c'})
	if e, ok := errors.AsType[*amqpwire.Error](err); ok {
		fmt.Println(e.Code, e, e.Class, e.Method, amqpwire.IsHard(e.Code))
	}
	// Output:
	// 501 FRAME_ERROR - short string runs past the end of what holds it 50 10 true
}

func ExampleAppendMethod() {
	frame, err := amqpwire.AppendMethod(nil, 1, &amqpwire.QueueDeclare{
		Queue:     "work",
		Durable:   true,
		Arguments: amqpwire.Table{"x-max-length": int32(1000)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	f, _, _ := amqpwire.ParseFrame(frame, amqpwire.DefaultFrameMax)
	m, err := amqpwire.ParseMethod(f.Payload)
	if declare, ok := m.(*amqpwire.QueueDeclare); ok {
		fmt.Println(declare.Queue, declare.Durable, declare.Arguments["x-max-length"], err)
	}
	// Output:
	// work true 1000 <nil>
}
