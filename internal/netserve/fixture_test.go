package netserve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// pipeListener accepts connections that the test makes, and errors.
type pipeListener struct {
	accepts chan func() (net.Conn, error)
	once    sync.Once
	closed  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{accepts: make(chan func() (net.Conn, error)), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case f := <-l.accepts:
		return f()
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	l.accepts <- func() (net.Conn, error) { return far, nil }
	return near
}

// fixture is a server that runs.
type fixture struct {
	*pipeListener
	srv  *Server
	stop context.CancelFunc
	done chan error
}

func serve(t *testing.T, cfg Config, handle Handler) *fixture {
	t.Helper()
	f := &fixture{pipeListener: newPipeListener(), done: make(chan error, 1)}
	cfg.Endpoints = []Endpoint{{Name: "test", Listener: f.pipeListener, Handle: handle}}
	var err error
	if f.srv, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.done <- f.srv.Serve(ctx) }()
	return f
}

func (f *fixture) end(t *testing.T) {
	t.Helper()
	f.stop()
	if err := <-f.done; err != nil {
		t.Error(err)
	}
}

func mustWrite(t *testing.T, w io.Writer, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Errorf("write: %v", err)
	}
}

// mustEnd wants the connection closed by the other side after d.
func mustEnd(t *testing.T, nc net.Conn, d time.Duration) {
	t.Helper()
	start := time.Now()
	_, err := io.Copy(io.Discard, nc)
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read: %v", err)
	}
	if got := time.Since(start); got != d {
		t.Errorf("closed after %v, want %v", got, d)
	}
}

// tcpPair is the two ends of a TCP connection over loopback.
func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// conn is a connection without a server.
func conn(nc net.Conn) *Conn {
	now := time.Now()
	c := &Conn{srv: &Server{}, sock: &socket{Conn: nc}}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.In.open(nc, now)
	c.Out.open(c.sock, now)
	return c
}

// certFiles writes a certificate of its own authority, named name.
func certFiles(t *testing.T, dir, name string) TLSFiles {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := TLSFiles{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for file, block := range map[string]*pem.Block{
		f.Cert: {Type: "CERTIFICATE", Bytes: der}, f.Key: {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func mustCertificates(t *testing.T, files TLSFiles) *Certificates {
	t.Helper()
	c, err := LoadCertificates(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func clientTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// numbered is n bytes that are different everywhere.
func numbered(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) ^ byte(i>>8)*7 ^ byte(i>>16)*13
	}
	return p
}

func mustEqual(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes that are not the %d sent", len(got), len(want))
	}
}
