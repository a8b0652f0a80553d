package amqplink

import "sync"

// A gate is what calls to a source or a sink pass. When it is shut, the calls
// that are in it return first, and then closed is called, once. It begins shut
// for good if it was never opened: closed is then not called.
type gate struct {
	closed func(error)

	mu    sync.Mutex // guards the rest; not held during calls
	open  bool
	shut  bool
	calls int
	err   error
}

// unlock opens the gate, and tells whether it was not shut before.
func (g *gate) unlock() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = !g.shut
	return g.open
}

// enter begins a call; leave ends it if enter said true.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open || g.shut {
		return false
	}
	g.calls++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	g.calls--
	last := g.calls == 0 && g.shut
	g.mu.Unlock()
	if last {
		g.closed(g.err)
	}
}

// passable tells whether a call that is not waited for may begin.
func (g *gate) passable() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open && !g.shut
}

// close shuts the gate; err goes to closed.
func (g *gate) close(err error) {
	g.mu.Lock()
	if g.shut {
		g.mu.Unlock()
		return
	}
	g.shut, g.err = true, err
	now := g.open && g.calls == 0
	g.mu.Unlock()
	if now {
		g.closed(err)
	}
}
