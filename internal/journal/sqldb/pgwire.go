package sqldb

import (
	"encoding/binary"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// appendBatchMessages appends the messages of an append:
//
//	'B' length portal\0 statement\0 1 1        all parameters are binary
//	    10 (length value)...                   as pgAppendTypes has them
//	    1 1                                    so are the results
//	'Q' length "FETCH 1 FROM portal"\0
//
// An error of the Bind makes the server wait for a Sync, which is not sent: the
// connection is closed then.
func appendBatchMessages(dst []byte, a *attempt) []byte {
	b := &a.batch
	dst = append(dst, 'B')
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, pgPortal+"\x00"+pgAppend+"\x00"...)
	dst = append(dst, 0, 1, 0, 1)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(pgAppendTypes)))
	dst = appendInt8(dst, uint64(a.journalID))
	dst = appendInt8(dst, b.Position)
	dst = appendInt8(dst, b.Epoch)
	dst = appendInt8(dst, b.Segment)
	dst = appendInt8(dst, b.Checkpoint)
	dst = appendBytea(dst, a.writer)
	first := byte(0)
	if a.first {
		first = 1
	}
	dst = append(dst, 0, 0, 0, 1, first)
	dst = binary.BigEndian.AppendUint32(dst, 4)
	dst = binary.BigEndian.AppendUint32(dst, uint32(a.size()))
	dst = appendBytea(dst, b.Head)
	dst = appendBytea(dst, b.Body...)
	dst = append(dst, 0, 1, 0, 1)
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start))

	dst = append(dst, 'Q')
	start = len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, "FETCH 1 FROM "+pgPortal+"\x00"...)
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	return dst
}

func appendInt8(dst []byte, v uint64) []byte {
	dst = binary.BigEndian.AppendUint32(dst, 8)
	return binary.BigEndian.AppendUint64(dst, v)
}

func appendBytea(dst []byte, pieces ...[]byte) []byte {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	for _, p := range pieces {
		dst = append(dst, p...)
	}
	return dst
}

// receive reads the answer to an append: whether a row came out of it.
func (l *pgLane) receive() (bool, error) {
	applied := false
	for {
		m, err := l.conn.Frontend.Receive()
		if err != nil {
			return false, err
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			applied = true
		case *pgproto3.ErrorResponse:
			return false, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			if m.TxStatus != 'I' {
				return false, fmt.Errorf("the server is in a transaction (%c) after an append", m.TxStatus)
			}
			return applied, nil
		}
	}
}
