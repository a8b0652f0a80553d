module github.com/ferrymq/ferry/conformance

go 1.26

require github.com/rabbitmq/amqp091-go v1.16.0

replace github.com/ferrymq/ferry => ../
