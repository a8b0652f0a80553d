package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/ferrymq/ferry"
)

const (
	// pipeTimeout is how long what a command has started may keep its pipes
	// open after it has ended.
	pipeTimeout = 5 * time.Second

	// maxVariable is the most bytes of a variable of the environment; Linux
	// starts no program with one of 128 KiB.
	maxVariable = 64 << 10
)

// A runner has a command of the shell handle messages.
type runner struct {
	command        string
	stdout, stderr io.Writer
}

// run returns nil when the command has ended with 0. It is not ended when ctx is:
// what is in hand is finished.
func (r *runner) run(_ context.Context, d *ferry.Delivery) error {
	c := exec.Command("sh", "-c", r.command)
	c.Stdin = bytes.NewReader(d.Body)
	c.Stdout, c.Stderr = r.stdout, r.stderr
	c.Env = append(os.Environ(), environment(d)...)
	c.WaitDelay = pipeTimeout
	apart(c)
	if err := c.Start(); err != nil {
		return &fatal{fmt.Errorf("the command could not be started: %w", err)}
	}
	if err := c.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("the command failed: %w", err)
	}
	return nil
}

// environment is what a command is told of a message. What a variable cannot
// hold is left out.
func environment(d *ferry.Delivery) []string {
	variables := []struct{ name, value string }{
		{"EXCHANGE", d.Exchange},
		{"KEY", d.Key},
		{"ID", d.ID},
		{"REDELIVERED", strconv.FormatBool(d.Redelivered)},
		{"CONTENT_TYPE", d.ContentType},
		{"CORRELATION_ID", d.CorrelationID},
		{"REPLY_TO", d.ReplyTo},
		{"MESSAGE_ID", d.MessageID},
		{"TYPE", d.Type},
	}
	var list []string
	add := func(name, value string) {
		if len(value) <= maxVariable && !strings.Contains(value, "\x00") {
			list = append(list, environmentPrefix+name+"="+value)
		}
	}
	for _, v := range variables {
		add(v.name, v.value)
	}
	if !d.Timestamp.IsZero() {
		add("TIMESTAMP", d.Timestamp.UTC().Format(time.RFC3339))
	}
	for name, v := range d.Headers {
		add("HEADER_"+variableName(name), variableText(v))
	}
	return list
}

// variableName makes a name that a shell takes.
func variableName(header string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, header)
}

func variableText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []byte:
		return string(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}
