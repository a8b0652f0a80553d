package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/dbtest"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// A member is a process that shares a store.
type member struct {
	*process
	standby chan []Address // it has become a standby
	ready   chan []Address // it has become live
}

// join starts a process with the store of a URL, on addresses of its own.
func join(t *testing.T, name, url string, change func(*Config)) *member {
	t.Helper()
	cfg := testConfig()
	cfg.Store, cfg.Node, cfg.Lease = url, name, LeaseLeast
	cfg.AMQP, cfg.STOMP, cfg.GMQ, cfg.HTTP = lastingAddress(t), "", "", lastingAddress(t)
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m := &member{
		process: &process{t: t, addresses: map[string]string{"amqp": cfg.AMQP, "http": cfg.HTTP}, stop: cancel, ended: make(chan error, 1), log: &logBuffer{}},
		standby: make(chan []Address, 8), ready: make(chan []Address, 8),
	}
	cfg.Logger = slog.New(slog.NewTextHandler(m.log, nil)).With("node", name)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.ended <- RunTelling(ctx, cfg, Told{
			Ready:   func(a []Address) { m.ready <- a },
			Standby: func(a []Address) { m.standby <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("the log of %s:\n%s", name, m.log)
		}
	})
	return m
}

// lastingAddress is one that nobody listens on, and that no connection is given: below
// the ports that Linux takes for these.
func lastingAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000)))
		if err == nil {
			defer ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("every port is taken")
	return ""
}

// await waits until something has happened.
func (m *member) await(happened <-chan []Address) {
	m.t.Helper()
	select {
	case <-happened:
	case err := <-m.ended:
		m.ended <- err
		m.t.Fatalf("the process ended with: %v", err)
	case <-time.After(patience):
		m.t.Fatal("it did not happen")
	}
}

// mustRefuse wants that nobody listens.
func (m *member) mustRefuse(name string) {
	m.t.Helper()
	nc, err := net.Dial("tcp", m.addresses[name])
	if err == nil {
		nc.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		m.t.Errorf("%s is listened for: %v", name, err)
	}
}

// nodes asks for the list of nodes until it is as wanted.
func (m *member) nodes(want func(map[string]Node) bool) map[string]Node {
	m.t.Helper()
	for over := time.Now().Add(patience); ; {
		code, told := m.askNodes("ada", "lovelace")
		found := map[string]Node{}
		for _, n := range told.Nodes {
			found[n.Name] = n
		}
		if code == http.StatusOK && want(found) {
			return found
		}
		if time.Now().After(over) {
			m.t.Fatalf("the nodes are %d %+v", code, told)
		}
	}
}

func (p *process) askNodes(user, password string) (code int, told Nodes) {
	p.t.Helper()
	code = p.askAPI(nodesPath, user, password, &told)
	return code, told
}

// askAPI gets something of the management API.
func (p *process) askAPI(path, user, password string, told any) int {
	p.t.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+p.addresses["http"]+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if user != "" {
		request.SetBasicAuth(user, password)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(told); err != nil {
		p.t.Errorf("the body is not JSON: %v", err)
	}
	return resp.StatusCode
}

// who tells which node and which epoch a connection is with.
func who(t *testing.T, addr string) (node string, epoch int64) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, nc: nc}
	c.write(amqpwire.ProtocolHeader[:])
	told := expect[*amqpwire.ConnectionStart](c).ServerProperties
	node, _ = told["node"].(string)
	epoch, _ = told["epoch"].(int64)
	return node, epoch
}

