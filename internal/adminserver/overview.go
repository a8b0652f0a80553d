package adminserver

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/ferrymq/ferry/internal/broker"
)

// Compatible is the version of RabbitMQ that the API tells to be: tools decide by it
// what they ask for. What the broker is itself is in product_name and
// product_version.
const Compatible = "4.1.0"

// Product is what the broker is called.
const Product = "Ferry"

// A Node is a process as it tells of itself. What is not known is 0.
type Node struct {
	Listeners []Listener

	Memory, MemoryLimit int64 // bytes
	DiskFree, DiskLimit int64 // bytes
	Files, FilesLimit   int   // open files and sockets, and how many may be
	// Certificates are the ends of those that are shown to clients.
	Certificates []time.Time
}

// A Listener is where a protocol is served, as RabbitMQ calls it: "amqp", "stomp",
// "http", "http/web-stomp", "amqp/ssl"…
type Listener struct {
	Protocol string
	Host     string
	Port     int
}

// exchangeTypes are those that RabbitMQ and its plugins have and that are here.
var exchangeTypes = func() []object {
	var types []object
	for _, name := range []string{
		"direct", "fanout", "headers", "topic", "x-consistent-hash", "x-delayed-message", "x-local-random",
		"x-message-deduplication", "x-modulus-hash", "x-random",
	} {
		types = append(types, object{"name": name, "description": "exchange of type " + name, "enabled": true})
	}
	return types
}()

// overview is GET /api/overview. Totals are of what the user sees, of all virtual
// hosts for who watches over the broker.
func (c *call) overview() error {
	f := broker.Filter{}
	if !c.monitors() {
		f.VHosts = c.member
	}
	t := c.b.Totals(f)
	listeners := []object{}
	if c.monitors() {
		for _, l := range c.s.cfg.Node().Listeners {
			listeners = append(listeners, object{
				"node": c.s.cfg.Name, "protocol": l.Protocol, "ip_address": l.Host, "port": l.Port,
				"socket_opts": object{},
			})
		}
	}
	churn := object{}
	addChurn(churn, &t.Churn)
	return c.one(object{
		"management_version": Compatible, "rabbitmq_version": Compatible,
		"product_name": Product, "product_version": c.s.cfg.Version,
		"erlang_version": runtime.Version(), "erlang_full_version": runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		"cluster_name": c.clusterName(), "node": c.s.cfg.Name, "rates_mode": "basic",
		"sample_retention_policies": object{"global": []int{}, "basic": []int{}, "detailed": []int{}},
		"exchange_types":            exchangeTypes, "release_series_support_status": "supported",
		"disable_stats": false, "enable_queue_totals": false, "is_op_policy_updating_enabled": true,
		"statistics_db_event_queue": 0, "churn_rates": churn,
		"message_stats": stats{&t.Traffic, &t.Rates},
		"queue_totals": object{
			"messages": t.Depth.Messages(), "messages_details": noRate,
			"messages_ready": t.Depth.Ready, "messages_ready_details": noRate,
			"messages_unacknowledged": t.Depth.Unacked, "messages_unacknowledged_details": noRate,
		},
		"object_totals": object{
			"channels": t.Channels, "connections": t.Connections, "consumers": t.Consumers, "exchanges": t.Exchanges, "queues": t.Queues,
		},
		"listeners": listeners, "contexts": []any{},
	})
}

// addChurn tells what came and went. Some tools read it as numbers of 32 bits.
func addChurn(to object, c *broker.Churn) {
	for name, n := range map[string]uint64{
		"connection_created": c.ConnectionsOpened, "connection_closed": c.ConnectionsClosed,
		"channel_created": c.ChannelsOpened, "channel_closed": c.ChannelsClosed,
		"queue_declared": c.QueuesDeclared, "queue_created": c.QueuesCreated, "queue_deleted": c.QueuesDeleted,
	} {
		to[name], to[name+"_details"] = min(n, math.MaxUint32), noRate
	}
}

