package cli

import (
	"fmt"
	"strings"
)

// faults is everything that is wrong with what a command was told.
type faults []error

func (f *faults) Error() string {
	if len(*f) == 1 {
		return (*f)[0].Error()
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d things are wrong:", len(*f))
	for _, err := range *f {
		s.WriteString("\n  " + err.Error())
	}
	return s.String()
}

// Unwrap is for errors.Is and errors.As.
func (f *faults) Unwrap() []error { return *f }

// suggestion is a half sentence with the name that is nearest to one that is
// unknown, empty if none is near. verb is how a name is written.
func suggestion(unknown string, names []string, verb string) string {
	canonical := strings.NewReplacer("_", "-", ".", "-", " ", "-")
	u := strings.ToLower(canonical.Replace(unknown))
	best, least := "", max(2, len(u)/3)+1
	for _, n := range names {
		if d := distance(u, n); d < least {
			best, least = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean "+verb+"?", best)
}

// distance is how many letters must be put in, left out, replaced or swapped
// with their neighbour to make b of a.
func distance(a, b string) int {
	before, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			change := row[j]
			if a[i] != b[j] {
				change++
			}
			next[j+1] = min(change, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
