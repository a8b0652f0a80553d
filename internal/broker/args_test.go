package broker

import "testing"

func TestExpirations(t *testing.T) {
	for in, want := range map[string]string{
		"0": "", "60000": "", "4294967295": "", "+5": "",
		"":                    "no_integer",
		"soon":                "no_integer",
		"-":                   "no_integer",
		"--1":                 "no_integer",
		"1.5":                 `{leftover_string,".5"}`,
		"10s":                 `{leftover_string,"s"}`,
		"-1":                  "{value_negative,-1}",
		"4294967296":          "",
		"315360000000":        "",
		"315360000001":        "{value_too_large,315360000001}",
		"9223372036854775808": "{value_too_large,9223372036854775808}",
	} {
		if got := checkExpiration([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
