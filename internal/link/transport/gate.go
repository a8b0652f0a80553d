package transport

import "sync"

// A Gate is what calls to a source or a sink pass. When it is shut, the calls
// that are in it return first, and then closed is called, once. It begins shut
// for good if it was never opened: closed is then not called.
type Gate struct {
	closed func(error)

	mu    sync.Mutex // guards the rest; not held during calls
	open  bool
	shut  bool
	calls int
	err   error
}

// NewGate makes a gate that is not open yet.
func NewGate(closed func(error)) *Gate { return &Gate{closed: closed} }

// Open opens the gate, and tells whether it was not shut before.
func (g *Gate) Open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = !g.shut
	return g.open
}

// Enter begins a call; Leave ends it if Enter said true.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open || g.shut {
		return false
	}
	g.calls++
	return true
}

// Leave ends a call.
func (g *Gate) Leave() {
	g.mu.Lock()
	g.calls--
	last := g.calls == 0 && g.shut
	g.mu.Unlock()
	if last {
		g.closed(g.err)
	}
}

// Passable tells whether a call that is not waited for may begin.
func (g *Gate) Passable() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open && !g.shut
}

// Close shuts the gate; err goes to closed.
func (g *Gate) Close(err error) {
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
