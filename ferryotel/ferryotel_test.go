package ferryotel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferryotel"
	"github.com/ferrymq/ferry/ferrytest"
)

// A world is a broker, a client that traces, and the spans that came of it.
type world struct {
	*ferry.Client
	t        *testing.T
	ctx      context.Context
	broker   *ferrytest.Broker
	provider *sdktrace.TracerProvider
	spans    *tracetest.InMemoryExporter
}

func newWorld(t *testing.T, opts ...ferryotel.Option) *world {
	t.Helper()
	w := &world{t: t, broker: ferrytest.Start(t), spans: tracetest.NewInMemoryExporter()}
	w.provider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(w.spans))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	w.ctx = ctx
	opts = append([]ferryotel.Option{
		ferryotel.WithTracerProvider(w.provider),
		ferryotel.WithPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
	}, opts...)
	c, err := ferry.Dial(ctx, w.broker.URL(), ferry.WithTracer(ferryotel.New(opts...)))
	if err != nil {
		t.Fatal(err)
	}
	w.Client = c
	t.Cleanup(func() {
		if err := c.Close(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("closing the client: %v", err)
		}
	})
	if err := c.Declare(ctx, ferry.Topology{
		Exchanges: []ferry.Exchange{{Name: "events", Kind: "topic"}},
		Queues:    []ferry.Queue{{Name: "q"}},
		Bindings:  []ferry.Binding{{Exchange: "events", Key: "user.*", Queue: "q"}},
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// handle has one message handled, and returns when its span has ended.
func (w *world) handle(ctx context.Context, handle func(context.Context, *ferry.Delivery) error) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := w.Consume(ctx, ferry.ConsumerOptions{Queue: "q", Prefetch: 1}, func(ctx context.Context, d *ferry.Delivery) error {
		cancel()
		return handle(ctx, d)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// span gives the only span of a name.
func (w *world) span(name string) tracetest.SpanStub {
	w.t.Helper()
	var found []tracetest.SpanStub
	var names []string
	for _, s := range w.spans.GetSpans() {
		names = append(names, s.Name)
		if s.Name == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("there are %d spans %q among %q", len(found), name, names)
	}
	return found[0]
}

func attributes(s tracetest.SpanStub) map[attribute.Key]string {
	m := make(map[attribute.Key]string)
	for _, a := range s.Attributes {
		m[a.Key] = a.Value.String()
	}
	return m
}

func linked(s tracetest.SpanStub, to trace.SpanContext) bool {
	return slices.ContainsFunc(s.Links, func(l sdktrace.Link) bool {
		return l.SpanContext.TraceID() == to.TraceID() && l.SpanContext.SpanID() == to.SpanID()
	})
}

func TestTheHandlersSpanBelongsToTheSendersTrace(t *testing.T) {
	w := newWorld(t)
	member, err := baggage.NewMember("customer", "42")
	if err != nil {
		t.Fatal(err)
	}
	bag, err := baggage.New(member)
	if err != nil {
		t.Fatal(err)
	}
	ctx, request := w.provider.Tracer("test").Start(baggage.ContextWithBaggage(w.ctx, bag), "request")
	err = w.Publish(ctx, ferry.Message{
		Exchange: "events", Key: "user.created", Body: []byte("hello"), MessageID: "m1", CorrelationID: "c1",
	})
	if err != nil {
		t.Fatal(err)
	}
	request.End()
	w.handle(w.ctx, func(ctx context.Context, _ *ferry.Delivery) error {
		if got := baggage.FromContext(ctx).Member("customer").Value(); got != "42" {
			t.Errorf("the handler's baggage has customer %q", got)
		}
		_, step := w.provider.Tracer("test").Start(ctx, "step")
		step.End()
		return nil
	})

	send, process, step := w.span("send events:user.created"), w.span("process events:user.created"), w.span("step")
	if send.SpanKind != trace.SpanKindProducer || process.SpanKind != trace.SpanKindConsumer {
		t.Errorf("the kinds are %v and %v", send.SpanKind, process.SpanKind)
	}
	if send.Parent.SpanID() != request.SpanContext().SpanID() {
		t.Error("the sender's span is no child of its caller's")
	}
	if process.Parent.SpanID() != send.SpanContext.SpanID() || process.SpanContext.TraceID() != request.SpanContext().TraceID() {
		t.Error("the handler's span is no child of the sender's")
	}
	if !linked(process, send.SpanContext) {
		t.Error("the handler's span has no link to the sender's")
	}
	if step.Parent.SpanID() != process.SpanContext.SpanID() {
		t.Error("what the handler did is no child of its span")
	}
	want := map[attribute.Key]string{
		"messaging.system":                           "rabbitmq",
		"messaging.operation.name":                   "send",
		"messaging.operation.type":                   "send",
		"messaging.destination.name":                 "events:user.created",
		"messaging.rabbitmq.destination.routing_key": "user.created",
		"messaging.message.id":                       "m1",
		"messaging.message.conversation_id":          "c1",
		"messaging.message.body.size":                "5",
	}
	for _, s := range []tracetest.SpanStub{send, process} {
		got := attributes(s)
		if len(got) != len(want) {
			t.Errorf("%s has the attributes %v", s.Name, got)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s is %q, want %q", s.Name, k, got[k], v)
			}
		}
		want["messaging.operation.name"], want["messaging.operation.type"] = "process", "process"
		if s.Status.Code != codes.Unset {
			t.Errorf("%s has the status %v", s.Name, s.Status)
		}
		if s.InstrumentationScope.SchemaURL != ferryotel.Schema {
			t.Errorf("%s is of the schema %q", s.Name, s.InstrumentationScope.SchemaURL)
		}
	}
}

func TestTheSpanOfASubmitEndsWithItsOutcome(t *testing.T) {
	w := newWorld(t)
	p, err := w.Publisher(ferry.PublisherOptions{Key: "q"})
	if err != nil {
		t.Fatal(err)
	}
	w.broker.Nack(1)
	ended := make(chan int, 1)
	err = p.Submit(w.ctx, ferry.Message{Body: []byte("x")}, func(ferry.Result) { ended <- len(w.spans.GetSpans()) })
	if err != nil {
		t.Fatal(err)
	}
	if n := <-ended; n != 1 {
		t.Fatalf("%d spans had ended when the outcome was told", n)
	}
	send := w.span("send q")
	if send.Status.Code != codes.Error || attributes(send)["error.type"] != "nacked" {
		t.Errorf("the span of what was nacked has the status %v and the attributes %v", send.Status, attributes(send))
	}
}

// broken is an error of an application's.
type broken struct{}

func (broken) Error() string { return "broken" }

func TestErrorsSayWhatTheyAre(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("%w: %w", ferry.ErrRefused, ferry.ErrUnroutable), "unroutable"},
		{fmt.Errorf("%w: %w", ferry.ErrRefused, &ferry.BrokerError{Code: 403, Text: "ACCESS_REFUSED"}), "403"},
		{fmt.Errorf("%w: %w", ferry.ErrNotSent, ferry.ErrBlocked), "blocked"},
		{fmt.Errorf("%w: %w", ferry.ErrNotSent, context.DeadlineExceeded), "not_sent"},
		{fmt.Errorf("%w: %w", ferry.ErrUnknown, context.Canceled), "unknown"},
		{fmt.Errorf("%w: %w", ferry.ErrUnknown, ferry.ErrNacked), "unknown"},
		{fmt.Errorf("no such customer: %w", ferry.ErrReject), "rejected"},
		{context.DeadlineExceeded, "timeout"},
		{broken{}, "github.com/ferrymq/ferry/ferryotel_test.broken"},
	} {
		spans := tracetest.NewInMemoryExporter()
		provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
		m := ferry.Message{Key: "q"}
		_, end := ferryotel.New(ferryotel.WithTracerProvider(provider)).Start(t.Context(), ferry.Handling, &m)
		end(c.err)
		s := spans.GetSpans()[0]
		if got := attributes(s)["error.type"]; got != c.want || s.Status.Code != codes.Error || s.Status.Description != c.err.Error() {
			t.Errorf("%v: error.type is %q and the status %v, want %q", c.err, got, s.Status, c.want)
		}
	}
}

func TestAHandlersErrorIsItsSpans(t *testing.T) {
	w := newWorld(t)
	if err := w.Publish(w.ctx, ferry.Message{Key: "q"}); err != nil {
		t.Fatal(err)
	}
	w.handle(w.ctx, func(context.Context, *ferry.Delivery) error { return fmt.Errorf("unreadable: %w", ferry.ErrReject) })
	process := w.span("process q")
	if process.Status.Code != codes.Error || attributes(process)["error.type"] != "rejected" {
		t.Errorf("the status is %v and the attributes %v", process.Status, attributes(process))
	}
}

func TestWithLinksHandlersBeginTraces(t *testing.T) {
	w := newWorld(t, ferryotel.WithLinks())
	if err := w.Publish(w.ctx, ferry.Message{Key: "q"}); err != nil {
		t.Fatal(err)
	}
	ctx, worker := w.provider.Tracer("test").Start(w.ctx, "worker")
	w.handle(ctx, func(context.Context, *ferry.Delivery) error { return nil })
	send, process := w.span("send q"), w.span("process q")
	if process.Parent.IsValid() || process.SpanContext.TraceID() == send.SpanContext.TraceID() {
		t.Error("the handler's span belongs to the sender's trace")
	}
	if !linked(process, send.SpanContext) || !linked(process, worker.SpanContext()) {
		t.Errorf("the handler's span has the links %v", process.Links)
	}
}

// A message that is passed on stays in its trace, and the span of its sending says
// where it came from.
func TestATraceContextThatIsThereIsKept(t *testing.T) {
	w := newWorld(t)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	m := ferry.Message{Key: "q", Headers: map[string]any{"traceparent": []byte(parent)}}
	if err := w.Publish(w.ctx, m); err != nil {
		t.Fatal(err)
	}
	w.handle(w.ctx, func(_ context.Context, d *ferry.Delivery) error {
		if got := d.Headers["traceparent"]; fmt.Sprintf("%s", got) != parent {
			t.Errorf("the message arrived with the traceparent %v", got)
		}
		return nil
	})
	send, process := w.span("send q"), w.span("process q")
	origin := send.Links[0].SpanContext
	if origin.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || origin.SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("the sender's span has a link to %v", origin)
	}
	if process.Parent.SpanID() != origin.SpanID() {
		t.Errorf("the handler's span is a child of %v", process.Parent)
	}
}

