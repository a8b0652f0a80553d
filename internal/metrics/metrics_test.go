package metrics

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/journal/memory"
	"github.com/ferrymq/ferry/internal/vfs"
)

func openBroker(t testing.TB, cfg broker.Config) *broker.Broker {
	t.Helper()
	b, err := broker.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b
}

func fileBroker(t testing.TB) *broker.Broker {
	t.Helper()
	j, err := file.Open(vfs.NewMem(), "data", file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return openBroker(t, broker.Config{Journal: j})
}

func handler(b *broker.Broker) *Handler {
	return New(Config{
		Version: "1.2.3", Compatible: "4.1.0", Node: "node-1", Cluster: "ferry@host", ClusterID: "id", Started: time.Now(),
		Broker:   func() *broker.Broker { return b },
		Logins:   func() []Login { return []Login{{Protocol: "AMQP 0-9-1", Succeeded: 3, Failed: 1}} },
		Standing: func() Standing { return Standing{Role: "live", Epoch: 7} },
	})
}

func scrape(t testing.TB, h *Handler, path string) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != contentType {
		t.Fatalf("%s: %d %s %s", path, w.Code, w.Header(), w.Body)
	}
	return w.Body.String()
}

func session(t testing.TB, b *broker.Broker, protocol string) (*broker.Session, *broker.Channel) {
	t.Helper()
	s, err := b.OpenSession(broker.SessionConfig{VHost: "/", User: "guest", Name: "peer -> here", Protocol: protocol})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, s.OpenChannel(1)
}

func declare(t testing.TB, s *broker.Session, spec broker.QueueSpec) {
	t.Helper()
	if _, err := s.DeclareQueue(spec); err != nil {
		t.Fatal(err)
	}
}

