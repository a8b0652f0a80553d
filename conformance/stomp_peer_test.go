package conformance

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const (
	// stompPatience bounds each wait for a frame that must come.
	stompPatience = 10 * time.Second

	// stompQuiet is how long nothing may come where nothing is meant to come.
	stompQuiet = 250 * time.Millisecond
)

var (
	errStompQuiet  = errors.New("nothing more")
	errStompClosed = errors.New("connection closed")
)

// A stompFrame is one that a server sent, unescaped as STOMP 1.2 says where the
// connection is not one of 1.0, which knows no escapes.
type stompFrame struct {
	command string
	headers [][2]string
	body    []byte
}

func (f stompFrame) get(name string) string {
	for _, h := range f.headers {
		if h[0] == name {
			return h[1]
		}
	}
	return ""
}

// A stompPeer is one TCP connection: it sends what it is told, also what is
// wrong, and reads frames with a parser of its own. It has no state beyond that.
type stompPeer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	// held has frames that came while a receipt was waited for.
	held     []stompFrame
	escapes  *strings.Replacer
	receipts int
	user     *url.Userinfo
}

func dialStomp(t *testing.T, to string) *stompPeer {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", u.Host, stompPatience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &stompPeer{t: t, conn: conn, r: bufio.NewReader(conn), escapes: stompEscapes, user: u.User}
}

// write sends bytes as they are. A server that has ended the connection has said
// why before, which is read next.
func (p *stompPeer) write(b string) { _, _ = io.WriteString(p.conn, b) }

// send sends a frame written as command, headers, a blank line and the body; the
// NUL is added, and the blank line where there is no body.
func (p *stompPeer) send(frame string) {
	if !strings.Contains(frame, "\n\n") {
		frame = strings.TrimRight(frame, "\n") + "\n\n"
	}
	p.write(frame + "\x00")
}

// login is a CONNECT that must succeed.
func (p *stompPeer) login(version string, headers ...string) stompFrame {
	p.t.Helper()
	password, _ := p.user.Password()
	lines := []string{"CONNECT", "accept-version:" + version, "host:/", "login:" + p.user.Username(), "passcode:" + password}
	p.send(strings.Join(append(lines, headers...), "\n"))
	f, err := p.read(stompPatience)
	if err != nil || f.command != "CONNECTED" {
		p.t.Fatalf("CONNECT was answered with %v, %v", f, err)
	}
	if version == "1.0" {
		p.escapes = strings.NewReplacer()
	}
	return f
}

// do sends a frame with a receipt header and waits for that. What comes before
// it is held for later reads.
func (p *stompPeer) do(frame string) {
	p.t.Helper()
	p.receipts++
	id := receiptOfDo + strconv.Itoa(p.receipts)
	command, rest, _ := strings.Cut(frame, "\n")
	p.send(command + "\nreceipt:" + id + "\n" + rest)
	p.await(id)
}

func (p *stompPeer) await(receipt string) {
	p.t.Helper()
	for {
		f, err := p.readFrame(stompPatience)
		if err != nil {
			p.t.Fatalf("no receipt %q: %v", receipt, err)
		}
		if f.command == "RECEIPT" && f.get("receipt-id") == receipt {
			return
		}
		if f.command == "ERROR" {
			p.t.Fatalf("instead of receipt %q: %v", receipt, f.show())
		}
		p.held = append(p.held, f)
	}
}

// read is the next frame. Its error is errStompQuiet where none came in time,
// and errStompClosed where the server has ended the connection.
func (p *stompPeer) read(limit time.Duration) (stompFrame, error) {
	if len(p.held) > 0 {
		f := p.held[0]
		p.held = p.held[1:]
		return f, nil
	}
	return p.readFrame(limit)
}

func (p *stompPeer) readFrame(limit time.Duration) (stompFrame, error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return stompFrame{}, err
	}
	f, err := parseStompFrame(p.r, p.escapes)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return f, errStompQuiet
	}
	if err != nil && !errors.Is(err, errStompFrame) {
		return f, errStompClosed
	}
	return f, err
}

