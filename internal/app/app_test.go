package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/vfs"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// process is a broker's process within the test's.
type process struct {
	t         *testing.T
	addresses map[string]string
	stop      context.CancelFunc
	ended     chan error
	log       *logBuffer
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func testConfig() Config {
	return Config{
		Store: "memory:", AMQP: "127.0.0.1:0", STOMP: "127.0.0.1:0", GMQ: "127.0.0.1:0", HTTP: "127.0.0.1:0",
		User: "ada", Password: "lovelace",
	}
}

// start runs a process and returns when it is ready, or has ended with the
// error.
func start(t *testing.T, cfg Config) (*process, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &process{t: t, addresses: map[string]string{}, stop: cancel, ended: make(chan error, 1), log: &logBuffer{}}
	cfg.Logger = slog.New(slog.NewTextHandler(p.log, nil))
	ready := make(chan []Address, 1)
	go func() { p.ended <- Run(ctx, cfg, func(a []Address) { ready <- a }) }()
	select {
	case err := <-p.ended:
		cancel()
		return nil, err
	case a := <-ready:
		for _, a := range a {
			p.addresses[a.Name] = a.Addr
		}
	}
	t.Cleanup(cancel)
	return p, nil
}

func mustStart(t *testing.T, cfg Config) *process {
	t.Helper()
	p, err := start(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mustStop ends the process in good order.
func (p *process) mustStop() {
	p.t.Helper()
	p.stop()
	if err := <-p.ended; err != nil {
		p.t.Errorf("the process ended with: %v\n%s", err, p.log)
	}
}

// get asks over HTTP and returns the status and the body.
func (p *process) get(path string) (int, map[string]any) {
	p.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + p.addresses["http"] + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body := map[string]any{}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		p.t.Errorf("%s: the body is not JSON: %v", path, err)
	}
	return resp.StatusCode, body
}

func TestConfirmedMessageSurvivesARestart(t *testing.T) {
	cfg := testConfig()
	cfg.Store = "file:" + filepath.Join(t.TempDir(), "data")
	p := mustStart(t, cfg)
	c := dial(t, p.addresses["amqp"])
	c.declare("q")
	c.send(&amqpwire.ConfirmSelect{})
	expect[*amqpwire.ConfirmSelectOk](c)
	c.publish("q", "hello", amqpwire.Persistent)
	expect[*amqpwire.BasicAck](c)
	p.stop()
	closed := expect[*amqpwire.ConnectionClose](c)
	c.send0(&amqpwire.ConnectionCloseOk{})
	c.nc.Close()
	p.mustStop()
	if closed.ReplyCode != amqpwire.ConnectionForced || !strings.Contains(closed.ReplyText, "shutdown") {
		t.Errorf("the connection was closed with %d %q, want 320 and why", closed.ReplyCode, closed.ReplyText)
	}

	p = mustStart(t, cfg)
	c = dial(t, p.addresses["amqp"])
	if n := c.declare("q"); n != 1 {
		t.Errorf("the queue has %d messages after the restart, want 1", n)
	}
	c.close()
	p.mustStop()
	if found, _ := filepath.Glob(filepath.Join(strings.TrimPrefix(cfg.Store, "file:"), scratchDir, "*")); len(found) > 0 {
		t.Errorf("the scratch directory still has %q", found)
	}
}

func TestHealthFollowsTheProcess(t *testing.T) {
	cfg := testConfig()
	// A store whose first sync waits holds the start where it recovers.
	disk := vfs.NewFaulty(vfs.NewMem())
	waits, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	disk.SetHook(func(c vfs.Call) error {
		if c.Op == vfs.OpLock {
			once.Do(func() { close(waits); <-goOn })
		}
		return nil
	})
	cfg.fs, cfg.Store, cfg.HTTP = disk, "file:/data", freeAddress(t)
	started := make(chan *process, 1)
	go func() {
		p, err := start(t, cfg)
		if err != nil {
			t.Error(err)
		}
		started <- p
	}()
	<-waits
	early := &process{t: t, addresses: map[string]string{"http": cfg.HTTP}}
	if code, _ := early.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez while starting: %d, want 200", code)
	}
	if code, body := early.get("/readyz"); code != http.StatusServiceUnavailable || body["status"] != "starting" {
		t.Errorf("/readyz while starting: %d %v", code, body)
	}
	close(goOn)
	p := <-started
	if p == nil {
		return
	}
	if code, body := p.get("/readyz"); code != http.StatusOK || body["status"] != "serving" || body["durability"] != "fsync" {
		t.Errorf("/readyz while serving: %d %v", code, body)
	}
	if code, body := p.get("/nothing"); code != http.StatusNotFound || body["error"] == nil {
		t.Errorf("/nothing: %d %v, want 404 with an error", code, body)
	}
	p.mustStop()
	if _, err := net.Dial("tcp", p.addresses["http"]); err == nil {
		t.Error("there is still a listener")
	}
}

func TestAFailedSyncEndsTheProcess(t *testing.T) {
	cfg := testConfig()
	disk := vfs.NewFaulty(vfs.NewMem())
	cfg.fs, cfg.Store = disk, "file:/data"
	p := mustStart(t, cfg)
	c := dial(t, p.addresses["amqp"])
	c.declare("q")
	c.send(&amqpwire.ConfirmSelect{})
	expect[*amqpwire.ConfirmSelectOk](c)
	disk.SetHook(vfs.FailNth(1, true, syscall.EIO, func(c vfs.Call) bool { return c.Op == vfs.OpSync }))
	c.publish("q", "hello", amqpwire.Persistent)
	closed := expect[*amqpwire.ConnectionClose](c) // and no ack or nack before it
	if closed.ReplyCode != amqpwire.InternalError {
		t.Errorf("the connection was closed with %d %q, want 541", closed.ReplyCode, closed.ReplyText)
	}
	c.send0(&amqpwire.ConnectionCloseOk{})
	c.nc.Close()
	err := <-p.ended
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "/data") {
		t.Errorf("the process ended with %v, want the cause", err)
	}

	disk.SetHook(nil)
	p = mustStart(t, cfg)
	dial(t, p.addresses["amqp"]).close()
	p.mustStop()
}

