package app

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
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/netserve"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// mustLogIn wants that a user gets in, or with want that it does not, and is told
// this, which may have more behind it.
func mustLogIn(t *testing.T, addr, user, password, vhost, want string) {
	t.Helper()
	c, text, ok := attempt(t, addr, user, password, vhost)
	if ok != (want == "") || !strings.HasPrefix(text, want) {
		t.Errorf("%s in vhost %s: %v %q, want %q", user, vhost, ok, text, want)
	}
	c.nc.Close() // a broker that stops need not wait for it
}

// attempt connects as a user, and returns why that failed; ok is whether it did not.
func attempt(t *testing.T, addr, user, password, vhost string) (c *client, text string, ok bool) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return negotiate(t, nc, "PLAIN", "\x00"+user+"\x00"+password, vhost)
}

func negotiate(t *testing.T, nc net.Conn, mechanism, response, vhost string) (c *client, text string, ok bool) {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c = &client{t: t, nc: nc}
	c.write(amqpwire.ProtocolHeader[:])
	start := expect[*amqpwire.ConnectionStart](c)
	if !strings.Contains(start.Mechanisms, mechanism) {
		t.Fatalf("%s is not among %s", mechanism, start.Mechanisms)
	}
	capable := amqpwire.Table{"capabilities": amqpwire.Table{"authentication_failure_close": true}}
	c.send0(&amqpwire.ConnectionStartOk{ClientProperties: capable, Mechanism: mechanism, Response: []byte(response), Locale: "en_US"})
	switch m := expect[amqpwire.Method](c).(type) {
	case *amqpwire.ConnectionClose:
		return c, m.ReplyText, false
	case *amqpwire.ConnectionTune:
	default:
		t.Fatalf("got %T", m)
	}
	c.send0(&amqpwire.ConnectionTuneOk{ChannelMax: 10, FrameMax: amqpwire.DefaultFrameMax})
	c.send0(&amqpwire.ConnectionOpen{VirtualHost: vhost})
	if m, closed := expect[amqpwire.Method](c).(*amqpwire.ConnectionClose); closed {
		return c, fmt.Sprint(m.ReplyCode, " ", m.ReplyText), false
	}
	c.send(&amqpwire.ChannelOpen{})
	expect[*amqpwire.ChannelOpenOk](c)
	return c, "", true
}

func TestTheFirstUserIsMadeAtTheFirstStartOnly(t *testing.T) {
	cfg := testConfig()
	cfg.Store = "file:" + filepath.Join(t.TempDir(), "data")
	cfg.VHost = "v"
	p := mustStart(t, cfg)
	for _, vhost := range []string{"/", "v"} {
		mustLogIn(t, p.addresses["amqp"], "ada", "lovelace", vhost, "")
	}
	mustLogIn(t, p.addresses["amqp"], "ada", "lovelace", "other", "530 NOT_ALLOWED - vhost other not found")
	p.mustStop()

	cfg.Password = "changed"
	p = mustStart(t, cfg)
	mustLogIn(t, p.addresses["amqp"], "ada", "lovelace", "/", "")
	mustLogIn(t, p.addresses["amqp"], "ada", "changed", "/", "ACCESS_REFUSED - Login was refused")
	p.mustStop()
	if log := p.log.String(); !strings.Contains(log, "--password is not the password of this user") || strings.Contains(log, "changed ") {
		t.Errorf("the log says %s", log)
	}
}

