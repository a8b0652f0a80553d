package chaos

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/ferrymq/ferry/internal/wire/stompwire"
)

// normalSTOMP publishes and consumes until ctx ends, one message at a time, and
// returns how long each took from its SEND to its receipt and its delivery.
func normalSTOMP(ctx context.Context, t *testing.T, addr string) (took []time.Duration) {
	p, err := loginSTOMP(addr)
	if err != nil {
		t.Errorf("a normal client: %v", err)
		return nil
	}
	defer p.close()
	const queue = "/queue/normal"
	if err := p.subscribe(queue, "n", 10); err != nil {
		t.Errorf("a normal client: %v", err)
		return nil
	}
	for i := uint64(0); ctx.Err() == nil; i++ {
		began := time.Now()
		err := p.send(stompwire.Send, body(0, i, 200), stompwire.HeaderDestination, queue,
			stompwire.HeaderPersistent, "true", stompwire.HeaderReceipt, fmt.Sprint(i))
		for range 2 {
			f := stompFrame{}
			if err == nil {
				f, err = p.next(peerLimit)
			}
			switch {
			case err != nil:
				t.Errorf("a normal client: %v", err)
				return took
			case f.command == stompwire.Message:
				if _, seq, intact := parseBody(f.body); !intact || seq != i {
					t.Errorf("a normal client got message %d in place of %d", seq, i)
				}
				err = p.send(stompwire.Ack, nil, stompwire.HeaderID, f.headers[stompwire.HeaderAck])
			case f.command != stompwire.Receipt || f.headers[stompwire.HeaderReceiptID] != fmt.Sprint(i):
				t.Errorf("a normal client got %s", f)
				return took
			}
		}
		took = append(took, time.Since(began))
		time.Sleep(2 * time.Millisecond)
	}
	return took
}

// A bystander is a normal client beside others that are not.
type bystander struct {
	t       *testing.T
	p       *process
	before  int64 // what was resident when it had begun
	stop    context.CancelFunc
	working sync.WaitGroup
	took    []time.Duration
}

func standBy(t *testing.T, p *process) *bystander {
	ctx, cancel := context.WithCancel(t.Context())
	b := &bystander{t: t, p: p, stop: cancel}
	b.working.Go(func() { b.took = normalSTOMP(ctx, t, p.addr) })
	t.Cleanup(func() {
		cancel()
		b.working.Wait()
	})
	time.Sleep(300 * time.Millisecond)
	b.before = p.memory("VmRSS")
	return b
}

// grown is how much more is resident than before.
func (b *bystander) grown() int64 { return b.p.memory("VmRSS") - b.before }

// end checks that the client was served all the time. cells are for its table.
func (b *bystander) end(cells ...any) {
	b.t.Helper()
	b.stop()
	b.working.Wait()
	p50, p99, worst := quantiles(b.took)
	b.t.Logf("\n%s", table(append(cells, "normal client, messages", len(b.took), "its p50, p99, worst", []time.Duration{p50, p99, worst})...))
	if len(b.took) == 0 || p99 > latencyMax {
		b.t.Errorf("a normal client's p99 was %s, want at most %s", p99, latencyMax)
	}
}

// A hostileRow is what a peer sends and what becomes of it.
type hostileRow struct {
	name  string
	early bool // it has not logged in
	in    string
	// message and text are in the ERROR that it gets, and behind which nothing
	// comes. Without a message it gets a RECEIPT.
	message, text string
}

const (
	sendHead = "SEND\ndestination:/queue/hostile\nreceipt:r\n"
	a1MB     = 1 << 20
)

