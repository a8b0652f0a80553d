package ferrytest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// talk is both sides of a connection in the form of steps: bytes that the client
// sends, methods that the broker answers with.
type talk struct {
	t      *testing.T
	fs     frames
	refuse int
	client bytes.Buffer // what the client got
	broker bytes.Buffer // what the broker got
}

func newTalk(t *testing.T) *talk {
	x := &talk{t: t}
	x.up(amqpwire.ProtocolHeader[:])
	return x
}

func (x *talk) up(raw []byte) {
	up, down := x.fs.fromClient(raw, func() bool {
		if x.refuse == 0 {
			return false
		}
		x.refuse--
		return true
	})
	x.broker.Write(up)
	x.client.Write(down)
}

func (x *talk) down(raw []byte) {
	up, down := x.fs.fromBroker(raw)
	x.broker.Write(up)
	x.client.Write(down)
}

// open makes a channel that confirms.
func (x *talk) open(channel uint16) {
	x.up(method(x.t, channel, &amqpwire.ChannelOpen{}))
	x.down(method(x.t, channel, &amqpwire.ChannelOpenOk{}))
	x.up(method(x.t, channel, &amqpwire.ConfirmSelect{}))
	x.down(method(x.t, channel, &amqpwire.ConfirmSelectOk{}))
	x.said()
}

// publish publishes several messages; r ones are refused, the others passed.
func (x *talk) publish(channel uint16, which string) {
	for _, w := range which {
		x.refuse = strings.Count("r", string(w))
		x.up(message(x.t, channel, "q", string(w)))
	}
}

// said is what the client got since it was last asked: "a3" for an ack of 3, "n"
// for a nack, "*" behind it for multiple, other methods by their names.
func (x *talk) said() string {
	return said(x.t, x.client.Next(x.client.Len()))
}

func said(t *testing.T, raw []byte) string {
	t.Helper()
	var words []string
	for len(raw) > 0 {
		f, n, err := amqpwire.ParseFrame(raw, largestFrame)
		if err != nil || n == 0 {
			t.Fatalf("not whole frames: %x, %v", raw, err)
		}
		raw = raw[n:]
		m, err := amqpwire.ParseMethod(f.Payload)
		if err != nil {
			t.Fatal(err)
		}
		star := map[bool]string{true: "*"}
		switch m := m.(type) {
		case *amqpwire.BasicAck:
			words = append(words, fmt.Sprintf("a%d%s", m.DeliveryTag, star[m.Multiple]))
		case *amqpwire.BasicNack:
			words = append(words, fmt.Sprintf("n%d%s", m.DeliveryTag, star[m.Multiple]))
		default:
			words = append(words, strings.TrimPrefix(fmt.Sprintf("%T", m), "*amqpwire."))
		}
	}
	return strings.Join(words, " ")
}

func TestConfirmsKeepToTheirPublishes(t *testing.T) {
	ack := func(tag uint64, multiple bool) amqpwire.Method {
		return &amqpwire.BasicAck{DeliveryTag: tag, Multiple: multiple}
	}
	nack := func(tag uint64, multiple bool) amqpwire.Method {
		return &amqpwire.BasicNack{DeliveryTag: tag, Multiple: multiple}
	}
	for _, c := range []struct {
		name      string
		publishes string // r is refused, p is passed on
		confirms  []amqpwire.Method
		want      string
	}{
		{"nothing refused", "ppp", []amqpwire.Method{ack(2, true), nack(3, false)}, "a2* n3"},
		{"all refused", "rrr", nil, "n1 n2 n3"},
		{"the first", "rpp", []amqpwire.Method{ack(1, false), ack(2, false)}, "n1 a2 a3"},
		{"the middle, singly", "prp", []amqpwire.Method{ack(2, false), nack(1, false)}, "n2 a3 n1"},
		{"the last", "ppr", []amqpwire.Method{ack(2, true)}, "n3 a2*"},
		{"the middle of a multiple", "prp", []amqpwire.Method{ack(2, true)}, "n2 a1* a3*"},
		{"several in a multiple", "pprrprp", []amqpwire.Method{ack(4, true)}, "n3 n4 n6 a2* a5* a7*"},
		{"a multiple nack", "prp", []amqpwire.Method{nack(2, true)}, "n2 n1* n3*"},
		{"a multiple behind it", "prppp", []amqpwire.Method{ack(1, false), ack(4, true)}, "n2 a1 a5*"},
		{"a multiple up to what was settled", "prp", []amqpwire.Method{ack(2, false), ack(2, true)}, "n2 a3 a1*"},
		{"a multiple of nothing that is open", "prp", []amqpwire.Method{ack(1, false), ack(2, false), ack(2, true)}, "n2 a1 a3 a3*"},
		{"all that is open", "prp", []amqpwire.Method{ack(0, true), ack(2, false)}, "n2 a0* a3"},
		{"two multiples", "prprp", []amqpwire.Method{ack(1, true), ack(3, true)}, "n2 n4 a1* a3* a5*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newTalk(t)
			x.open(7)
			x.publish(7, c.publishes)
			for _, m := range c.confirms {
				x.down(method(t, 7, m))
			}
			if got := x.said(); got != c.want {
				t.Errorf("the client got %q, want %q", got, c.want)
			}
		})
	}
}

