package broker

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestSettingsOutliveRestarts(t *testing.T) {
	w := newWorld(t)
	put := func(kind, name, value string) {
		t.Helper()
		if err := w.b.PutSetting(Setting{Kind: kind, Name: name, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	var told []string
	w.b.WatchSettings(func(s Setting) { told = append(told, fmt.Sprintf("%s=%s", s.Name, s.Value)) })
	put(SettingUser, "a", "1")
	put(SettingUser, "b", "")
	put(SettingUser, "b", "2")
	put(SettingUser, "c", "3")
	if found, err := w.b.DeleteSetting(SettingUser, "", "c"); !found || err != nil {
		t.Errorf("delete: %v, %v", found, err)
	}
	if found, err := w.b.DeleteSetting(SettingUser, "", "c"); found || err != nil {
		t.Errorf("delete again: %v, %v", found, err)
	}
	if got := fmt.Sprint(told); got != "[a=1 b= b=2 c=3 c=]" {
		t.Errorf("told of %s", got)
	}
	for range 2 {
		if got := fmt.Sprintf("%s", w.b.Settings(SettingUser)); got != "[{user  a 1} {user  b 2}]" {
			t.Errorf("settings are %s", got)
		}
		if err := w.b.takeCheckpoint(); err != nil {
			t.Fatal(err)
		}
		w.restart()
	}
}

// What is declared or set is one record of the journal: what would not fit into a
// batch is refused, and does not end the broker.
func TestWhatTheJournalCannotTakeIsRefused(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	c.queue("q", true)
	c.exchange("x", "direct")
	text := strings.Repeat("a", 9<<20)
	large := args{"a": text}.list()
	for _, s := range []Setting{
		{Kind: SettingGlobalParameter, Name: "g", Value: []byte(`"` + text + `"`)},
		{Kind: SettingPolicy, VHost: "/", Name: "p", Value: []byte(`{"pattern":"","definition":{"ha-mode":"nodes","ha-params":["` + text + `"]}}`)},
		{Kind: SettingUser, Name: text, Value: []byte("{}")},
	} {
		var e *Error
		if err := w.b.PutSetting(s); !errors.As(err, &e) || e.Kind != Invalid {
			t.Errorf("setting %s: %v", s.Kind, err)
		}
	}
	_, err := c.DeclareQueue(QueueSpec{Name: "large", Durable: true, Args: large})
	for what, err := range map[string]error{
		"queue":          err,
		"exchange":       c.DeclareExchange(ExchangeSpec{Name: "large", Type: "direct", Durable: true, Args: large}),
		"binding":        c.BindQueue("q", "x", "k", large),
		"other exchange": c.BindExchange("x", "x", "k", large),
	} {
		var e *Error
		if !errors.As(err, &e) || e.Kind != PreconditionFailed {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := w.b.Cause(); err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // each of which is taken
		value := []byte(`"` + text[:settingMost-2] + `"`)
		if err := w.b.PutSettings(Setting{Kind: SettingGlobalParameter, Name: string(rune('a' + i)), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
}
