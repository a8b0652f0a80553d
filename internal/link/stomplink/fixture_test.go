package stomplink

import (
	"testing"
	"testing/synctest"

	"github.com/ferrymq/ferry/internal/link/linktest"
)

type (
	record = linktest.Record
	source = linktest.Source
	sink   = linktest.Sink
)

// bubble runs a test with a peer, in time that is made up. What goroutines it leaves
// are a deadlock.
func bubble(t *testing.T, url string, f func(t *testing.T, p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newPeer(t, url)) })
}