func publish(t testing.TB, ch *broker.Channel, p broker.Publish) {
	t.Helper()
	if err := ch.Publish(&p); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestNamesOfDashboardsAndAlertsAreThere holds the list of what RabbitMQ's dashboards
// and the alerts made for it ask for.
func TestNamesOfDashboardsAndAlertsAreThere(t *testing.T) {
	list, err := os.ReadFile("testdata/names.txt")
	must(t, err)
	h := handler(fileBroker(t))
	var have []string
	for _, path := range []string{Path, PathDetailed + "?family=queue_coarse_metrics&family=queue_consumer_count"} {
		for _, s := range parse(t, scrape(t, h, path)) {
			have = append(have, s.name)
		}
	}
	b := h.cfg.Broker()
	s, _ := session(t, b, amqp)
	declare(t, s, broker.QueueSpec{Name: "q"})
	for _, s := range parse(t, scrape(t, h, PathDetailed+"?family=queue_coarse_metrics&family=queue_consumer_count&vhost=/")) {
		have = append(have, s.name)
	}
	for _, name := range strings.Fields(string(list)) {
		if !slices.Contains(have, name) {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestCountsOfMessages publishes, gets and consumes in every way, and compares what
// is told with what was done.
func TestCountsOfMessages(t *testing.T) {
	b := fileBroker(t)
	h := handler(b)
	s, ch := session(t, b, amqp)
	declare(t, s, broker.QueueSpec{Name: "classic", Durable: true})
	quorum := []byte("\x0cx-queue-typeS\x00\x00\x00\x06quorum")
	declare(t, s, broker.QueueSpec{Name: "quorum", Durable: true, Args: quorum})
	must(t, s.BindQueue("classic", "amq.fanout", "", nil))
	must(t, s.BindQueue("quorum", "amq.fanout", "", nil))
	publish(t, ch, broker.Publish{Key: []byte("nowhere")})
	publish(t, ch, broker.Publish{Key: []byte("nowhere"), Mandatory: true})
	for _, size := range []int{0, 100, 101, 20000} {
		publish(t, ch, broker.Publish{Exchange: []byte("amq.fanout"), Body: make([]byte, size)})
	}
	s.Flush()
	// Of classic: one got and acknowledged, one got without, one consumed and refused
	// for good, one left. Of quorum: all four consumed, two acknowledged.
	for _, noAck := range []bool{false, true} {
		if found, err := ch.Get("classic", noAck); !found || err != nil {
			t.Fatal(found, err)
		}
	}
	must(t, ch.Ack(1, false))
	ch.Qos(1, false)
	c, err := ch.Consume(broker.ConsumeSpec{Queue: "classic", Tag: "c"})
	must(t, err)
	c.Start()
	must(t, ch.Nack(3, false, true)) // comes again at once
	ch.Cancel("c")
	ch.Qos(0, false)
	c, err = ch.Consume(broker.ConsumeSpec{Queue: "quorum", Tag: "q"})
	must(t, err)
	c.Start()
	must(t, ch.Ack(6, false))
	must(t, ch.Ack(5, false))
	declare(t, s, broker.QueueSpec{Name: "empty"})
	if found, err := ch.Get("empty", true); found || err != nil {
		t.Fatal(found, err)
	}
	want := map[string]string{
		`rabbitmq_global_messages_received_total{protocol="amqp091"}`:                                                       "6",
		`rabbitmq_global_messages_received_confirm_total{protocol="amqp091"}`:                                               "0",
		`rabbitmq_global_messages_routed_total{protocol="amqp091"}`:                                                         "8",
		`rabbitmq_global_messages_unroutable_dropped_total{protocol="amqp091"}`:                                             "1",
		`rabbitmq_global_messages_unroutable_returned_total{protocol="amqp091"}`:                                            "1",
		`rabbitmq_global_messages_delivered_total{protocol="amqp091",queue_type="rabbit_classic_queue"}`:                    "4",
		`rabbitmq_global_messages_delivered_total{protocol="amqp091",queue_type="rabbit_quorum_queue"}`:                     "4",
		`rabbitmq_global_messages_delivered_get_manual_ack_total{protocol="amqp091",queue_type="rabbit_classic_queue"}`:     "1",
		`rabbitmq_global_messages_delivered_get_auto_ack_total{protocol="amqp091",queue_type="rabbit_classic_queue"}`:       "1",
		`rabbitmq_global_messages_delivered_consume_manual_ack_total{protocol="amqp091",queue_type="rabbit_classic_queue"}`: "2",
		`rabbitmq_global_messages_redelivered_total{protocol="amqp091",queue_type="rabbit_classic_queue"}`:                  "1",
		`rabbitmq_global_messages_acknowledged_total{protocol="amqp091",queue_type="rabbit_classic_queue"}`:                 "1",
		`rabbitmq_global_messages_acknowledged_total{protocol="amqp091",queue_type="rabbit_quorum_queue"}`:                  "2",
		`rabbitmq_global_messages_get_empty_total{protocol="amqp091",queue_type="rabbit_classic_queue"}`:                    "1",
		`rabbitmq_global_publishers{protocol="amqp091"}`:                                                                    "1",
		`rabbitmq_global_consumers{protocol="amqp091"}`:                                                                     "1",
		`rabbitmq_message_size_bytes_bucket{protocol="amqp091",le="100.0"}`:                                                 "4",
		`rabbitmq_message_size_bytes_bucket{protocol="amqp091",le="1000.0"}`:                                                "5",
		`rabbitmq_message_size_bytes_bucket{protocol="amqp091",le="1e+06"}`:                                                 "6",
		`rabbitmq_message_size_bytes_bucket{protocol="amqp091",le="+Inf"}`:                                                  "6",
		`rabbitmq_message_size_bytes_sum{protocol="amqp091"}`:                                                               "20201",
		`rabbitmq_queue_messages_ready`:                                                                                     "1",
		`rabbitmq_queue_messages_unacked`:                                                                                   "3",
		`rabbitmq_queue_messages_published_total`:                                                                           "8",
		`rabbitmq_queue_consumers`:                                "1",
		`rabbitmq_connections`:                                    "1",
		`rabbitmq_channels`:                                       "1",
		`rabbitmq_queues`:                                         "3",
		`rabbitmq_channels_opened_total`:                          "1",
		`rabbitmq_queues_created_total`:                           "3",
		`rabbitmq_channel_messages_acked_total`:                   "3",
		`rabbitmq_auth_attempts_total{protocol="amqp091"}`:        "4",
		`rabbitmq_auth_attempts_failed_total{protocol="amqp091"}`: "1",
		`ferry_epoch`:                                             "7",
		`ferry_role_info{node="node-1",role="live"}`:              "1",
	}
	compare(t, scrape(t, h, Path), want)

	// What has gone is counted on; what it had is not there any more.
	if _, err := s.DeleteQueue("quorum", false, false); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for name := range want {
		switch {
		case strings.HasPrefix(name, "rabbitmq_global_publishers"), strings.HasPrefix(name, "rabbitmq_global_consumers"),
			name == "rabbitmq_queue_messages_unacked", name == "rabbitmq_queue_consumers", name == "rabbitmq_connections", name == "rabbitmq_channels":
			want[name] = "0"
		case name == "rabbitmq_queue_messages_ready":
			want[name] = "2"
		case name == "rabbitmq_queues":
			want[name] = "2"
		}
	}
	want["rabbitmq_connections_closed_total"], want["rabbitmq_channels_closed_total"], want["rabbitmq_queues_deleted_total"] = "1", "1", "1"
	compare(t, scrape(t, h, Path), want)
}

func compare(t *testing.T, text string, want map[string]string) {
	t.Helper()
	have := map[string]string{}
	for _, s := range parse(t, text) {
		have[s.series] = s.value
	}
	for series, value := range want {
		if have[series] != value {
			t.Errorf("%s is %q, want %s", series, have[series], value)
		}
	}
}

func TestObjectsAreToldOfByFamilyAndVirtualHost(t *testing.T) {
	b := openBroker(t, broker.Config{Journal: memory.New(memory.Options{})})
	h := handler(b)
	s, _ := session(t, b, amqp)
	declare(t, s, broker.QueueSpec{Name: "q"})
	must(t, b.AddVHost("other"))
	all := parse(t, scrape(t, h, PathPerObject))
	if !slices.ContainsFunc(all, func(s sample) bool {
		return s.series == `rabbitmq_queue_messages{vhost="/",queue="q"}` && s.value == "0"
	}) {
		t.Error("the queue is missing")
	}
	for _, c := range []struct {
		query string
		want  []string
	}{
		{"", nil},
		{"family=queue_consumer_count&vhost=/", []string{`rabbitmq_detailed_queue_consumers{vhost="/",queue="q"}`}},
		{"family=queue_consumer_count&vhost=other", nil},
		{"family=connection_metrics", []string{`rabbitmq_detailed_connection_channels{connection="peer -> here",vhost="/"}`}},
		{"family=vhost_status", []string{`rabbitmq_cluster_vhost_status{vhost="/"}`, `rabbitmq_cluster_vhost_status{vhost="other"}`}},
		{"family=exchange_bindings", []string{`rabbitmq_cluster_exchange_bindings{vhost="/",exchange=""}`}},
		{"family=queue_consumer_count&prefix=my", []string{`my_detailed_queue_consumers{vhost="/",queue="q"}`}},
	} {
		var got []string
		for _, s := range parse(t, scrape(t, h, PathDetailed+"?"+c.query)) {
			if !strings.Contains(s.name, "_info") {
				got = append(got, s.series)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.query, got, c.want)
		}
	}
}

// TestNamesOfPeersDoNotBreakTheFormat declares what nobody should.
func TestNamesOfPeersDoNotBreakTheFormat(t *testing.T) {
	b := openBroker(t, broker.Config{Journal: memory.New(memory.Options{})})
	h := handler(b)
	s, err := b.OpenSession(broker.SessionConfig{VHost: "/", User: "u", Name: "a\"} 1\nevil 2 " + strings.Repeat("x", 1000), Protocol: amqp})
	must(t, err)
	t.Cleanup(s.Close)
	s.OpenChannel(1)
	long := strings.Repeat("é", 200)
	for _, name := range []string{"quote\"", "back\\", "line\nbreak", "\xff\xfe", "nul\x00", long + "1", long + "2"} {
		declare(t, s, broker.QueueSpec{Name: name})
	}
	for _, path := range []string{PathPerObject, PathDetailed + "?family=queue_metrics"} {
		text := scrape(t, h, path)
		n := 0
		for _, s := range parse(t, text) {
			if strings.HasSuffix(s.name, "queue_consumers") {
				n++
			}
			if s.name == "evil" {
				t.Error("a name became a sample")
			}
			if len(s.series) > 1200 {
				t.Errorf("a sample has %d bytes", len(s.series))
			}
		}
		if n != 7 {
			t.Errorf("%s: %d queues, want 7\n%s", path, n, text)
		}
	}
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	h := handler(nil)
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{http.MethodPost, Path, http.StatusMethodNotAllowed},
		{http.MethodHead, Path, http.StatusOK},
		{http.MethodGet, Path + "/memory-breakdown", http.StatusNotFound},
		{http.MethodGet, Path + "?prefix=a%0Ab", http.StatusBadRequest},
		{http.MethodGet, Path + "?prefix=0a", http.StatusBadRequest},
		{http.MethodGet, Path + "?prefix=" + strings.Repeat("a", 21), http.StatusBadRequest},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), c.method, c.path, nil))
		if w.Code != c.code {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.code)
		}
	}
	// A process that waits for its turn tells of itself.
	found := false
	for _, s := range parse(t, scrape(t, h, Path)) {
		found = found || s.series == `ferry_role_info{node="node-1",role="live"}`
	}
	if !found {
		t.Error("a process without a broker does not tell of itself")
	}
}

