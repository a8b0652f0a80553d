package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/ferrymq/ferry/bench/internal/amqp"
	"github.com/ferrymq/ferry/bench/internal/proc"
)

// idleFor is how long idle connections are left alone before the broker's
// memory is read: time to let go of what opening them took.
const idleFor = 3 * time.Second

// IdleReport is what connections that do nothing cost the broker.
type IdleReport struct {
	Connections      int     `json:"connections"`
	OpenedPerS       float64 `json:"opened_per_s"`
	KiBPerConnection float64 `json:"kib_per_connection"`
}

// Idle opens n connections with a channel each and measures by how much the
// resident memory of the broker's process grows.
func Idle(ctx context.Context, c Config, n int) (IdleReport, error) {
	if n < 1 || c.Pid == 0 {
		return IdleReport{}, fmt.Errorf("idle connections: at least one, and the broker's pid")
	}
	before := proc.Resident(c.Pid)
	start := now()
	for i := range n {
		conn, err := amqp.Dial(c.Addr, c.User, c.Password)
		if err != nil {
			return IdleReport{}, fmt.Errorf("after %d connections: %w", i, err)
		}
		defer conn.Close()
		conn.Rest()
	}
	took := time.Duration(now() - start)
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return IdleReport{}, context.Cause(ctx)
	}
	return IdleReport{
		Connections:      n,
		OpenedPerS:       math.Round(float64(n) / took.Seconds()),
		KiBPerConnection: round(float64(proc.Resident(c.Pid)-before)/float64(n), 1),
	}, nil
}

// Depth is how many messages c.Queues of the load's queues, from the first on,
// hold ready for delivery, all together. A queue that is not there is an error.
func Depth(c Config, first int) (messages int64, err error) {
	conn, err := amqp.Dial(c.Addr, c.User, c.Password)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	err = conn.CallEach(c.Queues, func(dst []byte, i int) []byte {
		return amqp.AppendQueueDeclare(dst, amqp.Channel, c.name(first+i), true, false)
	}, amqp.QueueDeclareOK, func(_ int, args []byte) error {
		if len(args) < 1 || len(args) < 1+int(args[0])+4 {
			return fmt.Errorf("amqp: a queue.declare-ok of %d bytes", len(args))
		}
		messages += int64(binary.BigEndian.Uint32(args[1+int(args[0]):]))
		return nil
	})
	return messages, err
}
