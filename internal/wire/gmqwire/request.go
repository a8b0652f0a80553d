package gmqwire

import (
	"bytes"
	"encoding/base64"
	"math"
	"strconv"
)

// The operations.
const (
	Publish   = "P"
	Subscribe = "S" // take the first message
	Length    = "L"
	Sync      = "SYNC" // does nothing, and says so
	Ack       = "A"    // Ferry's: what was taken is done
	Return    = "N"    // Ferry's: it goes back to its queue
)

// The values of ack.
const (
	AckManual = "manual" // the message is held for the connection until A or N
	AckAuto   = "auto"   // it is settled with the reply; for who wants to be told more
)

// Request is what a client asks for. Empty fields are not written, but for
// Operation, Queue and the payload.
type Request struct {
	Operation string
	Queue     string
	Payload   []byte // base64, as it was written
	Body      []byte // is written as the payload where Payload is nil; parsing leaves it alone

	User, Password string // tokens

	Ack       string
	ID        string
	WaitMsec  int64 // of S; less than nothing is nothing
	NoRequeue bool  // of N
	Transient bool  // of P
	AskServer bool  // of SYNC: who answers?
	Passive   bool  // of L: a queue that is not there is an error, and is not made

	MessageID  string // of P
	Attempt    int64
	Properties Properties
}

// reset makes a request empty but for the texts whose memory may be kept.
func (r *Request) reset() {
	*r = Request{Operation: r.Operation, Queue: r.Queue, User: r.User, Password: r.Password, Ack: r.Ack}
}

// ParseRequest reads an object that a Scanner has found. Payload points into it
// where it can. Of the texts those are not copied that are what r had before, so
// that a connection's requests cost little.
//
// An error that is Mistyped leaves what could be read in r.
func ParseRequest(object []byte, r *Request) error {
	p := requestParser{cursor: cursor{b: object}, r: r}
	r.reset()
	err := p.object("request", p.member)
	p.forget()
	if err != nil {
		return err
	}
	if p.next() != 0 {
		return errNotJSON
	}
	if p.wrong != nil {
		return p.wrong
	}
	return nil
}

type requestParser struct {
	cursor
	r *Request

	operation, queue, user, password, ack bool // were there
}

// forget clears the texts that are of the request before.
func (p *requestParser) forget() {
	if !p.operation {
		p.r.Operation = ""
	}
	if !p.queue {
		p.r.Queue = ""
	}
	if !p.user {
		p.r.User = ""
	}
	if !p.password {
		p.r.Password = ""
	}
	if !p.ack {
		p.r.Ack = ""
	}
}

// lowered is a key as it is compared. encoding/json finds keys in any case, in
// the terms of Unicode: ſ is an s.
func lowered(key []byte, scratch *[16]byte) []byte {
	if len(key) > len(scratch) {
		return bytes.ToLower(bytes.ToUpper(key))
	}
	for i, c := range key {
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c >= 0x80:
			return bytes.ToLower(bytes.ToUpper(key))
		}
		scratch[i] = c
	}
	return scratch[:len(key)]
}

func (p *requestParser) member(key []byte) error {
	var scratch [16]byte
	r := p.r
	switch string(lowered(key, &scratch)) {
	case "operation":
		return p.kept("operation", &r.Operation, &p.operation)
	case "queue":
		return p.kept("queue", &r.Queue, &p.queue)
	case "payload":
		text, ok, err := p.text("payload")
		if ok {
			r.Payload = text
		}
		return err
	case "auth":
		return p.object("auth", p.authMember)
	case "ack":
		return p.kept("ack", &r.Ack, &p.ack)
	case "id":
		return p.label("id", &r.ID)
	case "wait_msec":
		return number(&p.cursor, "wait_msec", &r.WaitMsec, math.MinInt64, math.MaxInt64)
	case "requeue":
		requeue := !r.NoRequeue
		err := p.boolean("requeue", &requeue)
		r.NoRequeue = !requeue
		return err
	case "transient":
		return p.boolean("transient", &r.Transient)
	case "server":
		r.AskServer = true
		return p.skip()
	case "passive":
		return p.boolean("passive", &r.Passive)
	case "message_id":
		return p.texts("message_id", &r.MessageID)
	case "attempt":
		return number(&p.cursor, "attempt", &r.Attempt, 0, math.MaxInt32)
	case "properties":
		return p.properties(&r.Properties)
	}
	return p.skip()
}

func (p *requestParser) authMember(key []byte) error {
	var scratch [16]byte
	switch string(lowered(key, &scratch)) {
	case "user":
		return p.kept("auth.user", &p.r.User, &p.user)
	case "password":
		return p.kept("auth.password", &p.r.Password, &p.password)
	}
	return p.skip()
}

// kept takes a text. Where it is what dst was before, that is kept.
func (p *requestParser) kept(name string, dst *string, there *bool) error {
	text, ok, err := p.text(name)
	if ok && string(text) != *dst {
		*dst = string(text)
	}
	*there = *there || ok
	return err
}

// AppendRequest appends a request: GMQ's keys as GMQ's client writes them, then
// those of Ferry's that are set. Without a user what only GMQ's server needs is
// left out: it is for a connection that has authenticated.
func AppendRequest(dst []byte, r *Request) []byte {
	dst = append(dst, `{"operation":`...)
	dst = appendString(dst, r.Operation)
	dst = append(dst, `,"queue":`...)
	dst = appendString(dst, r.Queue)
	dst = append(dst, `,"payload":`...)
	dst = appendPayload(dst, r.Payload, r.Body)
	if r.User != "" || r.Password != "" {
		dst = append(dst, `,"confirmation":"","error":null,"auth":{"user":`...)
		dst = appendString(dst, r.User)
		dst = append(dst, `,"password":`...)
		dst = appendString(dst, r.Password)
		dst = append(dst, '}')
	}
	o := objectWriter{dst: dst}
	o.text("ack", r.Ack)
	o.text("id", r.ID)
	if r.WaitMsec > 0 {
		o.integer("wait_msec", r.WaitMsec)
	}
	if r.NoRequeue {
		o.key("requeue")
		o.dst = append(o.dst, "false"...)
	}
	o.truth("transient", r.Transient)
	o.truth("passive", r.Passive)
	o.text("message_id", r.MessageID)
	if r.Attempt != 0 {
		o.integer("attempt", r.Attempt)
	}
	o.properties(&r.Properties)
	if r.AskServer {
		o.key("server")
		o.dst = append(o.dst, `""`...)
	}
	return append(o.dst, '}')
}

func appendPayload(dst, payload, body []byte) []byte {
	if payload != nil {
		return appendString(dst, payload)
	}
	dst = base64.StdEncoding.AppendEncode(append(dst, '"'), body)
	return append(dst, '"')
}

func (o *objectWriter) text(name, value string) {
	if value != "" {
		o.key(name)
		o.dst = appendString(o.dst, value)
	}
}

func (o *objectWriter) truth(name string, value bool) {
	if value {
		o.key(name)
		o.dst = strconv.AppendBool(o.dst, true)
	}
}

func (o *objectWriter) properties(p *Properties) {
	if !p.IsZero() {
		o.key("properties")
		o.dst = p.appendJSON(o.dst)
	}
}
