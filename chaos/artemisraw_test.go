package chaos

import (
	"bufio"
	"fmt"
	"io"
	"net"
	neturl "net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rawLimit is how long a connection to Artemis lasts at most: what is done with one
// takes seconds.
const rawLimit = 2 * time.Minute

// duplicateID is the header by which Artemis recognises what is sent again.
const duplicateID = "_AMQ_DUPL_ID"

// A rawConn speaks STOMP to Artemis without Ferry's code: it judges it. Its methods
// end the test when they fail.
type rawConn struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// connect logs in at a broker of the pair that serves.
func (p *pair) connect(name string) *rawConn {
	p.t.Helper()
	u, err := neturl.Parse(p.urls[name])
	if err != nil {
		p.t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", u.Host, dialLimit)
	if err != nil {
		p.t.Fatalf("%s: %v", name, err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(rawLimit)); err != nil {
		p.t.Fatal(err)
	}
	c := &rawConn{t: p.t, conn: conn, r: bufio.NewReader(conn)}
	password, _ := u.User.Password()
	c.write("CONNECT\naccept-version:1.2\nhost:/\nlogin:%s\npasscode:%s\n\n\x00", u.User.Username(), password)
	c.read("CONNECTED")
	return c
}

// send stores messages, each with its body, a word, as its id. It returns when all are
// stored.
func (c *rawConn) send(queue string, bodies ...string) {
	c.t.Helper()
	for _, body := range bodies {
		c.write("SEND\ndestination:%s\ndestination-type:ANYCAST\npersistent:true\n%s:%s\nreceipt:%[3]s\ncontent-length:%d\n\n%[3]s\x00",
			queue, duplicateID, body, len(body))
	}
	for range bodies {
		c.read("RECEIPT")
	}
}

// subscribe has the messages of a queue delivered, all that there are.
func (c *rawConn) subscribe(queue, ack string) {
	c.t.Helper()
	c.write("SUBSCRIBE\nid:1\ndestination:%s\nsubscription-type:ANYCAST\nack:%s\nconsumer-window-size:-1\n\n\x00", queue, ack)
}

// take acknowledges n messages of a queue, and gives back what else it was delivered.
func (c *rawConn) take(queue string, n int) {
	c.t.Helper()
	c.subscribe(queue, "client-individual")
	for delivered, settled := 0, 0; settled < n; {
		f, err := readFrame(c.r)
		switch {
		case err != nil:
			c.t.Fatalf("Artemis: %v", err)
		case f.command == "RECEIPT":
			settled++
		case f.command != "MESSAGE":
			c.t.Fatalf("Artemis sent %s %v %q", f.command, f.headers, f.body)
		case delivered < n:
			delivered++
			c.write("ACK\nid:%s\nreceipt:done\n\n\x00", f.headers["ack"])
		}
	}
	_ = c.conn.Close()
}

// message is the next that is delivered.
func (c *rawConn) message() rawFrame { c.t.Helper(); return c.read("MESSAGE") }

func (c *rawConn) write(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, format, args...); err != nil {
		c.t.Fatalf("Artemis: %v", err)
	}
}

func (c *rawConn) read(command string) rawFrame {
	c.t.Helper()
	f, err := readFrame(c.r)
	if err != nil {
		c.t.Fatalf("Artemis: waiting for %s: %v", command, err)
	}
	if f.command != command {
		c.t.Fatalf("Artemis sent %s %v %q, not %s", f.command, f.headers, f.body, command)
	}
	return f
}

// A rawFrame is a frame of STOMP; what is escaped in its headers stays so.
type rawFrame struct {
	command string
	headers map[string]string
	body    string
}

func readFrame(r *bufio.Reader) (f rawFrame, err error) {
	for f.command == "" { // line ends between frames are heart-beats
		if f.command, err = readLine(r); err != nil {
			return f, err
		}
	}
	f.headers = map[string]string{}
	for {
		line, err := readLine(r)
		if err != nil {
			return f, err
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		if _, repeated := f.headers[name]; !repeated {
			f.headers[name] = value
		}
	}
	length, ok := f.headers["content-length"]
	if !ok {
		f.body, err = r.ReadString(0)
		f.body = strings.TrimSuffix(f.body, "\x00")
		return f, err
	}
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 {
		return f, fmt.Errorf("content-length is %q", length)
	}
	text := make([]byte, n+1)
	_, err = io.ReadFull(r, text)
	f.body = string(text[:n])
	return f, err
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}
