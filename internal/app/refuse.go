package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ferrymq/ferry/internal/netserve"
)

// How connections begin that are of none of the servers; what is not served here is
// recognised too, so that it can be told why.
var (
	// RFC 9112 §3, the methods of RFC 9110 §9 and RFC 5789. CONNECT has a space behind
	// it, and in STOMP the end of the line.
	beginsHTTP = netserve.Prefix("GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE ", "CONNECT ")
	// GMQ: an object of JSON.
	beginsGMQ = netserve.Prefix("{")
	// RFC 8446 §5.1: a record of the handshake, of TLS (major version 3).
	beginsTLS = netserve.Prefix("\x16\x03")
)

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

// Why connections are refused, for peers and for the log.
const (
	amqpOff   = "AMQP is switched off on this broker, ferry serve --amqp :5672 switches it on"
	stompOff  = "STOMP is switched off on this broker, ferry serve --stomp :61613 switches it on"
	httpOff   = "HTTP is switched off on this broker, ferry serve --http :15672 switches it on"
	gmqNotYet = "GMQ is not in this version of Ferry yet"
	tlsNot    = "TLS needs a certificate, ferry serve --tls-cert FILE --tls-key FILE gives the broker one"
)

// refusals are the log of what is refused.
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

// noting returns what refuses connections and notes it.
func (r *refusals) noting(reason string, refuse netserve.Handler) netserve.Handler {
	return func(c *netserve.Conn) {
		r.note(c, reason)
		refuse(c)
	}
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

// refuseHTTP answers with 503 (RFC 9110 §15.6.4).
func refuseHTTP(c *netserve.Conn) {
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

// refuseGMQ answers a request of GMQ's that nothing was done.
func refuseGMQ(c *netserve.Conn) {
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

// refuseTLS answers with an alert, fatal, handshake_failure (RFC 8446 §6.2).
func refuseTLS(c *netserve.Conn) {
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
