package endpoint

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An authority makes certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	serial      int64
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t), serial: 1}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.certificate = a.sign(t, template, template, a.key.Public())
	return a
}

func (a *authority) sign(t *testing.T, template, parent *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// issue makes a certificate for a server or client of that name.
func (a *authority) issue(t *testing.T, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	a.serial++
	key := newKey(t)
	return a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a.certificate, key.Public()), key
}

func (a *authority) server(t *testing.T, name string) tls.Certificate {
	t.Helper()
	certificate, key := a.issue(t, name)
	return tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}
}

func pkcs8(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// handshake connects a client with the configuration to a server. It gives
// whom the server saw: the name in the client's certificate, or none, and the
// name that the client asked for; and the client's error.
func handshake(t *testing.T, client, server *tls.Config) (peer, asked string, err error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan tls.ConnectionState, 1)
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		s := tls.Server(conn, server)
		if s.HandshakeContext(t.Context()) == nil {
			_, _ = s.Write([]byte("hello"))
			done <- s.ConnectionState()
		}
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := tls.Client(conn, client)
	err = c.HandshakeContext(t.Context())
	if err == nil {
		_, err = c.Read(make([]byte, 5)) // a server refuses a client's certificate after the client's handshake
	}
	conn.Close()
	state := <-done
	if len(state.PeerCertificates) > 0 {
		peer = state.PeerCertificates[0].Subject.CommonName
	}
	return peer, state.ServerName, err
}

func parseOne(t *testing.T, text string) Endpoint {
	t.Helper()
	l, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return l.Endpoints[0]
}

func configOf(t *testing.T, e Endpoint) *tls.Config {
	t.Helper()
	config, err := e.TLSConfig()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestPlainSchemesHaveNoTLS(t *testing.T) {
	for _, text := range []string{"amqp://h", "stomp://h", "gmq://h"} {
		if config, err := parseOne(t, text).TLSConfig(); config != nil || err != nil {
			t.Errorf("%s: %v, %v", text, config, err)
		}
	}
}

func TestTLSDefaults(t *testing.T) {
	for text, name := range map[string]string{
		"amqps://broker": "broker", "stomps://[fe80::1%25en0]": "fe80::1", "amqps://broker?server_name_indication=other": "other",
	} {
		config := configOf(t, parseOne(t, text))
		if config.MinVersion != tls.VersionTLS12 || config.InsecureSkipVerify || config.RootCAs != nil || len(config.Certificates) > 0 || config.ServerName != name {
			t.Errorf("%s: %+v", text, config)
		}
	}
	if config := configOf(t, Endpoint{Scheme: "amqps", Host: "h", Port: 1}); config.InsecureSkipVerify {
		t.Error("an endpoint that says nothing of verify does not verify")
	}
	if _, err := (Endpoint{Scheme: "amqps", Host: "h", Verify: "verify_nobody"}).TLSConfig(); err == nil {
		t.Error("an unknown verify is taken")
	}
}

func TestBrokersAreVerified(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	ca := writePEM(t, filepath.Join(t.TempDir(), "ca.pem"), "CERTIFICATE", ours.certificate.Raw)
	for _, c := range []struct {
		url    string
		server tls.Certificate
		asked  string
		good   bool
	}{
		{"amqps://broker?cacertfile=" + ca, ours.server(t, "broker"), "broker", true},
		{"amqps://broker?cacertfile=" + ca, theirs.server(t, "broker"), "", false},
		{"amqps://broker?cacertfile=" + ca, ours.server(t, "other"), "", false},
		{"amqps://broker?server_name_indication=other&cacertfile=" + ca, ours.server(t, "other"), "other", true},
		{"amqps://broker?verify=verify_none&cacertfile=" + ca, theirs.server(t, "other"), "broker", true},
		{"amqps://broker", ours.server(t, "broker"), "", false}, // the system does not know it
	} {
		_, asked, err := handshake(t, configOf(t, parseOne(t, c.url)), &tls.Config{Certificates: []tls.Certificate{c.server}})
		if (err == nil) != c.good || asked != c.asked {
			t.Errorf("%s: %v, asked for %q", c.url, err, asked)
		}
	}
}

func TestCertificatesAreReadAnew(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	e := parseOne(t, "amqps://broker?cacertfile="+ca+"&certfile="+cert+"&keyfile="+key)
	for _, name := range []string{"first", "second"} {
		a := newAuthority(t) // another one each time
		certificate, private := a.issue(t, name)
		writePEM(t, ca, "CERTIFICATE", a.certificate.Raw)
		writePEM(t, cert, "CERTIFICATE", certificate.Raw)
		writePEM(t, key, "PRIVATE KEY", pkcs8(t, private))
		clients := x509.NewCertPool()
		clients.AddCert(a.certificate)
		peer, _, err := handshake(t, configOf(t, e), &tls.Config{
			Certificates: []tls.Certificate{a.server(t, "broker")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		})
		if err != nil || peer != name {
			t.Errorf("with the %s certificates: the broker sees %q, %v", name, peer, err)
		}
	}
}

func TestTLSFileFaults(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t)
	certificate, key := a.issue(t, "client")
	_, otherKey := a.issue(t, "client")
	cert := writePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", certificate.Raw)
	other := writePEM(t, filepath.Join(dir, "other.pem"), "PRIVATE KEY", pkcs8(t, otherKey))
	missing := filepath.Join(dir, "missing.pem")
	encrypted := writePEM(t, filepath.Join(dir, "encrypted.pem"), "ENCRYPTED PRIVATE KEY", encryptedPKCS8(t, pkcs8(t, key), "hush"))
	des := writePEM(t, filepath.Join(dir, "des.pem"), "ENCRYPTED PRIVATE KEY", mustMarshal(t, encryptedKey{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1, 3}}, Encrypted: []byte{1},
	}))
	broken := writePEM(t, filepath.Join(dir, "broken.pem"), "ENCRYPTED PRIVATE KEY", []byte{1, 2, 3})
	old := filepath.Join(dir, "old.pem")
	if err := os.WriteFile(old, []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ query, want string }{
		{"cacertfile=" + missing, missing},
		{"cacertfile=" + other, "holds no certificate in PEM"},
		{"certfile=" + missing + "&keyfile=" + other, missing},
		{"certfile=" + cert + "&keyfile=" + missing, missing},
		{"certfile=" + cert + "&keyfile=" + other, "private key does not match"},
		{"certfile=" + cert + "&keyfile=" + cert, "client's certificate"},
		{"certfile=" + cert + "&keyfile=" + encrypted, encrypted + ": is encrypted: give its password"},
		{"certfile=" + cert + "&keyfile=" + encrypted + "&password=hushh", encrypted + ": cannot be decrypted: the password is not that of the key"},
		{"certfile=" + cert + "&password=hushh&keyfile=" + des, "is encrypted with 1.2.840.113549.1.12.1.3, which is not supported: decrypt it"},
		{"certfile=" + cert + "&password=hushh&keyfile=" + broken, "is no encrypted key"},
		{"certfile=" + cert + "&password=hushh&keyfile=" + old, "old way of OpenSSL, which is not supported"},
	} {
		_, err := parseOne(t, "amqps://broker?"+c.query).TLSConfig()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") || !strings.HasPrefix(err.Error(), "TLS to broker:5671: ") {
			t.Errorf("%s: %v, want an error with %s", c.query, err, c.want)
		}
		if c.want == missing && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v is not fs.ErrNotExist", c.query, err)
		}
	}
	if _, err := (Endpoint{Scheme: "amqps", Host: "h", CertFile: cert}).TLSConfig(); err == nil {
		t.Error("a certificate without a key is taken")
	}
}

