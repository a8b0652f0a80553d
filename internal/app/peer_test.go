package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// client speaks AMQP in frames, on channel 1 when it has logged in.
type client struct {
	t  *testing.T
	nc net.Conn
	in []byte
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return login(t, nc)
}

func login(t *testing.T, nc net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, nc: nc}
	c.write(amqpwire.ProtocolHeader[:])
	expect[*amqpwire.ConnectionStart](c)
	c.send0(&amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00ada\x00lovelace"), Locale: "en_US"})
	expect[*amqpwire.ConnectionTune](c)
	c.send0(&amqpwire.ConnectionTuneOk{ChannelMax: 10, FrameMax: amqpwire.DefaultFrameMax})
	c.send0(&amqpwire.ConnectionOpen{VirtualHost: "/"})
	expect[*amqpwire.ConnectionOpenOk](c)
	c.send(&amqpwire.ChannelOpen{})
	expect[*amqpwire.ChannelOpenOk](c)
	return c
}

// close ends the connection in good order.
func (c *client) close() {
	c.t.Helper()
	c.send0(&amqpwire.ConnectionClose{ReplyCode: 200})
	expect[*amqpwire.ConnectionCloseOk](c)
	c.nc.Close()
}

// declare declares a durable queue and returns how many messages it has.
func (c *client) declare(name string) int {
	c.t.Helper()
	c.send(&amqpwire.QueueDeclare{Queue: name, Durable: true})
	return int(expect[*amqpwire.QueueDeclareOk](c).MessageCount)
}

func (c *client) publish(queue, body string, mode uint8) {
	c.t.Helper()
	properties, err := amqpwire.AppendProperties(nil, &amqpwire.Properties{DeliveryMode: mode})
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := amqpwire.AppendPublish(nil, 1, "", queue, false)
	if err != nil {
		c.t.Fatal(err)
	}
	out = amqpwire.AppendContentHeader(out, 1, uint64(len(body)), properties)
	c.write(amqpwire.AppendBody(out, 1, []byte(body), amqpwire.DefaultFrameMax))
}

func (c *client) send(m amqpwire.Method)  { c.t.Helper(); c.sendOn(1, m) }
func (c *client) send0(m amqpwire.Method) { c.t.Helper(); c.sendOn(0, m) }

func (c *client) sendOn(channel uint16, m amqpwire.Method) {
	c.t.Helper()
	out, err := amqpwire.AppendMethod(nil, channel, m)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(out)
}

func (c *client) write(p []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(p); err != nil {
		c.t.Fatal(err)
	}
}

// expect reads the next frame, which must be this method.
func expect[M amqpwire.Method](c *client) M {
	c.t.Helper()
	buf := make([]byte, 64<<10)
	for {
		f, n, err := amqpwire.ParseFrame(c.in, amqpwire.DefaultFrameMax)
		if err != nil {
			c.t.Fatalf("not a frame: %v", err)
		}
		if n > 0 {
			c.in = c.in[n:]
			got, err := amqpwire.ParseMethod(f.Payload)
			if err != nil {
				c.t.Fatal(err)
			}
			m, ok := got.(M)
			if !ok {
				c.t.Fatalf("got %T %+v, want %T", got, got, m)
			}
			return m
		}
		k, err := c.nc.Read(buf)
		if err != nil {
			c.t.Fatalf("read: %v", err)
		}
		c.in = append(bytes.Clone(c.in), buf[:k]...)
	}
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func writeCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	public, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: public},
		key:  {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// damagedStore is a store of which a byte has changed.
func damagedStore(t *testing.T) string {
	t.Helper()
	cfg := testConfig()
	dir := filepath.Join(t.TempDir(), "data")
	cfg.Store = "file:" + dir
	p := mustStart(t, cfg)
	c := dial(t, p.addresses["amqp"])
	c.declare("q")
	c.close()
	p.mustStop()
	name := filepath.Join(dir, "0000000000000001.seg")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text[64+64] ^= 1 // the head of the first batch, behind which others are durable
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
