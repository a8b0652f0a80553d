package app

import (
	"crypto/sha256"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// Whoever is in the definitions is who may log in: no user with a password that
// everybody knows is made beside them.
func TestDefinitionsAreLoadedBeforeClientsAreLetIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "definitions.json")
	// RabbitMQ keeps a password as its salt and the hash of both.
	salt := "\x01\x02\x03\x04"
	sum := sha256.Sum256([]byte(salt + "secret"))
	hash := base64.StdEncoding.EncodeToString(append([]byte(salt), sum[:]...))
	text := `{"rabbit_version":"3.10.8",
		"users":[{"name":"clerk","password_hash":"` + hash + `","hashing_algorithm":"rabbit_password_hashing_sha256","tags":"administrator"}],
		"vhosts":[{"name":"/"},{"name":"shop"}],
		"permissions":[{"user":"clerk","vhost":"shop","configure":".*","write":".*","read":".*"}],
		"queues":[{"name":"orders","vhost":"shop","durable":true,"auto_delete":false,"arguments":{"x-max-length":5}},
			{"name":"wrong","vhost":"shop","durable":true,"auto_delete":false,"arguments":{"x-max-length":-5}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.Store = "file:" + filepath.Join(t.TempDir(), "data")
	cfg.Definitions = file
	for range 2 {
		p := mustStart(t, cfg)
		c, why, ok := attempt(t, p.addresses["amqp"], "clerk", "secret", "shop")
		if !ok {
			t.Fatalf("clerk does not get in: %s", why)
		}
		c.send(&amqpwire.QueueDeclare{Queue: "orders", Passive: true})
		expect[*amqpwire.QueueDeclareOk](c)
		c.nc.Close()
		mustLogIn(t, p.addresses["amqp"], cfg.User, cfg.Password, "/", "ACCESS_REFUSED - Login was refused")
		p.mustStop()
		if log := p.log.String(); !strings.Contains(log, "could not be honoured") || !strings.Contains(log, "wrong") || strings.Contains(log, hash) {
			t.Errorf("the log says %s", log)
		}
	}
}

func TestDefinitionsThatAreNoneKeepTheBrokerFromStarting(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "definitions.json")
	if err := os.WriteFile(file, []byte("queues: []"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{file: "no JSON object of definitions", filepath.Join(dir, "none"): "no such file"} {
		cfg := testConfig()
		cfg.Definitions = name
		if _, err := start(t, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
