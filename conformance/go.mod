module github.com/ferrymq/ferry/conformance

go 1.26.0

require (
	github.com/ferrymq/ferry v0.0.0-00010101000000-000000000000
	github.com/rabbitmq/amqp091-go v1.16.0
	go.uber.org/goleak v1.3.0
)

require (
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/ferrymq/ferry => ../
