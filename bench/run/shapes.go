package main

import (
	"fmt"
	"time"
)

// The figures that a shape yields. Each has the unit in which it is printed.
const (
	delivered     = "delivered"
	deliveredPart = "delivered of what is published"
	publishRate   = "published"
	cpu           = "broker CPU a message"
	peak          = "peak memory"
	confirmP50    = "confirm p50"
	confirmP99    = "confirm p99"
	readyAgain    = "serving after kill -9"
	readyStopped  = "serving after SIGTERM"
	drained       = "drained"
	drainPeak     = "peak memory, restarted"
	idleConn      = "idle connection"
	idleBroker    = "idle broker"
	startToReady  = "start to ready"

	moved        = "messages"
	clientCPU    = "client CPU a message"
	clientPeak   = "client's peak memory"
	firstConfirm = "first confirm by the backup"
	accepted     = "accepted"
	perMessage   = "time a message"

	databaseCPU = "database CPU a message"
	requests    = "requests"
	requestP50  = "a request, p50"
	requestP99  = "a request, p99"
)

var units = map[string]string{
	delivered: "/s", deliveredPart: "%", publishRate: "/s", cpu: "µs", peak: "MB",
	confirmP50: "ms", confirmP99: "ms", readyAgain: "s", readyStopped: "s", drained: "/s",
	moved: "/s", clientCPU: "µs", clientPeak: "MB", firstConfirm: "ms", accepted: "/s", perMessage: "µs",
	databaseCPU: "µs", requests: "/s", requestP50: "ms", requestP99: "ms",
	drainPeak: "MB", idleConn: "KiB", idleBroker: "MB", startToReady: "ms",
}

// figures are one run's, by the names above.
type figures map[string]float64

// target is what a figure must reach.
type target struct {
	figure string
	kind   kind
	limit  float64
}

type kind int

const (
	timesAtLeast kind = iota // × the other's
	timesAtMost
	atLeast
	atMost
	shown // no target: it is there to be seen
)

func (t target) String() string {
	unit := units[t.figure]
	switch t.kind {
	case timesAtLeast:
		return fmt.Sprintf("≥ %g ×", t.limit)
	case timesAtMost:
		return fmt.Sprintf("≤ %g ×", t.limit)
	case atLeast:
		return "≥ " + format(t.limit, unit)
	case atMost:
		return "≤ " + format(t.limit, unit)
	default:
		return "-"
	}
}

// ratio says whether the target compares with the other.
func (t target) ratio() bool { return t.kind == timesAtLeast || t.kind == timesAtMost }

// met says whether the figure, or its ratio to the other's, reaches the target.
func (t target) met(figure, ratio float64) bool {
	switch t.kind {
	case timesAtLeast:
		return ratio >= t.limit
	case timesAtMost:
		return ratio <= t.limit
	case atLeast:
		return figure >= t.limit
	case atMost:
		return figure <= t.limit
	default:
		return true
	}
}

// shape is one row of the table of what Ferry must reach: a load, and for each
// of its figures a target.
type shape struct {
	name    string
	mode    string // what the broker promises of the messages
	load    []string
	measure measure // nil: the load, for the measured time
	// rabbitRuns is how often the other is measured: as often as Ferry if it is
	// negative, at most this often otherwise.
	rabbitRuns int
	ferryOnce  bool   // its parts repeat themselves
	versus     versus // zero: brokers
	targets    []target
}

// versus names the two that a shape compares, and the table that it is in.
type versus struct{ theirs, mine string }

var (
	brokers      = versus{"RabbitMQ", "Ferry"}
	clients      = versus{"amqp091-go", "Ferry's"} // against the same Ferry
	stompPlugin  = versus{"RabbitMQ's plugin", "Ferry over STOMP"}
	stompArtemis = versus{"Artemis", "Ferry over STOMP"}
	crossing     = versus{"AMQP to AMQP", "STOMP to AMQP"} // through the same Ferry
	databases    = versus{"-", "Ferry on a database"}
	requestsOf   = versus{"-", "Ferry over GMQ"}
)

const (
	transient  = "transient"
	persistent = "persistent, fsync before confirm"

	persistentReceipt = "persistent, fsync before receipt"
	// always is for rabbitRuns.
	always = -1
)

