package pattern

import "strings"

// leadingFlags takes (?i), (?s) or both off the beginning of a pattern.
func leadingFlags(text string) (flags, body string) {
	for _, f := range []string{"(?i)", "(?s)", "(?is)", "(?si)"} {
		if strings.HasPrefix(text, f) {
			return f, text[len(f):]
		}
	}
	return "", text
}

// A token is a piece of a pattern that is not in a group, or a whole group.
type token struct {
	begin, end int
	bar        bool // the | between alternatives
	group      bool
}

// tokens takes a pattern apart at its top level. What does not end is taken for a
// token up to the end of the pattern: compiling it says what is wrong.
func tokens(text string) []token {
	var list []token
	for i := 0; i < len(text); {
		t := token{begin: i, bar: text[i] == '|', group: text[i] == '('}
		if t.group {
			depth := 0
			for i < len(text) {
				switch text[i] {
				case '(':
					depth++
				case ')':
					depth--
				}
				i = atom(text, i)
				if depth == 0 {
					break
				}
			}
		} else {
			i = atom(text, i)
		}
		t.end = i
		list = append(list, t)
	}
	return list
}

// atom is the end of what begins at i: an escape, a class of characters, or one
// byte.
func atom(text string, i int) int {
	switch text[i] {
	case '\\':
		if strings.HasPrefix(text[i:], `\Q`) {
			if n := strings.Index(text[i:], `\E`); n >= 0 {
				return i + n + 2
			}
			return len(text)
		}
		return min(i+2, len(text))
	case '[':
		return class(text, i)
	}
	return i + 1
}

// class is the end of a class of characters, [^]a[:digit:]\]] for one.
func class(text string, i int) int {
	i++
	if i < len(text) && text[i] == '^' {
		i++
	}
	if i < len(text) && text[i] == ']' {
		i++
	}
	for i < len(text) {
		switch {
		case text[i] == '\\':
			i += 2
		case text[i] == ']':
			return i + 1
		case strings.HasPrefix(text[i:], "[:"):
			n := strings.Index(text[i:], ":]")
			if n < 0 {
				return len(text)
			}
			i += n + 2
		default:
			i++
		}
	}
	return len(text)
}

// alternatives are those at the top level of a pattern.
func alternatives(text string) []string {
	var list []string
	begin := 0
	for _, t := range tokens(text) {
		if t.bar {
			list = append(list, text[begin:t.begin])
			begin = t.end
		}
	}
	return append(list, text[begin:])
}

// compileBranch compiles a pattern without alternatives at its top level. found is
// whether it has conditions of its own. A lookahead behind the first ^ says
// something of the whole name, and so does a lookbehind before the last $: the
// branch is what is left of it and those, all of which must hold.
func compileBranch(flags, text string) (b branch, found bool, err error) {
	add := func(expr string, not bool) {
		re, e := compileWithin(flags+expr, maxSteps)
		if e != nil && err == nil {
			err = e
		}
		b = append(b, condition{re, not})
	}
	rest := text
	for _, anchor := range []string{"^", `\A`} {
		after, ok := strings.CutPrefix(rest, anchor)
		if !ok {
			continue
		}
		for {
			inner, not, n := leadingCondition(after, "(?=", "(?!")
			if n == 0 {
				break
			}
			add(`\A(?:`+inner+`)`, not)
			after, found = after[n:], true
		}
		rest = anchor + after
		break
	}
	for _, anchor := range []string{"$", `\z`} {
		before, ok := strings.CutSuffix(rest, anchor)
		if !ok {
			continue
		}
		list := tokens(before)
		for len(list) > 0 {
			last := list[len(list)-1]
			inner, not, n := leadingCondition(before[last.begin:], "(?<=", "(?<!")
			if !last.group || n != last.end-last.begin {
				break
			}
			add(`(?:`+inner+`)\z`, not)
			before, found = before[:last.begin], true
			list = list[:len(list)-1]
		}
		rest = before + anchor
		break
	}
	add(rest, false)
	return b, found, err
}

// leadingCondition reads the group that a text begins with, if it is a condition. n is
// its length, 0 if it is none or is repeated.
func leadingCondition(text, is, isNot string) (inner string, not bool, n int) {
	opening := is
	if strings.HasPrefix(text, isNot) {
		opening, not = isNot, true
	}
	if !strings.HasPrefix(text, opening) {
		return "", false, 0
	}
	list := tokens(text)
	end := list[0].end
	if text[end-1] != ')' || end < len(text) && strings.IndexByte("*+?{", text[end]) >= 0 {
		return "", false, 0
	}
	return text[len(opening) : end-1], not, end
}
