package chaos

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// unauthenticatedMost is how many connections that have not logged in the broker
// has at once.
const unauthenticatedMost = 4096

// stalledMost is within what a peer is cut that takes nothing of what is sent to it:
// ten seconds, as often as the system has taken a last piece off the broker.
const stalledMost = time.Minute

// slowSTOMP are the ways not to log in: what is sent at once, and what then, byte
// by byte, for ever where it is long enough; to the listener of STOMP or of HTTP.
var slowSTOMP = []struct {
	at, drip string
	web      bool
}{
	{},
	{drip: "CONNECT"},
	{at: "CONNECT\n", drip: "login:guest and so on, and so forth, for as long as it takes"},
	{at: "CONNECT\n" + strings.Repeat("a:"+strings.Repeat("x", 15000)+"\n", 4)}, // nearly all that a head may have
	{at: "CONNECT\ncontent-length:1000\n\n", drip: strings.Repeat("x", 100)},
	{drip: strings.Repeat("\n", 100)},
	{at: "STOMP\naccept-version:1.2\n", drip: "\r\r"},
	{web: true},
	{web: true, drip: "GET /ws HTTP/1.1"},
	{web: true, at: wsRequest},
	{web: true, at: wsRequest, drip: drip("CONNECT\nlogin:guest")},
}

// Peers that never log in are cut when their time is over, more of them than may be
// are refused at once, and none of them costs more than 64 KiB.
func TestSlowSTOMP(t *testing.T) {
	takeTurn(t)
	n := pick(300, 10_000)
	s := setup{dir: t.TempDir(), stomp: freeAddress(t), http: freeAddress(t)}
	p := start(t, s)
	beside := standBy(t, p)

	var peers sync.WaitGroup
	var mu sync.Mutex // guards what follows
	var first, last time.Duration
	refused, cut := 0, 0
	open := make(chan struct{}, n)
	for i := range n {
		peers.Go(func() {
			way := slowSTOMP[i%len(slowSTOMP)]
			at := s.stomp
			if way.web {
				at = s.http
			}
			nc, err := net.DialTimeout("tcp", at, 30*time.Second)
			began := time.Now()
			open <- struct{}{}
			if err != nil {
				t.Errorf("slow peer %d: %v", i, err)
				return
			}
			defer nc.Close()
			var writer sync.WaitGroup
			defer writer.Wait()
			gone := make(chan struct{})
			defer close(gone)
			writer.Go(func() {
				_, err := io.WriteString(nc, way.at)
				for drip := way.drip; err == nil && drip != ""; drip = drip[1:] {
					if _, err = io.WriteString(nc, drip[:1]); err == nil {
						select {
						case <-gone:
							return
						case <-time.After(time.Second):
						}
					}
				}
			})
			if err := nc.SetReadDeadline(began.Add(loginLimit + 20*time.Second)); err != nil {
				t.Error(err)
			}
			_, err = io.Copy(io.Discard, nc)
			lasted := time.Since(began)
			if timedOut(err) {
				t.Errorf("slow peer %d that sends %.20q was not cut", i, way.at+way.drip)
			}
			mu.Lock()
			defer mu.Unlock()
			if lasted < loginLimit/2 {
				refused++
				return
			}
			cut++
			if last = max(last, lasted); first == 0 || lasted < first {
				first = lasted
			}
		})
	}
	for range n {
		<-open
	}
	most := int64(0)
	for range 16 {
		time.Sleep(250 * time.Millisecond)
		most = max(most, beside.grown())
	}
	peers.Wait()
	each := most / int64(min(n, unauthenticatedMost))
	beside.end("slow peers", n, "refused at once", refused, "cut", cut,
		"cut after", first.Round(time.Millisecond).String()+" to "+last.Round(time.Millisecond).String(), "bytes a peer", each)
	if cut > unauthenticatedMost || n <= unauthenticatedMost && refused > 0 {
		t.Errorf("of %d peers %d were let in and %d refused; %d may be in at once", n, cut, refused, unauthenticatedMost)
	}
	// The clock of the broker's may have begun before that of a peer, when many come
	// at once.
	// A WebSocket has five seconds to say good-bye.
	if first < loginLimit-pick(time.Second, 4*time.Second) || last > loginLimit+10*time.Second {
		t.Errorf("slow peers were cut after %s to %s, want about %s", first, last, loginLimit)
	}
	if each > perPeer {
		t.Errorf("a slow peer took %d bytes, want at most %d", each, perPeer)
	}
	if _, err := loginSTOMP(s.stomp); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	p.terminate()
}

