package verify

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// A flippingConn changes a byte of every tenth body that is read from it.
type flippingConn struct {
	net.Conn
	seen    int
	flipped *atomic.Uint64
}

func (c *flippingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for rest := p[:n]; ; {
		at := bytes.Index(rest, []byte(magic))
		if at < 0 || at+headerBytes >= len(rest) {
			return n, err
		}
		rest = rest[at+headerBytes:]
		if c.seen++; c.seen%10 == 0 {
			rest[0] ^= 4
			c.flipped.Add(1)
		}
	}
}

func TestDamageIsCountedExactly(t *testing.T) {
	b := faultbroker.Start(t, faultbroker.Options{})
	var flipped atomic.Uint64
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &flippingConn{Conn: c, flipped: &flipped}, err
	}
	r := mustRun(t, Options{
		URL: b.URL(), Count: 500, SettleTimeout: settle,
		Client: func() []ferry.Option { return []ferry.Option{ferry.WithNetDial(dial)} },
	})
	bad := flipped.Load()
	if want := (Counts{Sent: 500, Confirmed: 500, Received: 500 - bad, Lost: bad, Damaged: bad}); r.Counts != want || bad == 0 {
		t.Errorf("got  %+v\nwant %+v", r.Counts, want)
	}
	if !r.Broken() {
		t.Error("that is no broken promise")
	}
}

// Brokers that share nothing keep what was published to one from those who
// consume from the other.
func TestConsumeURL(t *testing.T) {
	a, b := faultbroker.Start(t, faultbroker.Options{}), faultbroker.Start(t, faultbroker.Options{})
	o := Options{URL: a.URL(), ConsumeURL: b.URL(), Count: 50, SettleTimeout: settle}
	r := mustRun(t, o)
	if want := (Counts{Sent: 50, Confirmed: 50, Lost: 50}); r.Counts != want {
		t.Errorf("got  %+v\nwant %+v", r.Counts, want)
	}
	if len(r.Missing) != 1 || r.Missing[0] != (Range{1, 1, 50}) {
		t.Errorf("the missing are %v", r.Missing)
	}
	o.ConsumeURL = a.URL()
	if r := mustRun(t, o); r.Lost != 0 || r.Received != 50 {
		t.Errorf("got  %+v", r.Counts)
	}
}
