package adminserver

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/definitions"
)

// defaultExchange is how paths write the exchange that has no name.
const defaultExchange = "amq.default"

// listQueues is GET /api/queues and /api/queues/vhost.
func (c *call) listQueues() error {
	f, p, err := c.filter(true)
	if err != nil {
		return err
	}
	if p.number == 0 {
		var failed error
		stream(c.w, func(yield func(object) bool) {
			failed = c.b.EachQueue(f, func(q *broker.QueueView) bool { return yield(choose(c.queue(q), p.columns)) })
		})
		return failed
	}
	list, err := c.b.Queues(f)
	return answerPage(c, &p, list, err, c.queue)
}

// getQueue is GET /api/queues/vhost/name.
func (c *call) getQueue() error {
	vhost, name := c.arg("vhost"), c.arg("name")
	q, ok := c.b.Queue(vhost, name)
	if !ok {
		return notFound()
	}
	out := c.queue(&q)
	out["consumer_details"] = c.consumers(c.b.QueueConsumers(vhost, name))
	out["deliveries"], out["incoming"] = []any{}, []any{}
	return c.one(out)
}

// queue is one as RabbitMQ's API shows it. Members that tell of Erlang's processes
// are not there.
func (c *call) queue(q *broker.QueueView) object {
	out := object{
		"name": q.Name, "vhost": q.VHost, "type": q.Type, "node": c.s.cfg.Name, "state": "running",
		"durable": q.Durable, "exclusive": q.Exclusive, "auto_delete": q.AutoDelete,
		"arguments": definitions.Args(q.Args),
		"policy":    optional(q.Policy), "operator_policy": optional(q.OperatorPolicy),
		"effective_policy_definition": rawObject(q.EffectivePolicy),

		"messages": q.Depth.Messages(), "messages_ready": q.Depth.Ready, "messages_unacknowledged": q.Depth.Unacked,
		"messages_delayed": q.Depth.Waiting, "messages_leaving": q.Depth.Leaving,
		"messages_details": noRate, "messages_ready_details": noRate, "messages_unacknowledged_details": noRate,
		"message_bytes": q.Depth.Bytes, "message_bytes_ready": q.Depth.ReadyBytes,
		"message_bytes_unacknowledged": max(q.Depth.Bytes-q.Depth.ReadyBytes, 0),

		"consumers": q.Consumers, "consumer_capacity": number(q.Capacity), "consumer_utilisation": number(q.Capacity),
		"exclusive_consumer_tag":     optional(q.ExclusiveTag),
		"single_active_consumer_tag": optional(q.ActiveTag),
		"memory":                     q.Memory,
		"message_stats":              stats{&q.Traffic, &q.Rates},
	}
	if !q.Idle.IsZero() {
		out["idle_since"] = q.Idle.UTC().Format(time.RFC3339Nano)
	}
	if q.Exclusive {
		out["owner_pid_details"] = object{"name": q.Owner}
	}
	if q.Type == "quorum" {
		here := []string{c.s.cfg.Name}
		out["leader"], out["members"], out["online"] = c.s.cfg.Name, here, here
	}
	return out
}

// putQueue is PUT /api/queues/vhost/name.
func (c *call) putQueue() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	spec := broker.QueueSpec{Name: c.arg("name")}
	if spec.Durable, err = f.truth("durable"); err != nil {
		return err
	}
	if spec.AutoDelete, err = f.truth("auto_delete"); err != nil {
		return err
	}
	if spec.Args, err = f.args(); err != nil {
		return err
	}
	if err := checkName("queue", spec.Name); err != nil {
		return err
	}
	return c.put(func(s *session) (bool, error) {
		_, there := c.b.Queue(c.arg("vhost"), spec.Name)
		_, err := s.DeclareQueue(spec)
		return there, err
	})
}

// args are the arguments of a declaration.
func (f fields) args() ([]byte, error) {
	args, err := f.object("arguments")
	if err != nil {
		return nil, err
	}
	list, err := definitions.AppendArgs(nil, args)
	if err != nil {
		return nil, badRequest("%s", cut(err.Error()))
	}
	return list, nil
}

// checkName tells what a name of something that is made cannot be. AMQP's are short
// strings.
func checkName(what, name string) error {
	if name == "" || len(name) > 255 {
		return badRequest("the name of the %s must have 1 to 255 bytes, not %d", what, len(name))
	}
	return nil
}

// put makes something in the virtual host of the path, and answers with whether it
// was there before.
func (c *call) put(declare func(s *session) (there bool, err error)) error {
	s, err := c.session(c.arg("vhost"))
	if err != nil {
		return err
	}
	defer s.close()
	there, err := declare(s)
	if err != nil {
		return err
	}
	if there {
		return c.done()
	}
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// done is the answer without a body.
func (c *call) done() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// one answers with one thing.
func (c *call) one(item object) error {
	p, err := parsePage(c.query, false)
	if err != nil {
		return err
	}
	answer(c.w, http.StatusOK, choose(item, p.columns))
	return nil
}

// deleteQueue is DELETE /api/queues/vhost/name.
func (c *call) deleteQueue() error {
	vhost, name := c.arg("vhost"), c.arg("name")
	if _, ok := c.b.Queue(vhost, name); !ok {
		return notFound()
	}
	return c.act(func(s *session) error {
		_, err := s.DeleteQueue(name, c.query.Get("if-unused") == "true", c.query.Get("if-empty") == "true")
		return err
	})
}

// purgeQueue is DELETE /api/queues/vhost/name/contents.
func (c *call) purgeQueue() error {
	if _, ok := c.b.Queue(c.arg("vhost"), c.arg("name")); !ok {
		return notFound()
	}
	return c.act(func(s *session) error {
		_, err := s.PurgeQueue(c.arg("name"))
		return err
	})
}

// act does something in the virtual host of the path, and answers without a body.
func (c *call) act(do func(s *session) error) error {
	s, err := c.session(c.arg("vhost"))
	if err != nil {
		return err
	}
	defer s.close()
	if err := do(s); err != nil {
		return err
	}
	return c.done()
}

// actOnQueue is POST /api/queues/vhost/name/actions. What RabbitMQ does there is of
// mirrors, which there are none of.
func (c *call) actOnQueue() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	action, err := f.text("action")
	if err != nil {
		return err
	}
	if _, ok := c.b.Queue(c.arg("vhost"), c.arg("name")); !ok {
		return notFound()
	}
	if action != "sync" && action != "cancel_sync" {
		return badValue("unknown", action)
	}
	return c.done()
}

// optional is null for what is not there.
func optional(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// rawObject is a JSON object, empty if there is none.
func rawObject(text []byte) any {
	if len(text) == 0 {
		return object{}
	}
	return json.RawMessage(text)
}
