package pattern

import (
	"errors"
	"strings"
	"testing"
)

// What RabbitMQ 3.10.8 answers to each row, but where the row says otherwise.
func TestMatchIsRabbitMQs(t *testing.T) {
	for _, row := range []struct {
		pattern, name string
		want          bool
	}{
		{".*", "", true},
		{".*", "anything", true},
		{"", "x", true}, // of policies; permissions have a meaning of their own for it
		{"^$", "", true},
		{"^$", "x", false},
		{"a", "bar", true}, // it is searched for
		{"^a", "bar", false},
		{"^a", "abc", true},
		{"r$", "bar", true},
		{"a$", "bar", false},
		{"^(a|b)$", "b", true},
		{"^a|b$", "xb", true},
		{"a.b", "a\nb", false},
		{"(?i)^A", "abc", true},
		{`^app\.`, "app.x", true},
		{`^app\.`, "apple", false},
		{"^[[:digit:]]+$", "17", true},
		{"[]a]", "]", true},
		{`^\Qa.b\E$`, "a.b", true},
		{`^\Qa.b\E$`, "aXb", false},
		{"(?<n>a)b", "ab", true},
		{"{", "{", true},
		{"^{username}$", "{username}", true},
		{"a{,2}", "a{,2}", true},
		{"^é.$", "éü", true}, // RabbitMQ: no, a character is a byte
		{"a$", "a\n", false}, // RabbitMQ: yes

		{`^(?!amq\.).*`, "orders", true},
		{`^(?!amq\.).*`, "amq.gen-1", false},
		{`^(?!amq\.)`, "amqp", true},
		{`^(?!amq\.).*`, "", true},
		{`(?i)^(?!amq\.).*`, "AMQ.x", false},
		{`^(?!amq\.)(?!tmp)o`, "orders", true},
		{`^(?!amq\.)(?!tmp)`, "tmp1", false},
		{`^(?=.*eu)(?!test).*$`, "orders.eu", true},
		{`^(?=.*eu)(?!test).*$`, "orders.us", false},
		{`^(?=.*eu)(?!test).*$`, "test.eu", false},
		{`\A(?!a|b)c?`, "b", false},
		{`^(?!a).*|^ab`, "ab", true},
		{`^(?!a).*|^ab`, "ac", false},
		{`^(?!x)(a|b)$`, "b", true},
		{`^(?!x)(a|b)$`, "c", false},
		{`^(?!a[)]b)`, "a)b", false},
		{`^(?!a\)b)`, "a)b", false},
		{`^(?!(a|b)c)d?`, "bc", false},
		{`.*(?<!\.parked)$`, "q.parked", false},
		{`.*(?<!\.parked)$`, "q", true},
		{`^q(?<=q)(?<!x)$`, "q", true},
		{`^(?!amq\.).*(?<!_tmp)$`, "a_tmp", false},
		{`^(?!amq\.).*(?<!_tmp)$`, "amq.x", false},
		{`^(?!amq\.).*(?<!_tmp)$`, "a", true},
	} {
		p, err := Compile(row.pattern)
		if err != nil {
			t.Errorf("%q: %v", row.pattern, err)
			continue
		}
		if got := p.Match(row.name); got != row.want {
			t.Errorf("%q against %q: %v, want %v", row.pattern, row.name, got, row.want)
		}
		if p.String() != row.pattern {
			t.Errorf("%q calls itself %q", row.pattern, p)
		}
	}
}

func TestCompileSaysWhatItDoesNotUnderstand(t *testing.T) {
	for _, row := range []struct{ pattern, reason string }{
		{"(", "missing closing )"},
		{"a)", "unexpected )"},
		{"[a", "missing closing ]"},
		{"*", "missing argument to repetition operator"},
		{"a++", "invalid nested repetition operator"},
		{`(a)\1`, "backreferences"},
		{"(?>a)", "atomic groups"},
		{"a(?!b)", "lookahead"},
		{"(?!b)a", "lookahead"},
		{"^(?!a)+b", "lookahead"},
		{"^((?!a).)*$", "lookahead"},
		{"^(?!a(?!b))", "lookahead"},
		{"^(?!a", "lookahead"},
		{"(?<!a)b$", "lookbehind"},
		{"(?<=a)b", "lookbehind"},
		{"^(?!a)(", "missing closing )"},
		{`a\`, "trailing backslash"},
		{"a{2000}", "invalid repeat count"},
		{strings.Repeat("a", MaxLength+1), "4096"},
		{"\xff", "invalid UTF-8"},
	} {
		_, err := Compile(row.pattern)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Reason, row.reason) {
			t.Errorf("%.20q: %v, want %q", row.pattern, err, row.reason)
		}
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		"", ".*", `^(?!amq\.).*`, `(?i)^(?=a)(?!b|c)d|^(?!e)`, `x(?<!y)(?<=z)$`, `[]a[:digit:]\]`, `\Qa(\E)`, "^(?!", "(?<!)$", `^(?!\)`, "^(?![", "[[:", "((((", `a\`,
	} {
		f.Add(s, "amq.gen")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		p, err := Compile(text)
		if err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) || e.Reason == "" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if p.Match(name); p.String() != text { // it must not panic, nor take long
			t.Fatalf("%q calls itself %q", text, p)
		}
	})
}
