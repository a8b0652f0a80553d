// Package model compares the broker with a model of a queue that is simple
// enough to be right: a list of messages, and who holds which. It is a module
// of its own so that nobody else needs what it needs. It holds no code but
// tests.
package model
