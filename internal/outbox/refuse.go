package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ferrymq/ferry/internal/link"
	"github.com/ferrymq/ferry/internal/message"
	"github.com/ferrymq/ferry/internal/vfs"
)

const refusedName = "refused.jsonl"

// refusals is what Refuse needs, for who holds the turn.
type refusals struct {
	failed error   // the file did not become durable, once and for all
	chunks []chunk // that were read last
}

// Refused is a line of refused.jsonl.
type Refused struct {
	ID         string         `json:"id"` // Message.ID, or PRODUCER-SEQ
	Time       time.Time      `json:"time"`
	Reason     string         `json:"reason"`
	Exchange   string         `json:"exchange"`
	Key        string         `json:"key"`
	Properties map[string]any `json:"properties"`
	Headers    map[string]any `json:"headers"`
	Body       []byte         `json:"body"` // base64

	// Fields is everything but the body, as the outbox keeps it, base64: JSON
	// does not tell types apart, and has no texts but UTF-8.
	Fields []byte `json:"fields"`
}

// Refuse moves a message that no broker will take to refused.jsonl in the
// directory of the outbox, a JSON object on a line of its own (Refused), and
// forgets it when that is durable. After a crash between the two the message is
// there again, and may come to stand in the file twice, with the same id. The
// file is the program's, which may remove it, or what it has dealt with, while
// the outbox is closed; it does not count for MaxBytes.
//
// After an error the message is as before. If that is a failed sync, no message
// can be refused any more until the next Open.
func (o *Outbox) Refuse(seq uint64, reason error) error {
	o.refusing <- struct{}{}
	defer func() { <-o.refusing }()
	if err := o.refuse(seq, reason); err != nil {
		return fmt.Errorf("refuse message %d: %w", seq, err)
	}
	return nil
}

func (o *Outbox) refuse(seq uint64, reason error) error {
	if err := o.refusable(seq); err != nil {
		return err
	}
	m, err := o.find(seq)
	if err != nil {
		return err
	}
	line, err := refusedLine(o.idOf(seq, m), m, time.Now().UTC(), reason)
	if err != nil {
		return err
	}
	if err := o.appendRefused(line); err != nil {
		return err
	}
	o.mu.Lock()
	if o.settleLocked(seq) {
		o.book.refused++
		o.intake.refused = append(o.intake.refused, seq)
	}
	o.mu.Unlock()
	signal(o.work)
	return nil
}

func (o *Outbox) refusable(seq uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return ErrClosed
	case o.refusals.failed != nil:
		return o.refusals.failed
	case seq >= o.book.stored || o.book.settled.has(seq):
		return errors.New("it is not in the outbox")
	}
	return nil
}

func (o *Outbox) idOf(seq uint64, m *link.Message) string {
	if m.ID != "" {
		return m.ID
	}
	return o.producer + "-" + strconv.FormatUint(seq, 10)
}

// find reads one message again.
func (o *Outbox) find(seq uint64) (*link.Message, error) {
	r := &o.refusals
	for _, k := range r.chunks {
		if k.messages.first <= seq && seq < k.messages.end {
			return k.find(seq)
		}
	}
	o.mu.Lock()
	from, head := o.book.position(seq), o.book.head
	o.mu.Unlock()
	s := scan{o: o, seq: seq, limit: readAhead}
	if err := s.run(context.Background(), from, head); err != nil {
		return nil, err
	}
	if len(s.chunks) == 0 {
		return nil, errors.New("it is not in the journal where it must be")
	}
	r.chunks = s.chunks
	return s.chunks[0].find(seq)
}

func (k *chunk) find(seq uint64) (*link.Message, error) {
	rest := k.body
	for at := k.messages.first; ; at++ {
		block, next, err := cutBlock(rest)
		if err != nil {
			return nil, err
		}
		if at == seq {
			m := new(link.Message)
			return m, decode(block, m, nil)
		}
		rest = next
	}
}

