package pattern

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

// A short text may stand for a large expression: (a?){1000} has two thousand steps,
// and forty times that fit into a kilobyte. The time that a name takes is its length
// times the steps, and their memory is kept for as long as the pattern.
const (
	// maxSteps is how many a pattern may have: as many as its longest text has
	// characters, and as many again.
	maxSteps = 2 * MaxLength
	// maxSearchSteps is that of an expression to search lists with, which any user of
	// the management API may send, of as many names as there are.
	maxSearchSteps = 1024
)

// CompileSearch reads an expression to search names with, in whatever case. The
// error is an *Error.
func CompileSearch(text string) (*regexp.Regexp, error) {
	if len(text) > maxSearchSteps {
		return nil, &Error{text, fmt.Sprintf("it has %d bytes, and may have %d", len(text), maxSearchSteps)}
	}
	re, err := compileWithin("(?i)"+text, maxSearchSteps)
	if err != nil {
		return nil, &Error{text, explain(err)}
	}
	return re, nil
}

// compileWithin compiles an expression that has no more steps than most.
func compileWithin(text string, most int) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if steps(tree, most) > most {
		return nil, errLarge
	}
	return regexp.Compile(text)
}

var errLarge = &largeError{}

type largeError struct{}

func (*largeError) Error() string { return "it repeats too much: what it stands for is too large" }

// steps is how many an expression has, about; where they are more than most, only
// that they are.
func steps(re *syntax.Regexp, most int) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		if n += steps(sub, most); n > most {
			return n
		}
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}
