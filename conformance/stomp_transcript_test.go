package conformance

import (
	"encoding/json"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// stompFrames is the file of what RabbitMQ's plugin answers to the scenarios.
var stompFrames = program{name: "stomp"}

func stompScenarios() []scenario {
	return slices.Concat(stompConnectScenarios, stompSendScenarios, stompReceiveScenarios)
}

// stompTarget is the broker under test: a Ferry of this test's own, unless
// FERRY_CONFORMANCE_STOMP_URL (and FERRY_CONFORMANCE_URL, for AMQP) name another.
func stompTarget(t *testing.T) stompURLs {
	t.Helper()
	if u := os.Getenv("FERRY_CONFORMANCE_STOMP_URL"); u != "" {
		return stompURLs{stomp: u, web: os.Getenv("FERRY_CONFORMANCE_WEBSTOMP_URL"), amqp: os.Getenv("FERRY_CONFORMANCE_URL")}
	}
	return startStompFerry(t)
}

// startStompFerry is startFerry with STOMP, over TCP and over WebSocket.
func startStompFerry(t *testing.T, flags ...string) stompURLs {
	t.Helper()
	address := serve(t, append([]string{"--stomp", anyPort, "--http", anyPort}, flags...)...)
	if len(address) != 3 {
		t.Fatalf("ferry serve did not say where it listens: %q", address)
	}
	return stompURLs{
		stomp: "stomp://guest:guest@" + address["stomp"] + "/",
		web:   "ws://" + address["http"] + "/ws",
		amqp:  "amqp://guest:guest@" + address["amqp"] + "/",
	}
}

// rabbitMQStomp are the entrances of the RabbitMQ node that all tests share.
func rabbitMQStomp(t *testing.T) stompURLs {
	t.Helper()
	amqp := rabbitMQURL(t)
	if _, err := url.Parse(rabbitMQ.stomp); err != nil || rabbitMQ.stomp == "" {
		t.Fatalf("scripts/rabbitmq did not say where it serves STOMP: %q, %v", rabbitMQ.stomp, err)
	}
	return stompURLs{stomp: rabbitMQ.stomp, web: rabbitMQ.web, amqp: amqp}
}

// TestFerrySpeaksStompLikeRabbitMQ plays the scenarios to Ferry and compares
// what it answers with what RabbitMQ's plugin did when that was recorded, except
// for what is listed in testdata/differences.jsonl, with the reason.
func TestFerrySpeaksStompLikeRabbitMQ(t *testing.T) {
	t.Parallel()
	want := stompFrames.recording(t)
	if os.Getenv("FERRY_CONFORMANCE_STOMP_URL") == "" {
		want = withDifferences(t, stompFrames, want)
	}
	byCase := byCase(t, want)
	urls := stompTarget(t)
	for _, s := range stompScenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			compareCase(t, byCase[s.name], s.transcript(t, urls))
		})
	}
}

// TestRabbitMQSpeaksStompAsRecorded plays them to the real plugin, so that the
// recording is what it says.
func TestRabbitMQSpeaksStompAsRecorded(t *testing.T) {
	t.Parallel()
	urls := rabbitMQStomp(t)
	version := serverVersion(t, urls.amqp)
	scenarios := stompScenarios()
	var want map[string]string
	got := make([]string, len(scenarios))
	if *record {
		t.Cleanup(func() {
			if err := os.WriteFile(stompFrames.file(), []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
				t.Error(err)
			}
		})
	} else {
		want = byCase(t, stompFrames.recording(t))
	}
	for i, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			got[i] = s.transcript(t, urls)
			switch {
			case *record:
			case strings.HasPrefix(version, recorded+"."):
				compareCase(t, want[s.name], got[i])
			case want[s.name] != got[i]:
				t.Logf("RabbitMQ %s, recorded %s:\nrecorded %s\n     got %s", version, recorded, want[s.name], got[i])
			}
		})
	}
}

func byCase(t *testing.T, lines []string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for i, line := range lines {
		var l struct {
			Case string `json:"case"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s, line %d: %v", stompFrames.file(), i+1, err)
		}
		out[l.Case] = line
	}
	return out
}

// compareCase shows both sides of a case that is not alike.
func compareCase(t *testing.T, want, got string) {
	t.Helper()
	if want != got {
		t.Errorf("\nwant %s\n got %s", want, got)
	}
}
