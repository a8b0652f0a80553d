package ferryotel_test

import (
	"context"
	"log"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/ferrymq/ferry"
	"github.com/ferrymq/ferry/ferryotel"
)

// What a program sets up once, and the client that takes part in it.
func ExampleNew() {
	provider := sdktrace.NewTracerProvider() // with the exporter of your choice
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))

	ctx := context.Background()
	client, err := ferry.Dial(ctx, "amqp://guest:guest@localhost:5672/", ferry.WithTracer(ferryotel.New()))
	if err != nil {
		log.Fatal(err)
	}
	ctx, span := otel.Tracer("shop").Start(ctx, "order")
	defer span.End()
	// Its span is a child of "order", and so is that of whoever handles it.
	if err := client.Publish(ctx, ferry.Message{Key: "orders"}); err != nil {
		log.Print(err)
	}
}
