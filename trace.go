package ferry

import "context"

// Operation is what happens to a message that a Tracer is shown.
type Operation uint8

// Operations.
const (
	Sending  Operation = iota + 1 // from Publish or Submit until the outcome
	Handling                      // from the call of a handler until it returns
)

// Tracer is the hook for tracing; package ferryotel has one for OpenTelemetry.
type Tracer interface {
	// Start is called before a message is sent, when it may set headers of m
	// (m.Headers is a map of its own, or nil), and before it is handled, when it
	// may read them. The context it returns is the handler's. end is called once
	// with the outcome; nil leaves that out.
	Start(ctx context.Context, op Operation, m *Message) (_ context.Context, end func(error))
}

// Headers of W3C's trace context.
const (
	headerTraceparent = "traceparent"
	headerTracestate  = "tracestate"
)

type traceKey struct{}

type traceContext struct{ parent, state string }

// ContextWithTrace returns a context with a trace context as W3C writes it:
// messages that are published with it carry it in the headers traceparent and
// tracestate, unless they have a traceparent already. Handlers get their
// message's, so that what they publish belongs to the same trace.
func ContextWithTrace(ctx context.Context, traceparent, tracestate string) context.Context {
	return context.WithValue(ctx, traceKey{}, traceContext{traceparent, tracestate})
}

// TraceFromContext returns what ContextWithTrace put there, or empty texts.
func TraceFromContext(ctx context.Context) (traceparent, tracestate string) {
	t, _ := ctx.Value(traceKey{}).(traceContext)
	return t.parent, t.state
}

// inject puts the trace of ctx into a message that has none.
func inject(ctx context.Context, m *Message) {
	parent, state := TraceFromContext(ctx)
	if parent == "" || m.Headers[headerTraceparent] != nil {
		return
	}
	m.setHeader(headerTraceparent, parent)
	if state != "" {
		m.Headers[headerTracestate] = state
	}
}

// extract gives a handler's context the trace of its message.
func extract(ctx context.Context, m *Message) context.Context {
	parent, _ := m.Headers[headerTraceparent].(string)
	if parent == "" {
		return ctx
	}
	state, _ := m.Headers[headerTracestate].(string)
	return ContextWithTrace(ctx, parent, state)
}
