package conformance

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What clients of ActiveMQ Artemis say in STOMP, recorded from Artemis and played
// to Ferry.

// artemisFrames is the file of what Artemis answers.
var artemisFrames = program{name: "stomp-artemis"}

const (
	artemisRecorded = "2.56"
	artemisFile     = "testdata/artemis-" + artemisRecorded + "/stomp-artemis.jsonl"
)

// artemisShown are the headers that are compared: Artemis shows more, and other
// ones than RabbitMQ.
var artemisShown = map[string]bool{
	"subscription": true, "destination": true, "receipt-id": true, "version": true, "correlation-id": true, "name": true,
}

const (
	anycastSend      = "SEND\ndestination:$q\ndestination-type:ANYCAST\n"
	anycastSubscribe = "SUBSCRIBE\nid:0\ndestination:$q\nsubscription-type:ANYCAST\n"
	multicastSend    = "SEND\ndestination:$q\ndestination-type:MULTICAST\n"
)

// durableSubscription walks through a durable subscription whose name is in a
// header of some spelling.
func durableSubscription(name, header string) scenario {
	return scenario{name, func(s *stage) {
		subscribe := "SUBSCRIBE\nid:0\ndestination:$q\nsubscription-type:MULTICAST\nack:client\n" + header + ":sub"
		client := "client-id:" + name
		a := s.connectAs("a", "1.2", client)
		a.do(subscribe)
		a.do("DISCONNECT")
		b := s.connect("b")
		b.do(multicastSend + "persistent:true\n\nmeanwhile")
		c := s.connectAs("c", "1.2", client)
		c.do(subscribe)
		m := c.expect(1)
		c.do("ACK\nid:" + m.get("ack"))
		c.do("UNSUBSCRIBE\nid:0\n" + header + ":sub")
		c.do("DISCONNECT")
		b.do(multicastSend + "persistent:true\n\ntoo late")
		d := s.connectAs("d", "1.2", client)
		d.do(subscribe)
		d.quiet()
		d.do("UNSUBSCRIBE\nid:0\n" + header + ":sub")
	}}
}

var artemisScenarios = []scenario{
	{"anycast_is_a_queue", func(s *stage) {
		a := s.connect("a")
		a.send(anycastSend + "persistent:true\nreceipt:r\nname:value\ncorrelation-id:c\n\nhello")
		a.expect(1)
		a.do(anycastSubscribe)
		a.expect(1)
	}},
	{"anycast_two_subscribers_share", func(s *stage) {
		a, b := s.connect("a"), s.connect("b")
		a.do(anycastSubscribe + "ack:client-individual\nconsumer-window-size:0")
		b.do(anycastSubscribe + "ack:client-individual\nconsumer-window-size:0")
		c := s.connect("c")
		c.do(anycastSend + "\nsame")
		c.do(anycastSend + "\nsame")
		a.expect(1)
		b.expect(1)
	}},
	{"multicast_each_subscriber_has_a_copy", func(s *stage) {
		a, b, c := s.connect("a"), s.connect("b"), s.connect("c")
		c.do(multicastSend + "\ntoo early")
		for _, x := range []*actor{a, b} {
			x.do("SUBSCRIBE\nid:0\ndestination:$q\nsubscription-type:MULTICAST")
		}
		c.do(multicastSend + "\nhello")
		a.expect(1)
		b.expect(1)
		a.quiet()
	}},
	{"multicast_wildcards", func(s *stage) {
		a := s.connect("a")
		a.do("SUBSCRIBE\nid:star\ndestination:$q.*.c\nsubscription-type:MULTICAST")
		a.do("SUBSCRIBE\nid:hash\ndestination:$q.#\nsubscription-type:MULTICAST")
		a.send("SEND\ndestination:$q.b.c\ndestination-type:MULTICAST\n\nboth")
		a.expectAll(2)
		a.send("SEND\ndestination:$q.b\ndestination-type:MULTICAST\n\nhash")
		a.expectAll(1)
		a.quiet()
	}},
	{"destination_type_left_out", func(s *stage) {
		a := s.connect("a")
		a.do("SEND\ndestination:$q\npersistent:true\n\nearly")
		a.do("SUBSCRIBE\nid:0\ndestination:$q")
		a.do("SEND\ndestination:$q\npersistent:true\n\nlate")
		a.take(2, 4*stompQuiet)
	}},
	{"destination_type_unknown", func(s *stage) {
		a := s.connect("a")
		a.send("SEND\ndestination:$q\ndestination-type:anycast\nreceipt:r\n\nhello")
		f, err := a.read(stompPatience)
		s.record(map[string]any{"frame": f.command, "ok": err == nil})
	}},
	durableSubscription("durable_subscription_name", "durable-subscription-name"),
	durableSubscription("durable_subscriber_name", "durable-subscriber-name"),
	durableSubscription("activemq_subscription_name", "activemq.subscriptionName"),
	{"durable_subscription_without_client_id", func(s *stage) {
		a := s.connect("a")
		a.send("SUBSCRIBE\nid:0\ndestination:$q\nsubscription-type:MULTICAST\ndurable-subscription-name:sub\nreceipt:r")
		f, err := a.read(stompPatience)
		s.record(map[string]any{"frame": f.command, "ok": err == nil})
	}},
	{"acks_of_client_are_cumulative", func(s *stage) {
		a := s.connect("a")
		for _, body := range []string{"one", "two", "three"} {
			a.do(anycastSend + "\n" + body)
		}
		a.do(anycastSubscribe + "ack:client")
		a.expect(1)
		second := a.expect(1)
		a.expect(1)
		a.do("ACK\nid:" + second.get("ack"))
		a.do("DISCONNECT")
		b := s.connect("b")
		b.do(anycastSubscribe)
		b.expect(1)
		b.quiet()
	}},
	{"acks_of_client_individual", func(s *stage) {
		a := s.connect("a")
		for _, body := range []string{"one", "two"} {
			a.do(anycastSend + "\n" + body)
		}
		a.do(anycastSubscribe + "ack:client-individual")
		a.expect(1)
		second := a.expect(1)
		a.do("ACK\nid:" + second.get("ack"))
		a.do("DISCONNECT")
		b := s.connect("b")
		b.do(anycastSubscribe)
		b.expect(1)
		b.quiet()
	}},
	{"nack_returns_the_message", func(s *stage) {
		a := s.connect("a")
		a.do(anycastSend + "\none")
		a.do(anycastSubscribe + "ack:client-individual")
		m := a.expect(1)
		a.do("NACK\nid:" + m.get("ack"))
		a.quiet()
	}},
	{"transactions", func(s *stage) {
		a := s.connect("a")
		a.do(anycastSubscribe)
		a.do("BEGIN\ntransaction:1")
		a.send(anycastSend + "transaction:1\n\none")
		a.quiet()
		a.do("COMMIT\ntransaction:1")
		a.expect(1)
		a.do("BEGIN\ntransaction:2")
		a.send(anycastSend + "transaction:2\n\ntwo")
		a.do("ABORT\ntransaction:2")
		a.quiet()
	}},
	{"transaction_with_an_ack_that_is_aborted", func(s *stage) {
		a := s.connect("a")
		a.do(anycastSend + "\none")
		a.do(anycastSubscribe + "ack:client-individual")
		m := a.expect(1)
		a.do("BEGIN\ntransaction:t")
		a.send("ACK\nid:" + m.get("ack") + "\ntransaction:t")
		a.do("ABORT\ntransaction:t")
		a.do("DISCONNECT")
		b := s.connect("b")
		b.do(anycastSubscribe)
		b.take(1, 4*stompQuiet)
	}},
	{"messages_of_one_id_are_stored_once", func(s *stage) {
		a := s.connect("a")
		for range 3 {
			a.send(anycastSend + "persistent:true\n_AMQ_DUPL_ID:1\nreceipt:r\n\nonce")
			a.expect(1)
		}
		a.do(anycastSend + "persistent:true\n_AMQ_DUPL_ID:2\n\ntwice")
		a.do(anycastSubscribe)
		a.expect(2)
		a.quiet()
	}},
	{"selector", func(s *stage) {
		a := s.connect("a")
		a.send(anycastSubscribe + "selector:colour = 'red'\nreceipt:r")
		f, err := a.read(stompPatience)
		s.record(map[string]any{"frame": f.command, "ok": err == nil})
	}},
	{"one_message_at_a_time", func(s *stage) {
		a := s.connect("a")
		a.do(anycastSend + "\none")
		a.do(anycastSend + "\ntwo")
		a.do(anycastSubscribe + "ack:client-individual\nconsumer-window-size:0")
		m := a.expect(1)
		a.quiet()
		a.do("ACK\nid:" + m.get("ack"))
		a.expect(1)
	}},
	{"host_names_the_machine", func(s *stage) {
		a := s.raw("a")
		password, _ := a.user.Password()
		a.send("CONNECT\naccept-version:1.2\nhost:localhost\nlogin:" + a.user.Username() + "\npasscode:" + password)
		f, err := a.read(stompPatience)
		s.record(map[string]any{"frame": f.command, "ok": err == nil})
	}},
}

