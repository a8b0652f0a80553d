//go:build unix

package broker

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
)

// BenchmarkExpiry lets messages of 100 bytes expire whose times are spread evenly
// over expirySpread, in no order; b.N is how many there are. lateness is of the
// message that is the latest to leave, cpu what the process takes for each message
// while they leave, with what the journal takes to write it.
//
//	go test -run xxx -bench Expiry -benchtime 1000000x ./internal/broker
func BenchmarkExpiry(b *testing.B) {
	for _, persistent := range []bool{false, true} {
		b.Run("persistent="+strconv.FormatBool(persistent), func(b *testing.B) { benchmarkExpiry(b, persistent) })
	}
}

const expirySpread = 20 * time.Second

func benchmarkExpiry(b *testing.B, persistent bool) {
	dir := b.TempDir()
	w := &world{t: b, open: func() (journal.Journal, error) {
		return file.Open(vfs.OS{}, dir, file.Options{Logger: discard})
	}}
	w.start()
	defer w.stop()
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	before := heapBytes()
	rnd := rand.New(rand.NewPCG(1, 2))
	begin := time.Now().Add(10*time.Second + time.Duration(b.N)*10*time.Microsecond)
	p := &Publish{Key: []byte("q"), Persistent: persistent, Body: make([]byte, 100)}
	for range b.N {
		ttl := time.Until(begin.Add(time.Duration(rnd.Int64N(int64(expirySpread)))))
		p.Properties = lastingProps(0, strconv.FormatInt(ttl.Milliseconds(), 10))
		if err := c.ch.Publish(p); err != nil {
			b.Fatal(err)
		}
	}
	c.Flush()
	if err := w.b.flushLog(); err != nil {
		b.Fatal(err)
	}
	for w.b.evict.over() && persistent {
		w.b.evict.poke()
		time.Sleep(time.Millisecond)
	}
	held := heapBytes() - before

	q := w.queueOf("q")
	var dues []int64
	q.mu.Lock()
	q.eachChunk(func(k *chunk) { dues = append(dues, k.peek().times.due...) })
	q.mu.Unlock()
	slices.Sort(dues)
	if dues[0] < nowMillis() {
		b.Fatal("the first expire before the last are there")
	}
	time.Sleep(time.Until(time.UnixMilli(dues[0])))
	was := cpu()
	b.ResetTimer()
	var late, sum, looks int64
	for left := len(dues); left > 0; {
		time.Sleep(5 * time.Millisecond)
		q.mu.Lock()
		left = q.ready
		q.mu.Unlock()
		if left > 0 {
			l := max(nowMillis()-dues[len(dues)-left], 0)
			late, sum, looks = max(late, l), sum+l, looks+1
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(held)/float64(b.N), "B/message")
	b.ReportMetric(float64(late), "ms-late-most")
	b.ReportMetric(float64(sum)/float64(max(looks, 1)), "ms-late")
	b.ReportMetric(float64(cpu()-was)/float64(b.N), "cpu-ns/message")
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cpu is the time that the process has had.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
