package sqldb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ferrymq/ferry/internal/journal"
)

// A finalError is one that trying again does not cure.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// Final tells users of a journal, who see no more than an error, that the journal
// must be opened anew, if it can be.
func (e *finalError) Final() bool { return true }

func finalf(format string, args ...any) error { return &finalError{fmt.Errorf(format, args...)} }

// Numbers of errors of MySQL and MariaDB.
const (
	myDatabaseDenied   = 1044
	myLoginDenied      = 1045
	myNoDatabase       = 1049
	myUnknownColumn    = 1054
	myDuplicate        = 1062
	mySyntax           = 1064
	myTableDenied      = 1142
	myColumnDenied     = 1143
	myNoTable          = 1146
	myPacketTooLarge   = 1153
	myUnknownVariable  = 1193
	myPrivilegeDenied  = 1227
	myWrongValue       = 1231
	myNoRoutine        = 1305
	myDataTooLong      = 1406
	myStatementBinlog  = 1665
	myAccountLocked    = 3118
	myMustChangePasswd = 1820
	myPasswordExpired  = 1862
)

// Codes of errors of Postgres.
const (
	pgNoTable       = "42P01"
	pgNoPrivilege   = "42501"
	pgDuplicate     = "23505"
	pgNoDatabase    = "3D000"
	pgWrongPassword = "28P01"
)

// IsTemporary tells whether what failed with an error of Open may succeed
// later as things are: the database cannot be reached, is starting, recovering,
// full or has too many clients. A wrong password, a missing privilege and the
// like are not temporary.
func IsTemporary(err error) bool {
	var certificate *tls.CertificateVerificationError
	return err != nil && !errors.Is(err, context.Canceled) && !errors.As(err, &certificate) && temporary(err) && !loginRefused(err)
}

// temporary tells whether an error of the database or of the way to it may go
// away by itself. What is not known may.
func temporary(err error) bool {
	var final *finalError
	var corrupt *journal.CorruptError
	var conflict *journal.ConflictError
	var parse *pgconn.ParseConfigError
	var refused *refusedError
	switch {
	case errors.As(err, &final), errors.As(err, &corrupt), errors.As(err, &conflict), errors.As(err, &refused), errors.As(err, &parse),
		errors.Is(err, journal.ErrClosed), errors.Is(err, journal.ErrDropped),
		errors.Is(err, journal.ErrTooLarge), errors.Is(err, journal.ErrFenced):
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && len(pg.Code) == 5 {
		switch pg.Code[:2] {
		case "0A", // feature not supported
			"22", // data exception
			"23", // integrity
			"42", // syntax, missing tables and privileges
			"54": // a limit of the program
			return false
		}
		return true
	}
	switch myNumber(err) {
	case myDatabaseDenied, myNoDatabase, myUnknownColumn, myDuplicate, mySyntax, myTableDenied, myColumnDenied,
		myNoTable, myPacketTooLarge, myUnknownVariable, myPrivilegeDenied, myWrongValue, myNoRoutine, myDataTooLong,
		myStatementBinlog:
		return false
	}
	return true
}

// serverRefuses tells whether the server itself says what does not go away: a table
// or a privilege is missing.
func serverRefuses(err error) bool {
	return !temporary(err) && (pgCode(err) != "" || myNumber(err) != 0)
}

// loginRefused tells whether the server does not let this user in. Who was in
// before tries again: a password may be about to be changed on both sides.
func loginRefused(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && len(pg.Code) == 5 {
		return pg.Code[:2] == "28" || pg.Code == pgNoDatabase
	}
	switch myNumber(err) {
	case myLoginDenied, myAccountLocked, myMustChangePasswd, myPasswordExpired:
		return true
	}
	return false
}

func myNumber(err error) uint16 {
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		return my.Number
	}
	return 0
}

func pgCode(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

func noTable(err error) bool   { return pgCode(err) == pgNoTable || myNumber(err) == myNoTable }
func duplicate(err error) bool { return pgCode(err) == pgDuplicate || myNumber(err) == myDuplicate }

func denied(err error) bool {
	switch myNumber(err) {
	case myDatabaseDenied, myTableDenied, myColumnDenied, myPrivilegeDenied:
		return true
	}
	return pgCode(err) == pgNoPrivilege
}

// explain says in one line what an error of Open means, and what to do about it.
func explain(err error, t target) error {
	user := ""
	if t.pg != nil {
		user = t.pg.User
	} else {
		user = t.my.User
	}
	switch {
	case pgCode(err) == pgNoDatabase, myNumber(err) == myNoDatabase:
		return finalf("the database %q does not exist; create it, or name another one in the URL", t.database)
	case pgCode(err) == pgWrongPassword:
		return finalf("the server does not let the user %q in: the user or the password is wrong", user)
	case myNumber(err) == myLoginDenied:
		return finalf("the server does not let the user %q in: the user or the password is wrong, or it may not come from here, or only with tls=true", user)
	}
	if refusesTLS(err, t) {
		return finalf("the server speaks no TLS, which the URL asks for; configure it there, or write sslmode=disable (Postgres) or tls=false (MySQL)")
	}
	// Each address is tried with TLS and without: the server's own words are in one.
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) && errors.As(err, &pg) {
		err = fmt.Errorf("connect as user %q: %w", user, pg)
		if loginRefused(pg) {
			return &finalError{err}
		}
		return err
	}
	return inOneLine(err)
}

// refusesTLS tells whether the server, having been reached, has no TLS, and the URL
// does not do without.
func refusesTLS(err error, t target) bool {
	if errors.Is(err, mysql.ErrNoTLS) {
		return true
	}
	if t.pg == nil || t.pg.TLSConfig == nil || !strings.Contains(err.Error(), "server refused TLS connection") {
		return false
	}
	for _, f := range t.pg.Fallbacks {
		if f.TLSConfig == nil {
			return false
		}
	}
	return !strings.Contains(err.Error(), "dial error")
}

// A lineError is an error whose text is one line: pgx writes a line for each address
// that it tried.
type lineError struct{ err error }

func (e *lineError) Error() string { return strings.Join(strings.Fields(e.err.Error()), " ") }
func (e *lineError) Unwrap() error { return e.err }

func inOneLine(err error) error {
	if strings.ContainsAny(err.Error(), "\n\t") {
		return &lineError{err}
	}
	return err
}
