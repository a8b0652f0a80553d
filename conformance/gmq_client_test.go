package conformance

import (
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"testing"
	"time"
)

// A gmqMessage is what GMQ's own client writes and reads, as it has it.
type gmqMessage struct {
	Operation string `json:"operation"`
	Queue     string `json:"queue"`
	Payload   string `json:"payload"`
	Confirmed string `json:"confirmation"`
	Error     any    `json:"error"`
	Auth      struct {
		User     string `json:"user"`
		Password string `json:"password"`
	} `json:"auth"`
}

// gmqToken is what GMQ's client makes of a user and of a password.
func gmqToken(text string) string { return hex.EncodeToString(sha512.New().Sum([]byte(text))) }

func gmqRequest(operation, queue string, body []byte) gmqMessage {
	m := gmqMessage{Operation: operation, Queue: queue, Payload: base64.StdEncoding.EncodeToString(body)}
	m.Auth.User, m.Auth.Password = gmqToken("guest"), gmqToken("guest")
	return m
}

// askGMQ does what GMQ's client does: it writes a request in one piece, and reads to
// the end.
func askGMQ(t *testing.T, addr string, m gmqMessage) gmqMessage {
	t.Helper()
	request, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	text := exchangeGMQ(t, addr, false, request)
	var reply gmqMessage
	if err := json.Unmarshal(text, &reply); err != nil {
		t.Fatalf("%s is answered with %q: %v", request, text, err)
	}
	return reply
}

// exchangeGMQ writes pieces, and reads to the end. With end the last of them is
// followed by that of what is written.
func exchangeGMQ(t *testing.T, addr string, end bool, pieces ...[]byte) []byte {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for _, piece := range pieces {
		if _, err := conn.Write(piece); err != nil {
			break // what is said to it is of interest
		}
	}
	if end {
		_ = conn.(*net.TCPConn).CloseWrite() // so is that of who has closed already
	}
	text, err := io.ReadAll(conn)
	if err != nil && len(text) == 0 {
		t.Fatalf("reading the answer: %v", err)
	}
	return text
}

// body is what a reply brings.
func (m gmqMessage) body(t *testing.T) string {
	t.Helper()
	body, err := base64.StdEncoding.DecodeString(m.Payload)
	if err != nil {
		t.Fatalf("%+v: %v", m, err)
	}
	return string(body)
}
