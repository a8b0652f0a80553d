package cli

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/file"
)

// people is a printer for reading.
type people struct {
	w      io.Writer
	queues map[uint64]string // names, of the numbers that were met
}

func (o *people) line(depth int, format string, args ...any) error {
	_, err := fmt.Fprintf(o.w, strings.Repeat("  ", depth)+format+"\n", args...)
	return err
}

func (o *people) segment(p *file.Part) error {
	err := o.line(0, "segment %d  %s, %d bytes, from position %d, epoch before it %d, checkpoint before it %d",
		p.Batch.Segment, filepath.Base(p.File), p.Size, p.Batch.Position, p.Batch.Epoch, p.Batch.Checkpoint)
	if err == nil && p.Damage != "" {
		err = o.line(1, "DAMAGED: %s", p.Damage)
	}
	return err
}

func (o *people) part(p *file.Part) error {
	switch p.Kind {
	case "batch":
		note := ""
		if p.Superseded {
			note = ", superseded: it does not count"
		}
		if p.Damage != "" {
			note += ", DAMAGED: " + p.Damage
		}
		return o.line(1, "batch %d  offset %d, epoch %d, checkpoint %d, durable before it %d, head %d bytes, body %d bytes%s",
			p.Batch.Position, p.Offset, p.Batch.Epoch, p.Batch.Checkpoint, p.Synced, len(p.Batch.Head), p.BodySize, note)
	case "mark":
		return o.line(1, "mark  offset %d: all up to position %d is durable", p.Offset, p.Synced)
	case "seal":
		return o.line(1, "seal  offset %d: the segment ends with position %d", p.Offset, p.Batch.Position)
	case "zeros":
		return o.line(1, "zeros  offset %d, %d bytes: room for what comes next", p.Offset, p.Size)
	}
	return o.line(1, "NOT WHOLE  offset %d, %d bytes: %s", p.Offset, p.Size, p.Damage)
}

func (o *people) record(_ *file.Part, r *broker.RecordInfo) error {
	return o.line(2, "%s", o.words(r))
}

// words says what a record says.
func (o *people) words(r *broker.RecordInfo) string {
	switch r.Kind {
	case "publish":
		return fmt.Sprintf("publish to %s: %s, %s, %d bytes", o.queue(r.Queue), count(r.Count, "message"), run(r.First, r.Count), sum(r.Sizes)) + attributes(r)
	case "publish-to-many":
		return fmt.Sprintf("publish to %s: 1 message, %d bytes", o.targets(r.Targets), sum(r.Sizes)) + attributes(r)
	case "attributes":
		return fmt.Sprintf("attributes in %s: %s", o.queue(r.Queue), run(r.First, r.Count)) + attributes(r)
	case "publish-in-parts":
		var parts []string
		for _, p := range r.Parts {
			parts = append(parts, fmt.Sprintf("%d bytes at %d of batch %d", p.Length, p.Offset, p.Position))
		}
		return fmt.Sprintf("publish to %s: 1 message, of %s", o.targets(r.Targets), strings.Join(parts, ", ")) + attributes(r)
	case "part":
		return fmt.Sprintf("part of a message for %s: %d bytes", o.targets(r.Targets), sum(r.Sizes))
	case "settle":
		return fmt.Sprintf("settle in %s: %s", o.queue(r.Queue), run(r.First, r.Count))
	case "transaction-begin":
		return "a transaction begins"
	case "transaction-end":
		return "the transaction is committed"
	case "epoch":
		return "a new owner begins"
	case "owner":
		return fmt.Sprintf("the owner is %q, with a lease of %v", r.Node, r.Lease)
	case "handover":
		return "the owner hands over"
	case "vhost":
		return fmt.Sprintf("virtual host %q", r.VHost)
	case "vhost-deleted":
		return fmt.Sprintf("virtual host %q is deleted, with all that is in it", r.VHost)
	case "setting":
		if r.Deleted {
			return fmt.Sprintf("%s %q in %q is removed", r.Type, r.Name, r.VHost)
		}
		return fmt.Sprintf("%s %q in %q is set", r.Type, r.Name, r.VHost)
	case "exchange":
		return fmt.Sprintf("%s exchange %q in %q%s", r.Type, r.Name, r.VHost, properties(r))
	case "exchange-deleted":
		return fmt.Sprintf("exchange %q in %q is deleted", r.Name, r.VHost)
	case "queue":
		o.queues[r.Queue] = r.Name
		return fmt.Sprintf("queue %d %q in %q%s", r.Queue, r.Name, r.VHost, properties(r))
	case "queue-deleted":
		return o.queue(r.Queue) + " is deleted"
	case "bind", "unbind":
		return fmt.Sprintf("%s %s %q to exchange %q in %q, key %q%s", r.Kind, r.Type, r.Destination, r.Name, r.VHost, r.Key, properties(r))
	case "checkpoint":
		return fmt.Sprintf("a checkpoint begins; the highest queue number is %d", r.LastQueue)
	case "queue-state":
		o.queues[r.Queue] = r.Name
		s := fmt.Sprintf("queue %d %q in %q%s", r.Queue, r.Name, r.VHost, properties(r))
		for _, ln := range r.Lanes {
			s += fmt.Sprintf("; priority %d: ", ln.Priority) + lane(ln.Tail, ln.Floor, ln.SettledRun)
		}
		if len(r.Lanes) == 0 {
			s += "; " + lane(r.Tail, r.Floor, r.SettledRun)
		}
		return s
	case "checkpoint-end":
		return fmt.Sprintf("the checkpoint that began at position %d is complete", r.Position)
	case "accepted":
		var runs []string
		for _, a := range r.Accepted {
			runs = append(runs, run(a.First, a.Last-a.First+1))
		}
		return fmt.Sprintf("accepted of producer %q in %q: %s", r.Name, r.VHost, strings.Join(runs, ", "))
	case "ids", "seen":
		which := ""
		if r.Whole {
			which = ", all there are"
		}
		if r.Kind == "seen" {
			return fmt.Sprintf("%s that exchange %q in %q has let through%s", count(uint64(len(r.IDs)), "value"), r.Name, r.VHost, which)
		}
		return fmt.Sprintf("%s at exchange %q, key %q in %q%s", count(uint64(len(r.IDs)), "duplicate id"), r.Name, r.Key, r.VHost, which)
	}
	return r.Kind
}

