package broker

import (
	"fmt"
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
