// Command gmq puts a load of GMQ requests on a broker and prints what it measured as
// one JSON object. Its requests are written out here, apart from the broker's codec.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// answerWithin bounds the wait for one answer.
const answerWithin = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "gmq:", err)
		os.Exit(1)
	}
}

// A load is what is asked for.
type load struct {
	addr    string
	take    bool
	each    bool // a new connection for each request, as the origin's client has it
	window  int  // requests under way on the one connection
	lasting time.Duration
	request []byte // without the newline
}

// A report is what was measured.
type report struct {
	Requests int     `json:"requests"`
	PerS     float64 `json:"per_s"`
	P50      float64 `json:"p50_ms"` // from the write of a request to its answer
	P99      float64 `json:"p99_ms"`
}

func run(ctx context.Context) error {
	var l load
	var user, queue string
	var size int
	flag.StringVar(&l.addr, "addr", "127.0.0.1:4567", "the broker's `address`")
	flag.StringVar(&user, "user", "guest", "user, and the password")
	flag.StringVar(&queue, "queue", "load-0", "the queue's name")
	flag.IntVar(&size, "size", 100, "`bytes` of a payload")
	flag.BoolVar(&l.take, "take", false, "take messages; without it they are published")
	flag.BoolVar(&l.each, "each", false, "a new connection for each request")
	flag.IntVar(&l.window, "window", 1, "requests under way on one connection")
	flag.DurationVar(&l.lasting, "for", 5*time.Second, "how long to measure")
	flag.Parse()
	if flag.NArg() > 0 || l.window < 1 || size < 1 {
		return errors.New("unexpected arguments; see -h")
	}
	// A token, as the origin's client makes it: the text and the hash of nothing.
	token := hex.EncodeToString(sha512.New().Sum([]byte(user)))
	operation, payload := "P", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xa5}, size))
	if l.take {
		operation, payload = "S", ""
	}
	l.request = fmt.Appendf(nil, `{"operation":%q,"queue":%q,"payload":%q,"confirmation":"","error":null,"auth":{"user":%q,"password":%q}}`,
		operation, queue, payload, token, token)
	var r report
	var err error
	if l.each {
		r, err = l.perConnection(ctx)
	} else {
		r, err = l.oneConnection(ctx)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// check looks at one answer.
func (l *load) check(answer []byte) error {
	var a struct {
		Payload      string `json:"payload"`
		Confirmation string `json:"confirmation"`
		Text         string `json:"error_text"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return fmt.Errorf("the answer %.200q: %w", answer, err)
	}
	switch {
	case a.Confirmation != "Y":
		return fmt.Errorf("refused: %.200q", answer)
	case l.take && a.Payload == "":
		return errors.New("the queue has run empty")
	}
	return nil
}

// perConnection makes a connection for each request, which ends with its answer.
func (l *load) perConnection(ctx context.Context) (r report, err error) {
	var took []time.Duration
	began := time.Now()
	for time.Since(began) < l.lasting && ctx.Err() == nil {
		at := time.Now()
		conn, err := net.DialTimeout("tcp", l.addr, answerWithin)
		if err != nil {
			return r, err
		}
		_ = conn.SetDeadline(at.Add(answerWithin))
		_, err = conn.Write(l.request)
		var answer []byte
		if err == nil {
			answer, err = io.ReadAll(conn)
		}
		conn.Close()
		if err == nil {
			err = l.check(answer)
		}
		if err != nil {
			return r, err
		}
		took = append(took, time.Since(at))
	}
	return measured(took, time.Since(began)), context.Cause(ctx)
}

// oneConnection keeps a window of requests under way.
func (l *load) oneConnection(ctx context.Context) (r report, err error) {
	conn, err := net.DialTimeout("tcp", l.addr, answerWithin)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	line := append(slices.Clone(l.request), '\n')
	in := bufio.NewReaderSize(conn, 64<<10)
	var took []time.Duration
	var sent []time.Time // of what is under way
	began := time.Now()
	for time.Since(began) < l.lasting && ctx.Err() == nil {
		if len(sent) <= l.window/2 {
			at := time.Now()
			_ = conn.SetDeadline(at.Add(answerWithin))
			n := l.window - len(sent)
			if _, err := conn.Write(bytes.Repeat(line, n)); err != nil {
				return r, err
			}
			sent = append(sent, slices.Repeat([]time.Time{at}, n)...)
		}
		answer, err := in.ReadSlice('\n')
		if err == nil {
			err = l.check(answer)
		}
		if err != nil {
			return r, err
		}
		took = append(took, time.Since(sent[0]))
		sent = sent[1:]
	}
	return measured(took, time.Since(began)), context.Cause(ctx)
}

func measured(took []time.Duration, elapsed time.Duration) report {
	r := report{Requests: len(took), PerS: float64(len(took)) / elapsed.Seconds()}
	if len(took) > 0 {
		slices.Sort(took)
		r.P50 = took[len(took)/2].Seconds() * 1e3
		r.P99 = took[len(took)*99/100].Seconds() * 1e3
	}
	return r
}
