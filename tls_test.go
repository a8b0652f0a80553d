package ferry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	neturl "net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// A tlsFront accepts TLS, with whatever certificate it has at the time, and hands
// on what is within to a broker. Only clients with that certificate may enter.
type tlsFront struct {
	addr        string
	certificate atomic.Pointer[tls.Certificate]
}

// renew makes a certificate that trusts itself, and writes it and its key to
// where the client reads them.
func (f *tlsFront) renew(t *testing.T, serial int64, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"broker.example"},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.certificate.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

func (f *tlsFront) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	now := f.certificate.Load()
	leaf, err := x509.ParseCertificate(now.Certificate[0])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{
		Certificates: []tls.Certificate{*now}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}, nil
}

func startTLSFront(t *testing.T, to string) *tlsFront {
	t.Helper()
	f := new(tlsFront)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetConfigForClient: f.config, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	var goroutines sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		goroutines.Wait()
	})
	goroutines.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				goroutines.Go(func() {
					_, _ = io.Copy(way[0], way[1]) // until one side ends
					_ = near.Close()
					_ = far.Close()
				})
			}
		}
	})
	return f
}

// Certificates are replaced while programs run: each connect reads them anew, that
// of the authority as well as the client's own.
func TestCertificatesAreReadAtEachConnect(t *testing.T) {
	fb := faultbroker.Start(t, faultbroker.Options{})
	front, dir := startTLSFront(t, fb.Addr()), t.TempDir()
	front.renew(t, 1, dir)
	file := func(name string) string { return neturl.QueryEscape(filepath.Join(dir, name)) }
	c, err := ferry.Dial(t.Context(), "amqps://guest:guest@"+front.addr+"/?server_name_indication=broker.example"+
		"&cacertfile="+file("cert.pem")+"&certfile="+file("cert.pem")+"&keyfile="+file("key.pem"),
		ferry.WithTopology(queues("q")), ferry.WithBackoff(time.Millisecond, 10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, c)
	publish(t, c, "q", "with the first")
	front.renew(t, 2, dir)
	fb.Cut()
	publish(t, c, "q", "with the second")
	co, err := c.Consumer(t.Context(), ferry.ConsumerOptions{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"with the first", "with the second"} {
		_ = receive(t, co, body).Ack()
	}
}
