package broker

import (
	"encoding/json"
	"maps"
	"slices"
)

// policyKeySpec is a key that policies may have.
type policyKeySpec struct {
	what     string // a value of it is, in RabbitMQ's errors
	check    func(v any) bool
	operator bool // operator policies may have it too
	idle     bool // it has no effect here
}

// policyKeys are those of RabbitMQ 3 and 4, and of its federation and sharding.
var policyKeys = map[string]policyKeySpec{
	"alternate-exchange":      {what: "alternate exchange name", check: isText},
	"dead-letter-exchange":    {what: "dead letter exchange name", check: isText},
	"dead-letter-routing-key": {what: "dead letter routing key", check: isText},
	"message-ttl":             {what: "message TTL", check: isNatural, operator: true},
	"expires":                 {what: "queue expiry", check: isPositive, operator: true},
	"max-length":              {what: "maximum length", check: isNatural, operator: true},
	"max-length-bytes":        {what: "maximum length in bytes", check: isNatural, operator: true},
	"overflow":                {what: "overflow value", check: isOneOf("drop-head", "reject-publish", "reject-publish-dlx"), operator: true},
	"delivery-limit":          {what: "delivery limit", check: isInteger, operator: true},
	"consumer-timeout":        {what: "consumer timeout", check: isNatural, operator: true},
	"delayed-retry-type":      {what: "delayed retry type", check: isOneOf(retryTypes...)},
	"delayed-retry-min":       {what: "delayed retry time", check: isNatural},
	"delayed-retry-max":       {what: "delayed retry time", check: isNatural},

	"max-in-memory-length":          {what: "maximum memory in bytes", check: isNatural, operator: true, idle: true},
	"max-in-memory-bytes":           {what: "maximum memory in bytes", check: isNatural, operator: true, idle: true},
	"queue-mode":                    {what: "queue-mode value", check: isOneOf("default", "lazy"), idle: true},
	"queue-version":                 {what: "queue-version value", check: func(v any) bool { return v == int64(1) || v == int64(2) }, operator: true, idle: true},
	"dead-letter-strategy":          {what: "dead letter strategy", check: isOneOf("at-most-once", "at-least-once"), idle: true},
	"queue-leader-locator":          {what: "queue leader locator value", check: isOneOf(leaderLocators...), idle: true},
	"queue-master-locator":          {what: "queue master locator", check: isText, idle: true},
	"initial-cluster-size":          {what: "cluster size", check: isNatural, idle: true},
	"target-group-size":             {what: "target group size", check: isNatural, operator: true, idle: true},
	"consumer-disconnected-timeout": {what: "consumer timeout", check: isNatural, idle: true},
	"max-age":                       {what: "max age", check: isText, idle: true},
	"max-segment-size":              {what: "segment size", check: isNatural, idle: true},
	"stream-max-segment-size-bytes": {what: "segment size", check: isNatural, idle: true},
	"stream-filter-size-bytes":      {what: "filter size", check: isNatural, idle: true},
	"ha-mode":                       {what: "ha-mode value", check: isOneOf("all", "exactly", "nodes"), operator: true, idle: true},
	"ha-params":                     {what: "ha-params value", check: isAnything, operator: true, idle: true},
	"ha-sync-mode":                  {what: "ha-sync-mode value", check: isOneOf("manual", "automatic"), operator: true, idle: true},
	"ha-sync-batch-size":            {what: "ha-sync-batch-size value", check: isPositive, idle: true},
	"ha-promote-on-shutdown":        {what: "ha-promote-on-shutdown value", check: isOneOf("always", "when-synced"), idle: true},
	"ha-promote-on-failure":         {what: "ha-promote-on-failure value", check: isOneOf("always", "when-synced"), idle: true},
	"federation-upstream":           {what: "federation upstream", check: isText, idle: true},
	"federation-upstream-set":       {what: "federation upstream set", check: isText, idle: true},
	"federation-upstream-pattern":   {what: "federation upstream pattern", check: isText, idle: true},
	"shards-per-node":               {what: "number of shards", check: isNatural, idle: true},
	"routing-key":                   {what: "routing key", check: isText, idle: true},
}

func isAnything(any) bool { return true }

func isText(v any) bool {
	_, ok := v.(string)
	return ok
}

func isInteger(v any) bool {
	_, ok := v.(int64)
	return ok
}

func isNatural(v any) bool {
	n, ok := v.(int64)
	return ok && n >= 0
}

func isPositive(v any) bool {
	n, ok := v.(int64)
	return ok && n > 0
}

func isOneOf(values ...string) func(v any) bool {
	return func(v any) bool {
		s, ok := v.(string)
		return ok && slices.Contains(values, s)
	}
}

// PolicyWithoutEffect lists the keys of a policy's definition, which is JSON, that
// are accepted so that the policy is not refused, but that do nothing here: those of
// mirrors, of federation, of streams, and of where things are in a cluster.
func PolicyWithoutEffect(def []byte) []string {
	var all map[string]json.RawMessage
	if json.Unmarshal(def, &all) != nil {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(key string) bool { return !policyKeys[key].idle })
}
