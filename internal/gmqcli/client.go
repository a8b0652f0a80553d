// Package gmqcli is the command line of gmqclient: GMQ's flags, and what is said
// to people.
package gmqcli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/ferrymq/ferry/internal/wire/gmqwire"
)

// Exit codes. A request that is not confirmed is none of them, as in GMQ, unless
// -check is given.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const (
	defaultServer  = "localhost:4567" // GMQ's
	defaultPort    = "4567"
	defaultUser    = "guest" // Ferry's first user, and its password
	defaultTimeout = 30 * time.Second

	// replyMost is the largest reply that is read, bytes: the largest message, in
	// base64, and more.
	replyMost = 64 << 20
	// firstMost is the largest request that a server takes from whom it does not know
	// yet, bytes.
	firstMost = 64 << 10
)

// System is what the command needs of the process it runs in.
type System struct {
	Args           []string // without the program's name
	Stdout, Stderr io.Writer
}

// Main runs the command and returns the process's exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, System{Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr})
}

// settings are what the flags say.
type settings struct {
	user, password    string
	action, queue     string
	payload           string
	protocol, server  string
	logFile, output   string
	tls, check, plain bool
	ca                string
	timeout           time.Duration
}

func (s *settings) flags(stderr io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("gmqclient", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.user, "user", defaultUser, "user to authenticate as")
	f.StringVar(&s.password, "password", defaultUser, "its password")
	f.StringVar(&s.action, "a", "", "action: P publishes, S takes the first message, L tells how many there are")
	f.StringVar(&s.queue, "q", "", "name of the queue")
	f.StringVar(&s.payload, "m", "", "message to publish, in base64")
	f.StringVar(&s.protocol, "p", "tcp", "tcp, tcp4 or tcp6")
	f.StringVar(&s.server, "s", defaultServer, "server, HOST:PORT; without a port "+defaultPort+" is taken")
	f.StringVar(&s.logFile, "l", "", "file to append errors to (default: standard error)")
	f.StringVar(&s.output, "o", "", "file to write the reply to (default: standard output)")
	f.BoolVar(&s.tls, "tls", false, "encrypt the connection, and verify the server's certificate")
	f.StringVar(&s.ca, "ca", "", "file of the authorities to trust (PEM), instead of the system's; means -tls")
	f.DurationVar(&s.timeout, "timeout", defaultTimeout, "how long everything may take; 0 is for ever")
	f.BoolVar(&s.check, "check", false, "exit with 1 when the server does not confirm")
	f.BoolVar(&s.plain, "decode", false, "write the payload of the reply, decoded, instead of the reply")
	f.Usage = func() {
		fmt.Fprintf(stderr, `gmqclient publishes a message to a queue of a GMQ server, or takes one.

  gmqclient -s HOST:4567 -q QUEUE -a P -m "$(base64 -w0 FILE)"
  gmqclient -s HOST:4567 -q QUEUE -a S

The server's reply, in JSON, is written as it comes. What goes wrong is said on
standard error.

`)
		f.PrintDefaults()
	}
	return f
}

// Run runs the command until it is done or ctx ends, and returns its exit code.
func Run(ctx context.Context, sys System) int {
	var s settings
	f := s.flags(sys.Stderr)
	switch err := f.Parse(sys.Args); {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		return exitUsage // which was told
	}
	to := sys.Stderr
	if s.logFile != "" {
		file, err := os.OpenFile(s.logFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o660)
		if err != nil {
			fmt.Fprintf(sys.Stderr, "gmqclient: the log goes here: %v\n", err)
		} else {
			defer func() { _ = file.Close() }()
			to = file
		}
	}
	logger := log.New(to, "[GMQ Client] ", log.LstdFlags)
	if err := s.complete(f.Args()); err != nil {
		logger.Println(err)
		return exitFailed
	}
	confirmed, err := s.run(ctx, sys.Stdout, logger)
	if err != nil {
		logger.Println(err)
		return exitFailed
	}
	if !confirmed && s.check {
		return exitFailed
	}
	return exitDone
}

// complete says what is missing, in GMQ's words.
func (s *settings) complete(rest []string) error {
	switch {
	case s.user == "":
		return errors.New("User cannot be null! Set -user") //nolint:staticcheck // GMQ's words
	case s.password == "":
		return errors.New("Password cannot be null! Set -password") //nolint:staticcheck // GMQ's words
	case s.action == "":
		return errors.New("Action cannot be null! Set -a") //nolint:staticcheck // GMQ's words
	case s.queue == "":
		return errors.New("Queue name cannot be null! Set -q") //nolint:staticcheck // GMQ's words
	case len(rest) > 0:
		return fmt.Errorf("unexpected %q: a message is given with -m", rest[0])
	case s.protocol != "tcp" && s.protocol != "tcp4" && s.protocol != "tcp6":
		return fmt.Errorf("-p %s: there are tcp, tcp4 and tcp6", s.protocol)
	}
	if _, _, err := net.SplitHostPort(s.server); err != nil {
		s.server = net.JoinHostPort(s.server, defaultPort)
	}
	s.tls = s.tls || s.ca != ""
	return nil
}