func TestEncryptedKeyIsDecrypted(t *testing.T) {
	dir := t.TempDir()
	certificate, key := newAuthority(t).issue(t, "client")
	cert := writePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", certificate.Raw)
	file := writePEM(t, filepath.Join(dir, "key.pem"), "ENCRYPTED PRIVATE KEY", encryptedPKCS8(t, pkcs8(t, key), "hush"))
	config := configOf(t, parseOne(t, "amqps://broker?certfile="+cert+"&keyfile="+file+"&password=hush"))
	if !key.Equal(config.Certificates[0].PrivateKey) {
		t.Error("it is another key")
	}
}

// TestKeysOfOpenSSL reads what openssl 3.0 wrote: one key, plain and encrypted
// with the password hush by pkcs8 -topk8 and no options (default), -v2
// aes-128-cbc -v2prf hmacWithSHA1 (sha1), -v2 aes-192-cbc -v2prf
// hmacWithSHA512 (sha512), -scrypt, and -v2 des3.
func TestKeysOfOpenSSL(t *testing.T) {
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join("testdata", "openssl", name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	plain := read("plain")
	for _, name := range []string{"plain", "default", "sha1", "sha512"} {
		if got, err := plainKey(read(name), "hush"); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	for _, name := range []string{"scrypt", "des3"} {
		if _, err := plainKey(read(name), "hush"); !errors.Is(err, errCipher) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecryptPKCS8(f *testing.F) {
	for _, name := range []string{"default", "sha1", "scrypt"} {
		text, err := os.ReadFile(filepath.Join("testdata", "openssl", name+".pem"))
		if err != nil {
			f.Fatal(err)
		}
		block, _ := pem.Decode(text)
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		plain, err := decryptPKCS8(der, "hush")
		if _, parseErr := x509.ParsePKCS8PrivateKey(plain); (err == nil) != (parseErr == nil) {
			t.Fatalf("%v, and what comes of it: %v", err, parseErr)
		}
	})
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// encryptedPKCS8 encrypts a key as openssl does, with fewer iterations.
func encryptedPKCS8(t *testing.T, plain []byte, password string) []byte {
	t.Helper()
	const iterations = 10
	salt, iv := bytes.Repeat([]byte{7}, 8), bytes.Repeat([]byte{9}, aes.BlockSize)
	secret, err := pbkdf2.Key(sha256.New, password, salt, iterations, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	padded := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
	derivation := mustMarshal(t, pbkdf2Parameters{Salt: salt, Iterations: iterations, PRF: pkix.AlgorithmIdentifier{
		Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, Parameters: asn1.NullRawValue,
	}})
	parameters := mustMarshal(t, pbes2Parameters{
		Derivation: pkix.AlgorithmIdentifier{Algorithm: oidPBKDF2, Parameters: asn1.RawValue{FullBytes: derivation}},
		Encryption: pkix.AlgorithmIdentifier{
			Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, Parameters: asn1.RawValue{FullBytes: mustMarshal(t, iv)},
		},
	})
	return mustMarshal(t, encryptedKey{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: asn1.RawValue{FullBytes: parameters}},
		Encrypted: padded,
	})
}