func TestOnlyPublishesThatAreConfirmedAreRefused(t *testing.T) {
	x := newTalk(t)
	x.up(method(t, 1, &amqpwire.ChannelOpen{}))
	x.refuse = 1
	x.up(message(t, 1, "q", "no confirms here"))
	if x.refuse != 1 || !bytes.HasSuffix(x.broker.Bytes(), message(t, 1, "q", "no confirms here")) {
		t.Error("a publish that nobody confirms was refused")
	}
	// Another channel, and the same one after it was opened again, counts on its
	// own.
	x.open(2)
	x.up(message(t, 2, "q", "refused"))
	x.up(message(t, 2, "q", "passed"))
	x.down(method(t, 2, &amqpwire.BasicAck{DeliveryTag: 1}))
	if got := x.said(); got != "n1 a2" {
		t.Errorf("channel 2: %q", got)
	}
	x.up(method(t, 2, &amqpwire.ChannelClose{}))
	x.down(method(t, 2, &amqpwire.ChannelCloseOk{}))
	x.open(2)
	x.publish(2, "p")
	x.down(method(t, 2, &amqpwire.BasicAck{DeliveryTag: 1}))
	if got := x.said(); got != "a1" {
		t.Errorf("channel 2, opened again: %q", got)
	}
}

func TestNothingIsRefusedOnWhatIsClosing(t *testing.T) {
	for name, closing := range map[string]func(*talk){
		"the broker's channel.close": func(x *talk) { x.down(method(x.t, 1, &amqpwire.ChannelClose{})) },
		"the client's channel.close": func(x *talk) { x.up(method(x.t, 1, &amqpwire.ChannelClose{})) },
		"connection.close":           func(x *talk) { x.down(method(x.t, 0, &amqpwire.ConnectionClose{})) },
	} {
		t.Run(name, func(t *testing.T) {
			x := newTalk(t)
			x.open(1)
			closing(x)
			x.said()
			x.publish(1, "r")
			if x.refuse != 1 || x.client.Len() > 0 {
				t.Errorf("%d to refuse, the client got %q", x.refuse, x.said())
			}
		})
	}
}

// A client that publishes before confirm.select is answered gets the refusal
// behind the answer.
func TestARefusalComesBehindConfirmSelectOk(t *testing.T) {
	x := newTalk(t)
	x.up(method(t, 1, &amqpwire.ChannelOpen{}))
	x.up(method(t, 1, &amqpwire.ConfirmSelect{}))
	x.publish(1, "rpr")
	if x.client.Len() > 0 {
		t.Errorf("the client got %q too early", x.said())
	}
	x.down(method(t, 1, &amqpwire.ConfirmSelectOk{}))
	x.down(method(t, 1, &amqpwire.BasicAck{DeliveryTag: 1}))
	if got := x.said(); got != "ConfirmSelectOk n1 n3 a2" {
		t.Errorf("the client got %q", got)
	}
	// Without an answer there is nothing to wait for.
	x.up(method(t, 2, &amqpwire.ChannelOpen{}))
	x.up(method(t, 2, &amqpwire.ConfirmSelect{NoWait: true}))
	x.publish(2, "r")
	if got := x.said(); got != "n1" {
		t.Errorf("with no-wait the client got %q", got)
	}
}