// whoami is GET /api/whoami.
func (c *call) whoami() error {
	return c.one(object{"name": c.who.Name, "tags": tagList(c.who.Tags)})
}

// tagList is never null.
func tagList(tags []string) []string {
	if tags == nil {
		return []string{}
	}
	return tags
}

// version is GET /api/version.
func (c *call) version() error {
	answer(c.w, http.StatusOK, Compatible)
	return nil
}

// empty answers with a list of what there is none of.
func (c *call) empty() error {
	answer(c.w, http.StatusOK, []any{})
	return nil
}

// clusterParameter is the global parameter that has the cluster's name, as in
// RabbitMQ.
const clusterParameter = "cluster_name"

// clusterName is what operators have called the cluster, or this node's name.
func (c *call) clusterName() string {
	var name string
	if v, ok := c.b.Setting(broker.SettingGlobalParameter, "", clusterParameter); ok && json.Unmarshal(v, &name) == nil && name != "" {
		return name
	}
	return c.s.cfg.Name
}

// getClusterName is GET /api/cluster-name.
func (c *call) getClusterName() error { return c.one(object{"name": c.clusterName()}) }

// putClusterName is PUT /api/cluster-name.
func (c *call) putClusterName() error {
	f, err := c.fields()
	if err != nil {
		return err
	}
	if err := f.need("name"); err != nil {
		return err
	}
	name, err := f.text("name")
	if err != nil {
		return err
	}
	if err := checkName("cluster", name); err != nil {
		return err
	}
	value, err := json.Marshal(name)
	if err != nil {
		return err
	}
	if err := c.b.PutSetting(broker.Setting{Kind: broker.SettingGlobalParameter, Name: clusterParameter, Value: value}); err != nil {
		return err
	}
	return c.done()
}

// listNodes is GET /api/nodes: the one that is live.
func (c *call) listNodes() error {
	return c.list(func(yield func(object) bool) { yield(c.node()) }, false)
}

// listPeers is GET /api/ferry/nodes: all that share the store.
func (c *call) listPeers() error {
	answer(c.w, http.StatusOK, c.s.cfg.Peers(c.r.Context()))
	return nil
}

// thisNode tells whether the path means this node.
func (c *call) thisNode() error {
	if c.arg("node") != c.s.cfg.Name {
		return notFound()
	}
	return nil
}

// getNode is GET /api/nodes/node.
func (c *call) getNode() error {
	if err := c.thisNode(); err != nil {
		return err
	}
	return c.one(c.node())
}

// memoryMost stands for no limit: what a signed number of 64 bits has room for is
// more than some tools read.
const memoryMost = 1 << 53

