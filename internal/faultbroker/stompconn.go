package faultbroker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// A stompConn speaks STOMP on one connection. Its fields are guarded by the broker's
// mutex, but for those that never change.
type stompConn struct {
	*socket
	b *Stomp

	decoder stompwire.Decoder // the reader's

	held          []string // receipts
	subscriptions []*stompSubscription
	delivered     int
}

type stompSubscription struct {
	id, queue string
	auto      bool
	prefetch  int
	unsettled []stompDelivery
}

type stompDelivery struct {
	ack     string
	message *stored
}

// frame implements speaker.
func (c *stompConn) frame(in []byte) (int, error) {
	c.decoder = stompwire.Decoder{Version: c.decoder.Version}
	n, err := c.decoder.Head(in)
	if n == 0 || err != nil {
		return 0, err
	}
	headers := make(map[string]string)
	for _, h := range slices.Backward(c.decoder.Headers) { // the first counts
		headers[string(h.Name)] = string(h.Value)
	}
	body, m, err := c.decoder.Body(in[n:])
	if m == 0 || err != nil {
		return 0, err
	}
	command := c.decoder.Command
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if !c.ended && !c.last {
		c.handleLocked(command, headers, string(body))
		c.b.dispatchLocked()
	}
	return n + m, nil
}

func (c *stompConn) handleLocked(command stompwire.Command, headers map[string]string, body string) {
	switch command {
	case stompwire.Connect, stompwire.Stomp:
		c.decoder.Version = stompwire.V12
		c.sendLocked("CONNECTED", map[string]string{"version": "1.2", "server": c.b.says, "heart-beat": "0,0"}, "")
		return
	case stompwire.Send:
		if headers["transaction"] == "" {
			c.takeLocked(headers, body)
			return
		}
		// Nothing is published in transactions here, but a queue is made.
		if name, known := c.b.queueLocked(headers["destination"]); !known {
			c.b.queues[name] = nil
		}
	case stompwire.Subscribe:
		prefetch, _ := strconv.Atoi(headers["prefetch-count"]) // 0: none
		queue, known := c.b.queueLocked(headers["destination"])
		if !known {
			c.failLocked("not_found", "", "NOT_FOUND - no queue '"+queue+"' in vhost '/'")
			return
		}
		c.subscriptions = append(c.subscriptions, &stompSubscription{
			id: headers["id"], queue: queue, auto: headers["ack"] == "auto", prefetch: prefetch,
		})
	case stompwire.Ack, stompwire.Nack:
		if !c.settleLocked(headers["id"], command, headers["requeue"] != "false") {
			c.failLocked("Subscription not found", "", "there is no "+headers["id"])
			return
		}
	case stompwire.Disconnect:
		c.giveBackLocked()
		c.last = true
	}
	if id := headers["receipt"]; id != "" {
		c.sendLocked("RECEIPT", map[string]string{"receipt-id": id}, "")
	}
	c.b.changed.Broadcast()
}

// takeLocked takes a message.
func (c *stompConn) takeLocked(headers map[string]string, body string) {
	b, f := c.b, &c.b.faults
	id := headers["receipt"]
	queue, known := b.queueLocked(headers["destination"])
	if !known && strings.HasPrefix(headers["destination"], "/amq/queue/") { // RabbitMQ confirms what no queue takes
		if id != "" {
			c.sendLocked("RECEIPT", map[string]string{"receipt-id": id}, "")
		}
		return
	}
	b.sends = append(b.sends, Send{c.id, headers, body})
	switch {
	case f.Poison != "" && body == f.Poison:
		if !f.Named {
			id = ""
		}
		c.failLocked(f.Reason, id, "because of a message")
		return
	case f.LoseReceipt != "" && body == f.LoseReceipt:
		id = ""
	}
	b.queues[queue] = append(b.queues[queue], &stored{headers: headers, body: body})
	switch {
	case id == "":
	case f.HoldReceipts:
		c.held = append(c.held, id)
	default:
		c.sendLocked("RECEIPT", map[string]string{"receipt-id": id}, "")
	}
}

// queueLocked is the name of a destination's queue, and whether there is one.
func (b *Stomp) queueLocked(destination string) (name string, known bool) {
	name = destination
	if d, err := stompwire.ParseDestination(destination); err == nil {
		name = d.Name
	}
	_, known = b.queues[name]
	return name, known
}

func (c *stompConn) deliverLocked(s *stompSubscription, m *stored) {
	c.delivered++
	ack := fmt.Sprintf("T_%s@@%d@@%d", s.id, c.id, c.delivered)
	headers := map[string]string{
		"subscription": s.id, "message-id": ack, "destination": "/queue/" + s.queue, "redelivered": strconv.FormatBool(m.redelivered),
		"content-length": strconv.Itoa(len(m.body)),
	}
	for name, value := range m.headers {
		if _, own := headers[name]; !own {
			headers[name] = value
		}
	}
	if !s.auto {
		headers["ack"] = ack
		s.unsettled = append(s.unsettled, stompDelivery{ack, m})
	}
	c.sendLocked("MESSAGE", headers, m.body)
}

// settleLocked ends a delivery, and tells whether there was one of that name.
func (c *stompConn) settleLocked(ack string, command stompwire.Command, requeue bool) bool {
	for _, s := range c.subscriptions {
		i := slices.IndexFunc(s.unsettled, func(d stompDelivery) bool { return d.ack == ack })
		if i < 0 {
			continue
		}
		m := s.unsettled[i].message
		s.unsettled = slices.Delete(s.unsettled, i, i+1)
		c.b.settlements = append(c.b.settlements, command.String()+" "+m.body)
		if command == stompwire.Nack && requeue {
			c.b.requeueLocked(s.queue, m)
		}
		return true
	}
	return false
}

// failLocked ends the connection with an ERROR.
func (c *stompConn) failLocked(message, receipt, body string) {
	headers := map[string]string{"message": message}
	if receipt != "" {
		headers["receipt-id"] = receipt
	}
	c.sendLocked("ERROR", headers, body)
	c.giveBackLocked()
	c.last = true
}

// giveBackLocked implements speaker.
func (c *stompConn) giveBackLocked() {
	for _, s := range c.subscriptions {
		for _, d := range slices.Backward(s.unsettled) {
			c.b.requeueLocked(s.queue, d.message)
		}
	}
	c.subscriptions = nil
}

// sendLocked appends a frame to what is to be written. One that cannot be encoded is
// a mistake of the test that asked for it.
func (c *stompConn) sendLocked(command string, headers map[string]string, body string) {
	v := stompwire.V12
	if command == "CONNECTED" {
		v = 0
	}
	out := append(c.out, command...)
	out = append(out, '\n')
	for name, value := range headers {
		var err error
		if out, err = stompwire.AppendHeader(out, v, name, value); err != nil {
			panic("faultbroker: " + strings.TrimSpace(err.Error()))
		}
	}
	c.out = append(append(append(out, '\n'), body...), 0)
	c.b.changed.Broadcast()
}
