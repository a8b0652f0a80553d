package app

import (
	"strings"
	"testing"
)

func TestLimit(t *testing.T) {
	for _, row := range []struct {
		limit       Limit
		total, want int64
	}{
		{Limit{}, 100, 0},
		{Limit{Bytes: 7}, 100, 7},
		{Limit{Bytes: 7}, 0, 7},
		{Limit{Share: 0.5}, 100, 50},
		{Limit{Share: 0.5}, 0, 0},
		{Limit{Bytes: 7, Share: 0.5}, 100, 7},
		{Limit{Bytes: 70, Share: 0.5}, 100, 50},
		{Limit{Bytes: 7, Share: 0.5}, 0, 7},
	} {
		if got := row.limit.of(row.total); got != row.want {
			t.Errorf("%+v of %d: %d, want %d", row.limit, row.total, got, row.want)
		}
	}
}

func TestParseStore(t *testing.T) {
	for _, row := range []struct {
		url  string
		kind StoreKind // 0: an error
		dir  string
	}{
		{"memory:", MemoryStore, ""},
		{"memory://", MemoryStore, ""},
		{"memory:x", 0, ""},
		{"file:data", FileStore, "data"},
		{"file:/var/lib/ferry", FileStore, "/var/lib/ferry"},
		{"file:///var/lib/ferry", FileStore, "/var/lib/ferry"},
		{"file:../data", FileStore, "../data"},
		{"file:", 0, ""},
		{"data", 0, ""},
		{"", 0, ""},
		{"postgres://u:p@h/db?journal=other", DatabaseStore, "postgres://u:p@h/db?journal=other"},
		{"postgresql://h/db", DatabaseStore, "postgresql://h/db"},
		{"mysql://h/db", DatabaseStore, "mysql://h/db"},
		{"mysql://h", 0, ""},
		{"nats://h/name", 0, ""},
		{"redis://h", 0, ""},
		{"host=h user=u password=secret", 0, ""},
		{"host=h password=secret:more", 0, ""},
		{"u:secret@tcp(h:3306)/db", 0, ""},
	} {
		kind, dir, err := ParseStore(row.url)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the password is shown: %v", row.url, err)
		}
		if err != nil {
			kind, dir = 0, "" // mean nothing
		}
		if kind != row.kind || dir != row.dir || (err == nil) != (row.kind != 0) {
			t.Errorf("%q: %v %q %v, want %v %q", row.url, kind, dir, err, row.kind, row.dir)
		}
	}
}

func TestMemoryGauge(t *testing.T) {
	if n := newMemoryGauge().used(); n < 1<<20 || n > 1<<32 {
		t.Errorf("%d bytes are in use", n)
	}
}