const attributeTime = "2006-01-02T15:04:05.000Z"

// lane says how far a line of messages is settled.
func lane(tail, floor uint64, settled []broker.SettledRun) string {
	s := fmt.Sprintf("next message %d, settled: all below %d", tail, floor)
	for _, run := range settled {
		s += fmt.Sprintf(", %d to %d", run.First, run.First+run.Count-1)
	}
	return s
}

// attributes says what a record knows of its messages: that of each, but for those
// that are like the one before.
func attributes(r *broker.RecordInfo) string {
	s := ""
	for i, a := range r.Attributes {
		if i > 0 && a == r.Attributes[i-1] {
			continue
		}
		var is []string
		if !a.Expires.IsZero() {
			is = append(is, "expires "+a.Expires.Format(attributeTime))
		}
		if !a.Waits.IsZero() {
			is = append(is, "waits until "+a.Waits.Format(attributeTime))
		}
		if a.Count != 0 {
			is = append(is, count(uint64(a.Count), "delivery")+" in vain")
		}
		if a.HeadBytes != 0 {
			is = append(is, fmt.Sprintf("head of %d bytes", a.HeadBytes))
		}
		if is == nil {
			is = append(is, "no attributes")
		}
		if len(r.Attributes) > 1 {
			s += fmt.Sprintf("; %d: ", i+1)
		} else {
			s += ", "
		}
		s += strings.Join(is, ", ")
	}
	return s
}

func (o *people) message(_ *file.Part, m *shownMessage) error {
	if m.damage != "" {
		return o.line(3, "message of %d bytes, DAMAGED: %s", m.size, m.damage)
	}
	s := fmt.Sprintf("exchange %q, key %q, ", m.Exchange, m.Key)
	if len(m.Properties) > 0 {
		s += headerText(m.Properties) + ", "
	}
	s += fmt.Sprintf("body of %d bytes: %s", len(m.Body), quoted(m.shown))
	if len(m.shown) < len(m.Body) {
		s += "…"
	}
	return o.line(3, "%s", s)
}

func (o *people) queue(number uint64) string {
	if name, ok := o.queues[number]; ok {
		return fmt.Sprintf("queue %d %q", number, name)
	}
	return fmt.Sprintf("queue %d", number)
}

func (o *people) targets(refs []broker.MessageRef) string {
	var parts []string
	for _, t := range refs {
		parts = append(parts, fmt.Sprintf("%s as %d", o.queue(t.Queue), t.Seq))
	}
	return strings.Join(parts, ", ")
}

