package gmqserver

import (
	"io"
	"net"
	"strings"
	"testing"
)

// One request after the other on one connection.
func BenchmarkOneConnection(b *testing.B) {
	p := newFixture(b).connect()
	request := []byte(`{"operation":"P","queue":"q","payload":"` + b64(strings.Repeat("x", 100)) + `"}` + "\n")
	for b.Loop() {
		if _, err := p.nc.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := p.in.ReadSlice('\n'); err != nil {
			b.Fatal(err)
		}
	}
}

// Many requests under way on one connection.
func BenchmarkPipelined(b *testing.B) {
	p := newFixture(b).connect()
	request := []byte(`{"operation":"P","queue":"q","payload":"` + b64(strings.Repeat("x", 100)) + `"}` + "\n")
	const window = 500
	batch := []byte(strings.Repeat(string(request), window))
	for n := 0; n < b.N; n += window {
		if _, err := p.nc.Write(batch); err != nil {
			b.Fatal(err)
		}
		for range window {
			if _, err := p.in.ReadSlice('\n'); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// A connection for each request, as GMQ's client has it.
func BenchmarkNewConnections(b *testing.B) {
	f := newFixture(b)
	request := []byte(original("P", "q", b64(strings.Repeat("x", 100))))
	for b.Loop() {
		nc, err := net.Dial("tcp", f.addr)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := nc.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			b.Fatal(err)
		}
		_ = nc.Close()
	}
}
