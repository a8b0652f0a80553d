package journal

import (
	"testing"
	"time"
)

func TestDurationsAreCountedInTheirClasses(t *testing.T) {
	var d Durations
	for _, took := range []time.Duration{0, DurationBounds[0], DurationBounds[0] + 1, time.Second, time.Hour} {
		d.Count(took)
	}
	want := Durations{Sum: DurationBounds[0] + DurationBounds[0] + 1 + time.Second + time.Hour}
	want.Counts[0], want.Counts[1], want.Counts[len(want.Counts)-1] = 2, 1, 1
	for i, bound := range DurationBounds {
		if bound == time.Second {
			want.Counts[i] = 1
		}
	}
	if d != want || d.Total() != 5 {
		t.Errorf("%+v, want %+v", d, want)
	}
}
