package stompwire

import "bytes"

// Version is a version of STOMP. It decides how headers are escaped. Zero is a
// frame before one is negotiated: CONNECT, STOMP and CONNECTED, whose headers are
// not escaped in any version.
type Version uint8

// The versions there are. They compare in their order.
const (
	V10 Version = 1 + iota
	V11
	V12
)

// String is the version as a version header has it, "1.2".
func (v Version) String() string {
	switch v {
	case V10:
		return "1.0"
	case V11:
		return "1.1"
	case V12:
		return "1.2"
	}
	return "unnegotiated"
}

// ParseVersion reads one version of a version header. ok is false for what is
// none of the three.
func ParseVersion[T ~string | ~[]byte](text T) (v Version, ok bool) {
	switch string(text) {
	case "1.0":
		return V10, true
	case "1.1":
		return V11, true
	case "1.2":
		return V12, true
	}
	return 0, false
}

// Negotiate finds the highest version of an accept-version header, "1.0,1.1,1.2"
// in any order, that is spoken here (STOMP 1.2, Protocol Negotiation). Versions
// that are not known are passed over, and so are spaces around one. ok is false
// where none is left. A CONNECT without the header is a client of 1.0, which is
// for the caller to know.
func Negotiate(acceptVersion []byte) (best Version, ok bool) {
	for more := true; more; {
		var text []byte
		text, acceptVersion, more = bytes.Cut(acceptVersion, []byte{','})
		if v, ok := ParseVersion(trimSpaces(text)); ok {
			best = max(best, v)
		}
	}
	return best, best != 0
}

// trimSpaces takes spaces off both ends. Only numbers and versions are trimmed,
// where a space cannot mean anything; a header's value never is (STOMP 1.2,
// Value Encoding: "MUST never trim or pad headers with spaces").
func trimSpaces(b []byte) []byte {
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return b
}
