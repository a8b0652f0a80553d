package app

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// getText asks over HTTP, without logging in.
func (p *process) getText(path string) (int, string) {
	p.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + p.addresses["http"] + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestMetricsNeedNoLogin(t *testing.T) {
	p := mustStart(t, testConfig())
	defer p.mustStop()
	c := dial(t, p.addresses["amqp"])
	c.declare("q")
	defer c.nc.Close()
	for path, want := range map[string][]string{
		"/metrics": {
			`rabbitmq_endpoint="aggregated"`, "\nrabbitmq_connections 1\n", "\nrabbitmq_queues 1\n", "\nrabbitmq_process_open_fds ",
			`rabbitmq_auth_attempts_succeeded_total{protocol="amqp091"} 1` + "\n", `role="live"`, "\nferry_journal_batches_total ",
		},
		"/metrics/per-object":                           {`rabbitmq_queue_messages{vhost="/",queue="q"} 0` + "\n"},
		"/metrics/detailed?family=queue_coarse_metrics": {`rabbitmq_detailed_queue_messages{vhost="/",queue="q"} 0` + "\n"},
	} {
		code, text := p.getText(path)
		if code != http.StatusOK {
			t.Errorf("%s: %d", path, code)
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s lacks %q:\n%s", path, w, text)
			}
		}
	}
	if code, _ := p.getText("/metrics/more"); code != http.StatusNotFound {
		t.Errorf("a path that is none: %d", code)
	}
}
