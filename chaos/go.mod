module github.com/ferrymq/ferry/chaos

go 1.26.0

require (
	github.com/ferrymq/ferry v0.0.0-00010101000000-000000000000
	github.com/rabbitmq/amqp091-go v1.16.0
)

replace github.com/ferrymq/ferry => ../
