package history

import (
	"fmt"
	"strings"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/journal"
)

// A Batch is what a history needs to know of a journal's.
type Batch struct {
	Position uint64
	Epoch    uint64
	Writer   string   // of the medium's, "" if it names none
	Owner    string   // the node that begins an epoch here, "" if none does
	Handover bool     // its owner hands the log over
	IDs      []string // of the messages that it holds
}

// A Log is all batches of a journal in the order of their positions, superseded
// ones included.
type Log []Batch

// ParseBatch takes a batch of a broker's apart. Of the messages only those are kept
// whose id begins with prefix; b must have its body. Messages so large that they
// stand in several batches are left out.
func ParseBatch(b journal.Batch, writer, prefix string) (Batch, error) {
	out := Batch{Position: b.Position, Epoch: b.Epoch, Writer: writer}
	body := make([]byte, 0, b.BodySize())
	for _, piece := range b.Body {
		body = append(body, piece...)
	}
	var fault error
	note := func(err error) {
		if fault == nil {
			fault = err
		}
	}
	err := broker.DescribeHead(b.Head, func(r broker.RecordInfo) {
		switch r.Kind {
		case "owner":
			out.Owner = r.Name
		case "handover":
			out.Handover = true
		case "publish", "publish-to-many":
			at := r.Offset
			for _, size := range r.Sizes {
				if size > uint64(len(body)) || at > uint64(len(body))-size {
					note(fmt.Errorf("a message of %d bytes at %d of a body of %d", size, at, len(body)))
					return
				}
				info, err := broker.DescribeMessage(body[at : at+size])
				if err != nil {
					note(err)
				}
				if id, ok := info.Properties["message-id"].(string); ok && strings.HasPrefix(id, prefix) {
					out.IDs = append(out.IDs, id)
				}
				at += size
			}
		}
	})
	if err == nil {
		err = fault
	}
	if err != nil {
		return out, fmt.Errorf("batch %d: %w", b.Position, err)
	}
	return out, nil
}