// A process has one global provider: it can be given once.
var (
	globalSpans = tracetest.NewInMemoryExporter()
	setGlobal   = sync.OnceFunc(func() {
		otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(globalSpans)))
		otel.SetTextMapPropagator(propagation.TraceContext{})
	})
)

// They may be given after the client was made.
func TestTheGlobalProviderAndPropagatorAreTaken(t *testing.T) {
	tracer := ferryotel.New()
	setGlobal()
	globalSpans.Reset()
	m := ferry.Message{Key: "q"}
	ctx, end := tracer.Start(t.Context(), ferry.Sending, &m)
	end(nil)
	if n := len(globalSpans.GetSpans()); n != 1 {
		t.Fatalf("there are %d spans", n)
	}
	id := trace.SpanContextFromContext(ctx).TraceID().String()
	if got, _ := m.Headers["traceparent"].(string); len(got) < 35 || got[3:35] != id {
		t.Errorf("the header traceparent is %q, the trace's id %s", got, id)
	}
}

// The names of queues that brokers make up are different each time; those of spans
// are for counting.
func TestNamesOfReplyQueuesAreNotThoseOfSpans(t *testing.T) {
	w := newWorld(t)
	const queue = "amq.rabbitmq.reply-to.g1h2AA5y"
	if err := w.Publish(w.ctx, ferry.Message{Key: queue}); !errors.Is(err, ferry.ErrUnroutable) {
		t.Fatal(err)
	}
	got := attributes(w.span("send"))
	if got["messaging.destination.anonymous"] != "true" || got["messaging.destination.name"] != queue {
		t.Errorf("the attributes are %v", got)
	}
}

// The caller's own headers are not written to.
func TestTheCallersHeadersStayAsTheyAre(t *testing.T) {
	w := newWorld(t)
	mine := map[string]any{"tenant": "a"}
	if err := w.Publish(w.ctx, ferry.Message{Key: "q", Headers: mine}); err != nil {
		t.Fatal(err)
	}
	if len(mine) != 1 {
		t.Errorf("the headers are %v now", mine)
	}
	if err := w.Publish(w.ctx, ferry.Message{Key: "nowhere"}); !errors.Is(err, ferry.ErrUnroutable) {
		t.Fatal(err)
	}
	if got := attributes(w.span("send nowhere"))["error.type"]; got != "unroutable" {
		t.Errorf("error.type is %q", got)
	}
}