func refusedLine(id string, m *link.Message, now time.Time, reason error) ([]byte, error) {
	fields, err := appendFields(nil, m)
	if err != nil {
		return nil, err
	}
	r := Refused{
		ID: id, Time: now, Reason: "unknown", Exchange: m.Exchange, Key: m.Key,
		Properties: refusedProperties(m), Headers: map[string]any{}, Body: m.Body, Fields: fields,
	}
	if reason != nil {
		r.Reason = reason.Error()
	}
	for name, v := range m.Headers {
		r.Headers[name] = plain(v)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return append(line, '\n'), nil
}

// refusedProperties are those that are set.
func refusedProperties(m *link.Message) map[string]any {
	p := map[string]any{}
	for name, s := range map[string]string{
		"content_type": m.ContentType, "content_encoding": m.ContentEncoding,
		"correlation_id": m.CorrelationID, "reply_to": m.ReplyTo, "message_id": m.MessageID,
		"type": m.Type, "user_id": m.UserID, "app_id": m.AppID, "id": m.ID,
	} {
		if s != "" {
			p[name] = s
		}
	}
	if m.Priority != 0 {
		p["priority"] = m.Priority
	}
	if m.Transient {
		p["transient"] = true
	}
	if m.Expiration != 0 {
		p["expiration"] = m.Expiration.String()
	}
	if !m.Timestamp.IsZero() {
		p["timestamp"] = m.Timestamp.Format(time.RFC3339Nano)
	}
	return p
}

// plain makes JSON's of a header's value: it has no numbers that are none, and
// no years beyond 9999.
func plain(v any) any {
	switch v := v.(type) {
	case float32:
		return plain(float64(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
	case time.Time:
		return v.Format(time.RFC3339)
	case message.Decimal:
		return fmt.Sprintf("%de-%d", v.Value, v.Scale)
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = plain(e)
		}
		return list
	case map[string]any:
		m := make(map[string]any, len(v))
		for name, e := range v {
			m[name] = plain(e)
		}
		return m
	}
	return v
}

// appendRefused makes a line durable. A write that fails is undone; a sync that
// fails is final.
func (o *Outbox) appendRefused(line []byte) (err error) {
	fsys, name := o.options.FS, filepath.Join(o.dir, refusedName)
	f, err := fsys.OpenWrite(name)
	if errors.Is(err, fs.ErrNotExist) {
		if f, err = fsys.Create(name); err == nil {
			if err = fsys.SyncDir(o.dir); err != nil {
				// The next one would find the file, and not sync its name.
				err = errors.Join(err, f.Close(), fsys.Remove(name))
				return o.refuseNoMore(err)
			}
		}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(line, size); err != nil {
		if undo := f.Truncate(size); undo != nil {
			return o.refuseNoMore(errors.Join(err, undo))
		}
		return err
	}
	if err := f.Sync(); err != nil {
		return o.refuseNoMore(err)
	}
	return nil
}

func (o *Outbox) refuseNoMore(err error) error {
	err = fmt.Errorf("%s: %w", refusedName, err)
	o.mu.Lock()
	o.refusals.failed = err
	o.mu.Unlock()
	return err
}

// repairRefused cuts off a last line that is not whole, which a crash has left:
// its message is still in the outbox. Lines are written and synced one by one,
// so that there is one at most.
func (o *Outbox) repairRefused() (err error) {
	f, err := o.options.FS.OpenWrite(filepath.Join(o.dir, refusedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil || size == 0 {
		return err
	}
	at, err := lastLine(f, size)
	if err != nil {
		return err
	}
	line := make([]byte, size-at)
	if _, err := f.ReadAt(line, at); err != nil {
		return err
	}
	switch {
	case !json.Valid(line):
		o.options.Logger.Warn("outbox: cut a line that a crash has left unfinished off the refused messages; its message is still in the outbox",
			"dir", o.dir, "file", refusedName, "bytes", len(line))
		if err := f.Truncate(at); err != nil {
			return err
		}
	case line[len(line)-1] != '\n':
		if _, err := f.WriteAt([]byte{'\n'}, size); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// The process that made it may have been killed before that.
	return o.options.FS.SyncDir(o.dir)
}

// lastLine returns the offset at which the last line of a file begins, whether
// it has an end or not.
func lastLine(f vfs.File, size int64) (int64, error) {
	var buf [64 << 10]byte
	for end := size - 1; end > 0; {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}
