// Package ferrytest is a broker in your test, one line, and ways to break it.
//
//	func TestOrdersArrive(t *testing.T) {
//		b := ferrytest.Start(t)
//		... connect to b.URL() with any AMQP 0-9-1 client, b.STOMPURL() or b.GMQURL() ...
//		b.Drop() // and see what your program makes of it
//	}
//
// The broker is a whole Ferry broker in the test's process. It listens on a free
// port of 127.0.0.1, keeps messages in memory unless told otherwise with Dir, and
// is gone when the test has ended. Its URL leads through a Proxy, which breaks
// connections on purpose: it refuses them, cuts them, lets them go dead, and
// refuses publishes of AMQP with basic.nack. NewProxy is the same in front of any
// other broker.
//
// What waits here waits for what happens, not for a time, so that tests need not
// sleep. It uses real sockets: in a testing/synctest bubble time would stand
// still.
//
// The package is for tests: programs have the command ferry serve.
package ferrytest
