package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ferrymq/ferry"
)

// messageFlags are the properties that all messages of a `ferry send` get.
type messageFlags struct {
	given func(flag string) bool // on the command line or by the environment

	exchange, key string
	headers       []string
	table         map[string]any // of headers
	persistent    bool
	expiration    time.Duration
	priority      uint8

	contentType, contentEncoding      string
	correlationID, replyTo, messageID string
	kind, appID                       string
}

func (m *messageFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&m.exchange, "exchange", "e", "", "send to this `EXCHANGE`")
	f.StringVarP(&m.key, "key", "k", "", "with this routing `KEY`")
	f.StringArrayVarP(&m.headers, "header", "H", nil, "a header, `K:V` or K=V; repeat it for more")
	f.StringVar(&m.contentType, "content-type", "", "what the body is, such as application/json")
	f.StringVar(&m.contentEncoding, "content-encoding", "", "how the body is coded, such as gzip")
	f.BoolVar(&m.persistent, "persistent", true, "messages survive a restart of the broker")
	f.DurationVar(&m.expiration, "expiration", 0, "messages that were not received after so long are dropped; 0 is never")
	f.Uint8Var(&m.priority, "priority", 0, "0 to 255; queues that were declared with priorities look at it")
	f.StringVar(&m.correlationID, "correlation-id", "", "`ID` of what this answers")
	f.StringVar(&m.replyTo, "reply-to", "", "`QUEUE` for the answer")
	f.StringVar(&m.messageID, "message-id", "", "`ID` that the application gives")
	f.StringVar(&m.kind, "type", "", "`NAME` that the application has for such messages")
	f.StringVar(&m.appID, "app-id", "", "`NAME` of the application")
}

func (m *messageFlags) check() []error {
	var wrong []error
	if m.expiration < 0 || m.expiration > 0 && m.expiration < time.Millisecond {
		wrong = append(wrong, fmt.Errorf("--expiration: %v is not a time of at least 1ms", m.expiration))
	}
	for _, h := range m.headers {
		i := strings.IndexAny(h, ":=")
		if i <= 0 {
			wrong = append(wrong, fmt.Errorf("--header: %q is neither K:V nor K=V", h))
			continue
		}
		if m.table == nil {
			m.table = map[string]any{}
		}
		v := h[i+1:]
		if h[i] == ':' {
			v = strings.TrimLeft(v, " ") // as in HTTP
		}
		m.table[h[:i]] = v
	}
	return wrong
}

// apply gives a message the properties that were given.
func (m *messageFlags) apply(to *ferry.Message) {
	for _, p := range []struct {
		flag  string
		value string
		set   *string
	}{
		{"exchange", m.exchange, &to.Exchange},
		{"key", m.key, &to.Key},
		{"content-type", m.contentType, &to.ContentType},
		{"content-encoding", m.contentEncoding, &to.ContentEncoding},
		{"correlation-id", m.correlationID, &to.CorrelationID},
		{"reply-to", m.replyTo, &to.ReplyTo},
		{"message-id", m.messageID, &to.MessageID},
		{"type", m.kind, &to.Type},
		{"app-id", m.appID, &to.AppID},
	} {
		if m.given(p.flag) {
			*p.set = p.value
		}
	}
	if m.given("persistent") {
		to.Transient = !m.persistent
	}
	if m.given("expiration") {
		to.Expiration = m.expiration
	}
	if m.given("priority") {
		to.Priority = m.priority
	}
	if len(m.table) == 0 {
		return
	}
	if to.Headers == nil {
		// It is never changed, so that all messages can have the same.
		to.Headers = m.table
		return
	}
	for name, v := range m.table {
		to.Headers[name] = v
	}
}