func count(n uint64, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case what == "delivery":
		return fmt.Sprintf("%d deliveries", n)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// run names consecutive sequence numbers.
func run(first, n uint64) string {
	if n <= 1 {
		return fmt.Sprintf("number %d", first)
	}
	return fmt.Sprintf("numbers %d to %d", first, first+n-1)
}

func sum(sizes []uint64) uint64 {
	total := uint64(0)
	for _, n := range sizes {
		total += n
	}
	return total
}

// properties are those of an exchange, a queue or a binding.
func properties(r *broker.RecordInfo) string {
	s := ""
	for _, p := range []struct {
		is   bool
		name string
	}{{r.Durable, "durable"}, {r.AutoDelete, "auto-delete"}, {r.Internal, "internal"}} {
		if p.is {
			s += ", " + p.name
		}
	}
	if len(r.Args) > 0 {
		s += ", arguments " + headerText(r.Args)
	}
	return s
}

// headerText writes a table on one line.
func headerText(m map[string]any) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, name+"="+valueText(m[name]))
	}
	return strings.Join(parts, " ")
}

func valueText(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "{" + headerText(v) + "}"
	case string:
		return fmt.Sprintf("%q", v)
	case time.Time:
		return v.Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}

// quoted shows text as text and other bytes in hexadecimal.
func quoted(b []byte) string {
	text := string(b)
	for len(text) > 0 { // the cut may be within a letter
		if r, n := utf8.DecodeLastRuneInString(text); r != utf8.RuneError || n != 1 || len(b)-len(text) >= utf8.UTFMax-1 {
			break
		}
		text = text[:len(text)-1]
	}
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return fmt.Sprintf("%x", b)
		}
	}
	return fmt.Sprintf("%q", text)
}

// machines is a printer of one JSON object a line.
type machines struct{ enc *json.Encoder }

func newMachines(w io.Writer) machines {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return machines{enc}
}

type jsonPart struct {
	Type       string `json:"type"`
	File       string `json:"file"`
	Offset     int64  `json:"offset"`
	Size       int64  `json:"size"`
	Segment    uint64 `json:"segment,omitempty"`
	Position   uint64 `json:"position,omitempty"`
	Epoch      uint64 `json:"epoch,omitempty"`
	Checkpoint uint64 `json:"checkpoint,omitempty"`
	Durable    uint64 `json:"durable,omitempty"`
	Head       int    `json:"head,omitempty"`
	Body       int    `json:"body,omitempty"`
	Superseded bool   `json:"superseded,omitempty"`
	Damage     string `json:"damage,omitempty"`
}

func (o machines) segment(p *file.Part) error { return o.part(p) }

func (o machines) part(p *file.Part) error {
	return o.enc.Encode(jsonPart{
		Type: p.Kind, File: p.File, Offset: p.Offset, Size: p.Size,
		Segment: p.Batch.Segment, Position: p.Batch.Position, Epoch: p.Batch.Epoch, Checkpoint: p.Batch.Checkpoint,
		Durable: p.Synced, Head: len(p.Batch.Head), Body: p.BodySize, Superseded: p.Superseded, Damage: p.Damage,
	})
}

type jsonRef struct {
	Queue    uint64 `json:"queue,omitempty"`
	Seq      uint64 `json:"seq,omitempty"`
	Position uint64 `json:"position,omitempty"`
	Offset   uint32 `json:"offset,omitempty"`
	Length   uint32 `json:"length,omitempty"`
}

type jsonRecord struct {
	Type        string         `json:"type"`
	Position    uint64         `json:"position"` // of its batch
	Queue       uint64         `json:"queue,omitempty"`
	First       *uint64        `json:"first,omitempty"`
	Count       uint64         `json:"count,omitempty"`
	Targets     []jsonRef      `json:"targets,omitempty"`
	Sizes       []uint64       `json:"sizes,omitempty"`
	Parts       []jsonRef      `json:"parts,omitempty"`
	VHost       string         `json:"vhost,omitempty"`
	Name        *string        `json:"name,omitempty"`
	Kind        string         `json:"kind,omitempty"`
	Destination string         `json:"destination,omitempty"`
	Key         string         `json:"key,omitempty"`
	Arguments   map[string]any `json:"arguments,omitempty"`
	Durable     bool           `json:"durable,omitempty"`
	AutoDelete  bool           `json:"auto_delete,omitempty"`
	Internal    bool           `json:"internal,omitempty"`
	Highest     uint64         `json:"highest_queue,omitempty"`
	Began       uint64         `json:"began,omitempty"` // where the checkpoint did
	Tail        uint64         `json:"tail,omitempty"`
	Floor       uint64         `json:"floor,omitempty"`
	Settled     [][2]uint64    `json:"settled,omitempty"` // first and count of runs above floor
	Lanes       []jsonLane     `json:"lanes,omitempty"`   // of a queue with priorities, instead of these three
	Attributes  []jsonAttr     `json:"attributes,omitempty"`
	Accepted    [][2]uint64    `json:"accepted,omitempty"` // first and last of runs of a producer's numbers
	IDs         []string       `json:"ids,omitempty"`      // hashes of duplicate ids, in hexadecimal
	Whole       bool           `json:"whole,omitempty"`    // they are all that are remembered of this exchange and key
	Node        string         `json:"node,omitempty"`
}

