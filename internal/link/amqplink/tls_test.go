package amqplink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/link"
)

// tlsFront accepts TLS and hands on what is within to an address.
func tlsFront(t *testing.T, to string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"front"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
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
					near.Close()
					far.Close()
				})
			}
		}
	})
	return ln.Addr().String()
}

func TestMessagesGoThroughTLS(t *testing.T) {
	plain := mustParse(t, startFerry(t))
	e := mustParse(t, "amqps://ada:lovelace@"+tlsFront(t, plain.Address())+"?verify=verify_none")
	c := mustOpen(t, link.Options{Endpoint: e, Heartbeat: 10 * time.Second})
	mustDeclare(t, c, link.Queue{Name: "q"})
	src, in := newSource(), newSink()
	bodies := []string{"small", strings.Repeat("large", 300_000), "", strings.Repeat("x", 131065)}
	for i, b := range bodies {
		src.add(outgoing("q", b, uint64(i+1)))
	}
	if _, err := c.OpenSender(t.Context(), link.SenderConfig{Confirm: true}, src); err != nil {
		t.Fatal(err)
	}
	src.await(t, settledUpTo(uint64(len(bodies))))
	if _, err := c.OpenReceiver(t.Context(), link.ReceiverConfig{Queue: "q"}, in); err != nil {
		t.Fatal(err)
	}
	for i, d := range in.await(t, len(bodies)) {
		if string(d.Message.Body) != bodies[i] {
			t.Errorf("body %d of %d bytes came as %d", i, len(bodies[i]), len(d.Message.Body))
		}
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	checkGoroutines(t)
}

func TestACertificateThatIsNotTrustedIsRefused(t *testing.T) {
	plain := mustParse(t, startFerry(t))
	_, err := Open(t.Context(), link.Options{Endpoint: mustParse(t, "amqps://ada:lovelace@"+tlsFront(t, plain.Address()))})
	kindIs(t, err, link.AccessRefused)
	_, err = Open(t.Context(), link.Options{Endpoint: mustParse(t, "amqps://ada:lovelace@"+plain.Address())})
	kindIs(t, err, link.Protocol)
}
