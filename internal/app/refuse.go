package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/amqpserver"
	"github.com/ferrymq/ferry/internal/netserve"
)

// How connections begin: what is not served here is recognised too, so that it can
// be told why.
var (
	// AMQP 0-9-1 §4.2.2: the protocol header, of whichever version.
	beginsAMQP = netserve.Prefix("AMQP")
	// RFC 9112 §3, the methods of RFC 9110 §9 and RFC 5789. That of a proxy has a
	// space behind it, that of STOMP the end of the line.
	beginsHTTP = netserve.Prefix("GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE ", "CONNECT ")
	// STOMP 1.2, "STOMP Frames": the command and the end of its line.
	connectFrame = netserve.Prefix("CONNECT\n", "CONNECT\r\n", "STOMP\n", "STOMP\r\n")
	// GMQ: an object of JSON.
	beginsGMQ = netserve.Prefix("{")
	// RFC 8446 §5.1: a record of the handshake, of TLS (major version 3).
	beginsTLS = netserve.Prefix("\x16\x03")
)

// beginsSTOMP allows ends of lines before the frame, which are heart-beats.
func beginsSTOMP(prefix []byte) (match, more bool) {
	text := strings.TrimLeft(string(prefix), "\r\n")
	if text == "" {
		return false, true
	}
	return connectFrame([]byte(text))
}

const (
	// refuseTimeout is how long a peer may take to read why it is refused, and to
	// close the connection.
	refuseTimeout = 2 * time.Second
	// refuseLog is how often one kind of refusal is logged, at most.
	refuseLog = time.Minute
	// gmqMessageMax is how much of a request of GMQ's is read to answer it, bytes: all
	// that is buffered of a peer that has not logged in.
	gmqMessageMax = 64 << 10
)

// What peers are told. The texts stand where quotes, colons and line ends would
// have to be escaped in some protocol.
const (
	amqpOff   = "AMQP is switched off on this broker, ferry serve --amqp :5672 switches it on"
	stompOff  = "STOMP is switched off on this broker, ferry serve --stomp :61613 switches it on"
	httpOff   = "HTTP is switched off on this broker, ferry serve --http :15672 switches it on"
	gmqNotYet = "GMQ is not in this version of Ferry yet"
)

// refusals tell peers, each in its own protocol, why they are not served. They
// write little, and read what was sent so that it is not lost.
type refusals struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	silent map[string]*silence
}

// A silence is the time after a line of the log in which there is no other.
type silence struct {
	until   time.Time
	skipped int
}

// note logs that a connection is refused, at most once a minute for each reason.
func (r *refusals) note(c *netserve.Conn, reason string) {
	now := time.Now()
	r.mu.Lock()
	s := r.silent[reason]
	if s == nil {
		s = &silence{}
		if r.silent == nil {
			r.silent = map[string]*silence{}
		}
		r.silent[reason] = s
	}
	quiet, skipped := now.Before(s.until), s.skipped
	if quiet {
		s.skipped++
	} else {
		s.skipped, s.until = 0, now.Add(refuseLog)
	}
	r.mu.Unlock()
	if !quiet {
		r.log.Info("connection refused", "conn", c, "reason", reason, "unreported", skipped)
	}
}

// tell writes the answer and waits for the peer to close, no longer than it could
// have taken to log in.
func tell(c *netserve.Conn, answer []byte) {
	patience := min(refuseTimeout, time.Until(c.LoginDeadline()))
	c.SetWriteDeadline(time.Now().Add(patience))
	c.Out.SetBuf(append(c.Out.Buf(), answer...))
	if c.Out.Flush() == nil {
		c.Linger(patience)
	}
}

// amqp returns what refuses AMQP: clients listen to reasons late in the handshake
// only, so that it is led that far.
func (r *refusals) amqp(version string) netserve.Handler {
	s := amqpserver.New(amqpserver.Config{Version: version, ClusterName: clusterName(), Refuse: amqpOff})
	return func(c *netserve.Conn) {
		r.note(c, amqpOff)
		s.Handle(c)
	}
}

// stomp answers with an ERROR frame.
func (r *refusals) stomp(c *netserve.Conn) {
	r.note(c, stompOff)
	tell(c, fmt.Appendf(nil, "ERROR\nmessage:STOMP is switched off\nversion:1.0,1.1,1.2\ncontent-type:text/plain\ncontent-length:%d\n\n%s\x00", len(stompOff), stompOff))
}

// http answers with 503 (RFC 9110 §15.6.4).
func (r *refusals) http(c *netserve.Conn) {
	r.note(c, httpOff)
	const text = httpOff + "\n"
	answer := fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Content-Length: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n", len(text))
	if head, _ := netserve.Prefix("HEAD ")(c.In.Buffered()); !head {
		answer = append(answer, text...)
	}
	tell(c, answer)
}

// gmqReply is a reply of GMQ's. The error has no text there, so it has a member of
// its own.
type gmqReply struct {
	Operation    string   `json:"operation"`
	Queue        string   `json:"queue"`
	Payload      string   `json:"payload"`
	Confirmation string   `json:"confirmation"`
	Error        struct{} `json:"error"`
	ErrorText    string   `json:"error_text"`
}

// gmq answers a request of GMQ's that nothing was done.
func (r *refusals) gmq(c *netserve.Conn) {
	r.note(c, gmqNotYet)
	var request struct{ Operation, Queue string }
	err := json.NewDecoder(io.LimitReader(inputOf(c), gmqMessageMax)).Decode(&request)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if err != nil && !errors.As(err, &syntax) && !errors.As(err, &kind) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return // the peer has gone, or is too slow
	}
	reply := gmqReply{Operation: request.Operation, Queue: request.Queue, Confirmation: "N", ErrorText: gmqNotYet}
	answer, err := json.Marshal(reply)
	if err == nil {
		tell(c, answer)
	}
}

// tls answers with an alert, fatal, handshake_failure (RFC 8446 §6.2).
func (r *refusals) tls(c *netserve.Conn) {
	r.note(c, "TLS needs a certificate, which --tls-cert and --tls-key give to the broker")
	tell(c, []byte{0x15, 3, 1, 0, 2, 2, 40})
}

// reading reads what a connection has buffered, and what comes.
type reading struct{ in *netserve.Reader }

func inputOf(c *netserve.Conn) io.Reader { return reading{&c.In} }

func (r reading) Read(p []byte) (int, error) {
	if len(r.in.Buffered()) == 0 {
		if err := r.in.Fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.in.Buffered())
	r.in.Discard(n)
	return n, nil
}
