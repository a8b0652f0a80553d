package outbox

import "fmt"

// An outlet is what was stored and who waits for it.
type outlet struct {
	flights []*flight     // to be reported
	cache   cache         // the newest messages
	cursor  uint64        // all below were taken
	taken   int           // and not settled
	arrived chan struct{} // a slot: Take may have something to do
}

// A flight is a batch on its way through the journal.
type flight struct {
	puts     []*put
	first    uint64 // number of the first of them
	stored   uint64 // the number behind the last message that is whole with it
	position uint64
	segment  uint64
	chunk    chunk // its messages, none if they are not to be kept in memory
	err      error // for the puts
}

// land is called by the journal, in order.
func (o *Outbox) land(f *flight, err error) {
	o.mu.Lock()
	if err == nil {
		b := &o.book
		if f.segment != b.segment {
			signal(o.clean)
		}
		b.stored, b.head, b.segment = f.stored, f.position, f.segment
		o.outlet.cache.add(f.chunk, o.options.cacheBytes)
	} else {
		f.err = fmt.Errorf("put: %w: %w", ErrUnknown, err)
		if o.failed == nil {
			o.failed = err
			o.intake.wakeLocked()
		}
	}
	o.outlet.flights = append(o.outlet.flights, f)
	o.mu.Unlock()
	signal(o.landed)
	signal(o.outlet.arrived)
	if err != nil {
		signal(o.work)
	}
}

// report is the goroutine that calls done functions.
func (o *Outbox) report() {
	for {
		o.mu.Lock()
		flights, ended := o.outlet.flights, o.ended
		o.outlet.flights = nil
		o.mu.Unlock()
		if len(flights) == 0 {
			if ended {
				return
			}
			<-o.landed
			continue
		}
		size := 0
		for _, f := range flights {
			for i, p := range f.puts {
				size += p.memory()
				if f.err != nil {
					p.done(0, f.err)
				} else {
					p.done(f.first+uint64(i), nil)
				}
			}
		}
		o.mu.Lock()
		o.intake.bytes -= size
		o.intake.wakeLocked()
		o.mu.Unlock()
	}
}
