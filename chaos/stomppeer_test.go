package chaos

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// peerLimit is how long a peer waits for what must come.
const peerLimit = 15 * time.Second

// stompConnect is a CONNECT that the broker takes.
const stompConnect = "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\x00"

// A stompPeer is a STOMP client that sends what it likes. One goroutine may write
// and one read.
type stompPeer struct {
	nc   net.Conn
	dec  stompwire.Decoder
	buf  []byte // read and not parsed
	room []byte
}

// A stompFrame is one of the broker's.
type stompFrame struct {
	command stompwire.Command
	headers map[string]string // the first of each name
	body    []byte
}

func (f stompFrame) String() string {
	if f.command == 0 {
		return "nothing"
	}
	text := string(f.body)
	if f.command == stompwire.Err {
		text = f.headers["message"] + ": " + text
	}
	text = strings.TrimSpace(text)
	return fmt.Sprintf("%s %.90q", f.command, text)
}

// over is a peer on a connection that is there.
func over(nc net.Conn) *stompPeer {
	p := &stompPeer{nc: nc}
	p.dec.Limits = stompwire.Limits{Line: 1 << 20, Head: 2 << 20, Headers: 1000, Body: 32 << 20}
	return p
}

// dialSTOMP connects and does not log in.
func dialSTOMP(addr string) (*stompPeer, error) {
	nc, err := net.DialTimeout("tcp", addr, peerLimit)
	if err != nil {
		return nil, err
	}
	return over(nc), nil
}

// login logs in.
func (p *stompPeer) login() error {
	if _, err := io.WriteString(p.nc, stompConnect); err != nil {
		return err
	}
	f, err := p.next(peerLimit)
	if err == nil && f.command != stompwire.Connected {
		err = fmt.Errorf("logging in: %s", f)
	}
	p.dec.Version = stompwire.V12
	return err
}

// loginSTOMP connects and logs in.
func loginSTOMP(addr string) (*stompPeer, error) {
	p, err := dialSTOMP(addr)
	if err != nil {
		return nil, err
	}
	if err := p.login(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func mustSTOMP(t *testing.T, addr string) *stompPeer {
	t.Helper()
	p, err := loginSTOMP(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func (p *stompPeer) close() { _ = p.nc.Close() }

// write writes bytes, whatever they are.
func (p *stompPeer) write(text string) error {
	if err := p.nc.SetWriteDeadline(time.Now().Add(peerLimit)); err != nil {
		return err
	}
	_, err := io.WriteString(p.nc, text)
	return err
}

// send writes a frame. headers are names and values in turn.
func (p *stompPeer) send(c stompwire.Command, body []byte, headers ...string) error {
	list := make([]stompwire.Header, 0, len(headers)/2)
	for i := 0; i+1 < len(headers); i += 2 {
		list = append(list, stompwire.Header{Name: []byte(headers[i]), Value: []byte(headers[i+1])})
	}
	b, err := stompwire.AppendFrame(nil, stompwire.V12, c, list, body)
	if err != nil {
		return err
	}
	return p.write(string(b))
}

// ask writes a frame that asks for a receipt, and waits for that.
func (p *stompPeer) ask(c stompwire.Command, body []byte, headers ...string) error {
	if err := p.send(c, body, append(headers, stompwire.HeaderReceipt, "asked")...); err != nil {
		return err
	}
	f, err := p.next(peerLimit)
	if err == nil && (f.command != stompwire.Receipt || f.headers[stompwire.HeaderReceiptID] != "asked") {
		err = fmt.Errorf("%s was answered with %s", c, f)
	}
	return err
}

// next is the broker's next frame. It ends with io.EOF where the connection does,
// and with a timeout after the limit, after which it may be called again.
func (p *stompPeer) next(limit time.Duration) (stompFrame, error) {
	if err := p.nc.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return stompFrame{}, err
	}
	for {
		head, err := p.dec.Head(p.buf)
		if err != nil {
			return stompFrame{}, err
		}
		if head > 0 {
			body, n, err := p.dec.Body(p.buf[head:])
			if err != nil {
				return stompFrame{}, err
			}
			if n > 0 {
				f := stompFrame{command: p.dec.Command, headers: make(map[string]string, len(p.dec.Headers)), body: append([]byte(nil), body...)}
				for _, h := range p.dec.Headers {
					if _, ok := f.headers[string(h.Name)]; !ok {
						f.headers[string(h.Name)] = string(h.Value)
					}
				}
				p.buf = p.buf[head+n:]
				return f, nil
			}
		}
		if p.room == nil {
			p.room = make([]byte, 64<<10)
		}
		n, err := p.nc.Read(p.room)
		p.buf = append(p.buf, p.room[:n]...)
		if n == 0 && err != nil {
			return stompFrame{}, err
		}
	}
}

// reply is the broker's next frame; none if the connection has ended. A broker that
// does neither is the test's failure.
func (p *stompPeer) reply(t *testing.T) stompFrame {
	t.Helper()
	f, err := p.next(peerLimit)
	if timedOut(err) {
		t.Fatal("the broker neither answers nor ends the connection")
	}
	return f
}

// ended tells whether the broker ends the connection, without another frame.
func (p *stompPeer) ended() bool {
	f, err := p.next(peerLimit)
	return f.command == 0 && err != nil && !timedOut(err)
}

func timedOut(err error) bool {
	ne := net.Error(nil)
	return errors.As(err, &ne) && ne.Timeout()
}

// subscribe begins a subscription, acknowledged one by one.
func (p *stompPeer) subscribe(destination, id string, prefetch int, headers ...string) error {
	return p.ask(stompwire.Subscribe, nil, append([]string{
		stompwire.HeaderDestination, destination, stompwire.HeaderID, id, stompwire.HeaderAck, "client-individual",
		stompwire.HeaderPrefetchCount, strconv.Itoa(prefetch),
	}, headers...)...)
}