// jsonLane is the state of one priority's messages.
type jsonLane struct {
	Priority uint8       `json:"priority"`
	Tail     uint64      `json:"tail"`
	Floor    uint64      `json:"floor"`
	Settled  [][2]uint64 `json:"settled,omitempty"`
}

// jsonAttr is what a queue knows of a message.
type jsonAttr struct {
	Expires   *time.Time `json:"expires,omitempty"`
	Waits     *time.Time `json:"waits,omitempty"`
	Count     uint32     `json:"deliveries,omitempty"` // in vain
	HeadBytes uint16     `json:"head_bytes,omitempty"`
}

func jsonRuns(runs []broker.SettledRun) (list [][2]uint64) {
	for _, s := range runs {
		list = append(list, [2]uint64{s.First, s.Count})
	}
	return list
}

func (o machines) record(p *file.Part, r *broker.RecordInfo) error {
	j := jsonRecord{
		Type: r.Kind, Position: p.Batch.Position, Queue: r.Queue, Count: r.Count, Sizes: r.Sizes,
		VHost: r.VHost, Kind: r.Type, Destination: r.Destination, Key: r.Key,
		Durable: r.Durable, AutoDelete: r.AutoDelete, Internal: r.Internal,
		Highest: r.LastQueue, Began: r.Position, Tail: r.Tail, Floor: r.Floor,
		Arguments: plain(r.Args), Whole: r.Whole, Node: r.Node,
	}
	if r.Count > 0 {
		j.First = &r.First
	}
	if r.Name != "" || r.Kind == "ids" {
		j.Name = &r.Name
	}
	for _, t := range r.Targets {
		j.Targets = append(j.Targets, jsonRef{Queue: t.Queue, Seq: t.Seq})
	}
	for _, ref := range r.Parts {
		j.Parts = append(j.Parts, jsonRef{Position: ref.Position, Offset: ref.Offset, Length: ref.Length})
	}
	j.Settled = jsonRuns(r.SettledRun)
	for _, ln := range r.Lanes {
		j.Lanes = append(j.Lanes, jsonLane{ln.Priority, ln.Tail, ln.Floor, jsonRuns(ln.SettledRun)})
	}
	for _, a := range r.Attributes {
		x := jsonAttr{Count: a.Count, HeadBytes: a.HeadBytes}
		if !a.Expires.IsZero() {
			x.Expires = &a.Expires
		}
		if !a.Waits.IsZero() {
			x.Waits = &a.Waits
		}
		j.Attributes = append(j.Attributes, x)
	}
	for _, a := range r.Accepted {
		j.Accepted = append(j.Accepted, [2]uint64{a.First, a.Last})
	}
	for _, id := range r.IDs {
		j.IDs = append(j.IDs, hex.EncodeToString(id))
	}
	return o.enc.Encode(j)
}

type jsonMessage struct {
	Type       string         `json:"type"`
	Position   uint64         `json:"position"` // of its batch
	Offset     uint64         `json:"offset"`   // in the batch's body
	Size       uint64         `json:"size"`
	Exchange   string         `json:"exchange"`
	Key        string         `json:"key"`
	Persistent bool           `json:"persistent"`
	Properties map[string]any `json:"properties,omitempty"`
	BodySize   int            `json:"body_size"`
	Body       []byte         `json:"body"` // the first bytes, in base64
	Damage     string         `json:"damage,omitempty"`
}

func (o machines) message(p *file.Part, m *shownMessage) error {
	return o.enc.Encode(jsonMessage{
		Type: "message", Position: p.Batch.Position, Offset: m.offset, Size: m.size,
		Exchange: m.Exchange, Key: m.Key, Persistent: m.Persistent,
		Properties: plain(m.Properties), BodySize: len(m.Body), Body: m.shown, Damage: m.damage,
	})
}

// plain is a table with what JSON has no word for written as text.
func plain(table map[string]any) map[string]any {
	p := make(map[string]any, len(table))
	for name, v := range table {
		p[name] = plainValue(v)
	}
	return p
}

func plainValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return plain(v)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = plainValue(v[i])
		}
		return list
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
	case time.Time:
		if y := v.Year(); y < 0 || y > 9999 {
			return v.Unix()
		}
	}
	return v
}
