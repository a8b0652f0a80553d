package amqp

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// Channel is the one channel that Dial opens.
const Channel = 1

// dialTimeout bounds a connection's way from TCP to an open channel.
const dialTimeout = 20 * time.Second

// Conn is a connection with channel 1 open. Its methods serve set-up, one call
// at a time; for the load itself use the embedded connection, after Rest.
type Conn struct {
	net.Conn
	FrameMax int

	buf []byte // read and not yet parsed
	out []byte
}

// Dial connects, logs in to the virtual host "/" without heartbeats, and opens
// channel 1.
func Dial(addr, user, password string) (*Conn, error) {
	nc, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: nc}
	_ = nc.SetDeadline(time.Now().Add(dialTimeout))
	if err := c.open(user, password); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("open a connection to %s: %w", addr, err)
	}
	_ = nc.SetDeadline(time.Time{})
	return c, nil
}

func (c *Conn) open(user, password string) error {
	if _, err := io.WriteString(c.Conn, "AMQP\x00\x00\x09\x01"); err != nil {
		return err
	}
	if _, err := c.expect(ConnectionStart); err != nil {
		return err
	}
	var capabilities []byte
	for _, name := range []string{"publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"} {
		capabilities = append(appendShort(capabilities, name), 't', 1)
	}
	properties := append(appendShort(nil, "product"), 'S')
	properties = appendLong(properties, "ferry bench")
	properties = append(appendShort(properties, "capabilities"), 'F')
	properties = appendLong(properties, string(capabilities))

	out, at := beginMethod(nil, 0, ConnectionStartOK)
	out = appendLong(out, string(properties))
	out = appendShort(out, "PLAIN")
	out = appendLong(out, "\x00"+user+"\x00"+password)
	out = end(appendShort(out, "en_US"), at)
	tune, err := c.Call(out, ConnectionTune)
	if err != nil {
		return err
	}
	if len(tune) < 8 {
		return fmt.Errorf("amqp: a connection.tune of %d bytes", len(tune))
	}
	if c.FrameMax = int(binary.BigEndian.Uint32(tune[2:])); c.FrameMax == 0 {
		c.FrameMax = 128 << 10
	}
	out, at = beginMethod(out[:0], 0, ConnectionTuneOK)
	out = binary.BigEndian.AppendUint16(out, binary.BigEndian.Uint16(tune))
	out = binary.BigEndian.AppendUint32(out, uint32(c.FrameMax))
	out = end(append(out, 0, 0), at)
	out, at = beginMethod(out, 0, ConnectionOpen)
	out = end(append(appendShort(out, "/"), 0, 0), at)
	if _, err := c.Call(out, ConnectionOpenOK); err != nil {
		return err
	}
	_, err = c.Call(AppendChannelOpen(out[:0], Channel), ChannelOpenOK)
	return err
}

// Call writes frames and waits for the reply, whose arguments it returns; they
// are valid until the next call.
func (c *Conn) Call(frames []byte, reply Method) ([]byte, error) {
	if _, err := c.Write(frames); err != nil {
		// The broker's reason, if it gave one, says more than the broken pipe.
		if _, e := c.expect(reply); e != nil {
			err = e
		}
		return nil, err
	}
	return c.expect(reply)
}

// pipelined is how many requests CallEach has in flight. It is small enough for
// the replies to fit in socket buffers, so that neither side waits for the other.
const pipelined = 256

// CallEach sends n requests, many in one write, and hands each reply's
// arguments to got, which may be nil.
func (c *Conn) CallEach(n int, request func(dst []byte, i int) []byte, reply Method, got func(i int, args []byte) error) error {
	for first := 0; first < n; first += pipelined {
		last := min(first+pipelined, n)
		c.out = c.out[:0]
		for i := first; i < last; i++ {
			c.out = request(c.out, i)
		}
		if _, err := c.Write(c.out); err != nil {
			return err
		}
		for i := first; i < last; i++ {
			args, err := c.expect(reply)
			if err != nil {
				return fmt.Errorf("request %d of %d: %w", i+1, n, err)
			}
			if got != nil {
				if err := got(i, args); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// expect reads until the method comes, and returns its arguments.
func (c *Conn) expect(m Method) ([]byte, error) {
	used := 0
	for {
		f, n, err := Parse(c.buf[used:])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			c.buf = append(c.buf[:0], c.buf[used:]...)
			used = 0
			if err := c.fill(); err != nil {
				return nil, err
			}
			continue
		}
		used += n
		if f.Method() == m {
			args := append([]byte(nil), f.Payload[4:]...)
			c.buf = append(c.buf[:0], c.buf[used:]...)
			return args, nil
		}
		if f.Type == FrameMethod {
			if err := Closed(f.Payload); err != nil {
				return nil, err
			}
		}
	}
}

func (c *Conn) fill() error {
	const room = 4 << 10
	if cap(c.buf)-len(c.buf) < room {
		c.buf = append(make([]byte, 0, 2*cap(c.buf)+room), c.buf...)
	}
	n, err := c.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

// Rest returns what was read and not parsed, and gives up the connection's own
// buffers: from here on the caller reads the connection itself.
func (c *Conn) Rest() []byte {
	rest := c.buf
	c.buf, c.out = nil, nil
	return rest
}

// Hangup closes the connection in the way that the protocol asks for, so that
// everything sent before has been read by the broker.
func (c *Conn) Hangup() error {
	_ = c.SetDeadline(time.Now().Add(dialTimeout))
	_, err := c.Call(AppendConnectionClose(nil), ConnectionCloseOK)
	if e := c.Close(); err == nil {
		err = e
	}
	return err
}
