package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/definitions"
)

// definitionsMost is the largest file of definitions that is loaded, bytes.
const definitionsMost = 256 << 20

// readDefinitions reads the file of --definitions, so that one that is wrong keeps
// the broker from starting before anything is opened.
func readDefinitions(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the definitions: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, definitionsMost+1))
	var object map[string]json.RawMessage
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the definitions: %w", err)
	case len(text) > definitionsMost:
		return nil, fmt.Errorf("read the definitions: %s is larger than %d bytes", name, definitionsMost)
	}
	if err := json.Unmarshal(text, &object); err != nil {
		return nil, fmt.Errorf("read the definitions: %s: %w: %w", name, definitions.ErrDocument, err)
	}
	return text, nil
}

// define makes what the definitions say, before clients are let in and before there
// is a first user: theirs may be all that there are to be. What cannot be made is
// logged, item by item, and keeps nobody waiting: a broker that served yesterday is
// not to stay down because somebody has declared a queue otherwise since.
func (n *node) define(ctx context.Context, b *broker.Broker) error {
	if n.definitions == nil {
		return nil
	}
	report, err := definitions.Import(ctx, definitions.Store{Broker: b, Users: n.users}, n.definitions, definitions.ImportOptions{})
	if err != nil {
		if cause := b.Cause(); cause != nil {
			err = errors.Join(err, cause)
		}
		return fmt.Errorf("load the definitions in %s: %w", n.cfg.Definitions, err)
	}
	for _, item := range report.Failed {
		n.log.Error("a definition could not be honoured", "file", n.cfg.Definitions, "item", item)
	}
	for _, item := range report.Warnings {
		n.log.Warn("a definition is kept, but has no effect, or not all of it", "file", n.cfg.Definitions, "item", item)
	}
	n.log.Info("definitions are loaded", "file", n.cfg.Definitions, "items", report.Made, "failed", len(report.Failed))
	return nil
}
