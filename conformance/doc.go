// Package conformance holds no code but tests: Ferry, the real binary, spoken
// to by the clients that people have, beside the real RabbitMQ.
//
//   - amqp091_test.go runs the integration suite of RabbitMQ's own Go client,
//     as that module's tests, and repeats what the suite does with a server
//     only if that is called RabbitMQ.
//   - transcript_test.go runs the programs in python and node. Each prints what
//     it saw of a broker, a line of JSON a step, and must see the same of Ferry
//     as of RabbitMQ. What RabbitMQ answered is recorded in testdata, where it
//     can be read as the specification that it is.
//   - stomp_transcript_test.go plays what STOMP clients may do, frame by frame,
//     to Ferry and to RabbitMQ's plugin, and compares both with what that
//     answered when it was recorded. The scenarios are in stomp_scenarios_*.go.
//   - stomp_clients_test.go does so with programs of stomp.py and of stompjs,
//     over TCP and over WebSocket.
//   - stomp_artemis_test.go does so with what clients of ActiveMQ Artemis say,
//     and with Artemis.
//   - stomp_crossing_test.go has stomp.py on one side of Ferry's queues and
//     RabbitMQ's Go client on the other; stomp_websocket_test.go asks as pages
//     of other sites do.
//
// testdata/differences.jsonl lists where Ferry is meant to answer otherwise
// than RabbitMQ and Artemis, with the reason.
//
// A real component that is missing (RabbitMQ, Artemis, or a client's library) is
// named by the test that is skipped for it, and with CI=true it is a failure.
// `make setup` installs what can be installed.
//
// With FERRY_CONFORMANCE_URL=amqp://… everything is run against the broker that
// is there instead of Ferry: against a real RabbitMQ, it tests the tests. For
// STOMP that is FERRY_CONFORMANCE_STOMP_URL=stomp://… and
// FERRY_CONFORMANCE_WEBSTOMP_URL=ws://…/ws beside it.
package conformance
