// Package amqpwire is the codec of AMQP 0-9-1 with RabbitMQ's extensions and
// errata: bytes to values and back, for both sides of a connection. Its
// functions are pure; limits are checked on length fields, before anything is
// waited for or allocated.
//
// # Frame (AMQP 0-9-1 §4.2.3)
//
//	type      1  method 1, header 2, body 3, heartbeat 8
//	channel   2
//	size      4  of the payload, bytes
//	payload      size bytes
//	end       1  0xCE
//
// # Method payload (§4.2.4)
//
//	class     2
//	method    2
//	fields       as the method defines them; runs of bits share octets
//
// # Content header payload (§4.2.6.1)
//
//	class     2
//	weight    2  zero
//	body size 8  bytes
//	flags     2  bit 15 is the first property; bit 0 says that more flags follow
//	list         the values of the properties whose flags are set
//
// # Field table (§4.2.5.5)
//
// A length of 4 bytes, then repeated: length of the name (1), name, type (1),
// value. The type letters are those that RabbitMQ uses, not the ones of the
// specification's grammar:
//
//	t bool     b int8     B uint8    s int16    u uint16
//	I int32    i uint32   l int64    L int64 (read only)
//	f float32  d float64  D decimal  T time, seconds since 1970
//	S text     x bytes    A array    F table    V nil
//
// # Errors
//
// Errors are of type *Error. An error of a Parse function carries the reply
// code that the peer deserves: FRAME_ERROR where something does not fit the
// bytes that hold it, SYNTAX_ERROR where a value is not allowed, NOT_IMPLEMENTED
// for a method that does not exist. An error of an Append function carries
// INTERNAL_ERROR, because the fault is on this side; the slice it comes with has
// the length that was passed in. Nothing is ever cut to make it fit.
package amqpwire