func TestAlarmIsShownAndDoesNotEndReadiness(t *testing.T) {
	cfg := testConfig()
	disk := vfs.NewMem()
	disk.SetSpace(1 << 30)
	cfg.fs, cfg.Store = disk, "file:/data"
	cfg.DiskFreeLimit = Limit{Bytes: 1 << 40}
	cfg.MemoryLimit = Limit{Bytes: 1}
	p := mustStart(t, cfg)
	for { // until the alarms have been looked at
		code, body := p.get("/readyz")
		if code != http.StatusOK {
			t.Fatalf("/readyz: %d %v, want 200", code, body)
		}
		if body["blocked"] == "low on memory & disk" {
			break
		}
		if body["blocked"] != nil {
			t.Fatalf("/readyz: blocked %q", body["blocked"])
		}
	}
	p.mustStop()
}

// Whoever kills a broker and starts the next at once finds its ports in use for a
// moment.
func TestPortsOfAProcessThatIsAboutToEndAreWaitedFor(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := testConfig()
	cfg.AMQP = taken.Addr().String()
	time.AfterFunc(2*portPoll, func() { taken.Close() })
	mustStart(t, cfg).mustStop()
}

// An error that ends the start says what to do.
func TestErrorsOfTheStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	inUse := testConfig()
	inUse.Store = "file:" + filepath.Join(t.TempDir(), "data")
	holder := mustStart(t, inUse)
	t.Cleanup(holder.mustStop) // when all rows are done
	damaged := "file:" + damagedStore(t)
	for _, row := range []struct {
		name   string
		change func(*Config)
		texts  []string
		is     error
	}{
		{"AMQP port", func(c *Config) { c.AMQP = taken.Addr().String() }, []string{taken.Addr().String(), "--amqp", "another program"}, nil},
		{"STOMP port", func(c *Config) { c.STOMP = taken.Addr().String() }, []string{taken.Addr().String(), "--stomp", "another program"}, nil},
		{"origins", func(c *Config) { c.WSOrigins = "here" }, []string{"--ws-origins", "here"}, nil},
		{"GMQ port", func(c *Config) { c.GMQ = taken.Addr().String() }, []string{taken.Addr().String(), "--gmq", "another program"}, nil},
		{"HTTP port", func(c *Config) { c.HTTP = taken.Addr().String() }, []string{taken.Addr().String(), "--http"}, nil},
		{"profiles' port", func(c *Config) { c.PProf = taken.Addr().String() }, []string{taken.Addr().String(), "--pprof"}, nil},
		{"address", func(c *Config) { c.AMQP = "192.0.2.1:5672" }, []string{"192.0.2.1:5672", "--amqp"}, nil},
		{"store", func(c *Config) { c.Store = inUse.Store }, []string{"another process", "--store"}, journal.ErrLocked},
		{"kind of store", func(c *Config) { c.Store = "nats://x/y" }, []string{"not in this version"}, nil},
		{"damage", func(c *Config) { c.Store = damaged }, []string{"damaged", "ferry dump", "offset"}, nil},
		{"certificate", func(c *Config) { c.TLSCert, c.TLSKey = "nowhere", "nowhere" }, []string{"nowhere"}, os.ErrNotExist},
		{"password", func(c *Config) { c.Password = strings.Repeat("x", 5000) }, []string{"first user", "password"}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel() // a port that is taken is waited for
			cfg := testConfig()
			row.change(&cfg)
			p, err := start(t, cfg)
			if err == nil {
				p.mustStop()
				t.Fatal("it started")
			}
			for _, text := range row.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("the error does not say %q: %v", text, err)
				}
			}
			if row.is != nil && !errors.Is(err, row.is) {
				t.Errorf("%v is not %v", err, row.is)
			}
		})
	}
}
