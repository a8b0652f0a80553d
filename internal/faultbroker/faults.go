package faultbroker

import "github.com/ferrymq/ferry/internal/wire/amqpwire"

// Faults are what a broker does wrong. The zero value is nothing.
//
// Every n means each n-th publish that the broker takes, from any connection,
// counted from its start; zero is never. Where several hit one publish the first
// of the list counts.
type Faults struct {
	NackEvery   int // refused with basic.nack and not stored
	ReturnEvery int // given back with basic.return, mandatory or not, then confirmed
	LoseEvery   int // confirmed and not stored
	DoubleEvery int // stored twice; the second copy looks like any other message

	// SwapEvery makes the last two of every n messages that are stored in a queue
	// change places: the first of them is held back until the second is there, or
	// until this is zero again. Below 2 is never.
	SwapEvery int

	// ConfirmMultiple makes one confirm, with multiple set, of all that are sent
	// together: what was read from the socket at once, or what was held.
	ConfirmMultiple bool
	// HoldConfirms keeps confirms back until ReleaseConfirms, Ack or Nack. Messages
	// are stored, and returns sent, at once.
	HoldConfirms bool

	NoHeartbeats bool // none is sent, whatever was negotiated
	RefuseLogin  bool // start-ok is answered with 403

	Silent  Step // what is never answered, and has no effect
	Garbage Step // what is answered with bytes that are no frame
}

// A Step is something that a client waits for an answer to. Steps can be
// combined.
type Step uint

// The steps.
const (
	StepHeader        Step = 1 << iota // the protocol header: only accepted
	StepStartOk                        // start was sent, tune never is
	StepOpen                           // tune was sent, open-ok never is
	StepChannelOpen                    //
	StepConfirmSelect                  //
	StepDeclare                        // of a queue or an exchange, also passive
	StepBind                           //
	StepQos                            //
	StepConsume                        //
	StepCancel                         //
	StepGet                            //
	StepChannelClose                   //
	StepClose                          // of the connection
)

// garbage is what an HTTP server says to AMQP. No frame begins with an H.
const garbage = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"

// stepOf is the step that a method asks for.
func stepOf(m amqpwire.Method) Step {
	switch m.(type) {
	case *amqpwire.ConnectionStartOk:
		return StepStartOk
	case *amqpwire.ConnectionOpen:
		return StepOpen
	case *amqpwire.ConnectionClose:
		return StepClose
	case *amqpwire.ChannelOpen:
		return StepChannelOpen
	case *amqpwire.ChannelClose:
		return StepChannelClose
	case *amqpwire.ConfirmSelect:
		return StepConfirmSelect
	case *amqpwire.QueueDeclare, *amqpwire.ExchangeDeclare:
		return StepDeclare
	case *amqpwire.QueueBind:
		return StepBind
	case *amqpwire.BasicQos:
		return StepQos
	case *amqpwire.BasicConsume:
		return StepConsume
	case *amqpwire.BasicCancel:
		return StepCancel
	case *amqpwire.BasicGet:
		return StepGet
	}
	return 0
}

// A Fate is what became of a publish.
type Fate string

// The fates.
const (
	Stored     Fate = "stored"
	Unroutable Fate = "unroutable" // returned if it was mandatory, and confirmed
	Nacked     Fate = "nacked"
	Returned   Fate = "returned"
	Lost       Fate = "lost"
	Doubled    Fate = "doubled"
)

// fate is what the faults do to the n-th publish.
func (f *Faults) fate(n int) Fate {
	hits := func(every int) bool { return every > 0 && n%every == 0 }
	switch {
	case hits(f.NackEvery):
		return Nacked
	case hits(f.ReturnEvery):
		return Returned
	case hits(f.LoseEvery):
		return Lost
	case hits(f.DoubleEvery):
		return Doubled
	}
	return Stored
}
