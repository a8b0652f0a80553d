package conformance

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// stompPrograms drive a broker with the clients that people have.
var stompPrograms = []program{
	{name: "stomp-python", command: []string{".venv/bin/python", "python/stomp_clients.py"}, needs: ".venv/bin/stomp", client: "stomp.py, in conformance/.venv"},
	{name: "stomp-node", command: []string{"node", "node/stomp.mjs"}, needs: "node/node_modules/@stomp/stompjs", client: "@stomp/stompjs, in conformance/node/node_modules"},
}

// against is the program with the entrances of a broker; AMQP's is given when it
// is run.
func (p program) against(urls stompURLs) program {
	p.command = append(slices.Clone(p.command), urls.stomp, urls.web)
	return p
}

// TestStompClientsSeeFerryLikeRabbitMQ compares what each program sees of Ferry
// with what it saw of RabbitMQ's plugin, except for what is listed in
// testdata/differences.jsonl, with the reason.
func TestStompClientsSeeFerryLikeRabbitMQ(t *testing.T) {
	t.Parallel()
	for _, p := range stompPrograms {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			want := p.recording(t)
			if os.Getenv("FERRY_CONFORMANCE_STOMP_URL") == "" {
				want = withDifferences(t, p, want)
			}
			urls := stompTarget(t)
			compare(t, want, p.against(urls).run(t, broker{url: urls.amqp}))
		})
	}
}

// TestStompClientsSeeRabbitMQAsRecorded runs them against the real plugin, so
// that the recordings are what they say.
func TestStompClientsSeeRabbitMQAsRecorded(t *testing.T) {
	t.Parallel()
	urls := rabbitMQStomp(t)
	version := serverVersion(t, urls.amqp)
	for _, p := range stompPrograms {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			got := p.against(urls).run(t, broker{url: urls.amqp})
			switch {
			case *record:
				if err := os.WriteFile(p.file(), []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			case strings.HasPrefix(version, recorded+"."):
				compare(t, p.recording(t), got)
			default:
				for _, d := range differing(p.recording(t), got) {
					t.Logf("RabbitMQ %s, recorded %s:\n%s", version, recorded, d)
				}
			}
		})
	}
}
