package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// RememberFor is how long a password that was right is not hashed again. It
// covers the reconnects after a broker or a network came back, and little more:
// while an attempt is remembered, what is in memory of it is quick to guess.
const RememberFor = 30 * time.Second

// RememberWrong is how long one that was wrong is not: a client that tries it again
// and again guesses nothing.
const RememberWrong = 5 * time.Minute

// maxRemembered bounds what is remembered, right and wrong apart, in attempts of
// about 100 bytes.
const maxRemembered = 4096

// memory remembers which attempts were right a short while ago, and which were
// wrong, and lets the same attempt wait for one that is being checked. An attempt is
// known by a keyed hash; its key is this process' own.
type memory struct {
	key [sha256.Size]byte

	mu      sync.Mutex
	right   map[attempt]*credential
	wrong   map[attempt]*credential
	running map[attempt]*check
}

type attempt [sha256.Size]byte

// check is an attempt that is being verified. right and err are written before
// done is closed.
type check struct {
	done  chan struct{}
	cred  *credential
	right bool
	err   error
}

func newMemory() *memory {
	m := &memory{right: map[attempt]*credential{}, wrong: map[attempt]*credential{}, running: map[attempt]*check{}}
	_, _ = rand.Read(m.key[:]) // never fails, since Go 1.24
	return m
}

func (m *memory) attempt(name, password string) attempt {
	mac := hmac.New(sha256.New, m.key[:])
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(name))))
	mac.Write([]byte(name))
	mac.Write([]byte(password))
	return attempt(mac.Sum(nil))
}

// errAbandoned says that the one who was checking gave up before it knew.
var errAbandoned = errors.New("the check was abandoned")

// do tells whether an attempt against a credential is right: from memory, from
// one that runs, or from verify. When the one that runs ends without a result,
// because its own caller went away, the next in line begins anew.
func (m *memory) do(ctx context.Context, name, password string, c *credential, verify func() (bool, error)) (bool, error) {
	a := m.attempt(name, password)
	for {
		run, mine, right := m.join(a, c)
		if run == nil {
			return right, nil
		}
		if mine {
			return m.run(a, run, verify)
		}
		select {
		case <-run.done:
			if run.err == nil {
				return run.right, nil
			}
		case <-ctx.Done():
			return false, fmt.Errorf("wait for the password check: %w", context.Cause(ctx))
		}
	}
}

// join returns no check when the attempt is remembered, and as what; else the check
// to wait for, or to run when it is the caller's. A check against a credential that
// was replaced meanwhile is nobody's to wait for.
func (m *memory) join(a attempt, c *credential) (run *check, mine, right bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.right[a] == c {
		return nil, false, true
	}
	if m.wrong[a] == c {
		return nil, false, false
	}
	if run = m.running[a]; run != nil && run.cred == c {
		return run, false, false
	}
	run = &check{done: make(chan struct{}), cred: c, err: errAbandoned}
	m.running[a] = run
	return run, true, false
}

func (m *memory) run(a attempt, run *check, verify func() (bool, error)) (bool, error) {
	defer close(run.done)
	right, err := verify()
	run.right, run.err = right, err
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running[a] == run {
		delete(m.running, a)
	}
	remembered, d := m.right, RememberFor
	if !right {
		remembered, d = m.wrong, RememberWrong
	}
	if err == nil && len(remembered) < maxRemembered {
		remembered[a] = run.cred
		time.AfterFunc(d, func() { m.forget(remembered, a, run.cred) })
	}
	return right, err
}

func (m *memory) forget(remembered map[attempt]*credential, a attempt, c *credential) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if remembered[a] == c {
		delete(remembered, a)
	}
}
