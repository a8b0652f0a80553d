package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"runtime"

	"golang.org/x/crypto/argon2"
)

// The cost of one password hash: the smallest of the five settings of argon2id
// that OWASP's Password Storage Cheat Sheet holds to be equal. The others need
// up to 46 MiB for each of the hashes that run at once.
const (
	hashMemory  = 7 << 10 // KiB
	hashPasses  = 5
	hashThreads = 1
	hashSize    = 32 // bytes
	saltSize    = 16 // bytes
)

// maxHashes is how many hashes run at once; fewer where there are fewer CPUs.
// The others wait, so that guessing passwords does not take the machine.
const maxHashes = 4

// credential is what is kept of a password. It is not changed.
type credential struct {
	salt [saltSize]byte
	hash [hashSize]byte
	none bool // no password is right
}

func (c credential) String() string       { return "[redacted]" }
func (c credential) GoString() string     { return c.String() }
func (c credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// unmatchable is a credential that costs as much as any to hold a password
// against.
func unmatchable() credential {
	c := credential{none: true}
	_, _ = rand.Read(c.salt[:]) // never fails, since Go 1.24
	return c
}

// hasher computes password hashes, a few at a time.
type hasher struct {
	places chan struct{}
}

func newHasher() hasher {
	return hasher{places: make(chan struct{}, min(runtime.GOMAXPROCS(0), maxHashes))}
}

func (h hasher) hash(ctx context.Context, password string) (credential, error) {
	var c credential
	_, _ = rand.Read(c.salt[:]) // never fails, since Go 1.24
	sum, err := h.sum(ctx, password, c.salt)
	copy(c.hash[:], sum)
	return c, err
}

func (h hasher) verify(ctx context.Context, c *credential, password string) (bool, error) {
	sum, err := h.sum(ctx, password, c.salt)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(sum, c.hash[:]) == 1 && !c.none, nil
}

func (h hasher) sum(ctx context.Context, password string, salt [saltSize]byte) ([]byte, error) {
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to hash the password: %w", context.Cause(ctx))
	}
	return argon2.IDKey([]byte(password), salt[:], hashPasses, hashMemory, hashThreads, hashSize), nil
}
