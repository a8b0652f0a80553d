package adminserver

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/definitions"
	"github.com/ferrymq/ferry/internal/message"
)

// gotMost is how many bytes of messages one request gets, or one message: what it is
// answered with is gathered first.
const gotMost = 64 << 20

// gotEach is what a message takes in an answer beside its own bytes, about.
const gotEach = 2 << 10

// publish is POST /api/exchanges/vhost/name/publish.
func (c *call) publish() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	if err := f.need("properties", "routing_key", "payload", "payload_encoding"); err != nil {
		return err
	}
	key, err := f.text("routing_key")
	if err != nil {
		return err
	}
	payload, err := f.text("payload")
	if err != nil {
		return err
	}
	encoding, err := f.text("payload_encoding")
	if err != nil {
		return err
	}
	body := []byte(payload)
	switch encoding {
	case "string":
	case "base64":
		if body, err = base64.StdEncoding.DecodeString(payload); err != nil {
			return badValue("not_base64", payload)
		}
	default:
		return badValue("unsupported_encoding", encoding)
	}
	exchange := c.arg("name")
	if exchange == defaultExchange {
		exchange = ""
	}
	if len(key) > message.MaxName || len(exchange) > message.MaxName {
		return badRequest("a routing key and an exchange's name may have %d bytes", message.MaxName)
	}
	props, err := f.object("properties")
	if err != nil {
		return err
	}
	list, persistent, err := parseProperties(props)
	if err != nil {
		return err
	}
	if why := c.b.Blocked(); why != "" {
		return &fault{http.StatusServiceUnavailable, "unavailable", "publishing is blocked: " + why}
	}
	s, err := c.session(c.arg("vhost"))
	if err != nil {
		return err
	}
	defer s.close()
	routed, err := s.publish(&broker.Publish{
		Exchange: []byte(exchange), Key: []byte(key), Persistent: persistent, Properties: list, Body: body,
	})
	if err != nil {
		return publishFault(err)
	}
	answer(c.w, http.StatusOK, object{"routed": routed})
	return nil
}

// propertyNames are the properties of a message in the order of their ids.
var propertyNames = [...]struct {
	id   message.FieldID
	name string
}{
	{message.ContentType, "content_type"},
	{message.ContentEncoding, "content_encoding"},
	{message.Headers, "headers"},
	{message.Priority, "priority"},
	{message.CorrelationID, "correlation_id"},
	{message.ReplyTo, "reply_to"},
	{message.Expiration, "expiration"},
	{message.MessageID, "message_id"},
	{message.Timestamp, "timestamp"},
	{message.Type, "type"},
	{message.UserID, "user_id"},
	{message.AppID, "app_id"},
}

// parseProperties makes a property list of what RabbitMQ's API has for one. What is
// not a property is ignored, as there.
func parseProperties(props map[string]any) (list []byte, persistent bool, err error) {
	number := func(name string, most uint64) (uint64, error) {
		n, ok := props[name].(json.Number)
		if !ok {
			return 0, badValue("not_int", name)
		}
		i, err := n.Int64()
		if err != nil || i < 0 || uint64(i) > most {
			return 0, badValue("not_int", name)
		}
		return uint64(i), nil
	}
	if props["delivery_mode"] != nil {
		mode, err := number("delivery_mode", 255)
		if err != nil {
			return nil, false, err
		}
		persistent = mode == 2
	}
	for _, p := range propertyNames {
		v := props[p.name]
		if v == nil {
			continue
		}
		switch p.id {
		case message.Headers:
			m, ok := v.(map[string]any)
			if !ok {
				return nil, false, badValue("not_object", p.name)
			}
			headers, err := definitions.AppendArgs(nil, m)
			if err != nil {
				return nil, false, badRequest("headers: %s", err)
			}
			list = message.AppendField(list, p.id, headers)
		case message.Priority:
			n, err := number(p.name, 255)
			if err != nil {
				return nil, false, err
			}
			list = message.AppendField(list, p.id, []byte{byte(n)})
		case message.Timestamp:
			n, err := number(p.name, 1<<63-1)
			if err != nil {
				return nil, false, err
			}
			list = message.AppendField(list, p.id, binary.BigEndian.AppendUint64(nil, n))
		default:
			s, ok := v.(string)
			if !ok {
				return nil, false, badValue("not_string", p.name)
			}
			if len(s) > message.MaxName { // a short string of AMQP
				return nil, false, badRequest("%s may have %d bytes", p.name, message.MaxName)
			}
			list = message.AppendFieldString(list, p.id, s)
		}
	}
	return list, persistent, nil
}

