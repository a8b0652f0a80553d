package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ferrymq/ferry/internal/app"
)

const (
	// adminDefault is where a broker on this machine is administrated.
	adminDefault = "http://guest:guest@localhost:15672"
	// adminTimeout is for a broker to answer.
	adminTimeout = 10 * time.Second
	// adminImport is that for definitions, of which there may be many.
	adminImport = 10 * time.Minute
	// adminAnswer is how much of an answer is read, bytes.
	adminAnswer = 256 << 20
	// adminPage is how many items are asked for at once: the most that a broker
	// gives.
	adminPage = 500
)

func adminFlag(flags *pflag.FlagSet, at *string) {
	flags.StringVar(at, "admin", adminDefault, "the HTTP listener of a broker, with user and password; other users of the machine do not see them in $FERRY_ADMIN: `URL`")
}

// admin acts on a running broker by RabbitMQ's management API, which Ferry's HTTP
// listener has: the commands work on a RabbitMQ too.
type admin struct {
	at      *url.URL
	timeout time.Duration // 0: adminTimeout
}

// adminURL takes the URL of a broker's HTTP listener apart. A user that it does not
// name is guest.
func adminURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		// The error of package url shows all of it.
		return nil, errors.New("this is not a URL; write http://USER:PASSWORD@HOST:15672")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%q is not the URL of an HTTP listener; write http://USER:PASSWORD@HOST:15672", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q has something behind its path", u.Redacted())
	}
	if u.User == nil {
		u.User = url.UserPassword(app.DefaultUser, app.DefaultUser)
	}
	return u, nil
}

// apiPath is a path of the API: each part behind the first is a name.
func apiPath(kind string, names ...string) string {
	p := "/api/" + kind
	for _, n := range names {
		p += "/" + url.PathEscape(n)
	}
	return p
}

// errStatus is an answer that is none of those that were hoped for.
type errStatus struct {
	code int
	text string
}

func (e *errStatus) Error() string { return e.text }

// get asks for something, which is JSON.
func (a *admin) get(ctx context.Context, path string, into any) error {
	body, err := a.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return failed(fmt.Errorf("what is at %s does not answer like a broker of Ferry's: %w", a.shown(), err))
	}
	return nil
}

func (a *admin) shown() string { return a.at.Scheme + "://" + a.at.Host }

// do asks for something to be done. A body that is not bytes is sent as JSON. The
// error is a failure; of an answer that refuses it wraps an *errStatus.
func (a *admin) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	limit := a.timeout
	if limit == 0 {
		limit = adminTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	send, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if send, err = json.Marshal(body); err != nil {
			return nil, failed(err)
		}
	}
	target := a.shown() + strings.TrimRight(a.at.EscapedPath(), "/") + path
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(send))
	if err != nil {
		return nil, failed(err)
	}
	password, _ := a.at.User.Password()
	request.SetBasicAuth(a.at.User.Username(), password)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		} else if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, &failure{code: exitNoBroker, err: fmt.Errorf("no broker answers at %s: %w", a.shown(), err)}
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, adminAnswer))
	if err != nil {
		return nil, &failure{code: exitNoBroker, err: fmt.Errorf("the broker at %s does not finish its answer: %w", a.shown(), err)}
	}
	if response.StatusCode < http.StatusMultipleChoices {
		return answer, nil
	}
	refusal := &errStatus{code: response.StatusCode}
	code := exitRefused
	switch response.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		refusal.text = fmt.Sprintf("the broker at %s refuses the user %q%s", a.shown(), a.at.User.Username(), reasonIn(answer))
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge:
		refusal.text = fmt.Sprintf("the broker at %s refuses it%s", a.shown(), reasonIn(answer))
	default:
		code = exitFailed
		refusal.text = fmt.Sprintf("the broker at %s answers %s%s", a.shown(), printable(response.Status), reasonIn(answer))
	}
	return nil, &failure{code: code, err: refusal}
}

// absent makes an answer of 404 say what is not there.
func absent(err error, format string, args ...any) error {
	if s := (*errStatus)(nil); errors.As(err, &s) && s.code == http.StatusNotFound {
		return failed(fmt.Errorf(format, args...))
	}
	return err
}

// reasonIn is why a broker refuses something, from its answer, as the end of a
// sentence.
func reasonIn(body []byte) string {
	var said struct{ Reason any }
	if json.Unmarshal(body, &said) != nil {
		return ""
	}
	switch r := said.Reason.(type) {
	case nil:
		return ""
	case string:
		if r = strings.Join(strings.Fields(r), " "); r == "" {
			return ""
		}
		return ": " + printable(r)
	case []any:
		var items strings.Builder
		for _, item := range r {
			items.WriteString("\n  " + printable(fmt.Sprint(item)))
		}
		return ":" + items.String()
	default:
		text, _ := json.Marshal(r) // it came as JSON
		return ": " + printable(string(text))
	}
}

