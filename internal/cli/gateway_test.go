package cli

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ferrymq/ferry/ferrytest"
)

// startGateway returns its address.
func startGateway(t *testing.T, getenv func(string) string, args ...string) (*running, string) {
	t.Helper()
	r, w := io.Pipe()
	run := startCommand(t, System{Args: append([]string{"gateway", "--listen", "127.0.0.1:0"}, args...), Stderr: w, Getenv: getenv})
	lines := bufio.NewScanner(r)
	address := ""
	for address == "" && lines.Scan() {
		if found := regexp.MustCompile(`gateway started.*http=(\S+)`).FindStringSubmatch(lines.Text()); found != nil {
			address = found[1]
		}
		_, _ = run.errors.Write(append(lines.Bytes(), '\n'))
	}
	go func() { _, _ = io.Copy(run.errors, r) }() // until the command has ended
	t.Cleanup(func() { w.Close() })
	return run, "http://" + address
}

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// postUntilTaken repeats a request, as clients do that get a 503.
func postUntilTaken(t *testing.T, url, body string) {
	t.Helper()
	code, text := 503, ""
	for code == 503 {
		code, text = post(t, url, body)
	}
	if code != 200 {
		t.Errorf("%s: %d %s", url, code, text)
	}
}

func TestGateway(t *testing.T) {
	b := ferrytest.Start(t)
	b.Refuse()
	host, port, _ := strings.Cut(b.Addr(), ":")
	run, url := startGateway(t, variablesOf(map[string]string{
		"RABBIT_HOST": host, "RABBIT_PORT": port, "RABBIT_USERNAME": "guest", "RABBIT_PASSWORD": "guest",
	}), "--timeout", "1s")

	if code, text := post(t, url+"/publish/hello", ""); code != 503 || !strings.Contains(text, `"outcome":"not sent"`) || strings.Contains(text, "guest:") {
		t.Errorf("without a broker: %d %s", code, text)
	}
	b.Heal()
	postUntilTaken(t, url+"/queues/other", "first")
	for path, body := range map[string]string{"/publish/hello": "", "/publish": "hello", "/queues/orders": "hello"} {
		if code, text := post(t, url+path, body); code != 200 || text != "" {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	if resp, err := http.Get(url + "/healthz"); err != nil || resp.StatusCode != 200 {
		t.Errorf("health: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if a, c := takeMessages(t, b.DirectURL(), "publisher", 2), takeMessages(t, b.DirectURL(), "orders", 1); string(a[0].Body) != "hello" || a[0].Transient || string(c[0].Body) != "hello" {
		t.Errorf("got %+v %+v", a, c)
	}

	// Away and back: what is asked for meanwhile is answered.
	b.Refuse()
	b.Drop()
	if code, text := post(t, url+"/publish", "lost"); code != 503 {
		t.Errorf("while the broker is away: %d %s", code, text)
	}
	b.Heal()
	postUntilTaken(t, url+"/publish", "back")

	// A request that is under way when it is told to end is answered.
	stopped := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: run.stop})
	req, err := http.NewRequestWithContext(stopped, "POST", url+"/publish", strings.NewReader("last"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Expect", "100-continue") // which the gateway says when it reads the body
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("the last request: %s", resp.Status)
	}
	if code := <-run.code; code != 0 {
		t.Errorf("exit code %d", code)
	}
	if text := run.errors.String(); strings.Contains(text, "guest:guest") {
		t.Errorf("the password is in the log:\n%s", text)
	}
}

func TestGatewayThatCannotBe(t *testing.T) {
	for name, row := range map[string]struct {
		args []string
		code int
		says string
	}{
		"an odd address":  {[]string{"--listen", "80"}, exitUsage, "did you mean :80?"},
		"nowhere":         {[]string{"--listen", "off"}, exitUsage, "--listen"},
		"no time":         {[]string{"--timeout", "0s"}, exitUsage, "--timeout"},
		"an odd broker":   {[]string{"-u", "http://x"}, exitUsage, "http"},
		"a taken address": {[]string{"--listen", ferrytest.Start(t).Addr()}, exitFailed, "--listen"},
	} {
		got := runWith(t, "", append([]string{"gateway"}, row.args...)...)
		if got.code != row.code || !strings.Contains(got.errors, row.says) {
			t.Errorf("%s: exit code %d, want %d, with %q in\n%s", name, got.code, row.code, row.says, got.errors)
		}
	}
}
