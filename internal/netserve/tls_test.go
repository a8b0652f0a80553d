package netserve

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// handshake returns the name in the certificate that a server shows.
func handshake(t *testing.T, f *fixture, cfg *tls.Config) (string, error) {
	t.Helper()
	nc := f.dial()
	defer nc.Close()
	client := tls.Client(nc, cfg)
	if _, err := client.Write([]byte("x")); err != nil {
		return "", err
	}
	if _, err := client.Read(make([]byte, 1)); err != nil { // TLS 1.3 refuses late
		return "", err
	}
	return client.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestOldTLSIsRefused(t *testing.T) {
	files := certFiles(t, t.TempDir(), "a")
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{TLS: mustCertificates(t, files)}, say(""))
		for _, row := range []struct {
			version uint16
			ok      bool
		}{{tls.VersionTLS10, false}, {tls.VersionTLS11, false}, {tls.VersionTLS12, true}, {tls.VersionTLS13, true}} {
			cfg := clientTLS()
			cfg.MinVersion, cfg.MaxVersion = row.version, row.version
			if _, err := handshake(t, f, cfg); (err == nil) != row.ok {
				t.Errorf("%s: %v", tls.VersionName(row.version), err)
			}
		}
		f.end(t)
	})
}

func TestWithoutACertificateTLSIsLikeAnyBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{}, func(c *Conn) {
			if c.In.Buffered()[0] != tlsHandshake || c.TLS() != nil {
				t.Error("not the first byte of TLS")
			}
		})
		nc := f.dial()
		mustWrite(t, nc, []byte{tlsHandshake})
		mustEnd(t, nc, 0)
		f.end(t)
	})
}

func TestCertificatesAreReloadedWhenTheyChange(t *testing.T) {
	dir := t.TempDir()
	files := certFiles(t, dir, "first")
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		certs, err := LoadCertificates(files, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		f := serve(t, Config{TLS: certs}, say(""))
		want := func(name string) {
			t.Helper()
			if got, err := handshake(t, f, clientTLS()); err != nil || got != name {
				t.Errorf("shows %q, %v; want %q", got, err, name)
			}
		}
		stamp := time.Unix(2_000_000_000, 0) // file systems have coarse clocks
		change := func() {
			t.Helper()
			stamp = stamp.Add(time.Second)
			for _, file := range []string{files.Cert, files.Key} {
				if err := os.Chtimes(file, stamp, stamp); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(reloadCheck)
		want("first")
		certFiles(t, dir, "second")
		change()
		want("first") // looked a moment ago
		time.Sleep(reloadCheck)
		want("second")
		if err := os.WriteFile(files.Key, []byte("half a k"), 0o600); err != nil {
			t.Fatal(err)
		}
		change()
		for range 3 {
			time.Sleep(reloadCheck)
			want("second")
		}
		if n := strings.Count(log.String(), "cannot be loaded"); n != 1 {
			t.Errorf("complained %d times", n)
		}
		certFiles(t, dir, "third")
		change()
		time.Sleep(reloadCheck)
		want("third")
		f.end(t)
	})
}

func TestPeersCertificatesAreVerified(t *testing.T) {
	server, friend, stranger := certFiles(t, t.TempDir(), "server"), certFiles(t, t.TempDir(), "friend"), certFiles(t, t.TempDir(), "stranger")
	pair := func(f TLSFiles) []tls.Certificate {
		p, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{p}
	}
	server.CA = friend.Cert
	for _, row := range []struct {
		name    string
		show    []tls.Certificate
		require bool
		ok      bool
	}{
		{"none, optional", nil, false, true},
		{"none, required", nil, true, false},
		{"friend, optional", pair(friend), false, true},
		{"friend, required", pair(friend), true, true},
		{"stranger, optional", pair(stranger), false, false},
		{"stranger, required", pair(stranger), true, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := server
				server.RequirePeer = row.require
				f := serve(t, Config{TLS: mustCertificates(t, server)}, func(c *Conn) {
					if got := len(c.TLS().VerifiedChains) > 0; got != (row.show != nil) {
						t.Errorf("verified: %v", got)
					}
					say("")(c)
				})
				cfg := clientTLS()
				// Shown whatever authorities the server names.
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if row.show == nil {
						return &tls.Certificate{}, nil
					}
					return &row.show[0], nil
				}
				if _, err := handshake(t, f, cfg); (err == nil) != row.ok {
					t.Errorf("accepted: %v", err)
				}
				f.end(t)
			})
		})
	}
}

func TestFaultyCertificatesAreRefusedAtStart(t *testing.T) {
	good := certFiles(t, t.TempDir(), "a")
	for _, files := range []TLSFiles{
		{},
		{Cert: good.Cert, Key: good.Cert},
		{Cert: good.Cert, Key: "/nowhere"},
		{Cert: good.Cert, Key: good.Key, CA: good.Key},
		{Cert: good.Cert, Key: good.Key, CA: "/nowhere"},
		{Cert: good.Cert, Key: good.Key, RequirePeer: true},
	} {
		if _, err := LoadCertificates(files, nil); err == nil {
			t.Errorf("%+v accepted", files)
		}
	}
}

var _ net.Conn = (*socket)(nil)