// pages asks for all items of a list, a page at a time, and visits each.
func pages[T any](ctx context.Context, a *admin, path string, query url.Values, visit func(T) error) error {
	for page := 1; ; page++ {
		q := url.Values{"page": {fmt.Sprint(page)}, "page_size": {fmt.Sprint(adminPage)}}
		for k, v := range query {
			q[k] = v
		}
		var got struct {
			Items     []T `json:"items"`
			PageCount int `json:"page_count"`
		}
		if err := a.get(ctx, path+"?"+q.Encode(), &got); err != nil {
			return err
		}
		for _, item := range got.Items {
			if err := visit(item); err != nil {
				return err
			}
		}
		if page >= got.PageCount {
			return nil
		}
	}
}

// adminCommand is what the commands that act on a running broker share.
type adminCommand struct {
	sys    System
	at     string
	vhost  string
	asJSON bool
}

func (c *adminCommand) flags(flags *pflag.FlagSet, vhost bool) {
	adminFlag(flags, &c.at)
	if vhost {
		flags.StringVar(&c.vhost, "vhost", "/", "the virtual host: `NAME`")
	}
	flags.BoolVar(&c.asJSON, "json", false, "print one JSON object a line")
}

func (c *adminCommand) admin() (*admin, error) {
	u, err := adminURL(c.at)
	if err != nil {
		return nil, fmt.Errorf("--admin: %w", err)
	}
	return &admin{at: u}, nil
}

// said tells on the standard error what was done.
func (c *adminCommand) said(format string, args ...any) {
	fmt.Fprintf(c.sys.Stderr, format+"\n", args...)
}

// group is a command that does nothing but hold others.
func group(use, short, long, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			var names []string
			for _, c := range cmd.Commands() {
				names = append(names, c.Name())
			}
			return fmt.Errorf("there is no %q of %s; there are %s%s", args[0], cmd.CommandPath(), strings.Join(names, ", "), suggestion(args[0], names, "%s"))
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// A table prints rows of texts that line up, or as JSON the objects that they were
// made of.
type table struct {
	w      *tabwriter.Writer
	out    io.Writer
	asJSON bool
}

func (c *adminCommand) table(headings ...string) *table {
	t := &table{out: c.sys.Stdout, asJSON: c.asJSON}
	if !t.asJSON {
		t.w = tabwriter.NewWriter(c.sys.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t.w, strings.Join(headings, "\t"))
	}
	return t
}

// row prints an object, of which cells are what people look at.
func (t *table) row(object json.RawMessage, cells ...any) error {
	if t.asJSON {
		var line bytes.Buffer
		if err := json.Compact(&line, object); err != nil {
			return failed(err)
		}
		line.WriteByte('\n')
		_, err := io.WriteString(t.out, escaped(line.String()))
		return failed(err)
	}
	texts := make([]string, len(cells))
	for i, cell := range cells {
		texts[i] = printable(fmt.Sprint(cell))
		if texts[i] == "" {
			texts[i] = "-"
		}
	}
	_, err := fmt.Fprintln(t.w, strings.Join(texts, "\t"))
	return failed(err)
}

func (t *table) end() error {
	if t.asJSON {
		return nil
	}
	return failed(t.w.Flush())
}

// list prints all of a list that comes at once: cells makes a row of an item.
func list[T any](ctx context.Context, c *adminCommand, path string, headings []string, cells func(T) []any) error {
	a, err := c.admin()
	if err != nil {
		return err
	}
	var items []json.RawMessage
	if err := a.get(ctx, path, &items); err != nil {
		return err
	}
	t := c.table(headings...)
	for _, raw := range items {
		var item T
		if err := json.Unmarshal(raw, &item); err != nil {
			return failed(fmt.Errorf("the broker's answer: %w", err))
		}
		if err := t.row(raw, cells(item)...); err != nil {
			return err
		}
	}
	return t.end()
}

// arguments reads K=V as the arguments of a declaration: a value that is JSON is
// that, any other a text.
func arguments(list []string) (map[string]any, error) {
	args := map[string]any{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is no argument; write NAME=VALUE, such as x-message-ttl=60000", text)
		}
		decoder := json.NewDecoder(strings.NewReader(value))
		decoder.UseNumber()
		var v any
		if err := decoder.Decode(&v); err != nil || decoder.More() {
			v = value
		}
		args[name] = v
	}
	return args, nil
}

// escaped escapes what JSON lets through and a terminal would obey, such as the
// controls above 127.
func escaped(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// printable leaves out of another program's text what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

// readInput reads a file, or, called -, the standard input, of at most so many bytes.
func readInput(sys System, name string, most int64) ([]byte, error) {
	in := sys.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, most)
	}
	return text, nil
}
