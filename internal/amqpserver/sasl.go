package amqpserver

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// Security mechanisms (AMQP 0-9-1 §1.4.2.1, connection.start), in RabbitMQ's
// order of preference.
const (
	mechanismPlain    = "PLAIN"
	mechanismAMQPlain = "AMQPLAIN"
	mechanisms        = mechanismPlain + " " + mechanismAMQPlain
)

var errResponse = errors.New("the response is not one of this mechanism")

// credentials takes the name and the password out of a start-ok.
func credentials(mechanism string, response []byte) (name, password string, err error) {
	switch mechanism {
	case mechanismPlain:
		return plainCredentials(response)
	case mechanismAMQPlain:
		return amqplainCredentials(response)
	}
	return "", "", fmt.Errorf("unknown authentication mechanism %s", quoted(mechanism))
}

// plainCredentials reads a PLAIN response (RFC 4616 §2): an authorization
// identity, which must be empty, the name, and the password, with a zero between
// them.
func plainCredentials(response []byte) (name, password string, err error) {
	authz, rest, ok := bytes.Cut(response, []byte{0})
	user, pass, ok2 := bytes.Cut(rest, []byte{0})
	if !ok || !ok2 || len(authz) > 0 || bytes.IndexByte(pass, 0) >= 0 {
		return "", "", errResponse
	}
	return string(user), string(pass), nil
}

// amqplainCredentials reads an AMQPLAIN response: the inside of a field table
// with LOGIN and PASSWORD.
func amqplainCredentials(response []byte) (name, password string, err error) {
	t, err := amqpwire.TableFromHeaders(response)
	if err != nil {
		return "", "", errResponse
	}
	name, ok := t["LOGIN"].(string)
	password, ok2 := t["PASSWORD"].(string)
	if !ok || !ok2 {
		return "", "", errResponse
	}
	return name, password, nil
}
