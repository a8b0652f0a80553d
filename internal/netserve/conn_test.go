package netserve

import (
	"io"
	"net"
	"net/netip"
	"testing"
)

func TestAConnectionKnowsBothEnds(t *testing.T) {
	near, far := tcpPair(t)
	c := conn(far)
	peer := netip.MustParseAddrPort(near.LocalAddr().String())
	if c.PeerPort() != peer || c.Peer() != peer.Addr() || c.LocalPort().String() != near.RemoteAddr().String() {
		t.Errorf("between %v and %v", c.PeerPort(), c.LocalPort())
	}
	if want := near.LocalAddr().String() + " -> " + near.RemoteAddr().String(); c.Name() != want || c.LogValue().String() != want {
		t.Errorf("named %q, want %q", c.Name(), want)
	}
	mapped := addrPort(&net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1"), Port: 1})
	if !mapped.Addr().Is4() {
		t.Errorf("a mapped address stays %v", mapped)
	}
	if _, far := net.Pipe(); conn(far).Peer().IsValid() {
		t.Error("a pipe has an address")
	}
}

func TestNetConnBeginsWithWhatIsBuffered(t *testing.T) {
	near, far := tcpPair(t)
	c := conn(far)
	mustWrite(t, near, []byte("hello"))
	if err := c.In.Need(5); err != nil {
		t.Fatal(err)
	}
	c.In.Discard(1)
	nc := c.NetConn()
	mustWrite(t, near, []byte(" world"))
	if err := near.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(nc)
	if err != nil || string(got) != "ello world" {
		t.Errorf("read %q, %v", got, err)
	}
	nc.Close()
	if c.Context().Err() == nil {
		t.Error("the context goes on after Close")
	}
}