// refusal320 is how a connection is closed that may not be opened now.
func refusal320(t *testing.T, addr string) *amqpwire.ConnectionClose {
	t.Helper()
	c := &client{t: t, nc: open(t, addr, false)}
	defer c.nc.Close()
	c.write(amqpwire.ProtocolHeader[:])
	expect[*amqpwire.ConnectionStart](c)
	c.send0(&amqpwire.ConnectionStartOk{Mechanism: "PLAIN", Response: []byte("\x00ada\x00lovelace"), Locale: "en_US"})
	expect[*amqpwire.ConnectionTune](c)
	c.send0(&amqpwire.ConnectionTuneOk{ChannelMax: 10, FrameMax: amqpwire.DefaultFrameMax})
	c.send0(&amqpwire.ConnectionOpen{VirtualHost: "/"})
	return expect[*amqpwire.ConnectionClose](c)
}

// confirmed publishes a persistent message to q and waits for the confirm.
func (c *client) confirmed(body string) {
	c.t.Helper()
	c.send(&amqpwire.ConfirmSelect{})
	expect[*amqpwire.ConfirmSelectOk](c)
	c.publish("q", body, amqpwire.Persistent)
	expect[*amqpwire.BasicAck](c)
}

func TestAPlannedStopHandsOverWithoutTheLease(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		lease := func(c *Config) { c.Lease, c.STOMP, c.GMQ = 30*time.Second, "127.0.0.1:0", "127.0.0.1:0" }
		a := join(t, "a", url, lease)
		a.await(a.ready)
		b := join(t, "b", url, func(c *Config) {
			lease(c)
			c.Password = "byron" // the users are those of the store
		})
		b.await(b.standby)
		b.mustRefuse("amqp")
		if code, body := b.get("/readyz"); code != http.StatusServiceUnavailable || body["status"] != "standby" || body["role"] != "standby" ||
			body["node"] != "b" || body["owner"] != "a" || body["durability"] == nil {
			t.Errorf("/readyz of the standby: %d %v", code, body)
		}
		if code, body := a.get("/readyz"); code != http.StatusOK || body["role"] != "live" || body["node"] != "a" || body["epoch"] == 0.0 || body["position"] == 0.0 {
			t.Errorf("/readyz of the live broker: %d %v", code, body)
		}
		if closed := refusal320(t, b.addresses["http"]); closed.ReplyCode != amqpwire.ConnectionForced || !strings.Contains(closed.ReplyText, "standby") {
			t.Errorf("AMQP on the HTTP listener of the standby is closed with %d %q", closed.ReplyCode, closed.ReplyText)
		}
		nc := open(t, b.addresses["http"], false)
		mustSay(t, nc, connect)
		mustHear(t, nc, "ERROR\nmessage:connection_forced\n")
		nc.Close()
		nc = open(t, b.addresses["http"], false)
		mustSay(t, nc, `{"operation":"L","queue":"q"}`)
		mustHear(t, nc, `{"operation":"L","queue":"q","payload":"","confirmation":"N","error":{},"auth":{"user":"","password":""},"error_text":"CONNECTION_FORCED - this broker does not serve clients now`)
		nc.Close()
		c := dial(t, a.addresses["amqp"])
		c.declare("q")
		c.confirmed("hello")
		dial(t, a.addresses["amqp"]) // does not answer that its connection is closed
		b.nodes(func(n map[string]Node) bool {
			return len(n) == 2 && n["a"].Role == "live" && n["b"].Role == "standby" && n["b"].Lag == 0 && n["b"].Epoch == n["a"].Epoch &&
				n["a"].Addresses["amqp"] == a.addresses["amqp"] && n["b"].Addresses["amqp"] == "" && n["b"].Addresses["http"] == b.addresses["http"]
		})
		var overview struct{ Node, Error, Reason string }
		if code := a.askAPI("/api/overview", "ada", "lovelace", &overview); code != http.StatusOK || overview.Node != "a" {
			t.Errorf("the live broker's API: %d %+v", code, overview)
		}
		want := "this node is standby; a is live, at http://" + a.addresses["http"]
		if code := b.askAPI("/api/overview", "ada", "lovelace", &overview); code != http.StatusServiceUnavailable || overview.Error != "not_live" || overview.Reason != want {
			t.Errorf("the standby's API: %d %+v, want %s", code, overview, want)
		}
		if code, _ := b.askNodes("ada", "byron"); code != http.StatusUnauthorized {
			t.Errorf("the standby knows a user of its own: %d", code)
		}

		began := time.Now()
		a.stop()
		closed := expect[*amqpwire.ConnectionClose](c)
		b.await(b.ready)
		c = dial(t, b.addresses["amqp"])
		if n := c.declare("q"); n != 1 {
			t.Errorf("the queue has %d messages after the takeover, want 1", n)
		}
		c.confirmed("again")
		took := time.Since(began)
		t.Logf("from the stop to the first confirm: %v", took)
		if took > 5*time.Second { // a sixth of the lease
			t.Errorf("the takeover took %v", took)
		}
		if closed.ReplyCode != amqpwire.ConnectionForced {
			t.Errorf("the connection was closed with %d %q", closed.ReplyCode, closed.ReplyText)
		}
		if node, epoch := who(t, b.addresses["amqp"]); node != "b" || epoch < 2 {
			t.Errorf("the connection is with %q in epoch %d", node, epoch)
		}
		b.nodes(func(n map[string]Node) bool { return n["b"].Role == "live" && n["a"].Name == "" })
		if code := b.askAPI("/api/overview", "ada", "lovelace", &overview); code != http.StatusOK || overview.Node != "b" {
			t.Errorf("the new live broker's API: %d %+v", code, overview)
		}
		c.close()
		b.mustStop()
	})
}

