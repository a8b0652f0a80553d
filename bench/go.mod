module github.com/ferrymq/ferry/bench

go 1.26.0

require (
	github.com/ferrymq/ferry v0.0.0
	github.com/rabbitmq/amqp091-go v1.16.0
)

replace github.com/ferrymq/ferry => ../