// Nobody gets in from elsewhere with a password that everybody knows.
func TestAPasswordIsMadeUpAndToldOnce(t *testing.T) {
	yes, no := true, false
	for _, row := range []struct {
		user      string
		container *bool
		want      string
		made      bool
	}{
		{"", &yes, "admin", true},
		{"app", &no, "app", true},
		{"", &no, "guest", false},
		{"guest", &yes, "guest", false},
	} {
		cfg := testConfig()
		cfg.Store = "file:" + filepath.Join(t.TempDir(), "data")
		cfg.User, cfg.Password, cfg.inContainer = row.user, "", row.container
		var told []string
		run := func() *process {
			p := &process{t: t, addresses: map[string]string{}, ended: make(chan error, 1), log: &logBuffer{}}
			cfg.Logger = slog.New(slog.NewTextHandler(p.log, nil))
			ctx, cancel := context.WithCancel(t.Context())
			p.stop = cancel
			ready := make(chan []Address, 1)
			go func() {
				p.ended <- RunTelling(ctx, cfg, Told{
					Ready:     func(a []Address) { ready <- a },
					FirstUser: func(name, password string) { told = append(told, name, password) },
				})
			}()
			for _, a := range <-ready {
				p.addresses[a.Name] = a.Addr
			}
			return p
		}
		p := run()
		if row.made != (len(told) == 2) {
			t.Fatalf("%+v: told %q", row, told)
		}
		password := "guest"
		if row.made {
			password = told[1]
			if told[0] != row.want || len(password) < 20 {
				t.Errorf("%+v: told %q", row, told)
			}
		}
		mustLogIn(t, p.addresses["amqp"], row.want, password, "/", "")
		p.mustStop()
		if row.made && strings.Contains(p.log.String(), password) {
			t.Errorf("%+v: the password is in the log", row)
		}
		told = nil
		p = run()
		if len(told) > 0 {
			t.Errorf("%+v: told again: %q", row, told)
		}
		mustLogIn(t, p.addresses["amqp"], row.want, password, "/", "")
		p.mustStop()
	}
}

