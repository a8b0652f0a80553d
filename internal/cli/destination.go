package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ferrymq/ferry/internal/endpoint"
)

// hintAtDestination tells who names a queue as STOMP clients do, over STOMP, that
// this is the name itself here, which is the same over every protocol.
func (c *clientFlags) hintAtDestination(sys System, queue string) {
	if c.quiet {
		return
	}
	hint := destinationHint(queue)
	if hint == "" {
		return
	}
	u, err := c.url(sys.Getenv)
	if err != nil {
		return // which dial says
	}
	list, err := endpoint.Parse(u)
	if err != nil {
		return
	}
	if slices.ContainsFunc(list.Endpoints, func(e endpoint.Endpoint) bool { return strings.HasPrefix(e.Scheme, "stomp") }) {
		fmt.Fprintf(sys.Stderr, "note: this is the queue named %q; %s\n", queue, hint)
	}
}

// destinationHint says what a name means to STOMP clients of RabbitMQ and of Ferry,
// empty if it is nothing else. In Artemis it is a name.
func destinationHint(name string) string {
	for _, prefix := range []string{"/queue/", "/amq/queue/"} {
		if queue, ok := strings.CutPrefix(name, prefix); ok && queue != "" {
			return fmt.Sprintf("what STOMP clients of RabbitMQ and Ferry call so is -q %s", queue)
		}
	}
	for _, prefix := range []string{"/topic/", "/exchange/"} {
		if strings.HasPrefix(name, prefix) {
			return "what STOMP clients of RabbitMQ and Ferry call so is an exchange and a key: send -e amq.topic -k KEY, receive --bind amq.topic:KEY"
		}
	}
	return ""
}
