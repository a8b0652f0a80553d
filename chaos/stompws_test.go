package chaos

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// Of a frame of WebSocket's (RFC 6455 §5.2).
const (
	wsFin    = 0x80
	wsText   = 1
	wsBinary = 2
	wsClose  = 8
	wsPing   = 9
	wsMasked = 0x80
)

// wsRequest asks for a WebSocket.
const wsRequest = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// wsFrame is a frame as a client sends it, masked with nothing. size is what it
// says it has; payload what it has.
func wsFrame(first byte, size uint64, payload string) string {
	b := []byte{first}
	switch {
	case size < 126:
		b = append(b, wsMasked|byte(size))
	case size <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, wsMasked|126), uint16(size))
	default:
		b = binary.BigEndian.AppendUint64(append(b, wsMasked|127), size)
	}
	return string(append(b, 0, 0, 0, 0)) + payload
}

func wsWhole(first byte, payload string) string {
	return wsFrame(first, uint64(len(payload)), payload)
}

// A wsConn is a WebSocket for a stompPeer: what is written is a message, or with raw
// what a message is made of; of what is read the payloads are left.
type wsConn struct {
	net.Conn
	in     *bufio.Reader
	left   uint64 // of the payload at hand
	raw    bool
	closed uint16 // the code of the broker's Close; 0: none
}

// dialWS asks for a WebSocket, and gives the status and the subprotocol of the
// answer.
func dialWS(addr string, headers ...string) (c *wsConn, status int, protocol string, err error) {
	nc, err := net.DialTimeout("tcp", addr, peerLimit)
	if err != nil {
		return nil, 0, "", err
	}
	if err := nc.SetDeadline(time.Now().Add(peerLimit)); err != nil {
		return nil, 0, "", err
	}
	// The last line of wsRequest ends it.
	request := strings.Replace(strings.TrimSuffix(wsRequest, "\r\n"), "localhost", addr, 1) + strings.Join(append(headers, "", ""), "\r\n")
	if _, err := io.WriteString(nc, request); err != nil {
		return nil, 0, "", err
	}
	c = &wsConn{Conn: nc, in: bufio.NewReader(nc)}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		nc.Close()
		return nil, 0, "", err
	}
	defer answer.Body.Close() // the connection is ours, and not closed by it
	return c, answer.StatusCode, answer.Header.Get("Sec-WebSocket-Protocol"), nc.SetDeadline(time.Time{})
}

// mustWS is a peer on a WebSocket that has not logged in.
func mustWS(t *testing.T, addr string) (*stompPeer, *wsConn) {
	t.Helper()
	c, status, protocol, err := dialWS(addr, "Sec-WebSocket-Protocol: v12.stomp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if status != http.StatusSwitchingProtocols || protocol != "v12.stomp" {
		t.Fatalf("asking for a WebSocket: status %d, protocol %q", status, protocol)
	}
	return over(c), c
}