// A consumer that takes nothing that is written to it holds up nobody: its broker has
// handed over when the time for it is over, and cuts it later.
func TestAPlannedStopDoesNotWaitForAPeerThatIsStuck(t *testing.T) {
	url := dbtest.Postgres(t)
	lease := func(c *Config) { c.Lease = 30 * time.Second }
	a := join(t, "a", url, lease)
	a.await(a.ready)
	b := join(t, "b", url, lease)
	b.await(b.standby)
	stuck := dial(t, a.addresses["amqp"])
	stuck.send(&amqpwire.QueueDeclare{Queue: "large"})
	expect[*amqpwire.QueueDeclareOk](stuck)
	stuck.send(&amqpwire.BasicConsume{Queue: "large", ConsumerTag: "c", NoAck: true})
	expect[*amqpwire.BasicConsumeOk](stuck)
	c := dial(t, a.addresses["amqp"])
	c.send(&amqpwire.ConfirmSelect{})
	expect[*amqpwire.ConfirmSelectOk](c)
	for range 16 { // MiB: more than sockets hold
		c.publish("large", strings.Repeat("x", 1<<20), 1)
	}
	for tag := uint64(0); tag < 16; {
		tag = expect[*amqpwire.BasicAck](c).DeliveryTag
	}
	began := time.Now()
	a.stop()
	b.await(b.ready)
	took := time.Since(began)
	t.Logf("from the stop to the takeover: %v", took)
	if took < handOverPatience || took > 3*time.Second { // a tenth of the lease
		t.Errorf("the takeover took %v", took)
	}
	stuck.nc.Close()
	c.nc.Close()
	if err := <-a.ended; err != nil {
		t.Errorf("the process ended with: %v", err)
	}
	b.mustStop()
}

