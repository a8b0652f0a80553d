// Package definitions reads and writes what a broker was told to be in RabbitMQ's
// definitions.json: users and what they may do, virtual hosts, policies, limits,
// parameters, exchanges, queues and bindings; no messages.
package definitions

import (
	"encoding/json"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
)

// Store is whose definitions they are.
type Store struct {
	Broker *broker.Broker
	Users  *auth.Users
}

// The sections of a document, in the order in which they are made: each needs those
// before it.
const (
	sectionUsers            = "users"
	sectionVHosts           = "vhosts"
	sectionPermissions      = "permissions"
	sectionTopicPermissions = "topic_permissions"
	sectionParameters       = "parameters"
	sectionGlobalParameters = "global_parameters"
	sectionPolicies         = "policies"
	sectionQueues           = "queues"
	sectionExchanges        = "exchanges"
	sectionBindings         = "bindings"
)

// The components of parameters that are settings of other kinds here.
const (
	ComponentLimits   = "vhost-limits"
	ComponentOperator = "operator_policy"
)

// Inert are the components of parameters that are kept and exported, and have no
// effect.
var Inert = []string{"federation-upstream", "federation-upstream-set", "shovel"}

// internalCluster is a global parameter that names the RabbitMQ that was exported: it
// is no other's.
const internalCluster = "internal_cluster_id"

type userItem struct {
	Name             string                     `json:"name"`
	Password         *string                    `json:"password,omitempty"`
	PasswordHash     *string                    `json:"password_hash,omitempty"`
	HashingAlgorithm string                     `json:"hashing_algorithm,omitempty"`
	Tags             *auth.Tags                 `json:"tags"`
	Limits           map[string]json.RawMessage `json:"limits"`
}

type vhostItem struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Tags        *auth.Tags `json:"tags,omitempty"`
	DefaultType string     `json:"default_queue_type,omitempty"`
	Metadata    *metadata  `json:"metadata,omitempty"`
}

// metadata is what a setting of a virtual host has, and what RabbitMQ exports beside
// its name.
type metadata struct {
	Description string     `json:"description,omitempty"`
	Tags        *auth.Tags `json:"tags,omitempty"`
	DefaultType string     `json:"default_queue_type,omitempty"`
}

type parameterItem struct {
	VHost     string          `json:"vhost,omitempty"`
	Component string          `json:"component"`
	Name      string          `json:"name"`
	Value     json.RawMessage `json:"value"`
}

type globalItem struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

type policyItem struct {
	VHost      string          `json:"vhost,omitempty"`
	Name       string          `json:"name,omitempty"`
	Pattern    json.RawMessage `json:"pattern,omitempty"`
	ApplyTo    json.RawMessage `json:"apply-to,omitempty"`
	Definition json.RawMessage `json:"definition,omitempty"`
	Priority   json.RawMessage `json:"priority,omitempty"`
}

type queueItem struct {
	Name       string         `json:"name"`
	VHost      string         `json:"vhost,omitempty"`
	Type       string         `json:"type,omitempty"`
	Durable    bool           `json:"durable"`
	AutoDelete bool           `json:"auto_delete"`
	Arguments  map[string]any `json:"arguments"`
}

type exchangeItem struct {
	Name       string         `json:"name"`
	VHost      string         `json:"vhost,omitempty"`
	Type       string         `json:"type"`
	Durable    bool           `json:"durable"`
	AutoDelete bool           `json:"auto_delete"`
	Internal   bool           `json:"internal"`
	Arguments  map[string]any `json:"arguments"`
}

type bindingItem struct {
	Source          string         `json:"source"`
	VHost           string         `json:"vhost,omitempty"`
	Destination     string         `json:"destination"`
	DestinationType string         `json:"destination_type"`
	RoutingKey      string         `json:"routing_key"`
	Arguments       map[string]any `json:"arguments"`
}