func (c *wsConn) Write(p []byte) (int, error) {
	if c.raw {
		return c.Conn.Write(p)
	}
	if _, err := io.WriteString(c.Conn, wsWhole(wsFin|wsBinary, string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *wsConn) Read(p []byte) (int, error) {
	for c.left == 0 {
		head := make([]byte, 2)
		if _, err := io.ReadFull(c.in, head); err != nil {
			return 0, err
		}
		n := uint64(head[1])
		switch n {
		case 126:
			var size [2]byte
			if _, err := io.ReadFull(c.in, size[:]); err != nil {
				return 0, err
			}
			n = uint64(binary.BigEndian.Uint16(size[:]))
		case 127:
			var size [8]byte
			if _, err := io.ReadFull(c.in, size[:]); err != nil {
				return 0, err
			}
			n = binary.BigEndian.Uint64(size[:])
		}
		if head[0]&8 == 0 {
			c.left = n
			continue
		}
		control := make([]byte, n)
		if _, err := io.ReadFull(c.in, control); err != nil {
			return 0, err
		}
		if head[0]&15 == wsClose {
			if n >= 2 {
				c.closed = binary.BigEndian.Uint16(control)
			}
			return 0, io.EOF
		}
	}
	n, err := c.in.Read(p[:min(uint64(len(p)), c.left)])
	c.left -= uint64(n)
	return n, err
}

// Peers that break WebSocket, or stretch it, are cut; what they break of STOMP they
// are told as by TCP.
func TestHostileWebSocket(t *testing.T) {
	takeTurn(t)
	s := setup{dir: t.TempDir(), stomp: freeAddress(t), http: freeAddress(t)}
	p := start(t, s)
	beside := standBy(t, p)

	for _, row := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"no Origin", nil, http.StatusSwitchingProtocols},
		{"of the same host", []string{"Origin: http://" + s.http}, http.StatusSwitchingProtocols},
		{"of another host", []string{"Origin: https://evil.example"}, http.StatusForbidden},
		{"of another port", []string{"Origin: http://127.0.0.1:1"}, http.StatusForbidden},
		{"null", []string{"Origin: null"}, http.StatusForbidden},
		{"two", []string{"Origin: http://" + s.http, "Origin: https://evil.example"}, http.StatusForbidden},
		{"a megabyte", []string{"Origin: https://" + strings.Repeat("x", a1MB)}, http.StatusRequestHeaderFieldsTooLarge},
		{"the host within another", []string{"Origin: https://" + s.http + ".evil.example"}, http.StatusForbidden},
	} {
		c, status, _, err := dialWS(s.http, row.headers...)
		if err != nil && row.status == http.StatusRequestHeaderFieldsTooLarge {
			continue // it was cut before it had sent all of it
		}
		if err != nil {
			t.Errorf("origin %s: %v", row.name, err)
			continue
		}
		if status != row.status {
			t.Errorf("origin %s: status %d, want %d", row.name, status, row.status)
		}
		c.Close()
	}

	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WebSocket has\tbroker answers\tcloses with\tgrown by")
	const broken = 0 // any code
	lines := strings.Repeat("\n", 64<<10)
	connect := wsWhole(wsFin|wsText, stompConnect)
	for _, row := range []struct {
		name, in string
		again    string   // for ever behind it
		commands []string // of the frames that it gets before the end; of a WebSocket that is broken fewer
		code     uint16   // of the Close
	}{
		{name: "frame of 2^63 bytes", in: connect + wsFrame(wsFin|wsBinary, 1<<63, "x"), commands: []string{"CONNECTED"}, code: broken},
		{name: "frame of 2^63-1 bytes", in: connect + wsFrame(wsFin|wsBinary, 1<<63-1, ""), again: lines, commands: []string{"CONNECTED"}, code: 1009},
		{name: "frame of 2^63-1 bytes, before login", in: wsFrame(wsFin|wsBinary, 1<<63-1, ""), again: lines, commands: []string{"ERROR"}, code: 1000},
		{name: "fragments without an end", in: connect + wsFrame(wsBinary, 1, "\n"), again: wsWhole(0, lines), commands: []string{"CONNECTED"}, code: 1009},
		{name: "fragments without an end, before login", in: wsFrame(wsBinary, 1, "\n"), again: wsWhole(0, lines), commands: []string{"ERROR"}, code: 1000},
		{name: "empty fragments, then nothing", in: wsFrame(wsBinary, 0, "") + strings.Repeat(wsFrame(0, 0, ""), 1000) + wsWhole(wsFin, "no STOMP\n\n\x00"), commands: []string{"ERROR"}, code: 1000},
		{name: "a fragment of nothing", in: connect + wsWhole(0, "x"), commands: []string{"CONNECTED"}, code: 1002},
		{name: "two messages at once", in: connect + wsWhole(wsBinary, "\n") + wsWhole(wsBinary, "\n"), commands: []string{"CONNECTED"}, code: 1002},
		{name: "a frame that is not masked", in: connect + "\x82\x01\n", commands: []string{"CONNECTED"}, code: broken},
		{name: "reserved bits", in: connect + wsWhole(wsFin|0x70|wsBinary, "\n"), commands: []string{"CONNECTED"}, code: 1002},
		{name: "an operation that does not exist", in: connect + wsWhole(wsFin|5, "\n"), commands: []string{"CONNECTED"}, code: 1002},
		{name: "a ping of 200 bytes", in: connect + wsWhole(wsFin|wsPing, strings.Repeat("p", 200)), commands: []string{"CONNECTED"}, code: 1002},
		{name: "text that is not UTF-8", in: connect + wsWhole(wsFin|wsText, "SEND\ndestination:/topic/x\nreceipt:r\n\n\xff\xfe\x00DISCONNECT\nreceipt:bye\n\n\x00"), commands: []string{"CONNECTED", "RECEIPT", "RECEIPT"}, code: 1000},
		{name: "a byte a frame", in: drip(stompConnect + "DISCONNECT\nreceipt:bye\n\n\x00"), commands: []string{"CONNECTED", "RECEIPT"}, code: 1000},
		{name: "HTTP", in: wsWhole(wsFin|wsText, "GET / HTTP/1.1\r\n\r\n"), commands: []string{"ERROR"}, code: 1000},
		{name: "AMQP", in: wsWhole(wsFin|wsBinary, "AMQP\x00\x00\x09\x01"), commands: []string{"ERROR"}, code: 1000},
		{name: "content-length:-1", in: connect + wsWhole(wsFin|wsText, sendHead+"content-length:-1\n\nhello\x00"), commands: []string{"CONNECTED", "ERROR"}, code: 1000},
		{name: "content-length of 2^64", in: connect + wsWhole(wsFin|wsText, sendHead+"content-length:18446744073709551616\n\nhello\x00"), commands: []string{"CONNECTED", "ERROR"}, code: 1000},
		{name: "a header without an end, before login", in: wsWhole(wsFin|wsText, "CONNECT\nlogin:"+strings.Repeat("x", a1MB)), commands: []string{"ERROR"}, code: 1000},
		{name: "a body without an end", in: connect + wsWhole(wsText, sendHead+"\n"), again: wsWhole(0, strings.Repeat("x", 64<<10)), commands: []string{"CONNECTED", "ERROR"}, code: broken},
		{name: "closed with 65535", in: connect + wsWhole(wsFin|wsClose, "\xff\xff"), commands: []string{"CONNECTED"}, code: 1002},
		{name: "pings without an end", in: connect, again: strings.Repeat(wsWhole(wsFin|wsPing, strings.Repeat("p", 125)), 100), commands: []string{"CONNECTED"}, code: 1000},
	} {
		peer, c := mustWS(t, s.http)
		peer.dec.Version = stompwire.V12
		c.raw = true
		var writing sync.WaitGroup
		forever := pick(time.Second, 10*time.Second) // what the broker takes for ever ends
		if row.code == 1009 {
			forever = peerLimit // what it refuses at a limit comes to that, however busy the machine is
		}
		stop := time.Now().Add(forever)
		writing.Go(func() {
			for text := row.in; ; text = row.again {
				if err := peer.write(text); err != nil || row.again == "" {
					return
				}
				if time.Now().After(stop) {
					_ = c.Conn.(*net.TCPConn).CloseWrite()
					return
				}
			}
		})
		var got []string
		err := error(nil)
		for err == nil {
			var f stompFrame
			if f, err = peer.next(peerLimit); err == nil {
				got = append(got, f.command.String())
			}
		}
		c.Close()
		writing.Wait()
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", row.name, strings.Join(got, ", "), c.closed, mib(beside.grown()))
		if timedOut(err) {
			t.Errorf("%s: the broker neither answers nor ends the connection", row.name)
		}
		if row.code != 1000 {
			row.commands = row.commands[:min(len(row.commands), len(got))]
		}
		if strings.Join(got, ", ") != strings.Join(row.commands, ", ") {
			t.Errorf("%s: it got %v, want %v", row.name, got, row.commands)
		}
		// A Close that is behind what was not read gets lost with the connection.
		if c.closed != row.code && c.closed != 0 && row.code != broken {
			t.Errorf("%s: closed with %d, want %d", row.name, c.closed, row.code)
		}
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", &text)
	grown := beside.grown()
	beside.end("grown by", mib(grown))
	if grown > 256<<20 { // the collector lets 64 MiB of garbage gather, beside what is live
		t.Errorf("hostile peers cost %s", mib(grown))
	}
	p.terminate()
}

// drip is a text with a frame for each of its bytes.
func drip(text string) string {
	var b strings.Builder
	for i := range len(text) {
		b.WriteString(wsWhole(wsFin|wsBinary, text[i:i+1]))
	}
	return b.String()
}