// sizes are how much is sent where that is not a matter of time.
type sizes struct {
	backlog       int // messages in one queue
	rabbitBacklog int // RabbitMQ's, of which only the rate is compared
	queues        int // with perQueue messages each
	perQueue      int
	manyQueues    int // with a message each
	idle          int // connections
	starts        int
	warmUp        time.Duration // beside Artemis: what a Java machine does grows for tens of seconds
}

var (
	fullSizes  = sizes{1_000_000, 100_000, 1000, 1000, 100_000, 800, 5, 25 * time.Second}
	shortSizes = sizes{100_000, 20_000, 200, 100, 5_000, 200, 3, time.Second}
)

func shapes(s sizes) []shape {
	return []shape{
		{
			name: "100 B, 1×1, unlimited", mode: transient, rabbitRuns: always,
			targets: []target{
				{delivered, timesAtLeast, 10},
				{publishRate, shown, 0},
				{deliveredPart, atLeast, 85},
				{cpu, atMost, 1.2},
				{peak, atMost, 500},
			},
		},
		{
			name: "100 B, 1×1, confirm 1000", mode: persistent, rabbitRuns: always,
			load: []string{"-persistent", "-confirm", "1000"},
			targets: []target{
				{delivered, timesAtLeast, 12},
				{confirmP50, shown, 0},
				{confirmP99, atMost, 6},
				{cpu, shown, 0},
				{peak, shown, 0},
			},
		},
		{
			name: "1 KiB, 4×4, 4 queues", mode: transient, rabbitRuns: always,
			load:    []string{"-size", "1024", "-producers", "4", "-consumers", "4", "-queues", "4"},
			targets: []target{{delivered, timesAtLeast, 6}},
		},
		{
			name: "1 KiB, 4×4, 4 queues, confirm 500", mode: persistent, rabbitRuns: always,
			load:    []string{"-size", "1024", "-producers", "4", "-consumers", "4", "-queues", "4", "-persistent", "-confirm", "500"},
			targets: []target{{delivered, timesAtLeast, 6}, {confirmP99, shown, 0}},
		},
		{
			name: "fanout to 10 queues, 256 B", mode: transient, rabbitRuns: always,
			load:    []string{"-fanout", "-queues", "10", "-consumers", "10", "-size", "256"},
			targets: []target{{delivered, timesAtLeast, 10}},
		},
		{
			name: "steady 5,000/s, one publish a write", mode: persistent, rabbitRuns: always,
			load: []string{"-persistent", "-confirm", "1000", "-rate", "5000", "-batch", "1", "-ack-every", "1"},
			targets: []target{
				{confirmP50, timesAtMost, 0.7},
				{confirmP99, timesAtMost, 0.7},
			},
		},
		{
			name: "1 MiB, confirm 8", mode: persistent, rabbitRuns: always,
			load:    []string{"-size", "1048576", "-persistent", "-confirm", "8", "-batch", "1", "-prefetch", "8"},
			targets: []target{{delivered, timesAtLeast, 1.2}},
		},
		{
			name: fmt.Sprintf("%s published (RabbitMQ %s), no consumer, confirm 2000", count(s.backlog), count(s.rabbitBacklog)), mode: persistent,
			rabbitRuns: always, measure: backlog(s.backlog, s.rabbitBacklog),
			targets: []target{
				{publishRate, timesAtLeast, 15},
				{peak, atMost, 400},
				{readyAgain, atMost, 1},
				{drained, atLeast, 600_000},
				{drainPeak, atMost, 400},
			},
		},
		{
			name: fmt.Sprintf("%s queues × %s, interleaved", count(s.queues), count(s.perQueue)), mode: persistent,
			measure: manyBacklogs(s.queues, s.perQueue),
			targets: []target{
				{publishRate, shown, 0},
				{readyAgain, shown, 0},
				{drained, atLeast, 200_000},
				{drainPeak, shown, 0},
			},
		},
		{
			name: fmt.Sprintf("%s durable queues, a message each", count(s.manyQueues)), mode: persistent,
			measure: manyQueues(s.manyQueues),
			targets: []target{
				{readyStopped, atMost, 2},
				{readyAgain, atMost, 2},
				{peak, atMost, 400},
			},
		},
		{
			name: "idle", mode: "-", rabbitRuns: 1, ferryOnce: true,
			measure: idle(s.idle, s.starts),
			targets: []target{
				{idleConn, atMost, 24},
				{idleBroker, atMost, 30},
				{startToReady, atMost, 100},
			},
		},
	}
}
