// Package transport is what the connections of every link have in common below
// their protocol: dialling, with TLS where the endpoint asks for it; writes that
// may not stand still; the pulse of heartbeats; the gates that calls to sources
// and sinks pass; and memory for what arrives.
//
// It is also what links have in common whose protocol has no channels, so that each
// source and each sink has a transport of its own: the life of these sessions, and
// of the group of them that the client takes for one connection.
package transport
