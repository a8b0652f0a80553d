// Package pattern holds names against the regular expressions of RabbitMQ's
// permissions and policies. RabbitMQ has PCRE, whose time has no bound; here they
// are Go's, whose time is linear in the name, and what those cannot say is refused
// when the pattern is made, not when it is used; so are those that stand for too much.
//
// A pattern is searched for anywhere in the name, unless it has anchors. Beside
// what Go's expressions know, conditions are understood where people write them:
// lookaheads behind a leading ^, as in ^(?!amq\.).*, and lookbehinds before a final
// $, as in .*(?<!\.parked)$. Elsewhere they, backreferences, atomic groups and
// possessive repetitions are refused.
//
// Two differences are left: $ is the end of the name, never the line end before it,
// so that a name cannot end in what a pattern does not tell; and a character is one
// of Unicode's, not a byte.
package pattern

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// MaxLength is how long a pattern may be, bytes. RabbitMQ knows no limit; that of
// names is 255.
const MaxLength = 4096

// An Error is why a text is no pattern.
type Error struct {
	Pattern string
	Reason  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("invalid regular expression %.128q: %s", e.Pattern, e.Reason)
}

// A Pattern is compiled. Its methods may be called at the same time.
type Pattern struct {
	text     string
	branches []branch // it matches when one of them does
}

// A branch matches when all of its conditions do.
type branch []condition

type condition struct {
	re  *regexp.Regexp
	not bool
}

// Compile reads a pattern. The error is an *Error.
func Compile(text string) (*Pattern, error) {
	if len(text) > MaxLength {
		return nil, &Error{text, fmt.Sprintf("it has %d bytes, and may have %d", len(text), MaxLength)}
	}
	re, err := compileWithin(text, maxSteps)
	switch {
	case err == nil:
		return &Pattern{text, []branch{{{re: re}}}}, nil
	case errors.Is(err, errLarge):
		return nil, &Error{text, explain(err)}
	}
	flags, body := leadingFlags(text)
	p := &Pattern{text: text}
	var conditions bool
	for _, alternative := range alternatives(body) {
		b, found, berr := compileBranch(flags, alternative)
		if berr != nil {
			return nil, &Error{text, explain(berr)}
		}
		conditions = conditions || found
		p.branches = append(p.branches, b)
	}
	if !conditions { // the alternatives are right one by one, and it is not
		return nil, &Error{text, explain(err)}
	}
	return p, nil
}

// Match tells whether the pattern is in the name.
func (p *Pattern) Match(name string) bool {
	for _, b := range p.branches {
		if b.match(name) {
			return true
		}
	}
	return false
}

// String is the text that was compiled.
func (p *Pattern) String() string { return p.text }

func (b branch) match(name string) bool {
	for _, c := range b {
		if c.re.MatchString(name) == c.not {
			return false
		}
	}
	return true
}

// explain says what is wrong with a pattern in the terms of who wrote it.
func explain(err error) string {
	var e *syntax.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	beginsWith := func(texts ...string) bool {
		for _, t := range texts {
			if strings.HasPrefix(e.Expr, t) {
				return true
			}
		}
		return false
	}
	switch {
	case beginsWith("(?=", "(?!"):
		return "a lookahead is understood only behind the ^ that the pattern begins with"
	case beginsWith("(?<=", "(?<!"):
		return "a lookbehind is understood only before the $ that the pattern ends with"
	case beginsWith("(?>"):
		return "atomic groups are not understood"
	case e.Code == syntax.ErrInvalidEscape && len(e.Expr) == 2 && e.Expr[1] >= '1' && e.Expr[1] <= '9':
		return "backreferences are not understood"
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Expr)
}
