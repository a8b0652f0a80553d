package auth

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // G501: RabbitMQ before 3.6 had it, and definitions have its hashes still
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Hashing algorithms: what User.HashingAlgorithm may be. Passwords that are set here
// are hashed with the first; the others are RabbitMQ's, whose hashes are kept as they
// were given, so that RabbitMQ can have them back.
const (
	Argon2id = "ferry_argon2id"
	SHA256   = "rabbit_password_hashing_sha256"
	SHA512   = "rabbit_password_hashing_sha512"
	MD5      = "rabbit_password_hashing_md5"
)

// The cost of one password hash: the smallest of the five settings of argon2id
// that OWASP's Password Storage Cheat Sheet holds to be equal. The others need
// up to 46 MiB for each of the hashes that run at once.
var ownCost = cost{memory: 7 << 10, passes: 5, threads: 1}

const (
	hashSize = 32 // bytes
	saltSize = 16 // bytes

	// rabbitSalt begins RabbitMQ's hashes: salt, then digest of salt and password.
	rabbitSalt = 4 // bytes
)

// The most that a hash which is given may cost, and the sizes that it may have:
// whoever puts users must not be able to have each login take a second.
const (
	maxHashMemory  = 64 << 10 // KiB
	maxHashPasses  = 16
	maxHashThreads = 4
	maxHashSize    = 64 // bytes, of salt and hash
)

// maxHashes is how many hashes run at once; fewer where there are fewer CPUs.
// The others wait, so that guessing passwords does not take the machine.
const maxHashes = 4

// cost is what a hash of argon2id costs.
type cost struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

// credential is what is kept of a password. It is not changed.
type credential struct {
	algorithm  string
	cost       cost // of Argon2id
	salt, hash []byte
	none       bool // no password is right
}

func (c credential) String() string       { return "[redacted]" }
func (c credential) GoString() string     { return c.String() }
func (c credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// unmatchable is a credential that costs as much as any to hold a password
// against.
func unmatchable() credential {
	c := newCredential("")
	c.none = true
	return c
}

// newCredential is that of a password with a salt of its own.
func newCredential(password string) credential {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails, since Go 1.24
	c := credential{algorithm: Argon2id, cost: ownCost, salt: salt}
	if password != "" {
		c.hash = c.sum(password)
	}
	return c
}

// parseCredential reads a password_hash: base64, as RabbitMQ's definitions have it.
// The empty one is that of a user without a password. Hashes of RabbitMQ that have a
// wrong size are taken, as there, and no password is right.
func parseCredential(algorithm, text string) (*credential, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, &Error{Code: "not_base64", Text: "password_hash is not base64"}
	}
	if algorithm == "" {
		algorithm = SHA256
	}
	c := &credential{algorithm: algorithm}
	if algorithm == Argon2id && len(raw) > 0 {
		return c, c.parsePHC(string(raw))
	}
	size := map[string]int{Argon2id: 0, SHA256: sha256.Size, SHA512: sha512.Size, MD5: md5.Size}
	want, known := size[algorithm]
	switch {
	case !known:
		return nil, &Error{Code: "unknown_hashing_algorithm", Text: fmt.Sprintf(
			"the hashing algorithm %.64q is not known; there are %s, %s, %s and %s", algorithm, SHA256, SHA512, MD5, Argon2id)}
	case len(raw) == 0 || len(raw) != rabbitSalt+want:
		none := unmatchable()
		return &none, nil
	}
	c.salt, c.hash = raw[:rabbitSalt], raw[rabbitSalt:]
	return c, nil
}

// encode is the password_hash of a credential of Argon2id: base64 of
// $argon2id$v=19$m=MEMORY,t=PASSES,p=THREADS$SALT$HASH, as most libraries write it.
func (c *credential) encode() string {
	e := base64.RawStdEncoding
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, c.cost.memory, c.cost.passes, c.cost.threads, e.EncodeToString(c.salt), e.EncodeToString(c.hash)))
}

func (c *credential) parsePHC(text string) error {
	wrong := func(what string) error {
		return &Error{Code: "invalid_password_hash", Text: "password_hash of " + Argon2id + ": " + what}
	}
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return wrong("it does not have the form $argon2id$v=19$m=...,t=...,p=...$salt$hash")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return wrong("its version is not 19")
	}
	k := &c.cost
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &k.memory, &k.passes, &k.threads); err != nil {
		return wrong("its costs are not m=...,t=...,p=...")
	}
	if k.memory < 8 || k.memory > maxHashMemory || k.passes < 1 || k.passes > maxHashPasses || k.threads < 1 || k.threads > maxHashThreads {
		return wrong(fmt.Sprintf("its costs must be within m=%d, t=%d, p=%d", maxHashMemory, maxHashPasses, maxHashThreads))
	}
	var err, err2 error
	c.salt, err = base64.RawStdEncoding.DecodeString(parts[4])
	c.hash, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || err2 != nil || len(c.salt) < 8 || len(c.hash) < 16 || len(c.salt) > maxHashSize || len(c.hash) > maxHashSize {
		return wrong("its salt or its hash has another size or is not base64")
	}
	return nil
}

// verify tells whether a password is right. One that is wrong costs one hash of
// Argon2id at least, whatever the user's own are, so that the time does not tell of
// which kind a user is, or whether there is one.
func (c *credential) verify(password string) bool {
	right := subtle.ConstantTimeCompare(c.sum(password), c.hash) == 1 && !c.none && password != ""
	if !right && c.algorithm != Argon2id {
		_ = argon2.IDKey([]byte(password), make([]byte, saltSize), ownCost.passes, ownCost.memory, ownCost.threads, hashSize)
	}
	return right
}

func (c *credential) sum(password string) []byte {
	salted := append(bytes.Clone(c.salt), password...)
	switch c.algorithm {
	case SHA256:
		s := sha256.Sum256(salted)
		return s[:]
	case SHA512:
		s := sha512.Sum512(salted)
		return s[:]
	case MD5:
		s := md5.Sum(salted) //nolint:gosec // G401: see the import
		return s[:]
	}
	size := len(c.hash)
	if size == 0 {
		size = hashSize
	}
	return argon2.IDKey([]byte(password), c.salt, c.cost.passes, c.cost.memory, c.cost.threads, uint32(size)) //nolint:gosec // G115: size is at most maxHashSize
}

// hasher lets password hashes be computed a few at a time.
type hasher struct {
	places chan struct{}
}

func newHasher() hasher {
	return hasher{places: make(chan struct{}, min(runtime.GOMAXPROCS(0), maxHashes))}
}

// enter waits for a place, which is free again when leave is called.
func (h hasher) enter(ctx context.Context) (leave func(), err error) {
	select {
	case h.places <- struct{}{}:
		return func() { <-h.places }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to hash the password: %w", context.Cause(ctx))
	}
}

func (h hasher) hash(ctx context.Context, password string) (credential, error) {
	leave, err := h.enter(ctx)
	if err != nil {
		return credential{}, err
	}
	defer leave()
	return newCredential(password), nil
}
