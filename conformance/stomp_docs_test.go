package conformance

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// Where Ferry does otherwise than the brokers whose clients it serves, the docs
// say so: whoever comes from these finds each difference by its scenario.
func TestDocsHaveTheDifferencesOfStomp(t *testing.T) {
	docs, err := os.ReadFile("../docs/stomp-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, differences, ok := bytes.Cut(docs, []byte("## Clients of ActiveMQ and Artemis"))
	if !ok {
		t.Fatal("docs/stomp-conformance.md has no chapter on ActiveMQ and Artemis")
	}
	lines, err := os.ReadFile("testdata/differences.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range bytes.Lines(lines) {
		var d difference
		if err := json.Unmarshal(line, &d); err != nil {
			t.Fatal(err)
		}
		if d.Program != stompFrames.name && d.Program != artemisFrames.name {
			continue
		}
		found++
		if !strings.Contains(string(differences), "`conformance/"+d.Case+"`") {
			t.Errorf("docs/stomp-conformance.md does not say that Ferry does otherwise in %s: %s", d.Case, d.Why)
		}
	}
	if found == 0 {
		t.Error("no difference is listed")
	}
}