// properties is a message's property list as RabbitMQ's API shows it.
func properties(v *message.View) object {
	out := object{}
	if v.Persistent {
		out["delivery_mode"] = 2
	}
	for _, p := range propertyNames {
		value := message.Field(v.Properties, p.id)
		switch {
		case value == nil:
		case p.id == message.Headers:
			out[p.name] = definitions.Args(value)
		case p.id == message.Priority:
			out[p.name] = value[0]
		case p.id == message.Timestamp:
			out[p.name] = binary.BigEndian.Uint64(value)
		default:
			out[p.name] = string(value)
		}
	}
	return out
}

// getMessages is POST /api/queues/vhost/name/get.
func (c *call) getMessages() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	if err := f.need("ackmode", "count", "encoding"); err != nil {
		return err
	}
	mode, err := f.text("ackmode")
	if err != nil {
		return err
	}
	settling, ok := ackModes[mode]
	if !ok {
		return badValue("unknown_ackmode", mode)
	}
	count, err := f.number("count")
	if err != nil {
		return err
	}
	encoding, err := f.text("encoding")
	if err != nil {
		return err
	}
	if encoding != "auto" && encoding != "base64" {
		return badRequest("Unsupported encoding. Please use auto or base64.")
	}
	truncate := int64(gotMost)
	if f["truncate"] != nil {
		if truncate, err = f.number("truncate"); err != nil {
			return err
		}
	}
	s, err := c.session(c.arg("vhost"))
	if err != nil {
		return err
	}
	defer s.close()
	got := []object{}
	var tags []uint64
	for size := 0; count > 0 && size < gotMost; count-- {
		e, ok, err := s.get(c.arg("name"), settling.noAck)
		if err != nil {
			return messageFault(err)
		}
		if !ok {
			break
		}
		v, err := message.ParseVisible(e.Data)
		if err != nil {
			return err
		}
		size += len(e.Data) + gotEach
		tags = append(tags, e.Tag)
		got = append(got, gotObject(&v, &e, encoding, max(truncate, 0)))
	}
	if err := s.settle(settling, tags); err != nil {
		return err
	}
	answer(c.w, http.StatusOK, got)
	return nil
}

// settling is what becomes of messages that were got.
type settling struct{ noAck, reject, back bool }

var ackModes = map[string]settling{
	"ack_requeue_false":    {noAck: true},
	"ack_requeue_true":     {back: true},
	"reject_requeue_true":  {reject: true, back: true}, // it counts as a delivery in vain
	"reject_requeue_false": {reject: true},
}

func (s *session) settle(how settling, tags []uint64) error {
	switch {
	case how.noAck || len(tags) == 0:
		return nil
	case !how.reject:
		return s.ch.Nack(0, true, how.back)
	}
	for _, tag := range tags {
		if err := s.ch.Reject(tag, how.back); err != nil {
			return err
		}
	}
	return nil
}

func gotObject(v *message.View, e *broker.Event, encoding string, truncate int64) object {
	body := v.Body[:min(int64(len(v.Body)), truncate)]
	payload := string(body)
	if encoding == "base64" || !utf8.Valid(body) {
		payload, encoding = base64.StdEncoding.EncodeToString(body), "base64"
	} else {
		encoding = "string"
	}
	return object{
		"payload_bytes": len(v.Body), "redelivered": e.Redelivered,
		"exchange": string(v.Exchange), "routing_key": string(v.Key), "message_count": e.Count,
		"properties": properties(v), "payload": payload, "payload_encoding": encoding,
	}
}

// aliveness is GET /api/aliveness-test/vhost: a message goes through a queue.
func (c *call) aliveness() error {
	const queue = "aliveness-test"
	s, err := c.session(c.arg("vhost"))
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.DeclareQueue(broker.QueueSpec{Name: queue}); err != nil {
		return messageFault(err)
	}
	if _, err := s.publish(&broker.Publish{Key: []byte(queue), Body: []byte("test_message")}); err != nil {
		return messageFault(err)
	}
	_, found, err := s.get(queue, true)
	if err == nil {
		_, err = s.DeleteQueue(queue, false, false)
	}
	switch {
	case err != nil:
		return messageFault(err)
	case !found:
		return &fault{http.StatusServiceUnavailable, "failed", "the message that was published did not arrive"}
	}
	answer(c.w, http.StatusOK, object{"status": "ok"})
	return nil
}
