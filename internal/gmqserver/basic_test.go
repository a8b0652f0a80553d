package gmqserver

import "testing"

// The session of GMQ's README, byte for byte.
func TestOriginalClientGetsTheOriginalsReplies(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ operation, payload, want string }{
		{"L", "", "0"},
		{"S", "", ""},
		{"P", "aGVsbG8=", "aGVsbG8="},
		{"P", "", ""},
		{"P", "AP8K", "AP8K"},
		{"L", "", "3"},
		{"S", "", "aGVsbG8="},
		{"S", "", ""},
		{"S", "", "AP8K"},
		{"S", "", ""},
		{"L", "ignored", "0"},
		{"SYNC", "", ""},
	} {
		got := f.once(original(c.operation, "myqueue", c.payload))
		if want := originalReply(c.operation, "myqueue", c.want); got != want {
			t.Errorf("%s %q:\ngot  %s\nwant %s", c.operation, c.payload, got, want)
		}
	}
}
