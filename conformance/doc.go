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
//
// A real component that is missing (RabbitMQ, pika, amqplib) is named by the
// test that is skipped for it, and with CI=true it is a failure. `make setup`
// installs what can be installed.
//
// With FERRY_CONFORMANCE_URL=amqp://… everything is run against the broker that
// is there instead of Ferry: against a real RabbitMQ, it tests the tests.
package conformance