// pour writes for ever, until the broker takes no more for a second or ends the
// connection. It returns how much was taken.
func (p *stompPeer) pour(most int64, piece []byte) (taken int64, err error) {
	for taken < most {
		if err := p.nc.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			return taken, err
		}
		n, err := p.nc.Write(piece)
		taken += int64(n)
		if err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// What a peer announces costs nothing before it comes; and a body without a length
// and without an end is refused at the limit.
func TestEndlessSTOMP(t *testing.T) {
	takeTurn(t)
	p := start(t, setup{dir: t.TempDir(), stomp: freeAddress(t)})
	beside := standBy(t, p)
	const head = "SEND\ndestination:/queue/endless\npersistent:true\nreceipt:r\n"

	peers := pick(200, 1000)
	for range peers {
		peer := mustSTOMP(t, p.addr)
		if err := peer.write(head + "content-length:16777216\n\nnearly nothing"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond) // until all of it was read
	announced := beside.grown()
	if announced > 128<<20 {
		t.Errorf("%d announcements of 16 MiB took %s", peers, mib(announced))
	}

	// The limit is 16 MiB; what comes behind the error is read for a while, so that
	// the peer gets to know it, and dropped.
	var pouring sync.WaitGroup
	for _, row := range []struct{ name, begin string }{
		{"no length", head + "\n"},
		{"length of 1 TB", head + "content-length:1000000000000\n\n"},
		{"more than the length", head + "content-length:1\n\n"},
		{"in a transaction", "BEGIN\ntransaction:t\n\n\x00" + head + "transaction:t\n\n"},
	} {
		peer := mustSTOMP(t, p.addr)
		if err := peer.write(row.begin); err != nil {
			t.Fatal(err)
		}
		answer := make(chan stompFrame, 1)
		pouring.Go(func() {
			f, _ := peer.next(peerLimit)
			answer <- f
		})
		pouring.Go(func() {
			began := time.Now()
			_, err := peer.pour(1<<40, []byte(strings.Repeat("x", 100_000)))
			took := time.Since(began)
			if f := <-answer; f.command != stompwire.Err || err == nil || took > peerLimit {
				t.Errorf("%s: after %s: %s, %v; want an ERROR and an end", row.name, took, f, err)
			}
		})
	}
	pouring.Wait()
	grown := beside.grown()
	beside.end("announced", fmt.Sprintf("%d times 16 MiB", peers), "which took", mib(announced), "grown by", mib(grown))
	if grown > 192<<20 {
		t.Errorf("endless bodies cost %s", mib(grown))
	}
}

// A transaction that never ends and a million things that are asked for have limits.
func TestManySTOMP(t *testing.T) {
	takeTurn(t)
	p := start(t, setup{dir: t.TempDir(), stomp: freeAddress(t)})
	beside := standBy(t, p)

	peer := mustSTOMP(t, p.addr)
	began := time.Now()
	subscriptions := 0
	const subscriptionsMost = 16 << 10
	for ; subscriptions <= subscriptionsMost; subscriptions++ {
		if err := peer.send(stompwire.Subscribe, nil, stompwire.HeaderID, fmt.Sprint(subscriptions), stompwire.HeaderDestination, "/queue/subscribed"); err != nil {
			t.Fatal(err)
		}
	}
	f := peer.reply(t)
	if f.command != stompwire.Err || f.headers["message"] != "not_allowed" {
		t.Errorf("subscription %d was answered with %s", subscriptionsMost+1, f)
	}
	subscribed, took := beside.grown(), time.Since(began)
	peer.close()

	// Each of these has a queue, a binding and a consumer, for a moment.
	peer = mustSTOMP(t, p.addr)
	churns := pick(1000, 20_000)
	for n := range churns {
		id := fmt.Sprint(n)
		err := errors.Join(
			peer.send(stompwire.Subscribe, nil, stompwire.HeaderID, id, stompwire.HeaderDestination, "/topic/"+id),
			peer.ask(stompwire.Unsubscribe, nil, stompwire.HeaderID, id))
		if err != nil {
			t.Fatal(err)
		}
	}
	churned := beside.grown()

	peer = mustSTOMP(t, p.addr)
	if err := peer.send(stompwire.Begin, nil, stompwire.HeaderTransaction, "t"); err != nil {
		t.Fatal(err)
	}
	answer := make(chan stompFrame, 1)
	go func() {
		f, _ := peer.next(2 * peerLimit)
		answer <- f
	}()
	large := make([]byte, a1MB)
	var err error
	held := 0
	for ; err == nil && held < 1024 && len(answer) == 0; held++ {
		err = peer.send(stompwire.Send, large, stompwire.HeaderDestination, "/queue/tx", stompwire.HeaderTransaction, "t")
	}
	if f := <-answer; f.command != stompwire.Err || f.headers["message"] != "precondition_failed" {
		t.Errorf("a transaction of %d MiB was answered with %s", held, f)
	}
	peer.close()
	beside.end("subscriptions", subscriptions, "in", took.Round(time.Millisecond), "which took", mib(subscribed),
		"begun and ended", churns, "grown by then", mib(churned), "transaction, MiB", held)
	if subscribed > 128<<20 {
		t.Errorf("%d subscriptions took %s", subscriptions, mib(subscribed))
	}
	if churned > 128<<20 {
		t.Errorf("%d subscriptions that have ended took %s", churns, mib(churned))
	}
}

// Peers that do not read what is sent to them cost the broker little. In the long
// form they stay until it cuts them. What they had not acknowledged others get.
func TestUnreadSTOMP(t *testing.T) {
	takeTurn(t)
	p := start(t, setup{dir: t.TempDir(), stomp: freeAddress(t)})
	const size = 16 << 10
	backlog := uint64(pick(64, 512)) << 20 / size
	fillSTOMP(t, p.addr, "unread", backlog, size)
	beside := standBy(t, p)

	type unread struct {
		name string
		peer *stompPeer
	}
	var peers []unread
	// Without a prefetch there is no limit to what is sent to them.
	for range 10 {
		peer := mustSTOMP(t, p.addr)
		if err := peer.send(stompwire.Subscribe, nil, stompwire.HeaderID, "1", stompwire.HeaderDestination, "/queue/unread", stompwire.HeaderAck, "client"); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, unread{"backlog", peer})
	}
	time.Sleep(pick(500*time.Millisecond, 2*time.Second))
	receiving := beside.grown()

	// What asks for receipts and does not read them is not read any more either.
	id := strings.Repeat("r", 10_000)
	var pouring sync.WaitGroup
	var mu sync.Mutex
	taken := map[string]int64{} // guarded by mu
	for _, row := range []struct{ name, in string }{
		{"SEND", "SEND\ndestination:/queue/receipts\npersistent:true\nreceipt:" + id + "\n\nhello\x00"},
		{"SEND in memory", "SEND\ndestination:/topic/nobody\nreceipt:" + id + "\n\nhello\x00"},
		{"BEGIN, ABORT", "BEGIN\ntransaction:t\nreceipt:" + id + "\n\n\x00ABORT\ntransaction:t\nreceipt:" + id + "\n\n\x00"},
		{"SUBSCRIBE", "SUBSCRIBE\nid:s\ndestination:/queue/none\nreceipt:" + id + "\n\n\x00UNSUBSCRIBE\nid:s\nreceipt:" + id + "\n\n\x00"},
	} {
		peer := mustSTOMP(t, p.addr)
		peers = append(peers, unread{row.name, peer})
		pouring.Go(func() {
			n, err := peer.pour(128<<20, []byte(strings.Repeat(row.in, 16)))
			if !timedOut(err) {
				t.Errorf("%s: %s were taken of a peer that reads no receipts: %v", row.name, mib(n), err)
			}
			mu.Lock()
			defer mu.Unlock()
			taken[row.name] = n
		})
	}
	pouring.Wait()
	receipts := beside.grown()

	began := time.Now()
	for _, u := range peers {
		if !long() {
			u.peer.close()
			continue
		}
		// It reads nothing until the broker gives it up.
		limit := time.Now().Add(stalledMost)
		for cut(u.peer.nc) == nil && time.Now().Before(limit) {
			time.Sleep(50 * time.Millisecond)
		}
		if time.Now().After(limit) {
			t.Errorf("%s: a peer that takes nothing was not cut within %s", u.name, time.Since(began))
		}
	}
	took := time.Since(began)
	drain(t, mustConnect(t, p.addr), "unread", backlog)
	beside.end("backlog", mib(int64(backlog*size)), "unread by", len(peers), "deliveries took", mib(receiving),
		"and receipts", mib(receipts), "input taken without receipts read", fmt.Sprint(taken), "gone after", took.Round(time.Millisecond))
	if receiving > 96<<20 || receipts > 160<<20 {
		t.Errorf("peers that do not read took %s, and with receipts %s", mib(receiving), mib(receipts))
	}
}

// cut is not nil when the broker has cut the connection: writing finds out without
// reading what is there.
func cut(nc net.Conn) error {
	_ = nc.SetWriteDeadline(time.Now().Add(time.Millisecond))
	_, err := io.WriteString(nc, "\n")
	if timedOut(err) {
		return nil
	}
	return err
}

// fillSTOMP sends the messages 0 to n-1 by STOMP, and waits for their receipts.
func fillSTOMP(t *testing.T, addr, queue string, n uint64, size int) {
	t.Helper()
	peer := mustSTOMP(t, addr)
	defer peer.close()
	const window = 100
	for i := range n + window {
		if i < n {
			if err := peer.send(stompwire.Send, body(0, i, size), stompwire.HeaderDestination, "/queue/"+queue,
				stompwire.HeaderPersistent, "true", stompwire.HeaderReceipt, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		if i >= window {
			if f := peer.reply(t); f.command != stompwire.Receipt || f.headers[stompwire.HeaderReceiptID] != fmt.Sprint(i-window) {
				t.Fatalf("message %d was answered with %s", i-window, f)
			}
		}
	}
}
