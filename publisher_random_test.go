package ferry_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/internal/faultbroker"
)

// Whatever goes wrong, in whatever order: what is said to be confirmed is there,
// what is said to be refused is not, order is kept, and repeats are marked.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			publishing(t, func(t *testing.T, w *world, b *faultbroker.Broker, c *ferry.Client) {
				m := &mischief{t: t, b: b, rand: rand.New(rand.NewPCG(seed, 0))}
				for range 2 {
					m.publishers = append(m.publishers, w.sending(c, ferry.PublisherOptions{Window: 1 + m.rand.IntN(100)}))
				}
				m.sent = make([][]string, len(m.publishers))
				for range 60 {
					m.step()
					if m.rand.IntN(2) == 0 {
						synctest.Wait()
					}
				}
				m.mend()
				for _, s := range m.publishers {
					s.flush()
				}
				m.judge()
			})
		})
	}
}

// mischief does random things to a broker while two publishers send to it.
type mischief struct {
	t          *testing.T
	b          *faultbroker.Broker
	rand       *rand.Rand
	publishers []*sending
	sent       [][]string // bodies by publisher, in order
	down       bool
	n          int
}

func (m *mischief) step() {
	switch m.rand.IntN(18) {
	case 0:
		m.b.Cut()
	case 1:
		if m.down = !m.down; m.down {
			m.b.Down()
		} else {
			up(m.t, m.b)
		}
	case 2:
		hold(m.b, m.rand.IntN(2) == 0)
	case 3:
		m.b.ReleaseConfirms()
	case 4:
		m.b.Set(func(f *faultbroker.Faults) { f.NackEvery = m.rand.IntN(5) })
	case 5:
		m.b.Set(func(f *faultbroker.Faults) { f.ReturnEvery = m.rand.IntN(5) })
	case 6:
		m.b.Block("for fun")
	case 7:
		m.b.Unblock()
	case 8:
		m.b.CloseChannels([]uint16{405, 541}[m.rand.IntN(2)], "for fun")
	case 9:
		m.b.CloseConnections([]uint16{320, 404, 541}[m.rand.IntN(3)], "for fun")
	case 10:
		m.b.Set(func(f *faultbroker.Faults) { f.ConfirmMultiple = !f.ConfirmMultiple })
	case 11:
		time.Sleep(time.Duration(m.rand.IntN(3000)) * time.Millisecond)
	case 12:
		m.b.Pause()
	case 13:
		m.b.Resume()
	default:
		m.send(m.rand.IntN(len(m.publishers)), m.rand.IntN(30))
	}
}

// send submits up to n messages, as many as find room.
func (m *mischief) send(publisher, n int) {
	s := m.publishers[publisher]
	for range n {
		m.n++
		message := ferry.Message{Body: []byte(fmt.Sprintf("p%d.%d", publisher, m.n))}
		switch m.rand.IntN(20) {
		case 0:
			message.Exchange, message.Key = "missing", "k"
		case 1:
			message.Key = "nowhere"
		case 2:
			message.ID = fmt.Sprint("own-", m.n)
		case 3:
			message.Headers = map[string]any{"large": strings.Repeat("x", 200<<10)}
		}
		body := string(message.Body)
		ctx, cancel := context.WithTimeout(m.t.Context(), time.Millisecond)
		if m.rand.IntN(10) == 0 {
			m.publish(ctx, publisher, message)
			cancel()
			continue
		}
		err := s.p.Submit(ctx, message, func(r ferry.Result) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if _, again := s.results[body]; again {
				m.t.Errorf("%s has a second outcome", body)
			}
			s.results[body] = r
		})
		cancel()
		switch {
		case errors.Is(err, ferry.ErrNotSent):
			s.mu.Lock()
			s.results[body] = ferry.Result{Err: err}
			s.mu.Unlock()
		case err != nil:
			m.t.Error(err)
		}
		m.sent[publisher] = append(m.sent[publisher], body)
	}
}

func (m *mischief) publish(ctx context.Context, publisher int, message ferry.Message) {
	s := m.publishers[publisher]
	err := s.p.Publish(ctx, message)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results[string(message.Body)] = ferry.Result{Err: err, Attempts: -1}
	m.sent[publisher] = append(m.sent[publisher], string(message.Body))
}

// mend ends all faults.
func (m *mischief) mend() {
	if m.down {
		up(m.t, m.b)
	}
	m.b.Set(func(f *faultbroker.Faults) { *f = faultbroker.Faults{} })
	m.b.Resume()
	m.b.Unblock()
	m.b.ReleaseConfirms()
}

func (m *mischief) judge() {
	stored := make(map[string]bool)
	for _, body := range m.b.Bodies("q") {
		stored[body] = true
	}
	arrivals := make(map[string][]faultbroker.Publish)
	first := make([][]string, len(m.publishers)) // arrivals, by publisher
	for _, p := range m.b.Publishes() {
		body := string(p.Body)
		if len(arrivals[body]) == 0 {
			var publisher int
			if _, err := fmt.Sscanf(body, "p%d.", &publisher); err != nil {
				m.t.Fatal(err)
			}
			first[publisher] = append(first[publisher], body)
		}
		arrivals[body] = append(arrivals[body], p)
	}
	for i, s := range m.publishers {
		var expected []string
		for _, body := range m.sent[i] {
			r, known := s.result(body)
			if !known {
				m.t.Errorf("%s has no outcome", body)
				continue
			}
			m.judgeOne(body, r, stored[body], arrivals[body])
			if len(arrivals[body]) > 0 {
				expected = append(expected, body)
			}
		}
		if !slices.Equal(first[i], expected) {
			m.t.Errorf("publisher %d: first arrivals are %q, want %q", i, first[i], expected)
		}
		if st := s.p.Stats(); st.InFlight != 0 || st.Waiting != 0 {
			m.t.Errorf("%+v", st)
		}
	}
}

func (m *mischief) judgeOne(body string, r ferry.Result, stored bool, arrivals []faultbroker.Publish) {
	switch r.Outcome() {
	case ferry.Confirmed:
		if !stored {
			m.t.Errorf("%s was confirmed and is not there", body)
		}
	case ferry.Refused:
		if stored {
			m.t.Errorf("%s was refused (%v) and is there", body, r.Err)
		}
	case ferry.NotSent:
		if len(arrivals) > 0 {
			m.t.Errorf("%s was not sent (%v) and arrived", body, r.Err)
		}
	case ferry.Unknown:
		refused := errors.Is(r.Err, ferry.ErrNacked) || errors.Is(r.Err, ferry.ErrUnroutable) || errors.As(r.Err, new(*ferry.BrokerError))
		if publish := r.Attempts == -1; !publish && (r.Attempts < 2 || !refused) {
			m.t.Errorf("%s after %d attempts: %v", body, r.Attempts, r.Err)
		}
	}
	last := int32(0)
	for i, p := range arrivals {
		attempt, marked := p.Header("x-ferry-attempt").(int32)
		if marked && attempt <= max(last, 1) || !marked && i > 0 {
			m.t.Errorf("%s: arrival %d is marked as attempt %d", body, i, attempt)
		}
		if p.Header("x-ferry-id") != arrivals[0].Header("x-ferry-id") {
			m.t.Errorf("%s: its id changed", body)
		}
		last = attempt
	}
	if r.Attempts > 0 && len(arrivals) > r.Attempts {
		m.t.Errorf("%s: %d arrivals of %d attempts", body, len(arrivals), r.Attempts)
	}
}
