// Package ferryotel shows to OpenTelemetry what a ferry client sends and handles.
//
//	client, err := ferry.Dial(ctx, url, ferry.WithTracer(ferryotel.New()))
//
// Each message that is published is a span of kind producer, from Publish or
// Submit until its outcome, however often it is sent. Each message that is handled
// by Client.Consume is a span of kind consumer, as long as its handler runs; the
// handler's context carries it. Deliveries of Consumer.Receive and Consumer.All
// have no handler, and no span: their traces are in Delivery.Context, as W3C
// writes them.
//
// The trace context, and the baggage, travel in the headers of the message, in the
// form of the propagator. Without WithPropagator that is the one that the program
// has given to otel.SetTextMapPropagator. OpenTelemetry's own default carries
// nothing, so a program has to give one:
//
//	otel.SetTextMapPropagator(propagation.TraceContext{})
//
// A message that has a trace context already keeps it, and its span has a link to
// it: such are messages that were received and are published again.
//
// Spans and attributes follow the semantic conventions for messaging and for
// RabbitMQ, in the version of Schema. They are not stable, so names may change with
// it.
package ferryotel

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/ferrymq/ferry"
)

// Schema is the version of the semantic conventions that the spans follow.
const Schema = semconv.SchemaURL

// scope names this instrumentation.
const scope = "github.com/ferrymq/ferry/ferryotel"

// An Option changes what New makes.
type Option func(*tracer)

// WithTracerProvider takes spans to p instead of the global provider.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(t *tracer) { t.tracer = tracerOf(p) }
}

// WithPropagator writes trace contexts into headers, and reads them, with p instead
// of the global propagator.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(t *tracer) { t.propagator = p }
}

// WithLinks has the span of a handler begin a trace of its own, with a link to that
// of its message, instead of belonging to that trace: for messages that wait long,
// and traces that would not end.
func WithLinks() Option { return func(t *tracer) { t.links = true } }

// New makes a tracer for ferry.WithTracer. It may be shared by clients.
func New(opts ...Option) ferry.Tracer {
	t := &tracer{tracer: tracerOf(otel.GetTracerProvider()), propagator: otel.GetTextMapPropagator()}
	for _, opt := range opts {
		opt(t)
	}
	return t
}

func tracerOf(p trace.TracerProvider) trace.Tracer {
	return p.Tracer(scope, trace.WithSchemaURL(Schema))
}

type tracer struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	links      bool
}

// Start implements ferry.Tracer.
func (t *tracer) Start(ctx context.Context, op ferry.Operation, m *ferry.Message) (context.Context, func(error)) {
	var span trace.Span
	switch op {
	case ferry.Sending:
		ctx, span = t.send(ctx, m)
	case ferry.Handling:
		ctx, span = t.process(ctx, m)
	default: // of a later version
		return ctx, nil
	}
	return ctx, func(err error) { end(span, err) }
}

// send is the span of a message on its way to a broker.
func (t *tracer) send(ctx context.Context, m *ferry.Message) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attributes(m, semconv.MessagingOperationTypeSend)...),
	}
	// "If a user provides a custom creation context in the message, this context
	// SHOULD NOT be modified, ... and the "Send" span SHOULD link to the provided
	// context" (Semantic conventions for messaging spans, Trace structure).
	provided := t.contextOf(m)
	if provided.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: provided}))
	}
	ctx, span := t.tracer.Start(ctx, name("send", m), opts...)
	if !provided.IsValid() {
		if m.Headers == nil {
			m.Headers = make(map[string]any)
		}
		t.propagator.Inject(ctx, headers(m.Headers))
	}
	return ctx, span
}

// process is the span of a message in a handler's hands. It has a link to the
// message's context, as the conventions ask for, and is its child, which they
// allow for where there is one message.
func (t *tracer) process(ctx context.Context, m *ferry.Message) (context.Context, trace.Span) {
	sent := t.contextOf(m)
	around := trace.SpanContextFromContext(ctx)
	ctx = t.propagator.Extract(ctx, headers(m.Headers))
	opts := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attributes(m, semconv.MessagingOperationTypeProcess)...),
	}
	if t.links {
		opts = append(opts, trace.WithNewRoot())
	}
	if sent.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: sent}))
	}
	if around.IsValid() && (sent.IsValid() || t.links) {
		// That of Consume's caller is no parent then.
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: around}))
	}
	return t.tracer.Start(ctx, name("process", m), opts...)
}

