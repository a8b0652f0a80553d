package broker

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/message"
)

// arg is one argument of a declaration, as it was sent.
type arg struct {
	kind  byte
	value []byte
}

// typeName is what RabbitMQ calls the kinds of header values in its errors.
func (a arg) typeName() string {
	switch a.kind {
	case 'S':
		return "longstr"
	case 'I':
		return "signedint"
	case 'i':
		return "unsignedint"
	case 'b':
		return "byte"
	case 'B':
		return "unsignedbyte"
	case 's':
		return "short"
	case 'u':
		return "unsignedshort"
	case 'l':
		return "long"
	case 't':
		return "bool"
	case 'f':
		return "float"
	case 'd':
		return "double"
	case 'D':
		return "decimal"
	case 'T':
		return "timestamp"
	case 'F':
		return "table"
	case 'A':
		return "array"
	case 'x':
		return "binary"
	}
	return "void"
}

// argsMost is how large the arguments of a declaration or of a binding may be, bytes:
// they are one record of the journal, which has to fit into a batch. A frame of AMQP
// has less; JSON and the files of definitions may have more.
const argsMost = 1 << 20

// checkArgs finds what is wrong with all arguments of something; nil: nothing is.
func checkArgs(what, name, vhost string, args []byte) *Error {
	if len(args) > argsMost {
		return errorf(PreconditionFailed, "the arguments for %s '%s' in vhost '%s' may have %d bytes, not %d", what, name, vhost, argsMost, len(args))
	}
	if _, ok := message.DecodeHeaders(args); !ok {
		return errorf(PreconditionFailed, "invalid arguments for %s '%s' in vhost '%s'", what, name, vhost)
	}
	return nil
}

func (a arg) decoded() any {
	v, _ := message.Decode(a.kind, a.value, 0)
	return v
}

func (a arg) String() string {
	return fmt.Sprint(a.decoded())
}

func (a arg) same(b arg) bool {
	if a.kind == b.kind {
		return bytes.Equal(a.value, b.value)
	}
	x, isInt := a.decoded().(int64)
	y, isInt2 := b.decoded().(int64)
	return isInt && isInt2 && x == y
}

func findArg(list []byte, name string) (arg, bool) {
	for {
		n, kind, v, rest, ok := message.NextHeader(list)
		if !ok {
			return arg{}, false
		}
		if string(n) == name {
			return arg{kind, v}, true
		}
		list = rest
	}
}

// equivalent compares one argument of a declaration with that of the entity
// that is there.
func equivalent(name, what, entity, vhost string, received, current []byte) *Error {
	r, ok := findArg(received, name)
	c, okc := findArg(current, name)
	if name == "x-queue-type" && ok != okc && (ok && r.String() == queueClassic || okc && c.String() == queueClassic) {
		return nil // what is meant where nothing is said
	}
	switch {
	case !ok && !okc, ok && okc && r.same(c):
		return nil
	case !ok:
		return errorf(PreconditionFailed, "inequivalent arg '%s' for %s '%s' in vhost '%s': received none but current is the value '%s' of type '%s'", name, what, entity, vhost, c, c.typeName())
	case !okc:
		return errorf(PreconditionFailed, "inequivalent arg '%s' for %s '%s' in vhost '%s': received the value '%s' of type '%s' but current is none", name, what, entity, vhost, r, r.typeName())
	}
	return errorf(PreconditionFailed, "inequivalent arg '%s' for %s '%s' in vhost '%s': received '%s' but current is '%s'", name, what, entity, vhost, r, c)
}

func inequivalent(name, what, entity, vhost string, received, current any) *Error {
	return errorf(PreconditionFailed, "inequivalent arg '%s' for %s '%s' in vhost '%s': received '%v' but current is '%v'", name, what, entity, vhost, received, current)
}

// checkProperties finds what is wrong with a message's properties that a session
// publishes, in RabbitMQ's words.
func checkProperties(props []byte, cfg *SessionConfig) *Error {
	for {
		id, v, rest, ok := message.NextField(props)
		if !ok {
			return nil
		}
		switch id {
		case message.UserID:
			if string(v) != cfg.User && !cfg.Impersonator {
				return errorf(PreconditionFailed, "user_id property set to '%s' but authenticated user was '%s'", v, cfg.User)
			}
		case message.Expiration:
			if s := checkExpiration(v); s != "" {
				return errorf(PreconditionFailed, "invalid expiration '%s': %s", v, s)
			}
		case message.Headers:
			for _, name := range []string{"CC", "BCC"} {
				if a, ok := findArg(v, name); ok && a.kind != 'A' {
					return errorf(PreconditionFailed, "invalid message: {unacceptable_type_in_header,%q,%s}", name, a.typeName())
				}
			}
		}
		props = rest
	}
}

// checkExpiration says, in RabbitMQ's words, what is wrong with an expiration: a
// text of milliseconds.
func checkExpiration(v []byte) string {
	s := string(v)
	digits := strings.TrimLeft(s, "+-")
	end := 0
	for end < len(digits) && digits[end] >= '0' && digits[end] <= '9' {
		end++
	}
	if end == 0 || len(s)-len(digits) > 1 {
		return "no_integer"
	}
	if left := digits[end:]; left != "" {
		return fmt.Sprintf("{leftover_string,%q}", left)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Sprintf("{value_too_large,%s}", s)
	case n < 0:
		return fmt.Sprintf("{value_negative,%d}", n)
	case n > maxDuration:
		return fmt.Sprintf("{value_too_large,%d}", n)
	}
	return ""
}

// ccKeys calls visit with the further routing keys that a message's CC and BCC
// headers name.
func ccKeys(props []byte, visit func(key []byte)) {
	headers := message.Field(props, message.Headers)
	headerKeys(headers, ccHeader, visit)
	headerKeys(headers, bccHeader, visit)
}

// headerKeys calls visit with the routing keys in a header.
func headerKeys(headers []byte, name string, visit func(key []byte)) {
	a, ok := findArg(headers, name)
	if !ok || a.kind != 'A' {
		return
	}
	for list := a.value[4:]; len(list) > 0; {
		kind, v, rest, ok := message.NextElement(list)
		if !ok {
			return
		}
		if kind == 'S' {
			visit(v[4:])
		}
		list = rest
	}
}
