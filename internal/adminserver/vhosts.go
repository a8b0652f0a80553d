package adminserver

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

// vhost is one as RabbitMQ's API shows it.
func (c *call) vhost(v *broker.VHostInfo) object {
	meta := struct {
		Description string   `json:"description"`
		Tags        []string `json:"tags"`
		Default     string   `json:"default_queue_type"`
	}{}
	if value, ok := c.b.Setting(broker.SettingVHost, "", v.Name); ok {
		_ = json.Unmarshal(value, &meta) // it was checked when it was set
	}
	metadata := object{"description": meta.Description, "tags": tagList(meta.Tags)}
	if meta.Default == "" {
		meta.Default = "classic"
	} else {
		metadata["default_queue_type"] = meta.Default
	}
	return object{
		"name": v.Name, "description": meta.Description, "tags": tagList(meta.Tags), "default_queue_type": meta.Default,
		"metadata": metadata, "tracing": false, "cluster_state": object{c.s.cfg.Name: "running"},
		"messages": v.Depth.Messages(), "messages_details": noRate,
		"messages_ready": v.Depth.Ready, "messages_ready_details": noRate,
		"messages_unacknowledged": v.Depth.Unacked, "messages_unacknowledged_details": noRate,
		"message_stats": stats{&v.Traffic, &v.Rates},
	}
}

// listVHosts is GET /api/vhosts.
func (c *call) listVHosts() error {
	return c.list(func(yield func(object) bool) {
		for _, v := range c.b.VHosts() {
			if (c.monitors() || c.member(v.Name)) && !yield(c.vhost(&v)) {
				return
			}
		}
	}, true)
}

// getVHost is GET /api/vhosts/vhost.
func (c *call) getVHost() error {
	v, ok := c.b.VHost(c.arg("vhost"))
	if !ok {
		return notFound()
	}
	return c.one(c.vhost(&v))
}

// putVHost is PUT /api/vhosts/vhost. Who makes a virtual host may use it, as in
// RabbitMQ.
func (c *call) putVHost() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	name := c.arg("vhost")
	if err := checkName("virtual host", name); err != nil {
		return err
	}
	meta, err := metadataOf(f)
	if err != nil {
		return err
	}
	there := c.hasVHost(name)
	if !there {
		if err := c.b.AddVHost(name); err != nil {
			return err
		}
	}
	if meta != nil {
		if err := c.b.PutSetting(broker.Setting{Kind: broker.SettingVHost, Name: name, Value: meta}); err != nil {
			return err
		}
	}
	if there {
		return c.done()
	}
	all := auth.Permissions{User: c.who.Name, VHost: name, Configure: ".*", Write: ".*", Read: ".*"}
	if _, err := c.users.PutPermission(all); err != nil {
		return userFault(err)
	}
	c.note("virtual host was made", "name", name)
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// metadataOf is what a body says of a virtual host, as a setting has it; nil:
// nothing.
func metadataOf(f fields) ([]byte, error) {
	meta := object{}
	for _, name := range []string{"description", "default_queue_type", "defaultqueuetype"} {
		if f[name] == nil {
			continue
		}
		s, err := f.text(name)
		if err != nil {
			return nil, err
		}
		if name == "defaultqueuetype" { // as some clients write it
			name = "default_queue_type"
		}
		meta[name] = s
	}
	switch tags := f["tags"].(type) {
	case nil:
	case string:
		list := []string{}
		for _, tag := range strings.Split(tags, ",") {
			if tag = strings.TrimSpace(tag); tag != "" {
				list = append(list, tag)
			}
		}
		meta["tags"] = list
	case []any:
		for _, tag := range tags {
			if _, ok := tag.(string); !ok {
				return nil, badValue("not_string", "tags")
			}
		}
		meta["tags"] = tags
	default:
		return nil, badValue("not_string", "tags")
	}
	if len(meta) == 0 {
		return nil, nil
	}
	return json.Marshal(meta)
}

// deleteVHost is DELETE /api/vhosts/vhost.
func (c *call) deleteVHost() error {
	name := c.arg("vhost")
	if err := c.b.DeleteVHost(name); err != nil {
		return err
	}
	if err := c.users.DeleteVHost(name); err != nil {
		return err
	}
	c.note("virtual host was deleted", "name", name)
	return c.done()
}