func playArtemis(t *testing.T, s scenario, urls stompURLs) string {
	t.Helper()
	urls.amqp = ""
	return s.playOn(&stage{t: t, urls: urls, queue: "stomp." + s.name, shown: artemisShown})
}

// TestFerryServesClientsOfArtemis plays to Ferry what was recorded from Artemis.
func TestFerryServesClientsOfArtemis(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(artemisFile)
	if err != nil {
		t.Fatal(err)
	}
	want := withDifferences(t, artemisFrames, strings.Split(strings.TrimRight(string(b), "\n"), "\n"))
	cases := byCase(t, want)
	urls := startStompFerry(t)
	for _, s := range artemisScenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			compareCase(t, cases[s.name], playArtemis(t, s, urls))
		})
	}
}

// TestArtemisAnswersAsRecorded plays it to the real Artemis, so that the recording
// is what it says.
func TestArtemisAnswersAsRecorded(t *testing.T) {
	t.Parallel()
	urls := stompURLs{stomp: startArtemis(t)}
	got := make([]string, len(artemisScenarios))
	var want map[string]string
	if *record {
		t.Cleanup(func() {
			if err := os.MkdirAll(filepath.Dir(artemisFile), 0o755); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(artemisFile, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
				t.Error(err)
			}
		})
	} else {
		b, err := os.ReadFile(artemisFile)
		if err != nil {
			t.Fatal(err)
		}
		want = byCase(t, strings.Split(strings.TrimRight(string(b), "\n"), "\n"))
	}
	for i, s := range artemisScenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if got[i] = playArtemis(t, s, urls); !*record {
				compareCase(t, want[s.name], got[i])
			}
		})
	}
}

// startArtemis is the URL of a broker of this test's own.
func startArtemis(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := run(t.Context(), "../scripts/artemis", "start", "--dir", dir, "--while", strconv.Itoa(os.Getpid()))
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == installMissing {
		missing(t, "Artemis (make setup installs it)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := run(context.Background(), "../scripts/artemis", "stop", "--dir", dir); err != nil {
			t.Error(err)
		}
	})
	m := regexp.MustCompile(`(?m)^url='(.*)'$`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("scripts/artemis said %q", out)
	}
	return string(m[1])
}
