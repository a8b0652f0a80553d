package sqldb

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ferrymq/ferry/internal/journal"
)

// forgetAfter is how long a node that was killed stays in the roster.
const forgetAfter = 24 * time.Hour

// Announce implements journal.Roster. It tries for at most the lease.
func (j *Journal) Announce(ctx context.Context, n journal.Node) error {
	if n.Name == "" || len(n.Name) > maxName {
		return fmt.Errorf("announce node %q: its name has 1 to %d bytes", n.Name, maxName)
	}
	addresses, err := json.Marshal(n.Addresses)
	if err != nil {
		return fmt.Errorf("announce node %s: %w", n.Name, err)
	}
	return j.retry(ctx, "announce node "+n.Name, j.time.lease, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, j.time.answer)
		defer cancel()
		db := j.server.pool()
		_, err := db.ExecContext(ctx, j.server.upsert(), j.id, n.Name, n.Role, int64(n.Epoch), int64(n.Position),
			n.Started.UnixMicro(), string(addresses))
		if err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, j.server.statement("DELETE FROM ferry_node WHERE journal = ? AND "+j.server.silence("seen")+" > ?"),
			j.id, forgetAfter.Microseconds())
		return err
	})
}

// Leave implements journal.Roster. It tries for at most the lease.
func (j *Journal) Leave(ctx context.Context, name string) error {
	return j.retry(ctx, "take out node "+name, j.time.lease, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, j.time.answer)
		defer cancel()
		_, err := j.server.pool().ExecContext(ctx, j.server.statement("DELETE FROM ferry_node WHERE journal = ? AND name = ?"), j.id, name)
		return err
	})
}

// Nodes implements journal.Roster. It tries for at most the lease.
func (j *Journal) Nodes(ctx context.Context) ([]journal.Node, error) {
	var nodes []journal.Node
	err := j.retry(ctx, "read the nodes", j.time.lease, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, j.time.answer)
		defer cancel()
		nodes = nil
		silence := j.server.silence("seen")
		rows, err := j.server.pool().QueryContext(ctx, j.server.statement(
			"SELECT name, role, epoch, position, started, addresses, "+silence+" FROM ferry_node WHERE journal = ? AND "+silence+" <= ? ORDER BY name"),
			j.id, forgetAfter.Microseconds())
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var n journal.Node
			var epoch, position, started, silent int64
			var addresses []byte
			if err := rows.Scan(&n.Name, &n.Role, &epoch, &position, &started, &addresses, &silent); err != nil {
				return err
			}
			if err := json.Unmarshal(addresses, &n.Addresses); err != nil {
				return finalf("the addresses of node %s: %w", n.Name, err)
			}
			n.Epoch, n.Position, n.Started = uint64(epoch), uint64(position), time.UnixMicro(started)
			n.Silent = time.Duration(max(silent, 0)) * time.Microsecond
			nodes = append(nodes, n)
		}
		return rows.Err()
	})
	return nodes, err
}
