package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"
)

// maxMessage is the most bytes of a message that is read, as many as a broker
// takes.
const maxMessage = 16 << 20

// maxJSON is the most bytes of a message as JSON: of a body each byte may be one
// of six, as in \u0000, and headers come to it.
const maxJSON = 6*maxMessage + 1<<20

// inputFlags say where messages come from.
type inputFlags struct {
	files  []string
	sendOn string
	json   bool
}

func (i *inputFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&i.files, "file", nil, "send the whole of this `FILE` as one message, - for the standard input; repeat it for more")
	f.StringVar(&i.sendOn, "send-on", "newline", "the standard input is a message a `newline`, or all of it is one: eof")
	f.BoolVar(&i.json, "json", false, "messages are JSON objects as `ferry receive --json` prints them; flags count more than what they say")
}

func (i *inputFlags) check(args []string) []error {
	var wrong []error
	if i.sendOn != "newline" && i.sendOn != "eof" {
		wrong = append(wrong, fmt.Errorf("--send-on: %q is neither newline nor eof", i.sendOn))
	}
	if len(i.files) > 0 && len(args) > 0 {
		wrong = append(wrong, errors.New("messages are arguments or files (--file), not both"))
	}
	return wrong
}

// messages opens where the texts of messages come from.
func (i *inputFlags) messages(ctx context.Context, stdin io.Reader, args []string) *input {
	in := &input{}
	switch {
	case len(i.files) > 0:
		in.one = "file"
		in.read = func() ([]byte, error) {
			if in.n == len(i.files) {
				return nil, io.EOF
			}
			return apartFrom(ctx, func() ([]byte, error) { return readWhole(i.files[in.n], stdin) })
		}
	case len(args) > 0:
		in.one = "message"
		in.read = func() ([]byte, error) {
			if in.n == len(args) {
				return nil, io.EOF
			}
			return []byte(args[in.n]), nil
		}
	case i.sendOn == "eof":
		in.one = "message"
		in.read = func() ([]byte, error) {
			if in.n == 1 {
				return nil, io.EOF
			}
			return apartFrom(ctx, func() ([]byte, error) { return readAll(stdin) })
		}
	default:
		in.one = "line"
		most := maxMessage
		if i.json {
			most = maxJSON
		}
		in.read = readAhead(ctx, stdin, most)
	}
	return in
}

// An input gives the texts of messages, one by one.
type input struct {
	one  string // what one is called
	n    int    // that were read
	read func() ([]byte, error)
}

// next returns io.EOF after the last, and the cause of ctx when that has ended.
func (in *input) next(ctx context.Context) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	text, err := in.read()
	if errors.Is(err, io.EOF) || ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil, err
	}
	in.n++
	if err != nil {
		return nil, failed(fmt.Errorf("%s: %w", in.where(), err))
	}
	return text, nil
}

// where names what was read last.
func (in *input) where() string { return fmt.Sprintf("%s %d", in.one, in.n) }

var errTooLong = errors.New("a broker takes no more")

func tooLong(most int) error { return fmt.Errorf("it has more than %d bytes; %w", most, errTooLong) }

// readWhole reads a file that is one message.
func readWhole(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return readAll(stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err == nil && len(text) > maxMessage {
		return nil, tooLong(maxMessage)
	}
	return text, err
}

// apartFrom reads on a goroutine of its own, like readAhead.
func apartFrom(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// readLine reads up to the next end of a line, which is left out; nothing else
// is. The last line need not have one.
func readLine(r *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		if line == nil && !full {
			line = bytes.Clone(part)
		} else {
			line = append(line, part...)
		}
		if len(line) > most+1 || len(line) == most+1 && line[most] != '\n' {
			return nil, tooLong(most)
		}
		switch {
		case full:
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		default:
			return nil, err
		}
	}
}

// readAhead reads lines on a goroutine of its own: a read of a terminal cannot be
// interrupted, the wait for it can. That goroutine ends with the input, or with
// the process.
func readAhead(ctx context.Context, stdin io.Reader, most int) func() ([]byte, error) {
	type read struct {
		line []byte
		err  error
	}
	const ahead = 64 // lines
	lines := make(chan read, ahead)
	go func() {
		r := bufio.NewReaderSize(stdin, 64<<10)
		for {
			line, err := readLine(r, most)
			select {
			case lines <- read{line, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return func() ([]byte, error) {
		select {
		case l := <-lines:
			return l.line, l.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