func (c *call) node() object {
	n := c.s.cfg.Node()
	blocked := c.b.Blocked()
	t := c.b.Totals(broker.Filter{})
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	memoryLimit := n.MemoryLimit
	if memoryLimit == 0 {
		memoryLimit = memoryMost
	}
	out := object{
		"name": c.s.cfg.Name, "type": "disc", "running": true, "being_drained": false,
		"rabbitmq_version": Compatible, "product_name": Product, "product_version": c.s.cfg.Version,
		// Some tools read it as a number of 32 bits, which ends after 49 days.
		"uptime":     min(time.Since(c.s.started).Milliseconds(), math.MaxUint32),
		"rates_mode": "basic", "run_queue": 0, "processors": runtime.GOMAXPROCS(0), "os_pid": strconv.Itoa(os.Getpid()),
		"mem_used": n.Memory, "mem_limit": memoryLimit, "mem_alarm": isMemory(blocked), "mem_used_details": noRate, "mem_calculation_strategy": "allocated",
		"disk_free": n.DiskFree, "disk_free_limit": n.DiskLimit, "disk_free_alarm": isDisk(blocked), "disk_free_details": noRate,
		"fd_used": n.Files, "fd_total": n.FilesLimit, "fd_used_details": noRate,
		"sockets_used": t.Connections, "sockets_total": n.FilesLimit, "sockets_used_details": noRate,
		"proc_used": runtime.NumGoroutine(), "proc_total": 1 << 20, "proc_used_details": noRate,
		"gc_num": m.NumGC, "gc_num_details": noRate, "gc_bytes_reclaimed": m.TotalAlloc - m.HeapAlloc, "gc_bytes_reclaimed_details": noRate,
		"context_switches": 0, "context_switches_details": noRate,
		"io_read_count": 0, "io_read_bytes": 0, "io_read_avg_time": number(0),
		"io_write_count": 0, "io_write_bytes": 0, "io_write_avg_time": number(0),
		"io_sync_count": 0, "io_sync_avg_time": number(0), "io_seek_count": 0, "io_seek_avg_time": number(0), "io_reopen_count": 0,
		"mnesia_ram_tx_count": 0, "mnesia_disk_tx_count": 0, "msg_store_read_count": 0, "msg_store_write_count": 0,
		"queue_index_read_count": 0, "queue_index_write_count": 0, "queue_index_journal_write_count": 0,
		"net_ticktime": 60, "partitions": []any{}, "cluster_links": []any{}, "metrics_gc_queue_length": object{},
		"enabled_plugins": []string{"rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_stomp", "rabbitmq_web_stomp"},
		"applications":    []object{{"name": "rabbit", "description": Product, "version": Compatible}},
		"auth_mechanisms": []object{
			{"name": "PLAIN", "description": "SASL PLAIN authentication mechanism", "enabled": true},
			{"name": "AMQPLAIN", "description": "QPid AMQPLAIN mechanism", "enabled": true},
			{"name": "EXTERNAL", "description": "TLS client certificates", "enabled": true},
		},
		"exchange_types": exchangeTypes, "contexts": []any{}, "config_files": []any{}, "log_files": []any{},
	}
	addChurn(out, &t.Churn)
	return out
}

// getNodeMemory is GET /api/nodes/node/memory. The parts are those of a Go process,
// under the names that tools know.
func (c *call) getNodeMemory() error {
	if err := c.thisNode(); err != nil {
		return err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	memory := object{
		"binary": m.HeapInuse, "other_system": m.StackSys + m.MSpanSys + m.MCacheSys + m.BuckHashSys + m.GCSys + m.OtherSys,
		"reserved_unallocated": m.HeapReleased, "allocated_unused": m.HeapIdle - m.HeapReleased, "strategy": "rss",
		"total": object{"rss": c.s.cfg.Node().Memory, "allocated": m.HeapAlloc, "erlang": m.Sys - m.HeapReleased},
	}
	for _, name := range []string{
		"connection_readers", "connection_writers", "connection_channels", "connection_other", "queue_procs", "queue_slave_procs",
		"quorum_queue_procs", "plugins", "other_proc", "metrics", "mgmt_db", "mnesia", "quorum_ets", "other_ets", "msg_index", "code", "atom",
	} {
		memory[name] = 0
	}
	return c.one(object{"memory": memory})
}

// authAttempts is GET /api/auth/attempts/node.
func (c *call) authAttempts() error {
	if err := c.thisNode(); err != nil {
		return err
	}
	answer(c.w, http.StatusOK, c.users.Attempts())
	return nil
}

// noSources is GET /api/auth/attempts/node/source, which RabbitMQ fills only where it
// is told to.
func (c *call) noSources() error {
	if err := c.thisNode(); err != nil {
		return err
	}
	return c.empty()
}

// resetAuthAttempts is DELETE /api/auth/attempts/node.
func (c *call) resetAuthAttempts() error {
	if err := c.thisNode(); err != nil {
		return err
	}
	c.users.ResetAttempts()
	return c.done()
}

func (l *Listener) String() string { return fmt.Sprintf("%s on %s:%d", l.Protocol, l.Host, l.Port) }
