package load

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"github.com/ferrymq/ferry/bench/internal/amqp"
)

// fakeBroker routes by queue name, and from any exchange to every queue. It
// confirms, counts what is acknowledged, and is as simple as can be.
type fakeBroker struct {
	addr   string
	refuse bool // nack every publish

	mu     sync.Mutex
	queues map[string]*fakeQueue
	acked  int
}

type fakeQueue struct {
	held     [][]byte // header and body frames
	consumer *fakeConn
}

type fakeConn struct {
	net.Conn
	delivered, acked uint64
	confirm          bool
	publishes        uint64
}

func newFakeBroker(t *testing.T) *fakeBroker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBroker{addr: l.Addr().String(), queues: map[string]*fakeQueue{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				b.serve(t, &fakeConn{Conn: c})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return b
}

func reply(m amqp.Method, channel byte, args ...byte) []byte {
	p := []byte{amqp.FrameMethod, 0, channel, 0, 0, 0, byte(4 + len(args))}
	p = binary.BigEndian.AppendUint32(p, uint32(m))
	return append(append(p, args...), 0xCE)
}

// short is the short string at the start of p, and what follows it.
func short(p []byte) (string, []byte) { return string(p[1 : 1+p[0]]), p[1+p[0]:] }

func (b *fakeBroker) serve(t *testing.T, c *fakeConn) {
	if _, err := c.Read(make([]byte, 8)); err != nil {
		return
	}
	if _, err := c.Write(reply(amqp.ConnectionStart, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 'P', 'L', 'A', 'I', 'N', 0, 0, 0, 0)); err != nil {
		return
	}
	var kept []byte
	buf := make([]byte, 32<<10)
	var to []*fakeQueue
	var message []byte
	var left uint64
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		kept = append(kept, buf[:n]...)
		b.mu.Lock()
		for {
			f, n, err := amqp.Parse(kept)
			if err != nil {
				t.Error(err)
			}
			if n == 0 {
				break
			}
			raw := kept[:n]
			kept = kept[n:]
			var args []byte
			if f.Type == amqp.FrameMethod {
				args = f.Payload[4:]
			}
			switch f.Method() {
			case amqp.ConnectionStartOK:
				c.send(reply(amqp.ConnectionTune, 0, 0, 0, 0, 0, 16, 0, 0, 0)) // frames of 4096
			case amqp.ConnectionOpen:
				c.send(reply(amqp.ConnectionOpenOK, 0, 0))
			case amqp.ChannelOpen:
				c.send(reply(amqp.ChannelOpenOK, 1, 0, 0, 0, 0))
			case amqp.QueueDeclare:
				name, _ := short(args[2:])
				if b.queues[name] == nil {
					b.queues[name] = &fakeQueue{}
				}
				c.send(reply(amqp.QueueDeclareOK, 1, 1, 'q', 0, 0, 0, byte(len(b.queues[name].held)), 0, 0, 0, 0))
			case amqp.QueueDelete:
				name, _ := short(args[2:])
				delete(b.queues, name)
				c.send(reply(amqp.QueueDeleteOK, 1, 0, 0, 0, 0))
			case amqp.QueueBind:
				c.send(reply(amqp.QueueBindOK, 1))
			case amqp.ExchangeDeclare:
				c.send(reply(amqp.ExchangeDeclareOK, 1))
			case amqp.ExchangeDelete:
				c.send(reply(amqp.ExchangeDeleteOK, 1))
			case amqp.BasicQos:
				c.send(reply(amqp.BasicQosOK, 1))
			case amqp.ConfirmSelect:
				c.confirm = true
				c.send(reply(amqp.ConfirmSelectOK, 1))
			case amqp.BasicConsume:
				name, _ := short(args[2:])
				c.send(reply(amqp.BasicConsumeOK, 1, 1, 'c'))
				q := b.queues[name]
				q.consumer = c
				for _, m := range q.held {
					c.deliver(m)
				}
				q.held = nil
			case amqp.ConnectionClose:
				c.send(reply(amqp.ConnectionCloseOK, 0))
			case amqp.BasicAck:
				tag := binary.BigEndian.Uint64(args)
				b.acked += int(tag - c.acked)
				c.acked = tag
			case amqp.BasicPublish:
				exchange, rest := short(args[2:])
				key, _ := short(rest)
				to = nil
				if exchange == "" {
					if q := b.queues[key]; q != nil {
						to = append(to, q)
					}
				} else {
					for _, q := range b.queues {
						to = append(to, q)
					}
				}
				c.publishes++
			}
			switch f.Type {
			case amqp.FrameHeader:
				left, message = binary.BigEndian.Uint64(f.Payload[4:]), append([]byte(nil), raw...)
			case amqp.FrameBody:
				left -= uint64(len(f.Payload))
				if message = append(message, raw...); left == 0 {
					for _, q := range to {
						if q.consumer != nil {
							q.consumer.deliver(message)
						} else {
							q.held = append(q.held, message)
						}
					}
					if c.confirm {
						m := amqp.BasicAck
						if b.refuse {
							m = amqp.BasicNack
						}
						c.send(reply(m, 1, append(binary.BigEndian.AppendUint64(nil, c.publishes), 0)...))
					}
				}
			}
		}
		b.mu.Unlock()
	}
}

// send writes; whether the client still is there is not for the broker to say.
func (c *fakeConn) send(p []byte) { _, _ = c.Write(p) }

func (c *fakeConn) deliver(message []byte) {
	c.delivered++
	args := append([]byte{1, 'c'}, binary.BigEndian.AppendUint64(nil, c.delivered)...)
	c.send(append(reply(amqp.BasicDeliver, 1, append(args, 0, 0, 0)...), message...))
}
