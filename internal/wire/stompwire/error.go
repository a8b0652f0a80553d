package stompwire

import "fmt"

// Error says what is wrong with bytes from a peer, or with values that were to be
// sent to one. Text is for the peer and for people: what was expected and what
// was found, cut where a peer chose its length, without the values of headers. One
// of the flags is set where a limit is the reason, or a command that there is not.
type Error struct {
	Text           string
	TooLarge       bool
	UnknownCommand bool
}

// Error is the text.
func (e *Error) Error() string { return e.Text }

func fault(format string, args ...any) *Error {
	return &Error{Text: fmt.Sprintf(format, args...)}
}

func tooLarge(format string, args ...any) *Error {
	return &Error{Text: fmt.Sprintf(format, args...), TooLarge: true}
}

// maxQuoted is how many bytes of a peer's text an error repeats.
const maxQuoted = 32

// quote is a peer's text for an error: printable, and short.
func quote[T ~string | ~[]byte](text T) string {
	if len(text) > maxQuoted {
		return fmt.Sprintf("%+q...", string(text[:maxQuoted]))
	}
	return fmt.Sprintf("%+q", string(text))
}
