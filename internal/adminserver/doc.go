// Package adminserver is RabbitMQ's management API.
package adminserver
