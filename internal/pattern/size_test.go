package pattern

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A pattern that is taken is soon compiled and soon held against the longest name,
// whatever somebody has thought of.
func TestPatternsThatStandForTooMuchAreRefused(t *testing.T) {
	for _, p := range []string{
		strings.Repeat("(a?){1000}", 400),
		strings.Repeat(`(\pL?){1000}`, 300),
		strings.Repeat("((a?){500}){2}", 280),
		strings.Repeat("a{1000}", 580),
		"^(?!" + strings.Repeat("(a?){1000}", 300) + "b)a*$",
		"^" + strings.Repeat("(a?){1000}", 300) + "(?<!b)$",
		"^(?!b)a$|" + strings.Repeat("(a?){1000}", 300),
	} {
		if _, err := Compile(p); err == nil || !strings.Contains(err.Error(), "it repeats too much") {
			t.Errorf("%.40q: %v", p, err)
		}
		if _, err := CompileSearch(p[:min(len(p), 900)/10*10]); err == nil {
			t.Errorf("%.40q was compiled to search with", p)
		}
	}
	long := strings.Repeat("a", 255)
	worst, err := Compile("(a?){1000}(a?){1000}")
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	worst.Match(long)
	if d := time.Since(begun); d > 5*time.Second { // 5 ms, without the race detector and others' load
		t.Errorf("one name took %v", d)
	}
}

// What people write fits: names one by one, up to the longest pattern.
func TestPatternsThatListNamesAreTaken(t *testing.T) {
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprintf(`service-%03d\.queue`, i))
	}
	p, err := Compile("^(" + strings.Join(names, "|") + ")$")
	if err != nil || !p.Match("service-117.queue") || p.Match("service-200.queue") {
		t.Error(err)
	}
	for _, text := range []string{strings.Repeat("a", MaxLength), `^[a-z0-9_.-]{1,255}$`, `^(?!amq\.)[^.]{1,64}(\.[^.]{1,64}){0,10}$`} {
		if _, err := Compile(text); err != nil {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	if re, err := CompileSearch("^orders-[0-9]{1,10}"); err != nil || !re.MatchString("ORDERS-7") {
		t.Error(err)
	}
}
