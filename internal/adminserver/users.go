package adminserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

// userFault is the answer to a call of auth that failed.
func userFault(err error) error {
	var e *auth.Error
	switch {
	case errors.As(err, &e):
		return badRequest("%s", cutTo(e.Error(), 4*echoMost))
	case errors.Is(err, auth.ErrNotFound):
		return notFound()
	}
	return err
}

// user is one as RabbitMQ's API shows it, to administrators only.
func (c *call) user(u *auth.User, limits map[string]object) object {
	limit := limits[u.Name]
	if limit == nil {
		limit = object{}
	}
	return object{
		"name": u.Name, "password_hash": u.PasswordHash, "hashing_algorithm": u.HashingAlgorithm, "tags": u.Tags, "limits": limit,
	}
}

// listUsers is GET /api/users.
func (c *call) listUsers() error {
	return c.listUsersIf(func(string) bool { return true })
}

// listUsersWithoutPermissions is GET /api/users/without-permissions: those that may
// use no virtual host.
func (c *call) listUsersWithoutPermissions() error {
	some := map[string]bool{}
	for _, p := range c.users.Permissions() {
		some[p.User] = true
	}
	return c.listUsersIf(func(name string) bool { return !some[name] })
}

func (c *call) listUsersIf(wanted func(name string) bool) error {
	limits := c.userLimits()
	return c.list(func(yield func(object) bool) {
		for _, u := range c.users.List() {
			if wanted(u.Name) && !yield(c.user(&u, limits)) {
				return
			}
		}
	}, false)
}

// getUser is GET /api/users/user.
func (c *call) getUser() error {
	u, ok := c.users.User(c.arg("user"))
	if !ok {
		return notFound()
	}
	return c.one(c.user(&u, c.userLimits()))
}

// putUser is PUT /api/users/user.
func (c *call) putUser() error {
	body, err := c.body()
	if err != nil {
		return err
	}
	if _, err := parseFields(body); err != nil {
		return err
	}
	var spec auth.UserSpec
	if err := json.Unmarshal(body, &spec); err != nil {
		return badRequest("the user is not understood: tags are a text or a list of texts, all else is texts")
	}
	name := c.arg("user")
	created, err := c.users.PutUser(c.r.Context(), name, spec)
	if err != nil {
		return userFault(err)
	}
	c.note("user was set", "name", name)
	return c.putDone(created)
}

// putDone answers with whether something is new.
func (c *call) putDone(created bool) error {
	if created {
		c.w.WriteHeader(http.StatusCreated)
		return nil
	}
	return c.done()
}

// note logs what an operator has done.
func (c *call) note(what string, args ...any) {
	c.s.cfg.Logger.Info(what, append(args, "by", c.who.Name)...)
}

// deleteUser is DELETE /api/users/user.
func (c *call) deleteUser() error {
	if err := c.removeUser(c.arg("user")); err != nil {
		return userFault(err)
	}
	return c.done()
}

func (c *call) removeUser(name string) error {
	if err := c.users.DeleteUser(name); err != nil {
		return err
	}
	for _, s := range c.b.Settings(broker.SettingUserLimit) {
		if user, _, _ := strings.Cut(s.Name, "\x00"); user != name {
			continue
		}
		if _, err := c.b.DeleteSetting(broker.SettingUserLimit, "", s.Name); err != nil {
			return err
		}
	}
	c.note("user was deleted", "name", name)
	return nil
}

// deleteUsers is POST /api/users/bulk-delete.
func (c *call) deleteUsers() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	if err := f.need("users"); err != nil {
		return err
	}
	list, ok := f["users"].([]any)
	if !ok {
		return badValue("not_list", "users")
	}
	names := make([]string, len(list))
	for i, v := range list {
		if names[i], ok = v.(string); !ok {
			return badValue("not_string", "users")
		}
	}
	for _, name := range names {
		if err := c.removeUser(name); err != nil && !errors.Is(err, auth.ErrNotFound) {
			return userFault(err)
		}
	}
	return c.done()
}

// listPermissions is GET /api/permissions and /api/vhosts/vhost/permissions.
func (c *call) listPermissions() error {
	vhost := c.arg("vhost")
	return c.permissionsIf(func(p *auth.Permissions) bool { return vhost == "" || p.VHost == vhost })
}

// permissionsOfUser is GET /api/users/user/permissions.
func (c *call) permissionsOfUser() error {
	user := c.arg("user")
	if _, ok := c.users.User(user); !ok {
		return notFound()
	}
	return c.permissionsIf(func(p *auth.Permissions) bool { return p.User == user })
}

