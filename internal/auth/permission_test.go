package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func mustPut(t *testing.T, u *Users, name, password string, tags ...string) {
	t.Helper()
	if _, err := u.PutUser(t.Context(), name, UserSpec{Password: &password, Tags: (*Tags)(&tags)}); err != nil {
		t.Fatal(err)
	}
}

func mustPermit(t *testing.T, u *Users, user, vhost, configure, write, read string) {
	t.Helper()
	if _, err := u.PutPermission(Permissions{user, vhost, configure, write, read}); err != nil {
		t.Fatal(err)
	}
}

// What RabbitMQ 3.10.8 answers, but where a row says otherwise.
func TestMayIsRabbitMQs(t *testing.T) {
	u := New(&MemoryStore{})
	mustPut(t, u, "ada", "x")
	for _, row := range []struct {
		pattern, name string
		want          bool
	}{
		{".*", "q", true},
		{".*", "", true},
		{"", "", true}, // the empty pattern is ^$
		{"", "q", false},
		{"^$", "q", false},
		{"q", "a queue", true}, // it is searched for
		{"^q", "a queue", false},
		{"^amq\\.default$", "amq.default", true},
		{"^amq\\.default$", "amqXdefault", false},
		{"^(?!amq\\.).*", "amq.topic", false},
		{"^(?!amq\\.).*", "orders", true},
	} {
		mustPermit(t, u, "ada", "v", row.pattern, "", row.pattern)
		a, ok := u.Access("ada", "v")
		if !ok {
			t.Fatal("no access to the virtual host")
		}
		if got := a.May(Read, row.name); got != row.want {
			t.Errorf("%q for %q: %v, want %v", row.pattern, row.name, got, row.want)
		}
		if a.May(Configure, row.name) != row.want || a.May(Write, row.name) != (row.name == "") {
			t.Errorf("%q for %q: the permissions are taken for one another", row.pattern, row.name)
		}
	}
}

