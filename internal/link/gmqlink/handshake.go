package gmqlink

import (
	"bytes"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/transport"
	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// LogIn implements transport.Dialogue. It asks the server, with user and password, for
// nothing: its answer tells whether it knows them, and that it keeps the connection.
func (s *session) LogIn(user, password string) (doing string, err *link.Error) {
	doing = "logging in"
	login, bad := appendLogin(nil, user, password)
	if bad != nil {
		return doing, &link.Error{Kind: link.Precondition, Text: doing, Err: bad}
	}
	if _, err := s.Line.Write(login); err != nil {
		return doing, transport.Lost(doing, err)
	}
	doing = "waiting for the answer to the login"
	text, err := s.firstLine(doing)
	if err != nil {
		return doing, err
	}
	r := &s.reply
	switch bad := gmqwire.ParseReply(text, r); {
	case bad != nil && foreign(text) != nil:
		return doing, foreign(text)
	case bad != nil:
		return doing, malformed(doing, bad)
	case isRefusal(r):
		return doing, unwelcome(r)
	case r.Server == "":
		return doing, original()
	}
	s.server = r.Server
	s.Line.Stream.Excused = s.watched
	s.In.Take(len(text) + 1)
	return doing, nil
}

// firstLine reads the first reply. It stays unread.
func (s *session) firstLine(doing string) ([]byte, *link.Error) {
	for {
		b := s.In.Unread()
		if end := bytes.IndexByte(b, '\n'); end >= 0 {
			return b[:end], nil
		}
		if len(b) > reportMost {
			return nil, violation(doing + ": got a line without an end")
		}
		err := s.In.Fill(s.Line)
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && len(b) > 0:
			return b, s.hangup(doing, b, err)
		default:
			return nil, transport.Lost(doing, err)
		}
	}
}

// appendLogin appends the first request. User and password are as they are: GMQ's
// tokens hide nothing, and a server of Ferry's may be told to take none.
func appendLogin(dst []byte, user, password string) ([]byte, error) {
	if !utf8.ValidString(user) || !utf8.ValidString(password) {
		return nil, errors.New("a user or password that is not UTF-8 cannot be said in GMQ")
	}
	return append(gmqwire.AppendRequest(dst, &gmqwire.Request{
		Operation: gmqwire.Sync, User: user, Password: password, AskServer: true,
	}), '\n'), nil
}

// unwelcome is the error of a login that is refused.
func unwelcome(r *gmqwire.Reply) *link.Error {
	if r.ErrorText == "" || r.ErrorText == "error" { // see gmqwire.ParseReply
		return &link.Error{Kind: link.AccessRefused, Said: true, Text: "the server refuses the login without a word, as the original GMQ server does, which this client cannot speak to"}
	}
	e := refusal(r.ErrorText)
	if e.Kind == link.Internal || e.Kind == link.Protocol {
		e.Kind = link.AccessRefused // what is said to a login is of the login where nothing else is known
	}
	return e
}

// hangup is the error of a peer that closes within what it says, or behind it
// without the end of a line.
func (s *session) hangup(doing string, b []byte, err error) *link.Error {
	if e := foreign(b); e != nil {
		return e
	}
	r := &s.reply
	switch bad := gmqwire.ParseReply(b, r); {
	case bad != nil:
		return transport.Lost(doing, err)
	case isRefusal(r):
		return unwelcome(r)
	}
	return original()
}

// original is the error of a server that does less than Ferry's.
func original() *link.Error {
	return violation("the server answers one request on each connection, as the original GMQ server does, which has no acknowledgements: " +
		"this client needs a server of Ferry's; gmqclient speaks to the original one")
}

// foreign names other protocols by what they begin with.
func foreign(b []byte) *link.Error {
	switch {
	case bytes.HasPrefix(b, []byte("AMQP")):
		return violation("the peer speaks AMQP, not GMQ")
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return violation("the peer speaks HTTP, not GMQ")
	case bytes.HasPrefix(b, []byte("ERROR")):
		return violation("the peer speaks STOMP, not GMQ")
	case len(b) >= 2 && b[0] == 0x15 && b[1] == 3: // an alert (RFC 8446 §5.1)
		return violation("the peer expects TLS")
	}
	return nil
}
