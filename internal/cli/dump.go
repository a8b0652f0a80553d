package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ferrymq/ferry/internal/app"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal/file"
	"github.com/ferrymq/ferry/internal/vfs"
)

func newDump(sys System) *cobra.Command {
	d := &dump{fs: vfs.OS{}}
	asJSON := false
	cmd := &cobra.Command{
		Use:   "dump DIR",
		Short: "Print what a file store holds",
		Long: `Print what the files of a store hold: segments, batches, and each record in
words. Nothing is changed, and a broker may be running; what it is writing just
then looks torn.

Damage is reported with file and offset, what stands behind it is still shown,
and the exit code is 1. What a crash leaves at the end of the newest segment is
no damage: nothing in it was confirmed.`,
		Example: `  ferry dump ferry-data
  ferry dump ferry-data --bodies=80
  ferry dump ferry-data --json | jq 'select(.type == "queue")'`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if kind, _, err := app.ParseStore(args[0]); kind == app.DatabaseStore || err == nil && kind == app.MemoryStore {
				return errors.New("only the files of a store in a directory can be printed; what a database holds is in its tables ferry_journal and ferry_batch")
			}
			d.dir = strings.TrimPrefix(args[0], "file:")
			d.out = &people{w: sys.Stdout, queues: map[uint64]string{}}
			if asJSON {
				d.out = newMachines(sys.Stdout)
			}
			return failed(d.run(sys.Stderr))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	cmd.Flags().IntVar(&d.bodies, "bodies", 0, "show each message, and so many `BYTES` of its body")
	cmd.Flags().Lookup("bodies").NoOptDefVal = "60"
	return cmd
}

// A printer shows what is in a store.
type printer interface {
	segment(p *file.Part) error
	part(p *file.Part) error // a batch, mark or seal, zeros, damage
	record(p *file.Part, r *broker.RecordInfo) error
	message(p *file.Part, m *shownMessage) error
}

// shownMessage is one message of a batch.
type shownMessage struct {
	offset, size uint64 // of its block in the batch's body
	broker.MessageInfo
	shown  []byte // the first of its body
	damage string
}

type dump struct {
	fs     vfs.FS
	dir    string
	bodies int // bytes of each; 0: messages are not shown
	out    printer
	wrong  []flaw
	ends   ending
	opened vfs.File // of the last segment
	name   string
}

// A flaw is damage, or the torn tail that a crash left.
type flaw struct {
	file     string
	offset   int64
	reason   string
	position uint64 // of the batch that is not whole
	segment  uint64
	durable  bool // a crash does not explain it
}

// ending is how a segment ends, as far as it was read.
type ending struct {
	file     string
	segment  uint64
	last     uint64 // position
	at       int64
	isSealed bool
}

func (d *dump) run(stderr io.Writer) error {
	if _, err := os.Stat(d.dir); err != nil {
		return fmt.Errorf("there is no store: %w", err)
	}
	err := file.Dump(d.fs, d.dir, d.part)
	if d.opened != nil {
		err = errors.Join(err, d.opened.Close())
	}
	if err != nil {
		return err
	}
	if d.ends.file == "" {
		return fmt.Errorf("there is no store in %s: no file of it is a segment of a journal", d.dir)
	}
	damaged := 0
	for _, f := range d.wrong {
		if f.segment == d.ends.segment && !f.durable {
			fmt.Fprintf(stderr, "%s: offset %d: %s: a crash left this; nothing from here on was confirmed, and the next start cuts it off\n", f.file, f.offset, f.reason)
			continue
		}
		damaged++
		fmt.Fprintf(stderr, "%s: damaged at offset %d: %s\n", f.file, f.offset, f.reason)
	}
	if damaged > 0 {
		return fmt.Errorf("the store in %s is damaged in %d places", d.dir, damaged)
	}
	return nil
}

func (d *dump) part(p file.Part) error {
	if p.Kind == "segment" {
		if d.ends.file != "" && !d.ends.isSealed {
			d.flaw(flaw{
				file: d.ends.file, offset: d.ends.at, segment: d.ends.segment, durable: true,
				reason: "the segment has no seal at its end, but a later one exists",
			})
		}
		d.ends = ending{file: p.File, segment: p.Batch.Segment, last: p.Batch.Position - 1}
		if p.Damage != "" {
			d.flaw(flaw{file: p.File, reason: p.Damage, segment: p.Batch.Segment, durable: true})
		}
		return d.out.segment(&p)
	}
	d.ends.at = p.Offset + p.Size
	d.ends.isSealed = p.Kind == "seal"
	for i := range d.wrong {
		// What was durable when something behind it was written was whole then.
		f := &d.wrong[i]
		f.durable = f.durable || f.segment == d.ends.segment && p.Synced >= f.position
	}
	if p.Kind == "batch" {
		d.ends.last = p.Batch.Position
	}
	if p.Damage != "" {
		f := flaw{file: p.File, offset: p.Offset, reason: p.Damage, position: d.ends.last, segment: d.ends.segment}
		if p.Kind == "damage" {
			f.position++
		}
		d.flaw(f)
	}
	if err := d.out.part(&p); err != nil || p.Kind != "batch" {
		return err
	}
	return d.records(&p)
}

func (d *dump) flaw(f flaw) { d.wrong = append(d.wrong, f) }

func (d *dump) records(p *file.Part) error {
	var body []byte
	if d.bodies > 0 && p.BodySize > 0 {
		var err error
		if body, err = d.body(p); err != nil {
			return err
		}
	}
	var failed error
	err := broker.DescribeHead(p.Batch.Head, func(r broker.RecordInfo) {
		if failed == nil {
			failed = d.out.record(p, &r)
		}
		if failed == nil && body != nil {
			failed = d.messages(p, &r, body)
		}
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		// Its checksum was right: this is the work of a program, not of the medium.
		d.flaw(flaw{file: p.File, offset: p.Offset, reason: err.Error(), position: p.Batch.Position, segment: p.Batch.Segment, durable: true})
	}
	return nil
}

func (d *dump) messages(p *file.Part, r *broker.RecordInfo, body []byte) error {
	if r.Kind == "part" {
		return nil // of a message that is whole nowhere
	}
	at := r.Offset
	for _, size := range r.Sizes {
		m := shownMessage{offset: at, size: size}
		at += size
		if at > uint64(len(body)) {
			m.damage = "its bytes are not in the batch"
			return d.out.message(p, &m)
		}
		block := body[m.offset:at]
		var err error
		if m.MessageInfo, err = broker.DescribeMessage(block); err != nil {
			m.damage = err.Error()
		}
		m.shown = m.Body[:min(len(m.Body), d.bodies)]
		if err := d.out.message(p, &m); err != nil {
			return err
		}
	}
	return nil
}

// body reads a batch's body. It is the last thing in its record, and everything
// there begins at a multiple of 8 bytes.
func (d *dump) body(p *file.Part) ([]byte, error) {
	if d.name != p.File {
		if d.opened != nil {
			if err := d.opened.Close(); err != nil {
				return nil, err
			}
		}
		f, err := d.fs.OpenRead(p.File)
		if err != nil {
			return nil, err
		}
		d.opened, d.name = f, p.File
	}
	body := make([]byte, p.BodySize)
	_, err := d.opened.ReadAt(body, p.Offset+p.Size-int64((p.BodySize+7)&^7))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return body, err
}
