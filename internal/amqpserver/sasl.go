package amqpserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// Security mechanisms (AMQP 0-9-1 §1.4.2.1, connection.start), in RabbitMQ's
// order of preference.
const (
	mechanismPlain    = "PLAIN"
	mechanismAMQPlain = "AMQPLAIN"
	mechanismExternal = "EXTERNAL" // the user is that of the client's certificate

	mechanisms = mechanismPlain + " " + mechanismAMQPlain
)

var errResponse = errors.New("the response is not one of this mechanism")

// mechanisms are those that the peer may choose from. EXTERNAL is for who has shown a
// certificate; it is the last, so that clients that take the first they know go on to
// log in as they did.
func (c *conn) mechanisms() string {
	if c.nc.Certificate() != nil {
		return mechanisms + " " + mechanismExternal
	}
	return mechanisms
}

// authenticate checks the credentials of a start-ok. The errors are those of
// auth.Users.Login, or say that there are none in it.
func (c *conn) authenticate(ctx context.Context, ok *amqpwire.ConnectionStartOk) (auth.Identity, error) {
	users := c.srv.cfg.Auth
	if cert := c.nc.Certificate(); cert != nil && ok.Mechanism == mechanismExternal {
		name, err := auth.CertificateName(cert, c.srv.cfg.CertificateFrom)
		if err != nil {
			return auth.Identity{}, fmt.Errorf("%w: %w", auth.ErrRefused, err)
		}
		return users.LoginByCertificate(authProtocol, name, c.nc.Peer())
	}
	name, password, err := credentials(ok.Mechanism, ok.Response)
	if err != nil {
		return auth.Identity{}, err
	}
	return users.Login(ctx, auth.Login{Protocol: authProtocol, Name: name, Password: password, Peer: c.nc.Peer()})
}

// authProtocol is what logins are counted as, in RabbitMQ's words.
const authProtocol = "amqp091"

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