// The content of a refused publish is swallowed, whatever its size and whatever
// comes between, and nothing else is.
func TestOnlyTheRefusedPublishIsSwallowed(t *testing.T) {
	for _, size := range []int{0, 1, 10000} {
		x := newTalk(t)
		x.open(1)
		x.broker.Reset()
		refused := message(t, 1, "q", strings.Repeat("x", size))
		half := len(refused) / 2
		x.refuse = 1
		x.up(refused[:half])
		x.down(method(t, 0, &amqpwire.ConnectionBlocked{}))
		x.up(refused[half:])
		x.up(amqpwire.AppendHeartbeat(nil))
		x.up(message(t, 1, "q", "kept"))
		if got, want := x.broker.Bytes(), append(amqpwire.AppendHeartbeat(nil), message(t, 1, "q", "kept")...); !bytes.Equal(got, want) {
			t.Errorf("size %d: the broker got %x, want %x", size, got, want)
		}
		if got := x.said(); got != "ConnectionBlocked n1" {
			t.Errorf("size %d: the client got %q", size, got)
		}
	}
	x := newTalk(t)
	x.open(1)
	x.open(2)
	x.broker.Reset()
	refused, other := message(t, 1, "q", "refused"), message(t, 2, "q", "other")
	_, n, err := amqpwire.ParseFrame(refused, largestFrame)
	if err != nil {
		t.Fatal(err)
	}
	x.refuse = 1
	x.up(refused[:n])
	x.up(other)
	x.up(refused[n:])
	if !bytes.Equal(x.broker.Bytes(), other) || x.said() != "n1" {
		t.Errorf("the broker got %x, want the other channel's publish", x.broker.Bytes())
	}
}

// Whatever is not AMQP 0-9-1 passes as it is, also when that turns out late.
func TestWhatIsNotUnderstoodPasses(t *testing.T) {
	for _, c := range []struct {
		name     string
		up, down []string
	}{
		{"STOMP", []string{"CO", "NNECT\n\n\x00"}, []string{"CONNECTED\n"}},
		{"AMQP 1.0", []string{"AMQP\x00\x01", "\x00\x00"}, []string{"AMQP\x00\x01\x00\x00"}},
		{"a broker that speaks first", []string{"", "HELLO"}, []string{"22", "0 hello"}},
		{"the beginning of a header", []string{"AMQ"}, []string{""}},
		{"garbage behind the header", []string{"AMQP\x00\x00\x09\x01", "\x01\x00", "\x00\xff\xff\xff\xff"}, []string{"\x01\x00", "\x00"}},
		{"a broker that talks garbage", []string{"AMQP\x00\x00\x09\x01", "\x01\x00", ""}, []string{"", "HTTP/1.1 400", "x"}},
	} {
		var fs frames
		var up, down []byte
		both := func(u, d []byte) { up, down = append(up, u...), append(down, d...) }
		for i := range max(len(c.up), len(c.down)) {
			if i < len(c.up) {
				both(fs.fromClient([]byte(c.up[i]), func() bool { return true }))
			}
			if i < len(c.down) && c.down[i] != "" {
				both(fs.fromBroker([]byte(c.down[i])))
			}
		}
		both(fs.rest(true), fs.rest(false))
		if string(up) != strings.Join(c.up, "") || string(down) != strings.Join(c.down, "") {
			t.Errorf("%s: passed %q and %q, want %q and %q", c.name, up, down, c.up, c.down)
		}
	}
}

