package amqplink

import "github.com/ferrymq/ferry/internal/wire/amqpwire"

// largest is the limit for frames of the peer. Some brokers take frame_max to be
// without the overhead; and their connection.start may be larger than what the
// specification grants before tune.
func largest(agreed uint32) uint32 {
	if agreed == 0 {
		agreed = amqpwire.DefaultFrameMax
	}
	return agreed + amqpwire.FrameOverhead
}
