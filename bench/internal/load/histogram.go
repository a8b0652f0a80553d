package load

import (
	"math/bits"
	"time"
)

// A value of e significant bits falls into one of 64 buckets of equal width, by
// the six bits below its highest:
//
//	nanoseconds   1xxxxxx.........   bucket (e-6)<<6 | xxxxxx
//	              |     |
//	              e     6 bits
//
// so a bucket is at most 1/64 of its values wide, and finding it takes a shift.
// Values below 64 have a bucket each.
const (
	subBits = 6
	buckets = (maxBits - subBits + 1) << subBits
	maxBits = 42 // 2^42 ns, 73 minutes
)

// Histogram counts durations. It is used by one goroutine at a time.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
}

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 1<<subBits {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - subBits
	return min((shift+1)<<subBits|int(v>>shift)&(1<<subBits-1), buckets-1)
}

// limit is the least duration above all those of the bucket.
func limit(bucket int) time.Duration {
	if bucket < 1<<subBits {
		return time.Duration(bucket + 1)
	}
	shift := bucket>>subBits - 1
	return time.Duration(1<<subBits|bucket&(1<<subBits-1)+1) << shift
}

// Add counts n durations of d.
func (h *Histogram) Add(d time.Duration, n uint64) {
	h.counts[bucketOf(d)] += n
	h.total += n
}

// Merge adds what o has counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
}

// Quantile is a duration that the share p of those counted do not exceed: the
// upper end of the bucket in which it falls, or 0 if nothing was counted.
func (h *Histogram) Quantile(p float64) time.Duration {
	want := max(uint64(p*float64(h.total)+0.999999), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= want {
			return limit(i)
		}
	}
	return 0
}

// Latency is a histogram's summary, in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

func (h *Histogram) latency() *Latency {
	ms := func(p float64) float64 { return round(h.Quantile(p).Seconds()*1e3, 3) }
	return &Latency{ms(.5), ms(.99), ms(.999)}
}
