package amqpserver

import (
	"fmt"
	"testing"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// full declares a queue that refuses messages beyond so many.
func (p *testPeer) full(queue string, most int) {
	p.t.Helper()
	p.declare(&amqpwire.QueueDeclare{Queue: queue, Arguments: amqpwire.Table{
		"x-max-length": int32(most), "x-overflow": "reject-publish",
	}})
}

func TestARefusedPublishIsNacked(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.full("q", 2)
	p.call(1, &amqpwire.ConfirmSelect{}, &amqpwire.ConfirmSelectOk{})
	for i := range 5 {
		p.write(contentFrames(1, &amqpwire.BasicPublish{RoutingKey: "q", Mandatory: true}, amqpwire.Properties{}, fmt.Sprint(i)))
	}
	nacked := map[uint64]bool{}
	for told := uint64(0); told < 5; {
		var tag uint64
		nack, multiple := false, false
		switch _, m := p.receive(); m := m.(type) {
		case *amqpwire.BasicAck:
			tag, multiple = m.DeliveryTag, m.Multiple
		case *amqpwire.BasicNack:
			tag, multiple, nack = m.DeliveryTag, m.Multiple, true
		default:
			t.Fatalf("got %+v", m)
		}
		if from := told + 1; !multiple && tag != from {
			t.Fatalf("%d is told, and nothing of %d", tag, from)
		}
		for ; told < tag; told++ {
			nacked[told+1] = nack
		}
	}
	if want := map[uint64]bool{1: false, 2: false, 3: true, 4: true, 5: true}; fmt.Sprint(nacked) != fmt.Sprint(want) {
		t.Errorf("refused are %v, want %v", nacked, want)
	}
}

func TestACommitThatIsRefusedInPart(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.full("q", 1)
	p.call(1, &amqpwire.TxSelect{}, &amqpwire.TxSelectOk{})
	p.publish("", "q", "0")
	p.publish("", "q", "1")
	p.send(1, &amqpwire.TxCommit{})
	if got, want := p.expectChannelClose(1), (closed{406, "PRECONDITION_FAILED - partial tx completion", 90, 20}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestASingleActiveConsumersErrors(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	p.declare(&amqpwire.QueueDeclare{Queue: "q", Durable: true, Arguments: amqpwire.Table{
		"x-single-active-consumer": true, "x-queue-type": "quorum",
	}})
	p.send(1, &amqpwire.BasicConsume{Queue: "q", Exclusive: true})
	if got, want := p.expectChannelClose(1), (closed{403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", 60, 20}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	p = f.open()
	p.send(1, &amqpwire.BasicGet{Queue: "q"})
	text := "RESOURCE_LOCKED - cannot obtain access to locked queue 'q' in vhost '/'. basic.get operations are not supported by quorum queues with single active consumer"
	if got, want := p.expectChannelClose(1), (closed{405, text, 60, 70}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// slow makes a consumer that has a message for too long.
func (p *testPeer) slow() *amqpwire.BasicDeliver {
	p.t.Helper()
	p.declare(&amqpwire.QueueDeclare{Queue: "q"})
	p.publish("", "q", "m")
	p.call(1, &amqpwire.BasicConsume{Queue: "q", ConsumerTag: "slow", Arguments: amqpwire.Table{"x-consumer-timeout": int32(50)}}, &amqpwire.BasicConsumeOk{ConsumerTag: "slow"})
	m := expect[*amqpwire.BasicDeliver](p, 1)
	p.body(1)
	return m
}

func TestASlowConsumerIsCancelled(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	m := p.slow()
	if c := expect[*amqpwire.BasicCancel](p, 1); c.ConsumerTag != "slow" || !c.NoWait {
		t.Errorf("got %+v", c)
	}
	p.send(1, &amqpwire.BasicAck{DeliveryTag: m.DeliveryTag}, &amqpwire.BasicCancel{ConsumerTag: "slow"})
	p.expect(1, &amqpwire.BasicCancelOk{ConsumerTag: "slow"})
	p.send(1, &amqpwire.BasicGet{Queue: "q"})
	if got := expect[*amqpwire.BasicGetOk](p, 1); !got.Redelivered {
		t.Errorf("got %+v", got)
	}
}

// TestASlowConsumersChannelIsClosed where its client knows no cancel of the server's.
func TestASlowConsumersChannelIsClosed(t *testing.T) {
	for name, late := range map[string]func(p *testPeer, tag uint64){
		"quiet": func(*testPeer, uint64) {},
		"acknowledges": func(p *testPeer, tag uint64) {
			p.send(1, &amqpwire.BasicAck{DeliveryTag: tag}, &amqpwire.BasicAck{DeliveryTag: tag})
		},
		"asks":        func(p *testPeer, tag uint64) { p.send(1, &amqpwire.BasicQos{}, &amqpwire.QueueDelete{Queue: "q"}) },
		"publishes":   func(p *testPeer, tag uint64) { p.publish("nowhere", "", "m") },
		"closes, too": func(p *testPeer, tag uint64) { p.call(1, &amqpwire.ChannelClose{}, &amqpwire.ChannelCloseOk{}) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := f.dial()
			p.start()
			ok := startOk("guest", "guest")
			ok.ClientProperties = nil
			p.send(0, ok)
			p.expect(0, &amqpwire.ConnectionTune{})
			p.send(0, &amqpwire.ConnectionTuneOk{ChannelMax: 10, FrameMax: DefaultFrameMax})
			p.send(0, &amqpwire.ConnectionOpen{VirtualHost: "/"})
			p.expect(0, &amqpwire.ConnectionOpenOk{})
			p.call(1, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
			m := p.slow()
			text := "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 50 ms. This timeout value can be configured, see consumers doc guide to learn more"
			if got, want := p.expectChannelClose(1), (closed{406, text, 0, 0}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			late(p, m.DeliveryTag)
			p.send(1, &amqpwire.ChannelCloseOk{})
			p.call(1, &amqpwire.ChannelOpen{}, &amqpwire.ChannelOpenOk{})
			p.send(1, &amqpwire.BasicGet{Queue: "q"})
			if got := expect[*amqpwire.BasicGetOk](p, 1); !got.Redelivered || got.DeliveryTag != 1 {
				t.Errorf("got %+v", got)
			}
		})
	}
}
