// Package transport is what the connections of every link have in common below
// their protocol: dialling, with TLS where the endpoint asks for it; writes that
// may not stand still; the pulse of heartbeats; the gates that calls to sources
// and sinks pass; and memory for what arrives.
package transport