// run asks the server and writes what it says.
func (s *settings) run(ctx context.Context, stdout io.Writer, logger *log.Logger) (confirmed bool, err error) {
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("it took longer than %v, see -timeout", s.timeout))
		defer cancel()
	}
	text, err := s.ask(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return false, fmt.Errorf("Error in call to server %s: %w", s.server, err) //nolint:staticcheck // GMQ's words
	}
	var reply gmqwire.Reply
	wrong := parseReply(text, &reply)
	out := text
	if wrong == nil && s.plain {
		if out, err = base64.StdEncoding.AppendDecode(nil, reply.Payload); err != nil {
			out = reply.Payload // that of L is a number
		}
	}
	if err := s.write(stdout, out); err != nil {
		return false, fmt.Errorf("write the reply: %w", err)
	}
	switch {
	case wrong != nil:
		return false, fmt.Errorf("the server's reply is not GMQ's: %w", wrong)
	case reply.Confirmed:
		return true, nil
	case reply.ErrorText == "":
		reply.ErrorText = "it does not say why"
	}
	logger.Printf("the server has not confirmed: %s", printable(reply.ErrorText))
	return false, nil
}

// printable leaves out of the server's text what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

func parseReply(text []byte, r *gmqwire.Reply) error {
	text = text[gmqwire.Blank(text):]
	if len(text) == 0 {
		return errors.New("it is empty; it may want TLS, or speak something else")
	}
	var s gmqwire.Scanner
	n, err := s.Scan(text)
	if err != nil {
		return err
	}
	if n == 0 {
		return io.ErrUnexpectedEOF
	}
	return gmqwire.ParseReply(text[:n], r)
}

func (s *settings) write(stdout io.Writer, text []byte) error {
	if s.output == "" {
		_, err := stdout.Write(text)
		return err
	}
	return os.WriteFile(s.output, text, 0o660)
}

// ask sends the request, and returns what the server writes until it closes.
func (s *settings) ask(ctx context.Context) ([]byte, error) {
	nc, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = nc.Close() }()
	defer context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })()
	r := gmqwire.Request{
		Operation: s.action, Queue: s.queue, Payload: []byte(s.payload),
		User: gmqwire.Token(s.user), Password: gmqwire.Token(s.password),
	}
	request := gmqwire.AppendRequest(nil, &r)
	if len(request) > firstMost {
		if refused, err := login(nc, r); err != nil || refused != nil {
			return refused, err
		}
	}
	// What was said before a write failed is of more use than the failure.
	_, failed := nc.Write(request)
	text, err := io.ReadAll(io.LimitReader(nc, replyMost))
	if len(text) == 0 {
		return nil, errors.Join(failed, err)
	}
	return text, nil
}

// login lets the server know who asks, before a request that it would not take from
// somebody unknown. What it says when it refuses is returned.
func login(nc net.Conn, r gmqwire.Request) (refused []byte, err error) {
	r = gmqwire.Request{Operation: gmqwire.Sync, User: r.User, Password: r.Password}
	if _, err := nc.Write(append(gmqwire.AppendRequest(nil, &r), '\n')); err != nil {
		return nil, err
	}
	var text []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(text, []byte{'\n'}) { // no more than it: the next reply is behind it
		if _, err := nc.Read(one); err != nil {
			if len(text) > 0 && errors.Is(err, io.EOF) {
				return text, nil
			}
			return nil, err
		}
		if text = append(text, one...); len(text) > firstMost {
			return nil, errors.New("the server does not answer as GMQ's or Ferry's does")
		}
	}
	var reply gmqwire.Reply
	if err := parseReply(text, &reply); err != nil || !reply.Confirmed {
		return text, nil
	}
	return nil, nil
}

func (s *settings) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{}
	if !s.tls {
		return d.DialContext(ctx, s.protocol, s.server)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, fmt.Errorf("-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("-ca: there is no certificate in %s", s.ca)
		}
	}
	return (&tls.Dialer{NetDialer: &d, Config: config}).DialContext(ctx, s.protocol, s.server)
}