func TestAccessFollowsWhatIsPut(t *testing.T) {
	u := New(&MemoryStore{})
	mustPut(t, u, "ada", "x")
	if _, ok := u.Access("ada", "/"); ok {
		t.Error("a user without permissions has access")
	}
	mustPermit(t, u, "ada", "/", ".*", ".*", ".*")
	a, ok := u.Access("ada", "/")
	if !ok || !a.May(Write, "q") {
		t.Fatal("no access")
	}
	if _, ok := u.Access("ada", "other"); ok {
		t.Error("access to another virtual host")
	}
	mustPermit(t, u, "ada", "/", "", "^a", "")
	if a.May(Write, "q") || !a.May(Write, "a") || a.May(Read, "a") {
		t.Error("the old permissions hold")
	}
	if err := u.DeletePermission("ada", "/"); err != nil {
		t.Fatal(err)
	}
	if _, ok := u.Access("ada", "/"); ok || a.May(Write, "a") {
		t.Error("access without permissions")
	}
	if err := u.DeletePermission("ada", "/"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	mustPermit(t, u, "ada", "/", ".*", ".*", ".*")
	if err := u.DeleteUser("ada"); err != nil {
		t.Fatal(err)
	}
	if a.May(Write, "a") || len(u.Permissions()) != 0 {
		t.Error("the permissions outlive the user")
	}
	mustPut(t, u, "ada", "x")
	if _, ok := u.Access("ada", "/"); ok {
		t.Error("a new user has what one of its name had")
	}
	if _, ok := (Identity{Name: "ada"}).Access("/"); ok {
		t.Error("who did not log in has access")
	}
}

func TestTopicPermissionsNarrow(t *testing.T) {
	u := New(&MemoryStore{})
	mustPut(t, u, "a.b", "x")
	mustPut(t, u, ".*", "x")
	for _, user := range []string{"a.b", ".*"} {
		mustPermit(t, u, user, "/", ".*", ".*", ".*")
		created, err := u.PutTopicPermission(TopicPermission{user, "/", "t", "^{username}\\.", ""})
		if err != nil || !created {
			t.Fatal(created, err)
		}
	}
	a, _ := u.Access("a.b", "/")
	for _, row := range []struct {
		p             Permission
		exchange, key string
		want          bool
	}{
		{Write, "t", "a.b.c", true},
		{Write, "t", "axb.c", false}, // the name is no pattern
		{Write, "t", "c", false},
		{Write, "other", "c", true},
		{Read, "t", "c", false},
		{Read, "t", "", true},
		{Configure, "t", "c", true},
	} {
		if got := a.MayTopic(row.p, row.exchange, row.key); got != row.want {
			t.Errorf("%v %s %q: %v, want %v", row.p, row.exchange, row.key, got, row.want)
		}
	}
	if b, _ := u.Access(".*", "/"); b.MayTopic(Write, "t", "a.b.c") {
		t.Error("a user's name is taken for a pattern")
	}
	if err := u.DeleteTopicPermission("a.b", "/", ""); err != nil {
		t.Fatal(err)
	}
	if !a.MayTopic(Write, "t", "c") {
		t.Error("a topic permission holds that was taken away")
	}
	if err := u.DeleteTopicPermission("a.b", "/", "t"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if err := u.DeleteVHost("/"); err != nil || len(u.TopicPermissions()) != 0 || len(u.Permissions()) != 0 {
		t.Errorf("%v; permissions outlive their virtual host", err)
	}
}

// fewVHosts is a store with one virtual host.
type fewVHosts struct{ MemoryStore }

func (*fewVHosts) HasVHost(name string) bool { return name == "/" }

func TestWhatIsWrongIsRefusedInRabbitMQsWords(t *testing.T) {
	u := New(&fewVHosts{})
	mustPut(t, u, "ada", "x")
	text := func(s string) *string { return &s }
	put := func(name string, s UserSpec) func() error {
		return func() error { _, err := u.PutUser(t.Context(), name, s); return err }
	}
	permit := func(p Permissions) func() error {
		return func() error { _, err := u.PutPermission(p); return err }
	}
	for _, row := range []struct {
		do   func() error
		code string
	}{
		{put("u", UserSpec{Password: text("x")}), "tags_not_present"},
		{put("u", UserSpec{Password: text("x"), PasswordHash: text(""), Tags: &Tags{}}), "both_password_and_password_hash_are_provided"},
		{put("u", UserSpec{PasswordHash: text("!!"), Tags: &Tags{}}), "not_base64"},
		{put("u", UserSpec{PasswordHash: text("AAAA"), HashingAlgorithm: "nope", Tags: &Tags{}}), "unknown_hashing_algorithm"},
		{put("u", UserSpec{PasswordHash: text("AAAA"), HashingAlgorithm: Argon2id, Tags: &Tags{}}), "invalid_password_hash"},
		{put("u", UserSpec{Password: text(strings.Repeat("x", MaxPassword+1)), Tags: &Tags{}}), "invalid_password"},
		{put("", UserSpec{Tags: &Tags{}}), "invalid_username"},
		{put("a\x00b", UserSpec{Tags: &Tags{}}), "invalid_username"},
		{put("u", UserSpec{Tags: &Tags{strings.Repeat("x", 256)}}), "invalid_tags"},
		{permit(Permissions{"ada", "/", "(", "", ""}), "invalid_regexp"},
		{permit(Permissions{"ada", "/", "", "", "(a)\\1"}), "invalid_regexp"},
		{permit(Permissions{"bob", "/", "", "", ""}), "vhost_or_user_not_found"},
		{permit(Permissions{"ada", "v", "", "", ""}), "vhost_or_user_not_found"},
		{func() error { _, err := u.PutTopicPermission(TopicPermission{"ada", "/", "t", "[", ""}); return err }, "invalid_regexp"},
	} {
		err := row.do()
		var e *Error
		if !errors.As(err, &e) || e.Code != row.code || e.Text == "" {
			t.Errorf("%v, want %s", err, row.code)
		}
	}
	if users := u.List(); len(users) != 1 || len(u.Permissions()) != 0 {
		t.Errorf("what was refused is there: %v", users)
	}
	if err := u.DeleteUser("bob"); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete a user that is not there: %v", err)
	}
}

func TestUsersAreReadAsDefinitionsHaveThem(t *testing.T) {
	for text, want := range map[string]Tags{
		`"administrator, foo bar,"`: {"administrator", "foo bar"},
		`["a","b"]`:                 {"a", "b"},
		`""`:                        {},
		`[]`:                        {},
	} {
		var s UserSpec
		if err := json.Unmarshal(fmt.Appendf(nil, `{"tags":%s}`, text), &s); err != nil || !slices.Equal(*s.Tags, want) {
			t.Errorf("%s: %v, %v", text, s.Tags, err)
		}
	}
	var s UserSpec
	if json.Unmarshal([]byte(`{"tags":7}`), &s) == nil || json.Unmarshal([]byte(`{"tags":[7]}`), &s) == nil {
		t.Error("tags that are none were read")
	}
	u := New(&MemoryStore{})
	mustPut(t, u, "ada", "x", "monitoring")
	user, _ := u.User("ada")
	b, err := json.Marshal(user)
	var back map[string]any
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil || back["name"] != "ada" || back["hashing_algorithm"] != Argon2id || back["password_hash"] != user.PasswordHash {
		t.Errorf("%s, %v", b, err)
	}
}

// A process that ends while the first user is made leaves nothing that another user of
// that name would have later.
func TestTheFirstUserIsTheOnlyOneWithPermissions(t *testing.T) {
	store := &MemoryStore{}
	u := New(store)
	if err := u.PutFirst("app", "", Argon2id, "/", "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.DeleteSetting(KindUser, "", "app"); err != nil { // it was not written
		t.Fatal(err)
	}
	if err := u.PutFirst("ada", "", Argon2id, "/"); err != nil {
		t.Fatal(err)
	}
	if p := u.Permissions(); len(p) != 1 || p[0] != (Permissions{"ada", "/", ".*", ".*", ".*"}) {
		t.Errorf("permissions: %+v", p)
	}
	if user, ok := u.User("ada"); !ok || !slices.Equal(user.Tags, Tags{TagAdministrator}) {
		t.Errorf("%v %v", user, ok)
	}
}