// A peer that does not read must not take all there is.
func TestScrapesAtATimeAreBounded(t *testing.T) {
	h := handler(nil)
	begun, release := make(chan struct{}), make(chan struct{})
	var slow sync.WaitGroup
	for range mostScrapes {
		slow.Go(func() {
			h.ServeHTTP(&stalled{discard{}, begun, release}, httptest.NewRequestWithContext(t.Context(), http.MethodGet, Path, nil))
		})
	}
	for range mostScrapes {
		<-begun
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, Path, nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("one too many: %d", w.Code)
	}
	close(release)
	slow.Wait()
	scrape(t, h, Path)
}

// discard is a peer that reads all and keeps nothing.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) WriteHeader(int)             {}
func (discard) Write(b []byte) (int, error) { return len(b), nil }

// stalled reads only when it is let.
type stalled struct {
	discard
	begun, release chan struct{}
}

func (s *stalled) Write(b []byte) (int, error) {
	select {
	case s.begun <- struct{}{}:
		<-s.release
	case <-s.release:
	}
	return len(b), nil
}

func BenchmarkAggregated100kQueues(b *testing.B) { benchmark(b, Path) }
func BenchmarkPerObject100kQueues(b *testing.B)  { benchmark(b, PathPerObject) }

// benchmark scrapes a broker with 100,000 queues, each with a message.
func benchmark(b *testing.B, path string) {
	br := openBroker(b, broker.Config{Journal: memory.New(memory.Options{})})
	s, ch := session(b, br, amqp)
	for i := range 100_000 {
		name := fmt.Sprintf("queue-%06d", i)
		declare(b, s, broker.QueueSpec{Name: name})
		publish(b, ch, broker.Publish{Key: []byte(name), Body: []byte("body")})
	}
	s.Flush()
	h := handler(br)
	for b.Loop() {
		h.ServeHTTP(discard{}, httptest.NewRequestWithContext(b.Context(), http.MethodGet, path, nil))
	}
}

// Nobody has to log in for metrics: who reads those of each object slowly leaves the
// sums to others.
func TestSlowReadersOfObjectsLeaveTheSumsToOthers(t *testing.T) {
	h := New(Config{Started: time.Now()})
	for range mostScrapes {
		h.each <- struct{}{}
	}
	for path, want := range map[string]int{Path: http.StatusOK, PathPerObject: http.StatusServiceUnavailable, PathDetailed: http.StatusServiceUnavailable} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}
