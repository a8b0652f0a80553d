package gmqwire

import (
	"math"
	"strconv"
)

// Reply is the answer to a request.
type Reply struct {
	Operation string
	Queue     string
	Payload   []byte // base64, as it was written; of L a decimal number
	Body      []byte // is written as the payload where Payload is nil; parsing leaves it alone
	Confirmed bool
	ErrorText string // why it is not

	ID          string
	Redelivered bool
	MessageID   string
	Properties  Properties
	Incomplete  bool // the message has properties that are not here, or not as they are

	Server string // who answers, its node, and that one's epoch
	Node   string
	Epoch  uint64
}

// AppendReply appends a reply: what GMQ's server writes, and behind that what it
// has of Ferry's.
func AppendReply(dst []byte, r *Reply) []byte {
	dst = AppendReplyHead(dst, r)
	dst = appendPayload(dst, r.Payload, r.Body)
	return AppendReplyTail(dst, r)
}

// AppendReplyHead appends what is before the payload, which the caller appends,
// with its quotes, and then the tail.
func AppendReplyHead(dst []byte, r *Reply) []byte {
	dst = append(dst, `{"operation":`...)
	dst = appendString(dst, r.Operation)
	dst = append(dst, `,"queue":`...)
	dst = appendString(dst, r.Queue)
	return append(dst, `,"payload":`...)
}

// AppendReplyTail appends what is behind the payload. The tokens of the request
// are not repeated: whoever sees one knows the password.
func AppendReplyTail(dst []byte, r *Reply) []byte {
	if r.Confirmed {
		dst = append(dst, `,"confirmation":"Y"`...)
	} else {
		dst = append(dst, `,"confirmation":"N"`...)
	}
	if r.Confirmed || r.ErrorText == "" {
		dst = append(dst, `,"error":null`...)
	} else {
		dst = append(dst, `,"error":{}`...)
	}
	dst = append(dst, `,"auth":{"user":"","password":""}`...)
	o := objectWriter{dst: dst}
	if !r.Confirmed {
		o.text("error_text", r.ErrorText)
	}
	o.text("id", r.ID)
	o.truth("redelivered", r.Redelivered)
	o.text("message_id", r.MessageID)
	o.properties(&r.Properties)
	o.truth("properties_incomplete", r.Incomplete)
	o.text("server", r.Server)
	o.text("node", r.Node)
	if r.Epoch != 0 {
		o.key("epoch")
		o.dst = strconv.AppendUint(o.dst, r.Epoch, 10)
	}
	return append(o.dst, '}')
}

// ParseReply reads an object that a Scanner has found: a reply of Ferry's, or of
// GMQ's server. Payload points into it where it can. Where that server had an
// error, which says nothing, ErrorText is "error".
func ParseReply(object []byte, r *Reply) error {
	*r = Reply{}
	p := replyParser{cursor: cursor{b: object}, r: r}
	if err := p.object("reply", p.member); err != nil {
		return err
	}
	if p.next() != 0 {
		return errNotJSON
	}
	if !r.Confirmed && r.ErrorText == "" && p.failed {
		r.ErrorText = "error"
	}
	if p.wrong != nil {
		return p.wrong
	}
	return nil
}

type replyParser struct {
	cursor
	r      *Reply
	failed bool // there is an error
}

func (p *replyParser) member(key []byte) error {
	var scratch [16]byte
	r := p.r
	switch string(lowered(key, &scratch)) {
	case "operation":
		return p.texts("operation", &r.Operation)
	case "queue":
		return p.texts("queue", &r.Queue)
	case "payload":
		text, ok, err := p.text("payload")
		if ok {
			r.Payload = text
		}
		return err
	case "confirmation":
		text, _, err := p.text("confirmation")
		r.Confirmed = string(text) == "Y"
		return err
	case "error":
		p.failed = p.next() != 'n'
		return p.skip()
	case "error_text":
		return p.texts("error_text", &r.ErrorText)
	case "id":
		return p.label("id", &r.ID)
	case "redelivered":
		return p.boolean("redelivered", &r.Redelivered)
	case "message_id":
		return p.texts("message_id", &r.MessageID)
	case "properties":
		return p.properties(&r.Properties)
	case "properties_incomplete":
		return p.boolean("properties_incomplete", &r.Incomplete)
	case "server":
		return p.texts("server", &r.Server)
	case "node":
		return p.texts("node", &r.Node)
	case "epoch":
		return number(&p.cursor, "epoch", &r.Epoch, 0, math.MaxInt64)
	}
	return p.skip()
}
