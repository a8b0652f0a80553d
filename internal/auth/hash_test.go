package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"net/url"
	"testing"
)

// Hashes that RabbitMQ 3.10.8 and others made, of the password in the row.
var hashes = []struct{ algorithm, hash, password string }{
	{SHA256, "bildnog54VLK7YYWzNLs0k9x14yeOCpFdp3hKPofgWgTMWrS", "guest"},
	{"", "bildnog54VLK7YYWzNLs0k9x14yeOCpFdp3hKPofgWgTMWrS", "guest"},
	{SHA256, "Ua90h5bJ0lbPMJueBdtR6J6WHT4s1mXtwjhssviCDhkDdTgt", "x"},
	// From the documentation of RabbitMQ's password hashes.
	{SHA256, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", "test12"},
}

func TestRabbitMQsHashesAreVerified(t *testing.T) {
	for _, row := range hashes {
		c, err := parseCredential(row.algorithm, row.hash)
		if err != nil {
			t.Errorf("%s: %v", row.hash, err)
			continue
		}
		if !c.verify(row.password) || c.verify(row.password+"x") || c.verify("") {
			t.Errorf("%s %s: the password is not told from others", row.algorithm, row.hash)
		}
	}
}

// salted is a hash as RabbitMQ makes it.
func salted(algorithm, password string) string {
	c := credential{algorithm: algorithm, salt: []byte{1, 2, 3, 0xff}}
	return base64.StdEncoding.EncodeToString(append(c.salt, c.sum(password)...))
}

func TestEveryHashLogsInItsUser(t *testing.T) {
	u := New(&MemoryStore{})
	none, short := "", "AAAA"
	for _, row := range []struct {
		algorithm string
		hash      string
		right     bool
	}{
		{SHA256, salted(SHA256, "right"), true},
		{SHA512, salted(SHA512, "right"), true},
		{MD5, salted(MD5, "right"), true},
		{SHA512, salted(SHA256, "right"), false},
		{SHA256, none, false},
		{SHA256, short, false},
		{Argon2id, none, false},
	} {
		if _, err := u.PutUser(t.Context(), "ada", UserSpec{PasswordHash: &row.hash, HashingAlgorithm: row.algorithm, Tags: &Tags{}}); err != nil {
			t.Errorf("%s: %v", row.algorithm, err)
			continue
		}
		if user, _ := u.User("ada"); user.PasswordHash != row.hash || user.HashingAlgorithm != row.algorithm {
			t.Errorf("%s %q became %s %q", row.algorithm, row.hash, user.HashingAlgorithm, user.PasswordHash)
		}
		if _, err := u.Login(t.Context(), Login{Name: "ada", Password: "right", Peer: remote}); (err == nil) != row.right {
			t.Errorf("%s %q: %v", row.algorithm, row.hash, err)
		}
		for _, wrong := range []string{"wrong", ""} {
			if _, err := u.Login(t.Context(), Login{Name: "ada", Password: wrong, Peer: remote}); !errors.Is(err, ErrRefused) {
				t.Errorf("%s %q, %q: %v", row.algorithm, row.hash, wrong, err)
			}
		}
	}
	// Neither password nor hash: nobody logs in with a password any more.
	if _, err := u.PutUser(t.Context(), "ada", UserSpec{Tags: &Tags{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Login(t.Context(), Login{Name: "ada", Peer: remote}); !errors.Is(err, ErrRefused) {
		t.Errorf("a user without a password logged in: %v", err)
	}
	if id, err := u.LoginByCertificate("amqp091", "ada", remote); err != nil || id.Name != "ada" {
		t.Errorf("by certificate: %v", err)
	}
}

func TestOwnHashesAreReadBack(t *testing.T) {
	u := New(&MemoryStore{})
	hash, algorithm, err := u.HashPassword(t.Context(), "lovelace")
	if err != nil || algorithm != Argon2id {
		t.Fatal(algorithm, err)
	}
	c, err := parseCredential(algorithm, hash)
	if err != nil || !c.verify("lovelace") || c.verify("other") {
		t.Fatalf("%v: the password is not told from others", err)
	}
	if again := c.encode(); again != hash {
		t.Error("encoded again it is another")
	}
}

func FuzzParseCredential(f *testing.F) {
	for _, row := range hashes {
		f.Add(row.algorithm, row.hash)
	}
	b64 := base64.StdEncoding.EncodeToString
	f.Add(MD5, "AAAA")
	f.Add(Argon2id, b64([]byte("$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")))
	f.Add(Argon2id, b64([]byte("$argon2id$v=19$m=99999999,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")))
	f.Fuzz(func(t *testing.T, algorithm, text string) {
		c, err := parseCredential(algorithm, text)
		if err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) {
				t.Fatal(err)
			}
			return
		}
		if c.algorithm == Argon2id && (c.cost.memory > maxHashMemory || c.cost.passes > maxHashPasses || c.cost.threads > maxHashThreads) {
			t.Fatal("it costs more than may be")
		}
		if c.algorithm == Argon2id && c.cost.memory*c.cost.passes > 1<<10 || c.none {
			return // it is right, and slow
		}
		if c.verify("") {
			t.Fatal("the empty password is right")
		}
	})
}

// full is what a hash costs outside of these tests, most of which are not about that.
var full = ownCost

func TestMain(m *testing.M) {
	ownCost = cost{memory: 256, passes: 1, threads: 1}
	m.Run()
}

// Password Storage Cheat Sheet of OWASP: one of five settings of argon2id, at least.
func TestAHashCostsEnough(t *testing.T) {
	if full.memory < 7<<10 || full.passes < 5 || full.threads < 1 || hashSize < 32 || saltSize < 16 {
		t.Errorf("%+v", full)
	}
}

func TestTheUserOfACertificate(t *testing.T) {
	uri := &url.URL{Scheme: "spiffe", Host: "x", Path: "/app"}
	full := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "app", Organization: []string{"Example"}},
		DNSNames: []string{"a.example", "b.example"}, EmailAddresses: []string{"a@example"}, URIs: []*url.URL{uri},
	}
	for _, row := range []struct {
		cert *x509.Certificate
		from CertificateFrom
		want string
	}{
		{full, "", "app"},
		{full, FromCommonName, "app"},
		{full, FromDistinguishedName, "CN=app,O=Example"},
		{full, FromAlternativeName, "a.example"},
		{&x509.Certificate{EmailAddresses: full.EmailAddresses, URIs: full.URIs}, FromAlternativeName, "a@example"},
		{&x509.Certificate{URIs: full.URIs}, FromAlternativeName, "spiffe://x/app"},
		{&x509.Certificate{}, FromCommonName, ""},
		{&x509.Certificate{}, FromDistinguishedName, ""},
		{&x509.Certificate{Subject: full.Subject}, FromAlternativeName, ""},
	} {
		got, err := CertificateName(row.cert, row.from)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: %q, %v; want %q", row.from, got, err, row.want)
		}
	}
	if _, err := ParseCertificateFrom("nothing"); err == nil {
		t.Error("nothing was read as a part of a certificate")
	}
	// The rule of loopback holds here, too, and nobody is let in who is not there.
	u := New(&MemoryStore{})
	mustPut(t, u, "guest", "guest")
	if _, err := u.LoginByCertificate("amqp091", "guest", remote); !errors.Is(err, ErrLoopbackOnly) {
		t.Errorf("guest from elsewhere: %v", err)
	}
	if _, err := u.LoginByCertificate("amqp091", "ada", remote); !errors.Is(err, ErrRefused) {
		t.Errorf("nobody: %v", err)
	}
}