// A live broker that loses its database sends its clients away, is a standby once it
// has it again, and serves again on the same port when its turn comes.
func TestABrokerThatIsCutOffIsAStandbyAgain(t *testing.T) {
	url := dbtest.Postgres(t)
	wire := dbtest.NewWire(t, url)
	a := join(t, "a", wire.URL, nil)
	a.await(a.ready)
	b := join(t, "b", url, nil)
	b.await(b.standby)
	c := dial(t, a.addresses["amqp"])
	c.declare("q")
	c.confirmed("hello")
	wire.Cut()
	closed := expect[*amqpwire.ConnectionClose](c)
	c.send0(&amqpwire.ConnectionCloseOk{})
	c.nc.Close()
	if !strings.Contains(closed.ReplyText, "own the messages") {
		t.Errorf("the connection was closed with %d %q", closed.ReplyCode, closed.ReplyText)
	}
	b.await(b.ready)
	c = dial(t, b.addresses["amqp"])
	if n := c.declare("q"); n != 1 {
		t.Errorf("the queue has %d messages after the takeover, want 1", n)
	}
	c.confirmed("again")
	c.close()
	a.mustRefuse("amqp")
	if code, body := a.get("/readyz"); code != http.StatusServiceUnavailable || body["role"] == "live" {
		t.Errorf("/readyz of the one that is cut off: %d %v", code, body)
	}
	wire.Mend()
	a.await(a.standby)
	if code, body := a.get("/readyz"); code != http.StatusServiceUnavailable || body["role"] != "standby" || body["owner"] != "b" {
		t.Errorf("/readyz of the one that has come back: %d %v", code, body)
	}
	b.mustStop()
	a.await(a.ready)
	c = dial(t, a.addresses["amqp"])
	if n := c.declare("q"); n != 2 {
		t.Errorf("the queue has %d messages after the way back, want 2", n)
	}
	c.close()
	a.mustStop()
}

// A stop ends, and says what it could not do, when the database does not answer.
func TestAStopWithoutTheDatabaseIsBounded(t *testing.T) {
	wire := dbtest.NewWire(t, dbtest.Postgres(t))
	a := join(t, "a", wire.URL, func(c *Config) { c.Lease = time.Minute })
	a.await(a.ready)
	wire.Cut()
	began := time.Now()
	a.stop()
	err := <-a.ended
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if err == nil || !strings.Contains(err.Error(), "not written to the store") {
		t.Errorf("the process ended with: %v", err)
	}
}

func TestAStandbyPassesClientsThrough(t *testing.T) {
	url := dbtest.Postgres(t)
	a := join(t, "a", url, nil)
	a.await(a.ready)
	b := join(t, "b", url, func(c *Config) { c.Standby = StandbyProxy })
	b.await(b.standby)
	b.nodes(func(n map[string]Node) bool { // and so b knows where a is
		return n["a"].Role == "live" && n["b"].Addresses["amqp"] == b.addresses["amqp"]
	})
	if node, _ := who(t, b.addresses["amqp"]); node != "a" {
		t.Errorf("the connection is with %q", node)
	}
	c := dial(t, b.addresses["amqp"])
	c.declare("q")
	c.confirmed("hello")
	a.stop()
	expect[*amqpwire.ConnectionClose](c)
	c.nc.Close()
	b.await(b.ready)
	if node, _ := who(t, b.addresses["amqp"]); node != "b" {
		t.Errorf("the connection is with %q after the takeover", node)
	}
	c = dial(t, b.addresses["amqp"])
	if n := c.declare("q"); n != 1 {
		t.Errorf("the queue has %d messages after the takeover, want 1", n)
	}
	c.close()
	b.mustStop()
}

// The password is nowhere in what a start without a database says.
func TestAStartWithoutADatabaseWaitsForIt(t *testing.T) {
	a := join(t, "a", "postgres://u:s3cret@"+freeAddress(t)+"/db", nil)
	for { // until HTTP is listened for
		nc, err := net.Dial("tcp", a.addresses["http"])
		if err == nil {
			nc.Close()
			break
		}
	}
	for {
		code, body := a.get("/readyz")
		if code != http.StatusServiceUnavailable || body["role"] != "starting" {
			t.Fatalf("/readyz: %d %v", code, body)
		}
		if reason, ok := body["reason"].(string); ok {
			if !strings.Contains(reason, "refused") || strings.Contains(reason, "s3cret") {
				t.Errorf("the reason is %q", reason)
			}
			break
		}
	}
	a.mustRefuse("amqp")
	a.mustStop()
	if text := a.log.String(); !strings.Contains(text, "not reached") || strings.Contains(text, "s3cret") {
		t.Errorf("the log says: %s", text)
	}
}

