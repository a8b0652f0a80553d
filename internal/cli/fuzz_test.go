package cli

import (
	"errors"
	"testing"
)

// FuzzConfigFile reads anything as a configuration file. It is a configuration
// or has faults, which all can be said.
func FuzzConfigFile(f *testing.F) {
	f.Add("amqp = \"127.0.0.1:1\"\nuser = \"ada\"\n")
	f.Add("[tls]\ncert = \"x\"\n[a.b.c]\nd = [1, \"two\", 1979-05-27]\n")
	f.Add("amqp = :5672")
	f.Add("config = \"other.toml\"\nmemory-limit = 3\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := given{file: text}.configure(t)
		var wrong *faults
		switch {
		case err == nil && c == nil:
			t.Fatal("neither a configuration nor a fault")
		case err != nil && !errors.As(err, &wrong):
			t.Fatalf("%T: %v", err, err)
		case err != nil && (len(*wrong) == 0 || err.Error() == ""):
			t.Fatal("faults without a fault")
		}
	})
}
