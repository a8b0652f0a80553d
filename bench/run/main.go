// Command run measures Ferry beside RabbitMQ and prints a table of what it must
// reach and what it reaches. It is what `make bench` runs; see the README of
// this module.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// exitMissed says that everything was measured and something is not reached.
const exitMissed = 5

var errMissed = errors.New("some targets are missed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A reader of our output that went away must not keep us from cleaning up:
	// with this a write to it fails, and that is all.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	err := run(ctx)
	stop()
	switch {
	case errors.Is(err, errMissed):
		os.Exit(exitMissed)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	runs       int
	seconds    float64
	only       string
	short      bool
	json       string
	profile    string
	brokers    string
	ferry      string
	root       string
	dir        string
	strict     bool
	listShapes bool
	timeout    time.Duration
}

func run(ctx context.Context) error {
	var o options
	flag.IntVar(&o.runs, "runs", 3, "runs of each shape on each broker, of which the median counts")
	flag.Float64Var(&o.seconds, "seconds", 5, "how long each run measures")
	flag.StringVar(&o.only, "only", "", "only the shapes whose name or durability matches the `regexp`")
	flag.BoolVar(&o.short, "short", false, "smaller and once: to see that everything works, not for the figures")
	flag.StringVar(&o.json, "json", "", "also write the table, with every run, to the `file`")
	flag.StringVar(&o.profile, "profile", "", "also save CPU and allocation profiles of Ferry in the `directory`, and print their top")
	flag.StringVar(&o.brokers, "brokers", "ferry,rabbitmq,artemis", "the brokers to measure: ferry, rabbitmq, artemis")
	flag.StringVar(&o.ferry, "ferry", "", "the ferry `binary` (default: built from this repository)")
	flag.StringVar(&o.root, "root", "..", "the repository's root")
	flag.StringVar(&o.dir, "dir", "", "where the brokers keep their data; a real disk (default: the system's temporary directory)")
	flag.BoolVar(&o.strict, "strict", false, fmt.Sprintf("exit with %d if a target is missed", exitMissed))
	flag.BoolVar(&o.listShapes, "list", false, "list the shapes and their targets, and measure nothing")
	flag.DurationVar(&o.timeout, "timeout", time.Hour, "give up after this")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	only, err := regexp.Compile("(?i)" + o.only)
	if err != nil {
		return err
	}
	size := fullSizes
	if o.short {
		size = shortSizes
		o.runs, o.seconds = 1, min(o.seconds, 1)
	}
	todo := slices.DeleteFunc(slices.Concat(shapes(size), clientShapes(size), stompShapes(size), databaseShapes(size), gmqShapes(size)), func(s shape) bool {
		return !only.MatchString(s.name) && !only.MatchString(s.mode)
	})
	if len(todo) == 0 {
		return fmt.Errorf("no shape matches %q", o.only)
	}
	if o.listShapes {
		var rows []row
		for _, s := range todo {
			rows = append(rows, judge(s, nil, nil)...)
		}
		return printTables(os.Stdout, rows)
	}

	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not done after %v", o.timeout))
	defer cancel()
	tmp, err := os.MkdirTemp(o.dir, "ferry-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	warn(tmp)

	b := &bench{tmp: tmp, seconds: o.seconds, load: filepath.Join(tmp, "load"), client: filepath.Join(tmp, "client"), gmq: filepath.Join(tmp, "gmq")}
	if b.databases, err = filepath.Abs(filepath.Join(o.root, "scripts", "database")); err != nil {
		return err
	}
	for _, program := range []string{"load", "client", "gmq"} {
		if err := build(ctx, filepath.Join(o.root, "bench"), filepath.Join(tmp, program), "./"+program); err != nil {
			return err
		}
	}
	for name := range strings.SplitSeq(o.brokers, ",") {
		switch name {
		case "ferry":
			if o.ferry == "" {
				o.ferry = filepath.Join(tmp, "ferry")
				if err := build(ctx, o.root, o.ferry, "./cmd/ferry"); err != nil {
					return err
				}
			} else if o.ferry, err = filepath.Abs(o.ferry); err != nil {
				return err
			}
			b.ferry = ferry{binary: o.ferry}
			b.command = o.ferry
		case "rabbitmq", "artemis":
			script, err := filepath.Abs(filepath.Join(o.root, "scripts", name))
			if err != nil {
				return err
			}
			if name == "rabbitmq" {
				b.rabbit, b.plugin = scripted{script: script}, scripted{script, "--stomp"}
			} else {
				b.artemis = scripted{script: script}
			}
		default:
			return fmt.Errorf("there is no broker %q: ferry, rabbitmq, artemis", name)
		}
	}

	var (
		rows   []row
		failed []error
	)
	start := time.Now()
	for i, s := range todo {
		progress(start, "%d of %d: %s (%s)", i+1, len(todo), s.name, s.mode)
		got, err := b.shape(ctx, s, o.runs, start)
		rows = append(rows, got...)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s (%s): %w", s.name, s.mode, err))
			progress(start, "FAILED: %v", err)
		}
		if ctx.Err() != nil {
			failed = append(failed, context.Cause(ctx))
			break
		}
	}

	fmt.Printf("%s\n\n", about(o))
	if err := printTables(os.Stdout, rows); err != nil {
		return err
	}
	if o.json != "" {
		if err := writeJSON(o, rows, failed); err != nil {
			failed = append(failed, err)
		}
	}
	if o.profile != "" && b.ferry != nil {
		for _, s := range todo {
			if s.measure != nil || ctx.Err() != nil {
				continue
			}
			progress(start, "profile: %s (%s)", s.name, s.mode)
			if err := b.profile(ctx, s, o.profile, o.ferry, os.Stdout); err != nil {
				failed = append(failed, fmt.Errorf("profile of %s (%s): %w", s.name, s.mode, err))
			}
		}
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	if o.strict && slices.ContainsFunc(rows, func(r row) bool { return r.Verdict == missed || r.Verdict == unknown }) {
		return errMissed
	}
	return nil
}

// shape measures one shape on both brokers in alternation, each run on a broker
// that was started for it. Rows are returned of what was measured, also with an
// error.
func (b *bench) shape(ctx context.Context, s shape, runs int, start time.Time) ([]row, error) {
	measure := s.measure
	if measure == nil {
		measure = plain(s.load)
	}
	rabbitRuns, ferryRuns := runs, runs
	if s.rabbitRuns >= 0 {
		rabbitRuns = min(runs, s.rabbitRuns)
	}
	if s.ferryOnce {
		ferryRuns = 1
	}
	var theirs, mine []figures
	var failed []error
	missing := false
	one := func(name string, br broker, into *[]figures) {
		if ctx.Err() != nil || br == nil {
			return
		}
		f, err := measure(ctx, b, br)
		if len(f) > 0 {
			*into = append(*into, f)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
		missing = missing || errors.Is(err, errMissing)
		progress(start, "  %-18s %s", name, summary(s, f))
	}
	v := s.versus
	if v == (versus{}) {
		v = brokers
	}
	other, ferry := b.contenders(v)
	for i := range runs {
		if i < rabbitRuns && !missing { // said once; the rest goes without
			one(v.theirs, other, &theirs)
		}
		if i < ferryRuns {
			one(v.mine, ferry, &mine)
		}
	}
	return judge(s, theirs, mine), errors.Join(failed...)
}

// contenders are the two that are compared, nil if one is not to be measured.
func (b *bench) contenders(v versus) (theirs, mine broker) {
	if b.ferry == nil {
		if v == brokers {
			return b.rabbit, nil
		}
		return nil, nil
	}
	overSTOMP := ferry{binary: b.command, stomp: true}
	switch v {
	case clients:
		return client{b.ferry, v.theirs}, client{b.ferry, v.mine}
	case stompPlugin:
		return b.plugin, overSTOMP
	case stompArtemis:
		return b.artemis, overSTOMP
	case databases, requestsOf:
		return nil, b.ferry // what a shape needs beside it the shape starts
	case crossing:
		return sender{overSTOMP, false}, sender{overSTOMP, true}
	default:
		return b.rabbit, b.ferry
	}
}

func summary(s shape, f figures) string {
	var parts []string
	for _, t := range s.targets {
		if v, ok := f[t.figure]; ok {
			parts = append(parts, t.figure+" "+format(v, units[t.figure]))
		}
	}
	return strings.Join(parts, ", ")
}

func progress(start time.Time, text string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(text, args...))
}

func build(ctx context.Context, dir, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, said)
	}
	return nil
}

