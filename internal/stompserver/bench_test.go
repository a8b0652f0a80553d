package stompserver

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
)

// BenchmarkSend sends persistent messages of 100 bytes with receipts, 1000 on
// their way at most, while another connection receives them and acknowledges each.
func BenchmarkSend(b *testing.B) {
	for _, consumed := range []bool{false, true} {
		name := "alone"
		if consumed {
			name = "consumed"
		}
		b.Run(name, func(b *testing.B) {
			j, err := file.Open(vfs.OS{}, b.TempDir(), file.Options{})
			if err != nil {
				b.Fatal(err)
			}
			f := newFixture(b, func(c *Config, bc *broker.Config) { bc.Journal, c.Logger, bc.Logger = j, nil, nil })
			b.Cleanup(func() { j.Close() })
			p := f.connect()
			p.call("SEND", "destination:/queue/a")
			frame := []byte(text("SEND", "destination:/queue/a", "persistent:true", "content-length:100", "receipt:12345", "", string(bytes.Repeat([]byte("x"), 100))))
			var done sync.WaitGroup
			if consumed {
				q := f.connect()
				q.call("SUBSCRIBE", "destination:/queue/a", "id:1", "ack:client-individual", "prefetch-count:1000")
				done.Go(func() { consumeAll(b, q, b.N+1) })
			}
			b.ResetTimer()
			sendAllOf(b, p.nc, frame, b.N)
			done.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

func sendAllOf(b *testing.B, nc net.Conn, frame []byte, n int) {
	const window, batch = 1000, 100
	room := make(chan struct{}, window/batch)
	for range cap(room) {
		room <- struct{}{}
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() {
		buf, got, told := make([]byte, 64<<10), 0, 0
		for got < n {
			m, err := nc.Read(buf)
			if err != nil {
				b.Error(err)
				return
			}
			for got += bytes.Count(buf[:m], []byte{0}); got-told >= batch; told += batch {
				room <- struct{}{}
			}
		}
	})
	many := bytes.Repeat(frame, batch)
	for sent := 0; sent < n; sent += batch {
		<-room
		k := min(batch, n-sent)
		if _, err := nc.Write(many[:k*len(frame)]); err != nil {
			b.Error(err)
			return
		}
	}
}

func consumeAll(b *testing.B, p *testPeer, n int) {
	in := p.buf
	buf := make([]byte, 256<<10)
	var out []byte
	for n > 0 {
		for {
			end := bytes.IndexByte(in, 0)
			if end < 0 {
				break
			}
			i := bytes.Index(in[:end], []byte("\nack:"))
			if i < 0 {
				b.Errorf("got %q", in[:end])
				return
			}
			id := in[i+5:]
			id = id[:bytes.IndexByte(id, '\n')]
			out = append(append(append(out, "ACK\nid:"...), id...), "\n\n\x00"...)
			in = in[end+1:]
			n--
		}
		if _, err := p.nc.Write(out); err != nil {
			b.Error(err)
			return
		}
		out = out[:0]
		if n == 0 {
			return
		}
		m, err := p.nc.Read(buf)
		if err != nil {
			b.Error(err)
			return
		}
		in = append(append([]byte{}, in...), buf[:m]...)
	}
}
