package stompwire

import "strings"

// Command is the command of a frame.
type Command uint8

// The commands of a client, and from Connected on those of a server.
const (
	Connect Command = 1 + iota
	Stomp
	Send
	Subscribe
	Unsubscribe
	Ack
	Nack
	Begin
	Commit
	Abort
	Disconnect
	Connected
	Message
	Receipt
	Err // ERROR
)

var commandNames = [...]string{
	Connect:     "CONNECT",
	Stomp:       "STOMP",
	Send:        "SEND",
	Subscribe:   "SUBSCRIBE",
	Unsubscribe: "UNSUBSCRIBE",
	Ack:         "ACK",
	Nack:        "NACK",
	Begin:       "BEGIN",
	Commit:      "COMMIT",
	Abort:       "ABORT",
	Disconnect:  "DISCONNECT",
	Connected:   "CONNECTED",
	Message:     "MESSAGE",
	Receipt:     "RECEIPT",
	Err:         "ERROR",
}

// String is the command as it stands in a frame, "SEND"; "" for none.
func (c Command) String() string {
	if int(c) < len(commandNames) {
		return commandNames[c]
	}
	return ""
}

// MayHaveBody tells whether frames of this command may have a body: SEND, MESSAGE
// and ERROR (STOMP 1.2, Body).
func (c Command) MayHaveBody() bool { return c == Send || c == Message || c == Err }

// isEscaped tells whether headers of this command are escaped where the version
// has escapes. CONNECT and CONNECTED are not (STOMP 1.2, Value Encoding), nor is
// STOMP, which a server handles as a CONNECT.
func (c Command) isEscaped() bool { return c != Connect && c != Connected && c != Stomp }

// parseCommand is zero for what is no command. Commands are written in capitals.
func parseCommand(line []byte) Command {
	switch string(line) {
	case "SEND":
		return Send
	case "MESSAGE":
		return Message
	case "ACK":
		return Ack
	case "RECEIPT":
		return Receipt
	case "NACK":
		return Nack
	case "BEGIN":
		return Begin
	case "COMMIT":
		return Commit
	case "ABORT":
		return Abort
	case "SUBSCRIBE":
		return Subscribe
	case "UNSUBSCRIBE":
		return Unsubscribe
	case "CONNECT":
		return Connect
	case "STOMP":
		return Stomp
	case "CONNECTED":
		return Connected
	case "DISCONNECT":
		return Disconnect
	case "ERROR":
		return Err
	}
	return 0
}

// beginsCommand tells whether a command line may begin so.
func beginsCommand(line []byte) bool {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return parseCommand(line[:n-1]) != 0
	}
	for _, name := range commandNames[1:] {
		if len(line) <= len(name) && strings.HasPrefix(name, string(line)) {
			return true
		}
	}
	return false
}