// tmpfsMagic is the file system type of memory that looks like a disk.
const tmpfsMagic = 0x01021994

// warn says what would make the figures worth less.
func warn(dir string) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err == nil && fs.Type == tmpfsMagic {
		fmt.Fprintf(os.Stderr, "bench: %s is in memory, where fsync costs nothing: give a disk with -dir\n", dir)
	}
	var busy float64
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if _, err := fmt.Sscan(string(b), &busy); err == nil && busy > 0.5 {
			fmt.Fprintf(os.Stderr, "bench: the machine is busy (load %.2f): the figures will be worse than they need be\n", busy)
		}
	}
}

// about is a line that says what was measured where.
func about(o options) string {
	cores := fmt.Sprintf("%d cores", runtime.NumCPU())
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`).FindSubmatch(b); m != nil {
			cores += " of " + string(m[1])
		}
	}
	parts := []string{time.Now().UTC().Format("2006-01-02 15:04 UTC"), cores}
	if out, err := exec.Command(o.ferry, "version").Output(); o.ferry != "" && err == nil {
		first, _, _ := strings.Cut(string(out), "\n")
		parts = append(parts, "Ferry: "+strings.TrimSpace(first))
	}
	if strings.Contains(o.brokers, "rabbitmq") {
		if out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server").Output(); err == nil {
			parts = append(parts, "RabbitMQ "+string(out))
		}
	}
	parts = append(parts, fmt.Sprintf("median of %d, %g s each", o.runs, o.seconds))
	if o.short {
		parts = append(parts, "SHORT: smaller than the targets are meant for")
	}
	return strings.Join(parts, "; ")
}

func writeJSON(o options, rows []row, failed []error) error {
	said := []string{}
	for _, err := range failed {
		said = append(said, err.Error())
	}
	b, err := json.MarshalIndent(map[string]any{
		"about": about(o), "short": o.short, "rows": rows, "failed": said,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(b, '\n'), 0o644)
}
