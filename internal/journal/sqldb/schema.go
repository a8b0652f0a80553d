package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// schemaVersion is the version of the tables that this program works with.
const schemaVersion = 1

// schemaPrograms says, for each version of the tables, which program is the
// oldest that works with them. It is written beside the version, for older ones to
// tell.
var schemaPrograms = [schemaVersion + 1]string{1: "Ferry 0.1"}

// Schema is the text that makes the tables, for those whose databases are made by
// others. The kind is "postgres", "mysql" or "mariadb"; of another one it is "".
func Schema(kind string) string {
	var s server
	switch kind {
	case "postgres":
		s = &postgres{}
	case "mysql", "mariadb":
		s = &mysqlServer{}
	default:
		return ""
	}
	var b strings.Builder
	for version := 1; version <= schemaVersion; version++ {
		for _, statement := range s.schema(version) {
			b.WriteString(strings.ReplaceAll(statement, "\n\t\t", "\n") + ";\n")
		}
	}
	fmt.Fprintf(&b, "INSERT INTO ferry_schema (version, program) VALUES (%d, '%s');\n", schemaVersion, schemaPrograms[schemaVersion])
	return b.String()
}

func (p *postgres) schema(step int) []string {
	if step != 1 {
		return nil
	}
	return []string{
		`CREATE TABLE IF NOT EXISTS ferry_schema (
			version integer NOT NULL,
			program text NOT NULL
		)`,
		`CREATE TABLE IF NOT EXISTS ferry_journal (
			id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
			name text NOT NULL UNIQUE,
			head bigint NOT NULL DEFAULT 0,
			epoch bigint NOT NULL DEFAULT 0,
			segment bigint NOT NULL DEFAULT 0,
			checkpoint bigint NOT NULL DEFAULT 0,
			writer bytea,
			resolved bigint NOT NULL DEFAULT 0
		)`,
		`CREATE TABLE IF NOT EXISTS ferry_batch (
			journal bigint NOT NULL,
			position bigint NOT NULL,
			epoch bigint NOT NULL,
			segment bigint NOT NULL,
			checkpoint bigint NOT NULL,
			writer bytea NOT NULL,
			size integer NOT NULL,
			head bytea NOT NULL,
			body bytea NOT NULL,
			PRIMARY KEY (journal, position)
		)`,
		`ALTER TABLE ferry_batch
			ALTER COLUMN head SET STORAGE EXTERNAL,
			ALTER COLUMN body SET STORAGE EXTERNAL`,
		`CREATE INDEX IF NOT EXISTS ferry_batch_segment ON ferry_batch (journal, segment, position)`,
		`CREATE TABLE IF NOT EXISTS ferry_drop (
			journal bigint NOT NULL,
			segment bigint NOT NULL,
			PRIMARY KEY (journal, segment)
		)`,
		`CREATE TABLE IF NOT EXISTS ferry_node (
			journal bigint NOT NULL,
			name text NOT NULL,
			role text NOT NULL,
			epoch bigint NOT NULL,
			position bigint NOT NULL,
			started bigint NOT NULL,
			addresses text NOT NULL,
			seen timestamptz NOT NULL,
			PRIMARY KEY (journal, name)
		)`,
	}
}

func (s *mysqlServer) schema(step int) []string {
	if step != 1 {
		return nil
	}
	const engine = " ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
	const blobs = " ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
	return []string{
		`CREATE TABLE IF NOT EXISTS ferry_schema (
			version int NOT NULL,
			program varchar(100) NOT NULL
		)` + engine,
		`CREATE TABLE IF NOT EXISTS ferry_journal (
			id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
			name varchar(128) NOT NULL UNIQUE,
			head bigint NOT NULL DEFAULT 0,
			epoch bigint NOT NULL DEFAULT 0,
			segment bigint NOT NULL DEFAULT 0,
			checkpoint bigint NOT NULL DEFAULT 0,
			writer binary(16),
			resolved bigint NOT NULL DEFAULT 0
		)` + engine,
		`CREATE TABLE IF NOT EXISTS ferry_batch (
			journal bigint NOT NULL,
			position bigint NOT NULL,
			epoch bigint NOT NULL,
			segment bigint NOT NULL,
			checkpoint bigint NOT NULL,
			writer binary(16) NOT NULL,
			size int NOT NULL,
			head longblob NOT NULL,
			body longblob NOT NULL,
			PRIMARY KEY (journal, position),
			KEY ferry_batch_segment (journal, segment, position, size)
		)` + blobs,
		`CREATE TABLE IF NOT EXISTS ferry_drop (
			journal bigint NOT NULL,
			segment bigint NOT NULL,
			PRIMARY KEY (journal, segment)
		)` + engine,
		`CREATE TABLE IF NOT EXISTS ferry_node (
			journal bigint NOT NULL,
			name varchar(128) NOT NULL,
			role varchar(32) NOT NULL,
			epoch bigint NOT NULL,
			position bigint NOT NULL,
			started bigint NOT NULL,
			addresses text NOT NULL,
			seen datetime(6) NOT NULL,
			PRIMARY KEY (journal, name)
		)` + engine,
	}
}

