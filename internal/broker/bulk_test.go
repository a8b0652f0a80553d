package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
)

func TestBulkReturnsWhenAllIsDurable(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	const n = 500
	fault := errors.New("of one item")
	err := c.Bulk(func() error {
		for i := range n {
			name := fmt.Sprint("q", i)
			c.queue(name, true)
			if err := c.BindQueue(name, "amq.topic", name, nil); err != nil {
				return err
			}
		}
		return fault
	})
	if !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
	cut := &world{t: t, fs: w.fs.CrashClone(0, nil)}
	c.Close()
	w.stop()
	cut.start()
	defer cut.stop()
	v := cut.b.vhost("/")
	if len(v.queues) != n || len(v.exchanges["amq.topic"].bindings) != n {
		t.Errorf("there are %d queues, %d bindings", len(v.queues), len(v.exchanges["amq.topic"].bindings))
	}
}

// A definitions file of RabbitMQ's users has tens of thousands of queues.
func BenchmarkDeclareManyInBulk(b *testing.B) {
	for _, policies := range []int{0, 20} {
		b.Run(fmt.Sprintf("policies=%d", policies), func(b *testing.B) {
			for b.Loop() {
				declareMany(b, policies)
			}
		})
	}
}

func declareMany(b *testing.B, policies int) {
	const n = 50_000
	b.StopTimer()
	w := &world{t: b}
	w.open = func() (journal.Journal, error) {
		return file.Open(vfs.OS{}, b.TempDir(), file.Options{Logger: discard})
	}
	w.start()
	for i := range policies {
		value := fmt.Sprintf(`{"pattern":"^team%d\\.","definition":{"max-length":%d}}`, i, i+1)
		if err := w.b.PutSetting(Setting{SettingPolicy, "/", fmt.Sprint("p", i), []byte(value)}); err != nil {
			b.Fatal(err)
		}
	}
	c := w.client()
	b.StartTimer()
	began := time.Now()
	err := c.Bulk(func() error {
		for i := range n {
			name := fmt.Sprintf("team%d.queue%d", i%20, i)
			c.queue(name, true)
			if err := c.BindQueue(name, "amq.topic", name+".#", nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(2*n/time.Since(began).Seconds(), "declarations/s")
	c.Close()
	w.stop()
	b.StartTimer()
}
