package ferrytest

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stompPeer is a client of STOMP that has logged in.
type stompPeer struct {
	t  *testing.T
	nc net.Conn
	in *bufio.Reader
}

func loginSTOMP(t *testing.T, url string) *stompPeer {
	t.Helper()
	addr := strings.TrimSuffix(strings.TrimPrefix(url, "stomp://guest:guest@"), "/")
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	p := &stompPeer{t: t, nc: nc, in: bufio.NewReader(nc)}
	p.send("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\x00")
	p.expect("CONNECTED\n")
	return p
}

func (p *stompPeer) send(frames string) { p.t.Helper(); mustWrite(p.t, p.nc, frames) }

// expect reads the next frame, which must begin so.
func (p *stompPeer) expect(prefix string) string {
	p.t.Helper()
	frame, err := p.in.ReadString(0)
	frame = strings.TrimLeft(frame, "\n")
	if err != nil || !strings.HasPrefix(frame, prefix) {
		p.t.Fatalf("got %q, %v; want %q", frame, err, prefix)
	}
	return frame
}

func stompSend(body string) string {
	return fmt.Sprintf("SEND\ndestination:/queue/q\npersistent:true\nreceipt:%s\n\n%s\x00", body, body)
}

func (p *stompPeer) publish(body string) {
	p.t.Helper()
	p.send(stompSend(body))
	p.expect("RECEIPT\nreceipt-id:" + body + "\n")
}

// STOMP and AMQP are at the same address, and on the same queues.
func TestSTOMPBesideAMQP(t *testing.T) {
	b := Start(t)
	if want := "stomp://guest:guest@" + b.Addr() + "/"; b.STOMPURL() != want {
		t.Errorf("URL %q, want %q", b.STOMPURL(), want)
	}
	s := loginSTOMP(t, b.STOMPURL())
	s.publish("hello")
	p := login(t, b.Addr())
	if got := p.get("q"); got != "hello" {
		t.Errorf("by AMQP: %q", got)
	}
	p.publish("q", "there")
	s.send("SUBSCRIBE\nid:1\ndestination:/amq/queue/q\n\n\x00")
	if got := s.expect("MESSAGE\n"); !strings.HasSuffix(got, "\n\nthere\x00") {
		t.Errorf("by STOMP: %q", got)
	}
	if b.Connections() != 2 {
		t.Errorf("%d connections", b.Connections())
	}
}

func TestSTOMPReceiptsSurvive(t *testing.T) {
	b := Start(t, Dir(filepath.Join(t.TempDir(), "data")))
	s := loginSTOMP(t, b.STOMPURL())
	s.publish("one")
	b.Kill()
	mustBeReset(t, s.nc)
	b.Start()
	s = loginSTOMP(t, b.STOMPURL())
	s.publish("two")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.Stop()
	}()
	if got := s.expect("ERROR\n"); !strings.Contains(got, "shutdown") {
		t.Errorf("told %q", got)
	}
	s.nc.Close()
	<-stopped
	b.Start()
	p := login(t, b.Addr())
	if one, two := p.get("q"), p.get("q"); one != "one" || two != "two" {
		t.Errorf("there are %q and %q", one, two)
	}
}

// The faults of bytes and connections are those of every protocol; a refusal of
// publishes passes STOMP by, and waits for AMQP.
func TestFaultsOfSTOMP(t *testing.T) {
	b := Start(t)
	s := loginSTOMP(t, b.STOMPURL())
	b.Nack(1)
	s.publish("passes")
	p := login(t, b.Addr())
	p.confirms()
	p.publish("q", "refused")
	if got := p.outcomes(1); got != "n" {
		t.Errorf("outcome %q", got)
	}

	b.Pause()
	s.send(stompSend("held"))
	b.Resume()
	s.expect("RECEIPT\nreceipt-id:held\n")

	whole := stompSend("whole")
	b.CutAfter(len(whole) + 20) // in the middle of the second
	s.send(whole + stompSend("half"))
	if err := b.WaitConnections(bounded(t), 1); err != nil { // that of AMQP is there
		t.Error(err)
	}
	b.Heal()

	s = loginSTOMP(t, b.STOMPURL())
	b.Drop()
	mustBeReset(t, s.nc)
	p = login(t, b.Addr())
	for _, want := range []string{"passes", "held", "whole", ""} {
		if got := p.get("q"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