// What waiting does not change ends the process, with what to do about it.
func TestErrorsOfADatabaseThatWaitingDoesNotChange(t *testing.T) {
	url := dbtest.Postgres(t)
	at := strings.LastIndexByte(url, '@')
	for name, url := range map[string]string{
		"does not exist":    strings.Replace(url, url[strings.LastIndexByte(url, '/'):], "/nowhere", 1),
		"password is wrong": "postgres://nobody:s3cret" + url[at:],
	} {
		cfg := testConfig()
		cfg.Store = url
		p, err := start(t, cfg)
		if err == nil {
			p.mustStop()
			t.Errorf("%s: it started", name)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not say %q, or a password: %v", name, err)
		}
	}
}

func TestNodesAreToldToUsersOnly(t *testing.T) {
	p := mustStart(t, testConfig())
	for _, row := range []struct {
		user, password string
		code           int
	}{
		{"ada", "lovelace", http.StatusOK},
		{"ada", "byron", http.StatusUnauthorized},
		{"", "", http.StatusUnauthorized},
	} {
		code, told := p.askNodes(row.user, row.password)
		if code != row.code || (len(told.Nodes) == 1) != (code == http.StatusOK) {
			t.Errorf("%q: %d %+v", row.user, code, told)
		}
		if code != http.StatusOK {
			continue
		}
		n := told.Nodes[0]
		if n.Name != told.Node || n.Role != "live" || n.Epoch != 1 || n.Position == 0 || n.Lag != 0 || n.Addresses["amqp"] != p.addresses["amqp"] {
			t.Errorf("the node is told of as %+v", n)
		}
	}
	p.mustStop()
}

func TestAdvertisedAddresses(t *testing.T) {
	host := hostname()
	all := []Address{{"amqp", "127.0.0.1:1"}, {"gmq", "[::]:2"}, {"http", "0.0.0.0:3"}, {"pprof", "127.0.0.1:4"}, {"stomp", "[::1]:5"}}
	for advertise, want := range map[string]string{
		"":    fmt.Sprintf("map[amqp:127.0.0.1:1 gmq:%s:2 http:%s:3 stomp:[::1]:5]", host, host),
		"h":   "map[amqp:h:1 gmq:h:2 http:h:3 stomp:h:5]",
		"::2": "map[amqp:[::2]:1 gmq:[::2]:2 http:[::2]:3 stomp:[::2]:5]",
	} {
		if got := fmt.Sprint(advertised(all, advertise)); got != want {
			t.Errorf("--advertise %q: %s, want %s", advertise, got, want)
		}
	}
}

// What a killed process left among the temporary files goes when the next one
// starts, but not what is in use, or might be.
func TestScratchOfKilledProcessesIsRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	log := slog.New(slog.DiscardHandler)
	var st [2]store
	for i := range st {
		if err := st[i].makeScratch(log); err != nil {
			t.Fatal(err)
		}
	}
	if err := st[0].scratch.Close(); err != nil { // as if the process were gone
		t.Fatal(err)
	}
	left := func() int {
		found, err := filepath.Glob(filepath.Join(os.TempDir(), scratchName+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	sweepScratch(os.TempDir(), time.Now().Add(-time.Hour), log)
	if n := left(); n != 2 {
		t.Errorf("%d are left of 2 that are young", n)
	}
	sweepScratch(os.TempDir(), time.Now().Add(time.Hour), log)
	if n := left(); n != 1 {
		t.Errorf("%d are left of 2, one of which is used", n)
	}
	if err := errors.Join(st[1].scratch.Close(), st[1].clear()); err != nil || left() != 0 {
		t.Errorf("%d are left, %v", left(), err)
	}
}