// prepareSchema makes the tables if they are not there, brings older ones up to
// date, and refuses newer ones.
func prepareSchema(ctx context.Context, s server) error {
	version, err := readSchema(ctx, s.pool())
	switch {
	case denied(err):
		return s.advise(ctx, err)
	case err != nil, version == schemaVersion:
		return err
	}
	err = s.locked(ctx, func(db execer) error {
		// Another process may have been faster.
		version, err := readVersion(ctx, s, db)
		if err != nil {
			return err
		}
		for ; version < schemaVersion; version++ {
			if err := migrate(ctx, s, db, version+1); err != nil {
				return fmt.Errorf("version %d: %w", version+1, err)
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("make the tables: %w", err)
		if denied(err) {
			return s.advise(ctx, err)
		}
	}
	return err
}

// readVersion is readSchema for who may be in a transaction, where a query of a
// table that is not there would be the end of it.
func readVersion(ctx context.Context, s server, db execer) (int, error) {
	current := "current_schema()"
	if s.kind() != "postgres" {
		current = "DATABASE()"
	}
	var tables int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM information_schema.tables WHERE table_name = 'ferry_schema' AND table_schema = "+current).Scan(&tables)
	if err != nil || tables == 0 {
		return 0, err
	}
	return readSchema(ctx, db)
}

// readSchema is the version of the tables, 0 if there are none.
func readSchema(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
},
) (int, error) {
	var version int
	var program string
	err := db.QueryRowContext(ctx, "SELECT version, program FROM ferry_schema ORDER BY version DESC LIMIT 1").Scan(&version, &program)
	switch {
	case errors.Is(err, sql.ErrNoRows), noTable(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read ferry_schema: %w", err)
	case version > schemaVersion:
		return 0, finalf("the tables have version %d, and this program works with version %d: use %s or newer", version, schemaVersion, program)
	}
	return version, nil
}

// migrate takes one step. In MySQL each statement stands for itself, so that a
// step that was interrupted is taken again.
func migrate(ctx context.Context, s server, db execer, step int) error {
	for _, statement := range s.schema(step) {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	result, err := db.ExecContext(ctx, s.statement("UPDATE ferry_schema SET version = ?, program = ?"), step, schemaPrograms[step])
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	_, err = db.ExecContext(ctx, s.statement("INSERT INTO ferry_schema (version, program) VALUES (?, ?)"), step, schemaPrograms[step])
	return err
}

// checkPrivileges finds out at once what is not allowed, by statements that
// change nothing.
func checkPrivileges(ctx context.Context, s server) error {
	for _, query := range []string{
		"UPDATE ferry_journal SET resolved = resolved WHERE 1 = 0",
		"INSERT INTO ferry_batch SELECT * FROM ferry_batch WHERE 1 = 0",
		"DELETE FROM ferry_batch WHERE 1 = 0",
		"INSERT INTO ferry_drop SELECT * FROM ferry_drop WHERE 1 = 0",
		"DELETE FROM ferry_drop WHERE 1 = 0",
		"INSERT INTO ferry_node SELECT * FROM ferry_node WHERE 1 = 0",
		"UPDATE ferry_node SET role = role WHERE 1 = 0",
		"DELETE FROM ferry_node WHERE 1 = 0",
	} {
		if _, err := s.pool().ExecContext(ctx, query); denied(err) {
			return s.advise(ctx, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}
