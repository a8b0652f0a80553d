package stompwire

import (
	"testing"
	"time"
)

func TestHeartBeatsAreTwoNumbers(t *testing.T) {
	const ms = time.Millisecond
	for in, want := range map[string][2]time.Duration{
		"0,0":                   {},
		"10000,20000":           {10_000 * ms, 20_000 * ms},
		"1,0":                   {ms, 0},
		"0,1":                   {0, ms},
		" 1000 , 2000 ":         {1000 * ms, 2000 * ms},
		"2147483647,2147483647": {2147483647 * ms, 2147483647 * ms},
	} {
		if send, receive, err := ParseHeartBeat([]byte(in)); send != want[0] || receive != want[1] || err != nil {
			t.Errorf("%q: %s %s %v", in, send, receive, err)
		}
	}
	for _, in := range []string{"", ",", "1", "1,", ",1", "1,2,3", "-1,5", "+1,5", "1.5,1", "1e3,1", "0x1,1", "a,b", "1 0,1", "1;2", "\t1,1"} {
		_, _, err := ParseHeartBeat([]byte(in))
		wantFault(t, err, "expected a heart-beat, two numbers of milliseconds", false)
	}
	for _, in := range []string{"2147483648,0", "0,2147483648", "99999999999999999999,1"} {
		_, _, err := ParseHeartBeat([]byte(in))
		wantFault(t, err, "more than 2147483647 ms", true)
	}
}