// A model of both sides: whatever is refused, in whatever pieces bytes come and
// however the broker confirms, the client learns of each publish exactly what
// became of it, and no confirm covers a refused publish while one before it is
// open.
func TestConfirmsAgainstAModel(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		x := newTalk(t)
		x.open(1)
		var fates []byte      // of the client's publishes: what they are to become
		var passed []int      // the client's publish behind each of the broker's tags
		confirmed := []bool{} // of the broker's tags
		got := map[int]byte{} // what the client was told
		check := func(w string) {
			for _, word := range strings.Fields(w) {
				var tag int
				multiple := strings.HasSuffix(word, "*")
				if _, err := fmt.Sscanf(strings.TrimSuffix(word[1:], "*"), "%d", &tag); err != nil {
					t.Fatal(err)
				}
				first := tag
				if multiple {
					first = 1
				}
				settled := 0
				for n := first; n <= tag; n++ {
					if got[n] == 0 {
						got[n] = word[0]
						settled++
						if got[n] != fates[n-1] {
							t.Fatalf("seed %d: %s told of %d, whose fate is %c", seed, word, n, fates[n-1])
						}
					} else if n < tag && fates[n-1] == 'n' && settled > 0 && multiple {
						t.Fatalf("seed %d: %s covers %d, which was refused, with one before it open", seed, word, n)
					}
				}
				if settled == 0 {
					t.Fatalf("seed %d: %s is of nothing open", seed, word)
				}
			}
		}
		for range 60 {
			if rng.IntN(3) > 0 || len(passed) == 0 {
				raw := message(t, 1, "q", strings.Repeat("x", rng.IntN(50)))
				if rng.IntN(3) == 0 {
					x.refuse = 1
					fates = append(fates, 'n')
				} else {
					fates = append(fates, 'a')
					passed = append(passed, len(fates))
					confirmed = append(confirmed, false)
				}
				for len(raw) > 0 {
					n := 1 + rng.IntN(len(raw))
					x.up(raw[:n])
					raw = raw[n:]
				}
			} else if at := rng.IntN(len(passed)); !confirmed[at] {
				multiple := rng.IntN(2) == 0
				for i := range at {
					confirmed[i] = confirmed[i] || multiple
				}
				confirmed[at] = true
				x.down(method(t, 1, &amqpwire.BasicAck{DeliveryTag: uint64(at + 1), Multiple: multiple}))
			}
			check(x.said())
		}
		if n := len(passed); n > 0 && !confirmed[n-1] {
			x.down(method(t, 1, &amqpwire.BasicAck{DeliveryTag: uint64(n), Multiple: true}))
			check(x.said())
			if len(got) != len(fates) {
				t.Fatalf("seed %d: the client knows of %d publishes of %d", seed, len(got), len(fates))
			}
		}
	}
}

// Where nothing is refused, what comes out is what came in, in whatever pieces;
// and nothing makes it panic.
func FuzzFramesPassWhatTheyGet(f *testing.F) {
	header := string(amqpwire.ProtocolHeader[:])
	ok := append(amqpwire.AppendHeartbeat(nil), amqpwire.AppendAck(nil, 1, 3, true)...)
	f.Add([]byte(header+"\x01\x00\x01\x00\x00\x00\x05\x00\x14\x00\x0a\x00\xce"), ok, 3)
	f.Add([]byte(header+"\x01\x00\x01\x00\x00\x00\x05\x00\x55\x00\x0a\x00\xce\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x28\xce"), ok, 7)
	f.Add([]byte(header+"\x02\x00\x01\xff\xff\xff\xff"), []byte("HTTP"), 1)
	f.Add([]byte("AMQX"), []byte{}, 1)
	f.Fuzz(func(t *testing.T, sent, received []byte, piece int) {
		piece = 1 + (piece&0xff)%16
		for _, refuse := range []bool{false, true} {
			var fs frames
			var up, down []byte
			both := func(u, d []byte) { up, down = append(up, u...), append(down, d...) }
			s, r := sent, received
			for len(s)+len(r) > 0 {
				n, m := min(piece, len(s)), min(piece, len(r))
				both(fs.fromClient(s[:n], func() bool { return refuse }))
				if fs.begun || n == 0 {
					both(fs.fromBroker(r[:m]))
					r = r[m:]
				}
				s = s[n:]
			}
			both(fs.rest(true), fs.rest(false))
			if !refuse && (!bytes.Equal(up, sent) || !bytes.Equal(down, received)) {
				t.Fatalf("passed %x and %x, want %x and %x", up, down, sent, received)
			}
		}
	})
}
