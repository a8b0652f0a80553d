package linktest

import (
	"crypto/tls"
	"io"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
)

// TLSFront accepts TLS until the test ends, and hands on what is within to an address.
// Nobody vouches for its certificate.
func TLSFront(t *testing.T, to string) string {
	t.Helper()
	server := httptest.NewTLSServer(nil) // for its certificate
	certificates := server.TLS.Certificates
	server.Close()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				return
			}
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1]) // until one side ends
					_ = near.Close()
					_ = far.Close()
				})
			}
		}
	})
	return ln.Addr().String()
}