var errStompFrame = errors.New("not a STOMP frame")

func parseStompFrame(r *bufio.Reader, escapes *strings.Replacer) (stompFrame, error) {
	var f stompFrame
	line, err := "\n", error(nil)
	for line == "\n" || line == "\r\n" { // heart-beats
		if line, err = r.ReadString('\n'); err != nil {
			return f, err
		}
	}
	f.command = strings.TrimSuffix(line, "\n")
	length := -1
	for {
		if line, err = r.ReadString('\n'); err != nil {
			return f, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return f, fmt.Errorf("%w: header line %q", errStompFrame, line)
		}
		if name == "content-length" && length < 0 {
			if length, err = strconv.Atoi(value); err != nil {
				return f, fmt.Errorf("%w: %w", errStompFrame, err)
			}
		}
		f.headers = append(f.headers, [2]string{escapes.Replace(name), escapes.Replace(value)})
	}
	if length >= 0 {
		f.body = make([]byte, length)
		if _, err = io.ReadFull(r, f.body); err != nil {
			return f, err
		}
		if end, err := r.ReadByte(); err != nil || end != 0 {
			return f, fmt.Errorf("%w: no NUL behind %d bytes of body", errStompFrame, length)
		}
		return f, nil
	}
	body, err := r.ReadBytes(0)
	f.body = bytes.TrimSuffix(body, []byte{0})
	return f, err
}

var stompEscapes = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\c`, ":", `\\`, `\`)

// receiptOfDo begins the receipts that do asks for, which no transcript shows.
const receiptOfDo = "do-"

var ofDo = regexp.MustCompile("^" + receiptOfDo + "[0-9]+$")

// generated are parts of values that the server makes up.
var generated = regexp.MustCompile(`(amq\.gen-|amq\.rabbitmq\.reply-to\.|stomp-subscription-|session-|T_[^"]*@@session-)[-_A-Za-z0-9@.=+/]+`)

// product is what a server header has: a name, and a version behind a slash.
var product = regexp.MustCompile(`^[A-Za-z]+/[^ ]+$`)

// show is a frame as an object for the transcript, without what differs from
// one run to the next. The order of headers means nothing but for repeats.
func (f stompFrame) show() map[string]any {
	headers := make(map[string]string)
	text := generated.ReplaceAll(f.body, []byte("$1*"))
	for _, h := range f.headers {
		name, value := h[0], generated.ReplaceAllString(h[1], "$1*")
		switch {
		case name == "receipt" && ofDo.MatchString(value): // it comes with the message from some brokers
			continue
		case f.command == "CONNECTED" && (name == "node" || name == "epoch"): // Ferry's own
			continue
		case name == "content-length" && value == strconv.Itoa(len(f.body)) && len(text) != len(f.body):
			value = "*"
		case name == "message-id", name == "session", f.command == "MESSAGE" && name == "ack":
			value = "*"
		case name == "server":
			if product.MatchString(value) {
				value = "PRODUCT/VERSION"
			}
		}
		for n := 2; ; n++ {
			if _, repeated := headers[name]; !repeated {
				break
			}
			name = h[0] + "#" + strconv.Itoa(n)
		}
		headers[name] = value
	}
	out := map[string]any{"frame": f.command, "headers": headers}
	switch {
	case len(text) == 0:
	case utf8.Valid(text):
		out["body"] = string(text)
	default:
		out["base64"] = base64.StdEncoding.EncodeToString(text)
	}
	return out
}

// sortReceipts puts the receipts among frames that came together before the
// messages: which comes first is chance.
func sortReceipts(frames []stompFrame) {
	slices.SortStableFunc(frames, func(a, b stompFrame) int {
		rank := func(f stompFrame) int { return strings.Index("RECEIPT MESSAGE ERROR", f.command) }
		return rank(a) - rank(b)
	})
}