// world is a broker with users that clients may connect to.
type world struct {
	users *auth.Users
	addr  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := broker.Open(t.Context(), broker.Config{Journal: memory.New(memory.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{log: slog.New(slog.DiscardHandler), settings: &settings{}}
	n.users = auth.New(n.settings)
	n.settings.set(b, nil)
	n.watchUsers(b.WatchSettings)
	s := n.servers(b)
	ln, err := netserve.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front, err := netserve.New(netserve.Config{Endpoints: []netserve.Endpoint{{Name: "amqp", Listener: ln, Handle: s.amqp.Handle}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- front.Serve(ctx) }()
	t.Cleanup(func() {
		b.CloseSessions("over")
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		_ = s.amqp.Shutdown(ctx, "over") // clients that do not read are cut
		cancel()
		if err := <-done; err != nil {
			t.Log(err) // they were cut
		}
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &world{n.users, ln.Addr().String()}
}

func (w *world) mustPut(t *testing.T, name, password string) {
	t.Helper()
	if _, err := w.users.PutUser(t.Context(), name, auth.UserSpec{Password: &password, Tags: &auth.Tags{}}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) mustPermit(t *testing.T, user, configure, write, read string) {
	t.Helper()
	if _, err := w.users.PutPermission(auth.Permissions{User: user, VHost: "/", Configure: configure, Write: write, Read: read}); err != nil {
		t.Fatal(err)
	}
}

func TestAccessIsThatOfTheMoment(t *testing.T) {
	w := newWorld(t)
	w.mustPut(t, "bob", "x")
	mustLogIn(t, w.addr, "bob", "x", "/", "530 NOT_ALLOWED - access to vhost '/' refused for user 'bob'")
	w.mustPermit(t, "bob", "^q", ".*", ".*")
	c, text, ok := attempt(t, w.addr, "bob", "x", "/")
	if !ok {
		t.Fatal(text)
	}
	c.declare("q1")
	c.send(&amqpwire.ConfirmSelect{})
	expect[*amqpwire.ConfirmSelectOk](c)
	c.publish("q1", "x", 2)
	expect[*amqpwire.BasicAck](c)
	w.mustPermit(t, "bob", "^q", "^$", ".*") // what is remembered of the route does not hold
	c.publish("q1", "x", 2)
	if m := expect[*amqpwire.ChannelClose](c); m.ReplyCode != amqpwire.AccessRefused || !strings.Contains(m.ReplyText, "amq.default") {
		t.Errorf("a publish that is not allowed any more: %d %s", m.ReplyCode, m.ReplyText)
	}
	c.send(&amqpwire.ChannelCloseOk{})

	// A new password leaves who is connected alone, as in RabbitMQ.
	w.mustPut(t, "bob", "y")
	c.send(&amqpwire.ChannelOpen{})
	expect[*amqpwire.ChannelOpenOk](c)
	mustLogIn(t, w.addr, "bob", "x", "/", "ACCESS_REFUSED")
	if err := w.users.DeleteUser("bob"); err != nil {
		t.Fatal(err)
	}
	if m := expect[*amqpwire.ConnectionClose](c); m.ReplyText != "CONNECTION_FORCED - user 'bob' was deleted" {
		t.Errorf("who is deleted is told %d %s", m.ReplyCode, m.ReplyText)
	}
	c.send0(&amqpwire.ConnectionCloseOk{})
	mustLogIn(t, w.addr, "bob", "y", "/", "ACCESS_REFUSED")
}

// After a takeover everybody comes back at once, and nothing is remembered. Whoever
// does not log in in time is cut, which fails the test. A hash takes 25 ms of a CPU, so
// that the short form, which shares the machine with other tests, has fewer users.
func TestAThousandClientsReconnectWithinTheLoginLimit(t *testing.T) {
	const clients = 1000
	users := 25
	if os.Getenv("FERRY_LONG") != "" {
		users = 100
	}
	w := newWorld(t)
	hash, algorithm, err := w.users.HashPassword(t.Context(), "lovelace")
	if err != nil {
		t.Fatal(err)
	}
	for i := range users {
		name := fmt.Sprint("user", i)
		if _, err := w.users.PutUser(t.Context(), name, auth.UserSpec{PasswordHash: &hash, HashingAlgorithm: algorithm, Tags: &auth.Tags{}}); err != nil {
			t.Fatal(err)
		}
		w.mustPermit(t, name, ".*", ".*", ".*")
	}
	began := time.Now()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			if err := comeIn(w.addr, fmt.Sprint("user", i%users), "lovelace"); err != nil {
				t.Errorf("client %d: %v, after %v", i, err, time.Since(began))
			}
		})
	}
	all.Wait()
	t.Logf("%d clients of %d users were in after %v", clients, users, time.Since(began))
	if a := w.users.Attempts(); len(a) != 1 || a[0].Protocol != "amqp091" || a[0].Succeeded != clients {
		t.Errorf("attempts: %+v", a)
	}
}

// comeIn logs in and goes away. It may be called by any goroutine.
func comeIn(addr, user, password string) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	out := amqpwire.ProtocolHeader[:]
	for _, m := range []amqpwire.Method{
		&amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00" + user + "\x00" + password), Locale: "en_US"},
		&amqpwire.ConnectionTuneOk{ChannelMax: 10, FrameMax: amqpwire.DefaultFrameMax},
		&amqpwire.ConnectionOpen{VirtualHost: "/"},
	} {
		if out, err = amqpwire.AppendMethod(bytes.Clone(out), 0, m); err != nil {
			return err
		}
	}
	if _, err := nc.Write(out); err != nil { // what is answered does not matter to what is sent
		return err
	}
	if err := nc.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return err
	}
	var in []byte
	buf := make([]byte, 4<<10)
	for {
		k, err := nc.Read(buf)
		if err != nil {
			return err
		}
		for in = append(in, buf[:k]...); ; {
			f, n, err := amqpwire.ParseFrame(in, amqpwire.DefaultFrameMax)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			m, err := amqpwire.ParseMethod(f.Payload)
			if err != nil {
				return err
			}
			switch m := m.(type) {
			case *amqpwire.ConnectionOpenOk:
				return nil
			case *amqpwire.ConnectionClose:
				return fmt.Errorf("%d %s", m.ReplyCode, m.ReplyText)
			}
			in = in[n:]
		}
	}
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	a.key = a.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: "test authority"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err == nil {
		err = os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) client(commonName string) tls.Certificate {
	key := a.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: commonName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestWhoShowsACertificateNeedsNoPassword(t *testing.T) {
	cfg := testConfig()
	ca := newAuthority(t)
	cfg.TLSCert, cfg.TLSKey = writeCertificate(t)
	cfg.TLSCA, cfg.TLSClientsOptional = ca.file, true
	p := mustStart(t, cfg)
	defer p.mustStop()
	secure := func(addr, commonName string) net.Conn {
		nc, err := tls.Dial("tcp", addr, &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // G402: the client is what is looked at
			Certificates:       []tls.Certificate{ca.client(commonName)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	amqp := p.addresses["amqp"]
	for mechanism, response := range map[string]string{"EXTERNAL": "", "PLAIN": "\x00ada\x00lovelace"} {
		c, text, ok := negotiate(t, secure(amqp, "ada"), mechanism, response, "/")
		if !ok {
			t.Errorf("%s: %s", mechanism, text)
		}
		c.nc.Close()
	}
	for _, name := range []string{"bob", ""} {
		c, text, ok := negotiate(t, secure(amqp, name), "EXTERNAL", "", "/")
		if ok || !strings.HasPrefix(text, "ACCESS_REFUSED") {
			t.Errorf("EXTERNAL as %q: %v %s", name, ok, text)
		}
		c.nc.Close()
	}
	nc := secure(p.addresses["stomp"], "ada")
	mustSay(t, nc, "CONNECT\naccept-version:1.2\nhost:/\n\n\x00")
	mustHear(t, nc, "CONNECTED")
	nc.Close()
	nc = secure(p.addresses["stomp"], "bob")
	mustSay(t, nc, "CONNECT\naccept-version:1.2\nhost:/\n\n\x00")
	if text := mustEnd(t, nc); !strings.Contains(text, "Access refused for user 'bob'") {
		t.Errorf("STOMP as bob: %q", text)
	}
	nc.Close()
	// Without one there is no such mechanism.
	plain, err := net.Dial("tcp", amqp)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := tls.Dial("tcp", amqp, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // G402: see above
	if err != nil {
		t.Fatal(err)
	}
	for _, nc := range []net.Conn{plain, bare} {
		c := &client{t: t, nc: nc}
		c.write(amqpwire.ProtocolHeader[:])
		if m := expect[*amqpwire.ConnectionStart](c); m.Mechanisms != "PLAIN AMQPLAIN" {
			t.Errorf("mechanisms %s", m.Mechanisms)
		}
		c.send0(&amqpwire.ConnectionStartOk{Mechanism: "EXTERNAL", Response: []byte("ada"), Locale: "en_US"})
		if text := mustEnd(t, nc); text != "" {
			t.Errorf("EXTERNAL without a certificate: %q", text)
		}
		nc.Close()
	}
}

// Over HTTP a guess costs no connection's handshake. Who guesses there is not looked at
// on the other protocols either, and who is known gets in.
func TestGuessingOverHTTPIsLimited(t *testing.T) {
	p := mustStart(t, testConfig())
	defer p.mustStop()
	mustLogIn(t, p.addresses["amqp"], "ada", "lovelace", "/", "")
	limited := func() bool {
		for i := range 40 * auth.FailedAtOnce { // one more is allowed each second
			code, _ := p.askNodes("bob", fmt.Sprint(i))
			if code == http.StatusTooManyRequests {
				return true
			}
			if code != http.StatusUnauthorized {
				t.Fatalf("a wrong password: %d", code)
			}
		}
		return false
	}
	if !limited() {
		t.Error("guessing has no end")
	}
	if code, _ := p.askNodes("ada", "lovelace"); code != http.StatusOK {
		t.Errorf("who has logged in before: %d", code)
	}
}
