package reply_test

import (
	"testing"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/link/reply"
)

func TestKinds(t *testing.T) {
	for _, c := range []struct {
		code uint16
		text string
		kind link.Kind
	}{
		{404, "NOT_FOUND - no queue 'x' in vhost '/'", link.NotFound},
		{404, "NOT_FOUND - no queue 'is down due to timeout' in vhost '/'", link.NotFound},
		{404, "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible", link.Unavailable},
		{404, "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/': its master replica <25659.840.0> may be stopping or being demoted", link.Unavailable},
		{404, "NOT_FOUND - failed to perform operation on queue 'x1' in vhost 'prod' due to timeout", link.Unavailable},
		{404, "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor", link.Unavailable},
		{404, "NOT_FOUND - queue 'q' in vhost '/' has crashed and failed to restart", link.Unavailable},
		{405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'", link.Locked},
		{403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'ada'", link.AccessRefused},
		{403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", link.Locked},
		{406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q'", link.Precondition},
		{406, "PRECONDITION_FAILED - message size 17000000 is larger than configured max size 16777216", link.TooLarge},
		{311, "CONTENT_TOO_LARGE", link.TooLarge},
		{312, "NO_ROUTE", link.Unroutable},
		{320, "CONNECTION_FORCED", link.Forced},
		{402, "INVALID_PATH", link.NotFound},
		{501, "FRAME_ERROR", link.Protocol},
		{503, "COMMAND_INVALID - unknown exchange type 'x'", link.NotAllowed},
		{503, "COMMAND_INVALID - second 'channel.open' seen", link.Protocol},
		{504, "CHANNEL_ERROR", link.Protocol},
		{506, "RESOURCE_ERROR", link.Internal},
		{530, "NOT_ALLOWED - vhost 'x' not found", link.NotFound},
		{530, "NOT_ALLOWED - number of channels opened (10) has reached the maximum", link.AccessRefused},
		{540, "NOT_IMPLEMENTED - immediate=true", link.NotAllowed},
		{541, "INTERNAL_ERROR", link.Internal},
	} {
		if got := reply.Kind(c.code, c.text); got != c.kind {
			t.Errorf("%d %s: %v, want %v", c.code, c.text, got, c.kind)
		}
	}
}

func TestCodesHaveNames(t *testing.T) {
	for name, want := range map[string]uint16{"NOT_FOUND": 404, "connection_forced": 320, "Internal_Error": 541, "": 0, "NOT FOUND": 0, "nacked": 0} {
		if got := reply.Code(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}