// contextOf is the trace context that a message carries.
func (t *tracer) contextOf(m *ferry.Message) trace.SpanContext {
	return trace.SpanContextFromContext(t.propagator.Extract(context.Background(), headers(m.Headers)))
}

// name is "{operation} {destination}", without the latter where a broker made it up:
// names of spans are for counting.
func name(operation string, m *ferry.Message) string {
	if d := destination(m); d != "" && !anonymous(m) {
		return operation + " " + d
	}
	return operation
}

// anonymous tells whether a message goes to a queue that the broker named: such
// names begin as only a broker's may, and are used with the default exchange.
func anonymous(m *ferry.Message) bool { return m.Exchange == "" && strings.HasPrefix(m.Key, "amq.") }

// destination is as the conventions for RabbitMQ have it, EXCHANGE:KEY, of which
// one that is empty is left out. The queue, which would be the third part of a
// consumer's, is not known here.
func destination(m *ferry.Message) string {
	switch {
	case m.Exchange == "":
		return m.Key
	case m.Key == "":
		return m.Exchange
	default:
		return m.Exchange + ":" + m.Key
	}
}

func attributes(m *ferry.Message, operation attribute.KeyValue) []attribute.KeyValue {
	list := []attribute.KeyValue{
		semconv.MessagingSystemRabbitMQ,
		operation,
		semconv.MessagingOperationName(operation.Value.AsString()),
		semconv.MessagingDestinationName(destination(m)),
		semconv.MessagingMessageBodySize(len(m.Body)),
	}
	if m.Key != "" {
		list = append(list, semconv.MessagingRabbitMQDestinationRoutingKey(m.Key))
	}
	if anonymous(m) {
		list = append(list, semconv.MessagingDestinationAnonymous(true), semconv.MessagingDestinationTemporary(true))
	}
	if m.MessageID != "" {
		list = append(list, semconv.MessagingMessageID(m.MessageID))
	}
	if m.CorrelationID != "" {
		list = append(list, semconv.MessagingMessageConversationID(m.CorrelationID))
	}
	return list
}

// end ends a span with the outcome.
func end(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(errorType(err))
	}
	span.End()
}

// kinds are the values of error.type, the most telling first.
var kinds = []struct {
	err  error
	kind string
}{
	{ferry.ErrBlocked, "blocked"},
	{ferry.ErrUnknown, "unknown"}, // also where a resend was refused
	{ferry.ErrNacked, "nacked"},
	{ferry.ErrUnroutable, "unroutable"},
	{ferry.ErrRefused, "refused"},
	{ferry.ErrOutboxFull, "outbox_full"},
	{ferry.ErrNotSent, "not_sent"},
	{ferry.ErrReject, "rejected"},
	{ferry.ErrConnectionLost, "connection_lost"},
	{context.DeadlineExceeded, "timeout"},
	{context.Canceled, "canceled"},
}

// errorType is what an error was, in few words: a broker's by its code, one of the
// client's by its kind, another by the name of its type.
func errorType(err error) attribute.KeyValue {
	if e := (*ferry.BrokerError)(nil); errors.As(err, &e) && e.Code != 0 &&
		!errors.Is(err, ferry.ErrUnroutable) && !errors.Is(err, ferry.ErrUnknown) {
		return semconv.ErrorTypeKey.String(strconv.Itoa(e.Code))
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return semconv.ErrorTypeKey.String(k.kind)
		}
	}
	return semconv.ErrorType(err)
}

// headers are those of a message, as a propagator sees them.
type headers map[string]any

// Get implements propagation.TextMapCarrier. Some clients send texts as bytes.
func (h headers) Get(key string) string {
	switch v := h[key].(type) {
	case string:
		return v
	case []byte:
		return string(v)
	default:
		return ""
	}
}

// Set implements propagation.TextMapCarrier.
func (h headers) Set(key, value string) { h[key] = value }

// Keys implements propagation.TextMapCarrier.
func (h headers) Keys() []string {
	keys := make([]string, 0, len(h))
	for key := range h {
		keys = append(keys, key)
	}
	return keys
}