func hostileRows() (rows []hostileRow) {
	row := func(name, in, message, text string) {
		rows = append(rows, hostileRow{name: name, in: in, message: message, text: text})
	}
	early := func(name, in, message, text string) {
		rows = append(rows, hostileRow{name: name, early: true, in: in, message: message, text: text})
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	const (
		malformed = "Malformed frame"
		tooLarge  = "precondition_failed"
		number    = "expected a content-length"
		largest   = "larger than configured max size"
	)

	for _, n := range []string{"-1", "-9223372036854775808", "+5", "0x10", "1e3", "5.0", "5 5", "", "five", "\xd9\xa5"} {
		row("content-length:"+n, sendHead+"content-length:"+n+"\n\nhello\x00", malformed, number)
		early("content-length:"+n, "CONNECT\naccept-version:1.2\ncontent-length:"+n+"\n\nhello\x00", malformed, number)
	}
	for _, n := range []string{"1000000000000000000", "9223372036854775807", "9223372036854775808", "18446744073709551616", "18446744073709551621", strings.Repeat("9", 1000)} {
		row("content-length:"+n, sendHead+"content-length:"+n+"\n\nhello\x00", tooLarge, largest)
		early("content-length:"+n, "CONNECT\naccept-version:1.2\ncontent-length:"+n+"\n\nhello\x00", malformed, "more than 1024 bytes")
	}
	row("content-length of 16 MiB and 1", sendHead+"content-length:16777217\n\n", tooLarge, largest)
	row("content-length twice, equal", sendHead+"content-length:5\ncontent-length:5\n\nhello\x00", "", "")
	row("content-length twice, different", sendHead+"content-length:5\ncontent-length:6\n\nhello\x00\x00", malformed, "two content-lengths, 5 and 6")
	row("content-length too short", sendHead+"content-length:3\n\nhello\x00", malformed, "expected NUL")
	row("content-length too short, large", sendHead+"content-length:20000\n\n"+long(20001)+"\x00", malformed, "expected NUL")
	row("content-length:0 with a body", sendHead+"content-length:0\n\nhello\x00", malformed, "expected NUL")
	row("NULs in a body with its length", sendHead+"content-length:5\n\n\x00\x00\x00\x00\x00\x00", "", "")
	row("ACK of 1 EB", "ACK\nid:x\nreceipt:r\ncontent-length:1000000000000000000\n\n", malformed+"|"+tooLarge, "")

	row("headers, 101", sendHead+strings.Repeat("a:b\n", 99)+"\nhello\x00", malformed, "more than 100 headers")
	row("headers, 100", sendHead+strings.Repeat("a:b\n", 98)+"\nhello\x00", "", "")
	row("headers, a million", sendHead+strings.Repeat("a:b\n", 1e6), malformed, "more than 100 headers")
	row("headers of 75 KB in all", sendHead+strings.Repeat("a:"+long(15000)+"\n", 5)+"\nhello\x00", malformed, "more than 65536 bytes")
	row("a header's line without an end", sendHead+"a:"+long(a1MB), malformed, "more than 16384 bytes")
	row("a header's name without an end", sendHead+long(a1MB), malformed, "more than 16384 bytes")
	early("a header's line without an end", "CONNECT\nlogin:"+long(a1MB), malformed, "more than 16384 bytes")
	early("headers, a million", "CONNECT\n"+strings.Repeat("a:b\n", 1e6), malformed, "more than 100 headers")
	early("a body of a CONNECT without an end", "CONNECT\naccept-version:1.2\n\n"+long(a1MB), malformed, "more than 1024 bytes")
	row("a receipt id of 1 MB", "SEND\ndestination:/queue/hostile\nreceipt:"+long(a1MB)+"\n\nhello\x00", malformed, "more than 16384 bytes")
	row("a receipt id of 16 kB", "SEND\ndestination:/queue/hostile\nreceipt:"+long(16000)+"\n\nhello\x00", "", "")
	row("a receipt id of escapes", "SEND\ndestination:/queue/hostile\nreceipt:"+strings.Repeat(`\n`, 8000)+"\n\nhello\x00", "", "")
	row("a command without an end", long(a1MB), "Bad command", "")
	row("a command in lower case", "send\ndestination:/queue/hostile\nreceipt:r\n\nhello\x00", "Bad command", "")
	row("a command of the server's", "MESSAGE\ndestination:/queue/hostile\nreceipt:r\n\nhello\x00", "Bad command", "")

	row("no colon", sendHead+"header\n\nhello\x00", malformed, "name:value")
	row("no name", sendHead+":value\n\nhello\x00", malformed, "without a name")
	row("NUL in a header", sendHead+"a:b\x00c\n\nhello\x00", malformed, "NUL")
	row("NUL in the command", "SE\x00ND\ndestination:/queue/hostile\n\nhello\x00", "Bad command", "")
	row("CR in a header", sendHead+"a:b\rc\n\nhello\x00", malformed, "CR")
	row("an escape that does not exist", sendHead+`a:\t`+"\n\nhello\x00", malformed, "no escape")
	row("a backslash at the end", sendHead+`a:\`+"\n\nhello\x00", malformed, "backslash")
	row("LF, CR and colon escaped", sendHead+`a:\n\r\c\\`+"\n\nhello\x00", "", "")
	row("a header that is not UTF-8", sendHead+"a:\xff\xfe\n\nhello\x00", "", "")
	row("a body that is not UTF-8", sendHead+"\n\xff\xfe\xc0\x00", "", "")
	row("a destination that is not UTF-8", "SEND\ndestination:/queue/\xff\nreceipt:r\n\nhello\x00", "Invalid destination", "UTF-8")
	row("a destination of 10 kB", "SEND\ndestination:/queue/"+long(10000)+"\nreceipt:r\n\nhello\x00", "*", "")
	row("a key of 10 kB", "SEND\ndestination:/topic/"+long(10000)+"\nreceipt:r\n\nhello\x00", "*", "")
	row("an exchange of 10 kB", "SEND\ndestination:/exchange/"+long(10000)+"/k\nreceipt:r\n\nhello\x00", "*", "")
	row("a name of 10 kB", "SEND\ndestination:"+long(10000)+"\nreceipt:r\n\nhello\x00", "*", "")
	row("an empty destination", "SEND\ndestination:\nreceipt:r\n\nhello\x00", "Invalid destination", "")
	row("a broken percent escape", "SEND\ndestination:/queue/%zz\nreceipt:r\n\nhello\x00", "", "")
	row("priority:-1", sendHead+"priority:-1\n\nhello\x00", "*", "")
	row("priority:2^64", sendHead+"priority:18446744073709551616\n\nhello\x00", "*", "")
	row("expires:nonsense", sendHead+"expires:nonsense\n\nhello\x00", "*", "")
	row("x-max-length:10^30", "SEND\ndestination:/queue/hostile-limited\nreceipt:r\nx-max-length:"+"1"+strings.Repeat("0", 30)+"\n\nhello\x00", "Invalid header", "")

	row("a subscription id of 16 kB", "SUBSCRIBE\ndestination:/queue/empty\nreceipt:r\nid:"+long(16000)+"\n\n\x00", "*|", "")
	row("prefetch-count:-1", "SUBSCRIBE\ndestination:/queue/empty\nreceipt:r\nid:1\nprefetch-count:-1\n\n\x00", "", "")
	row("prefetch-count:2^64", "SUBSCRIBE\ndestination:/queue/empty\nreceipt:r\nid:1\nprefetch-count:18446744073709551616\n\n\x00", "Invalid header", "")
	row("a subscription of 10 kB", "SUBSCRIBE\ndestination:/topic/"+long(10000)+"\nreceipt:r\nid:1\n\n\x00", "*", "")
	row("a subscription twice", strings.Repeat("SUBSCRIBE\ndestination:/queue/empty\nid:1\n\n\x00", 2), "Duplicated subscription identifier", "")
	for _, id := range []string{"", "x", "-", "-0", "1", "T_1@@session@@1-1", "T_1@@session@@1-18446744073709551616", long(16000)} {
		row("ACK of "+id, "ACK\nid:"+id+"\nreceipt:r\n\n\x00", "*", "")
	}
	row("UNSUBSCRIBE of nothing", "UNSUBSCRIBE\nid:none\nreceipt:r\n\n\x00", "No subscription found", "")
	row("COMMIT of nothing", "COMMIT\ntransaction:none\nreceipt:r\n\n\x00", "Bad transaction", "")
	row("SEND in no transaction", sendHead+"transaction:none\n\nhello\x00", "Bad transaction", "")
	row("BEGIN twice", strings.Repeat("BEGIN\ntransaction:t\n\n\x00", 2), "Bad transaction", "")
	many := &strings.Builder{}
	for i := range 1025 {
		fmt.Fprintf(many, "BEGIN\ntransaction:%d\n\n\x00", i)
	}
	row("transactions, 1025", many.String(), "not_allowed", "1024")
	row("CONNECT twice", stompConnect, "Already connected", "")

	early("SEND before CONNECT", sendHead+"\nhello\x00", "Illegal command", "")
	early("no credentials", "CONNECT\naccept-version:1.2\n\n\x00", "Bad CONNECT", "")
	early("a password of another", "CONNECT\naccept-version:1.2\nlogin:guest\npasscode:"+long(10000)+"\n\n\x00", "Bad CONNECT", "Access refused")
	early("a user of 10 kB", "CONNECT\naccept-version:1.2\nlogin:"+long(10000)+"\npasscode:x\n\n\x00", "Bad CONNECT", "Access refused")
	early("a virtual host of 10 kB", "CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\nhost:"+long(10000)+"\n\n\x00", "Bad CONNECT", "")
	early("no version", "CONNECT\naccept-version:9.9\nlogin:guest\npasscode:guest\n\n\x00", "Version mismatch", "")
	for _, beat := range []string{"-1,-1", "1", "a,b", "99999999999999999999,0", ",", "1,2,3"} {
		early("heart-beat:"+beat, "CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\nheart-beat:"+beat+"\n\n\x00", "*|", "")
	}
	return rows
}

// run sends a row's bytes and returns what came back. ended is whether the broker
// has ended the connection behind that.
func (row *hostileRow) run(t *testing.T, addr string) (f stompFrame, ended bool) {
	t.Helper()
	p, err := dialSTOMP(addr)
	if err == nil && !row.early {
		err = p.login()
	}
	if err != nil {
		t.Fatalf("%s: %v", row.name, err)
	}
	defer p.close()
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		for rest := row.in; rest != ""; { // the broker may be done with it in the middle
			n := min(len(rest), 64<<10)
			if p.write(rest[:n]) != nil {
				return
			}
			rest = rest[n:]
		}
	})
	defer p.close()
	f = p.reply(t)
	if f.command == stompwire.Err || f.command == 0 {
		return f, f.command == 0 || p.ended()
	}
	return f, false
}

// Peers that break STOMP, or stretch it, are told why and cut; the broker stores
// nothing of theirs, serves on, and grows by little.
func TestHostileSTOMP(t *testing.T) {
	takeTurn(t)
	s := setup{dir: t.TempDir(), stomp: freeAddress(t), watched: !long()}
	p := start(t, s)
	beside := standBy(t, p)
	const answerMost = 20 << 10 // bytes of an answer: the longest id, and little more

	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "peer sends\tbroker answers\tand then")
	taken := 0
	for _, row := range hostileRows() {
		f, ended := row.run(t, s.stomp)
		when := ""
		if row.early {
			when = ", before login"
		}
		after := "serves on"
		if ended {
			after = "ends"
		}
		fmt.Fprintf(w, "%.50q%s\t%s\t%s\n", row.name, when, f, after)
		if row.message == "" {
			if f.command != stompwire.Receipt || ended {
				t.Errorf("%.60q: got %s, ended %v; want a RECEIPT", row.name, f, ended)
			}
			if strings.HasPrefix(row.in, "SEND\ndestination:/queue/hostile\n") {
				taken++
			}
			continue
		}
		ok := false
		for want := range strings.SplitSeq(row.message, "|") {
			switch want {
			case "": // or it is taken, as the specification has it
				ok = ok || f.command == stompwire.Receipt || f.command == stompwire.Connected
			case "*":
				ok = ok || f.command == stompwire.Err && f.headers["message"] != ""
			default:
				ok = ok || f.command == stompwire.Err && f.headers["message"] == want
			}
		}
		if !ok || !strings.Contains(string(f.body), row.text) {
			t.Errorf("%.60q%s: got %s; want an ERROR %q with %q", row.name, when, f, row.message, row.text)
		}
		if f.command == stompwire.Err && !ended {
			t.Errorf("%.60q%s: the connection goes on behind an ERROR", row.name, when)
		}
		size := len(f.body)
		for name, value := range f.headers {
			size += len(name) + len(value)
		}
		if size > answerMost {
			t.Errorf("%.60q: the answer has %d bytes", row.name, size)
		}
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", &text)
	grown := beside.grown()
	beside.end("grown by", mib(grown))
	if grown > 128<<20 {
		t.Errorf("hostile peers cost %s", mib(grown))
	}
	state, err := mustChannel(t, mustConnect(t, p.addr)).QueueDeclarePassive("hostile", true, false, false, false, nil)
	if err != nil || state.Messages != taken {
		t.Errorf("%d messages are stored, %d were taken: %v", state.Messages, taken, err)
	}
	p.terminate()
}