func (c *call) permissionsIf(wanted func(*auth.Permissions) bool) error {
	return c.list(func(yield func(object) bool) {
		for _, p := range c.users.Permissions() {
			if wanted(&p) && !yield(permission(&p)) {
				return
			}
		}
	}, false)
}

func permission(p *auth.Permissions) object {
	return object{"user": p.User, "vhost": p.VHost, "configure": p.Configure, "write": p.Write, "read": p.Read}
}

// getPermission is GET /api/permissions/vhost/user.
func (c *call) getPermission() error {
	p, ok := c.users.Permission(c.arg("user"), c.arg("vhost"))
	if !ok {
		return notFound()
	}
	return c.one(permission(&p))
}

// putPermission is PUT /api/permissions/vhost/user.
func (c *call) putPermission() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	if err := f.need("configure", "write", "read"); err != nil {
		return err
	}
	p := auth.Permissions{User: c.arg("user"), VHost: c.arg("vhost")}
	for name, to := range map[string]*string{"configure": &p.Configure, "write": &p.Write, "read": &p.Read} {
		if *to, err = f.text(name); err != nil {
			return err
		}
	}
	created, err := c.users.PutPermission(p)
	if err != nil {
		return userFault(err)
	}
	c.note("permissions were set", "name", p.User, "vhost", p.VHost)
	return c.putDone(created)
}

// deletePermission is DELETE /api/permissions/vhost/user.
func (c *call) deletePermission() error {
	if err := c.users.DeletePermission(c.arg("user"), c.arg("vhost")); err != nil {
		return userFault(err)
	}
	c.note("permissions were taken away", "name", c.arg("user"), "vhost", c.arg("vhost"))
	return c.done()
}

// listTopicPermissions is GET /api/topic-permissions and
// /api/vhosts/vhost/topic-permissions.
func (c *call) listTopicPermissions() error {
	vhost := c.arg("vhost")
	return c.topicPermissionsIf(func(p *auth.TopicPermission) bool { return vhost == "" || p.VHost == vhost })
}

// topicPermissionsOfUser is GET /api/users/user/topic-permissions.
func (c *call) topicPermissionsOfUser() error {
	user := c.arg("user")
	if _, ok := c.users.User(user); !ok {
		return notFound()
	}
	return c.topicPermissionsIf(func(p *auth.TopicPermission) bool { return p.User == user })
}

func (c *call) topicPermissionsIf(wanted func(*auth.TopicPermission) bool) error {
	return c.list(func(yield func(object) bool) {
		for _, p := range c.users.TopicPermissions() {
			if wanted(&p) && !yield(topicPermission(&p)) {
				return
			}
		}
	}, false)
}

func topicPermission(p *auth.TopicPermission) object {
	return object{"user": p.User, "vhost": p.VHost, "exchange": p.Exchange, "write": p.Write, "read": p.Read}
}

// getTopicPermissions is GET /api/topic-permissions/vhost/user.
func (c *call) getTopicPermissions() error {
	var list []object
	for _, p := range c.users.TopicPermissions() {
		if p.User == c.arg("user") && p.VHost == c.arg("vhost") {
			list = append(list, topicPermission(&p))
		}
	}
	if list == nil {
		return notFound()
	}
	answer(c.w, http.StatusOK, list)
	return nil
}

// putTopicPermission is PUT /api/topic-permissions/vhost/user.
func (c *call) putTopicPermission() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	if err := f.need("exchange", "write", "read"); err != nil {
		return err
	}
	p := auth.TopicPermission{User: c.arg("user"), VHost: c.arg("vhost")}
	for name, to := range map[string]*string{"exchange": &p.Exchange, "write": &p.Write, "read": &p.Read} {
		if *to, err = f.text(name); err != nil {
			return err
		}
	}
	created, err := c.users.PutTopicPermission(p)
	if err != nil {
		return userFault(err)
	}
	c.note("topic permissions were set", "name", p.User, "vhost", p.VHost)
	return c.putDone(created)
}

// deleteTopicPermissions is DELETE /api/topic-permissions/vhost/user: those of all
// exchanges, or of one.
func (c *call) deleteTopicPermissions() error {
	if err := c.users.DeleteTopicPermission(c.arg("user"), c.arg("vhost"), c.arg("exchange")); err != nil {
		return userFault(err)
	}
	c.note("topic permissions were taken away", "name", c.arg("user"), "vhost", c.arg("vhost"))
	return c.done()
}
