package app

import (
	"fmt"
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
	// RFC 8446 §5.1: a record of the handshake, of TLS (major version 3).
	beginsTLS = netserve.Prefix("\x16\x03")
)

const (
	// refuseTimeout is how long a peer may take to read why it is refused, and to
	// close the connection.
	refuseTimeout = 2 * time.Second
	// refuseLog is how often one kind of refusal is logged, at most.
	refuseLog = time.Minute
)

// Why connections are refused, for peers and for the log.
const (
	amqpOff  = "AMQP is switched off on this broker, ferry serve --amqp :5672 switches it on"
	stompOff = "STOMP is switched off on this broker, ferry serve --stomp :61613 switches it on"
	httpOff  = "HTTP is switched off on this broker, ferry serve --http :15672 switches it on"
	gmqOff   = "GMQ is switched off on this broker, ferry serve --gmq :4567 switches it on"
	notNow   = "this broker does not serve clients now: it is starting, or a standby of the one that is live; connect to that one"
	tlsNot   = "TLS needs a certificate, ferry serve --tls-cert FILE --tls-key FILE gives the broker one"
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

// may reports whether there may be a line now, and how many there were not since the
// last; then there is none for a while.
func (s *silence) may(now time.Time, d time.Duration) (skipped int, ok bool) {
	if now.Before(s.until) {
		s.skipped++
		return 0, false
	}
	skipped, s.skipped, s.until = s.skipped, 0, now.Add(d)
	return skipped, true
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
	skipped, ok := s.may(now, refuseLog)
	r.mu.Unlock()
	if ok {
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

// refuseTLS answers with an alert, fatal, handshake_failure (RFC 8446 §6.2).
func refuseTLS(c *netserve.Conn) {
	tell(c, []byte{0x15, 3, 1, 0, 2, 2, 40})
}
