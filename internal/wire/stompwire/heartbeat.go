package stompwire

import (
	"bytes"
	"math"
	"time"
)

// maxHeartBeat is the longest interval that a heart-beat header may name, 24 days:
// what 32 bits of milliseconds hold, as clients have them.
const maxHeartBeat = math.MaxInt32

// ParseHeartBeat reads a heart-beat header, "cx,cy" in milliseconds: how often
// its sender can send something, and how often it wants to receive something.
// Zero is "cannot" and "does not want" (STOMP 1.2, Heart-beating). Spaces around
// the numbers are passed over.
func ParseHeartBeat(value []byte) (send, receive time.Duration, err error) {
	first, second, ok := bytes.Cut(value, []byte{','})
	cx, ok1 := parseNumber(trimSpaces(first))
	cy, ok2 := parseNumber(trimSpaces(second))
	switch {
	case !ok, !ok1, !ok2:
		return 0, 0, fault("expected a heart-beat, two numbers of milliseconds as in 1000,1000, found %s", quote(value))
	case cx > maxHeartBeat, cy > maxHeartBeat:
		return 0, 0, tooLarge("a heart-beat of more than %d ms: %s", maxHeartBeat, quote(value))
	}
	return time.Duration(cx) * time.Millisecond, time.Duration(cy) * time.Millisecond, nil
}
