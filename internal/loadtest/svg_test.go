package loadtest

import (
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// drawn is a result with figures as a run of 12 seconds would have.
func drawn() *Result {
	random := rand.New(rand.NewPCG(1, 1))
	start := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	producer, consumer := &meter{}, &meter{consumer: true}
	b := newBoard(start, []*meter{producer, consumer})
	now := start
	for second := range 12 {
		n := 800 + random.IntN(100)
		if second == 7 {
			n = 150
		}
		for i := range n {
			now = start.Add(time.Duration(second)*time.Second + time.Duration(i)*time.Second/time.Duration(n))
			took := time.Duration(4e5 * (0.5 + random.ExpFloat64()))
			if random.IntN(800) == 0 {
				took += 20 * time.Millisecond
			}
			producer.sent(now)
			producer.settled(confirmed, now.Add(-took), now)
			if second != 8 || i%2 == 0 {
				consumer.received(took+time.Duration(3e5*random.ExpFloat64()), now)
			}
		}
		b.sample(start.Add(time.Duration(second+1) * time.Second))
	}
	b.sample(b.lastTime.Add(30 * time.Millisecond))
	r := b.result(Options{ID: "a <b> & c", Producers: 1, Consumers: 1, Size: 100, Confirm: 1000})
	r.Broker = "localhost:5672"
	return r
}

func TestSVGIsWholeAndReadsNothing(t *testing.T) {
	few := drawn()
	few.Samples = few.Samples[:1]
	untimed := drawn()
	untimed.Confirm, untimed.EndToEnd = nil, nil
	nothing := newBoard(time.Now(), nil).result(Options{Producers: 1, Confirm: 1})
	for name, r := range map[string]*Result{"usual": drawn(), "one sample": few, "without latencies": untimed, "nothing": nothing} {
		var b strings.Builder
		if err := r.WriteSVG(&b); err != nil {
			t.Fatal(err)
		}
		if name == "usual" && os.Getenv("FERRY_SVG") != "" {
			if err := os.WriteFile(os.Getenv("FERRY_SVG"), []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		elements := map[string]int{}
		for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := token.(xml.StartElement); ok {
				elements[e.Name.Local]++
			}
		}
		for _, bad := range []string{"NaN", "Inf", "href", "url(", "@import", "<b>"} {
			if strings.Contains(b.String(), bad) {
				t.Errorf("%s: %q is in it", name, bad)
			}
		}
		want := map[string]int{"usual": 5, "one sample": 2, "without latencies": 3, "nothing": 0}[name]
		if got := elements["path"]; got != want {
			t.Errorf("%s: %d lines are drawn, want %d", name, got, want)
		}
	}
}

func TestAxes(t *testing.T) {
	labels := func(a axis) string {
		var all []string
		for _, t := range a.ticks {
			all = append(all, t.label)
		}
		return strings.Join(all, " ")
	}
	for _, row := range []struct {
		name, got, want string
	}{
		{"rates", labels(linear(812_345, 5, countLabel)), "0 200 k 400 k 600 k 800 k 1 M"},
		{"a round highest", labels(linear(1_500_000, 5, countLabel)), "0 500 k 1 M 1.5 M"},
		{"few", labels(linear(3, 5, countLabel)), "0 1 2 3"},
		{"none", labels(linear(0, 5, countLabel)), "0 1"},
		{"seconds", labels(linear(10, 10, secondsLabel)), "0 s 1 s 2 s 3 s 4 s 5 s 6 s 7 s 8 s 9 s 10 s"},
		{"latencies", labels(logarithmic(230, 14_000, microsecondsLabel)), "200 µs 500 µs 1 ms 2 ms 5 ms 10 ms 20 ms"},
		{"one latency", labels(logarithmic(1000, 1000, microsecondsLabel)), "1 ms 2 ms"},
		{"many latencies", labels(logarithmic(1, 3e6, microsecondsLabel)), "1 µs   10 µs   100 µs   1 ms   10 ms   100 ms   1 s  "},
		{"nines", labels(nines(20_000)), "0 50% 90% 99% 99.9% 99.99%"},
		{"few nines", labels(nines(3)), "0 50% 90% 99%"},
	} {
		if row.got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, row.got, row.want)
		}
	}
}
