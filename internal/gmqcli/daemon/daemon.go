// Package daemon is the command line of gmqserver: GMQ's configuration for
// Ferry's broker.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/ferrymq/ferry/internal/app"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// defaultFile is where GMQ's server looks for its configuration.
const defaultFile = "/etc/gmq/gmq.json"

// readyText is what is printed when clients are served, as by ferry serve. Scripts
// wait for it.
const readyText = "Server startup complete"

// standbyText is printed when another server with the same database serves.
const standbyText = "Standby"

// logPrefix begins each line of the log, as in GMQ.
const logPrefix = "[GMQ Server] "

// off switches a listener off.
const off = "off"

// System is what the command needs of the process it runs in.
type System struct {
	Args           []string // without the program's name
	Stdout, Stderr io.Writer
}

// Main runs the server until SIGTERM or SIGINT and returns the process's exit code.
// A second signal ends the process.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	return Run(ctx, System{Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr})
}

// settings are what the flags say.
type settings struct {
	file              string
	amqp, stomp, http string
	cert, key, ca     string
	lease             time.Duration
	standby           string
	noTokens          bool
}

func (s *settings) flags(stderr io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("gmqserver", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.file, "f", defaultFile, "configuration file")
	f.StringVar(&s.amqp, "amqp", off, "also serve AMQP 0-9-1 at this address, such as :5672")
	f.StringVar(&s.stomp, "stomp", off, "also serve STOMP at this address, such as :61613")
	f.StringVar(&s.http, "http", off, "also answer /livez and /readyz at this address, such as :15672")
	f.StringVar(&s.cert, "tls-cert", "", "certificate (PEM): TLS is served too")
	f.StringVar(&s.key, "tls-key", "", "its private key (PEM)")
	f.StringVar(&s.ca, "tls-ca", "", "authorities (PEM): who connects with TLS must show a certificate of theirs")
	f.DurationVar(&s.lease, "lease", app.DefaultLease, "of servers with the same database: how long one that is silent keeps it")
	f.StringVar(&s.standby, "standby", app.StandbyRefuse, "what a server that stands by does with clients: refuse or proxy")
	f.BoolVar(&s.noTokens, "no-tokens", false, "refuse GMQ's tokens, from which everybody can read the password")
	f.Usage = func() {
		fmt.Fprintf(stderr, `gmqserver serves GMQ's clients, configured as GMQ's server is:

  gmqserver -f /etc/gmq/gmq.json

It logs where the configuration says, else to standard output, and prints
"%s" with its listeners when it is ready. It ends in good order with
SIGTERM or SIGINT.

`, readyText)
		f.PrintDefaults()
	}
	return f
}

// Run runs the server until ctx ends, and returns its exit code.
func Run(ctx context.Context, sys System) int {
	var s settings
	f := s.flags(sys.Stderr)
	switch err := f.Parse(sys.Args); {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		return exitUsage // which was told
	case f.NArg() > 0:
		fmt.Fprintf(sys.Stderr, "gmqserver: unexpected %q: the configuration is given with -f\n", f.Arg(0))
		return exitUsage
	}
	fatal := log.New(sys.Stderr, logPrefix, log.LstdFlags)
	file, notes, err := readConfig(s.file)
	cfg := app.Config{}
	if err == nil {
		err = errors.Join(file.apply(&cfg), s.apply(&cfg))
	}
	if err != nil {
		fatal.Printf("Could not start server: configuration error\n%v", err)
		return exitFailed
	}
	to, closeLog := openLog(file.logFile(), sys.Stdout, fatal)
	defer closeLog()
	logger := log.New(to, logPrefix, log.LstdFlags)
	cfg.Logger = slog.New(slog.NewTextHandler(lines{logger}, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	for _, note := range notes {
		logger.Print(note)
	}
	told := app.Told{Ready: announce(readyText, logger, to, sys.Stdout), Standby: announce(standbyText, logger, to, sys.Stdout)}
	if err := app.RunTelling(ctx, cfg, told); err != nil {
		fatal.Printf("Server stopped: %v", err)
		return exitFailed
	}
	return exitDone
}

// apply puts what the flags say into the configuration of the broker.
func (s *settings) apply(to *app.Config) error {
	var faults []error
	if (s.cert == "") != (s.key == "") {
		faults = append(faults, errors.New("-tls-cert and -tls-key go together, and only one of them is given"))
	}
	if s.ca != "" && s.cert == "" {
		faults = append(faults, errors.New("-tls-ca is about TLS, which needs -tls-cert and -tls-key"))
	}
	if s.standby != app.StandbyRefuse && s.standby != app.StandbyProxy {
		faults = append(faults, fmt.Errorf("-standby %s: there are %s and %s", s.standby, app.StandbyRefuse, app.StandbyProxy))
	}
	if s.lease < app.LeaseLeast {
		faults = append(faults, fmt.Errorf("-lease %v: it is at least %v", s.lease, app.LeaseLeast))
	}
	to.TLSCert, to.TLSKey, to.TLSCA = s.cert, s.key, s.ca
	to.Standby, to.Lease = s.standby, s.lease
	to.GMQNoTokens = s.noTokens
	to.AMQP, to.STOMP, to.HTTP = unlessOff(s.amqp), unlessOff(s.stomp), unlessOff(s.http)
	to.MemoryLimit, to.DiskFreeLimit = app.DefaultMemoryLimit, app.DefaultDiskFreeLimit
	to.Version = version()
	return errors.Join(faults...)
}

func unlessOff(address string) string {
	if address == off {
		return ""
	}
	return address
}

// version is what the Go tool wrote into the program.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// openLog opens the file of the log. Without one, and where it cannot be opened,
// the log goes to standard output, as in GMQ.
func openLog(name string, stdout io.Writer, fatal *log.Logger) (to io.Writer, closeLog func()) {
	if name == "" {
		return stdout, func() {}
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o660)
	if err != nil {
		fatal.Printf("Defaulting log to STDOUT because log file is not configured or is unaccessible: %v", err)
		return stdout, func() {}
	}
	return f, func() { _ = f.Close() }
}

// announce returns what says how the server stands, and its listeners, in the log
// and on standard output.
func announce(how string, logger *log.Logger, to, stdout io.Writer) func([]app.Address) {
	return func(addresses []app.Address) {
		var parts []string
		for _, a := range addresses {
			parts = append(parts, a.Name+" "+a.Addr)
		}
		line := strings.TrimSpace(how + ": " + strings.Join(parts, ", "))
		logger.Print(line)
		if to != stdout {
			fmt.Fprintln(stdout, line)
		}
	}
}

// lines writes each line of a structured log as one of the logger's.
type lines struct{ *log.Logger }

// Write implements io.Writer.
func (l lines) Write(p []byte) (int, error) {
	l.Print(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// withoutTime leaves the time to the logger.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}
