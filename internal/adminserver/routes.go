package adminserver

import (
	"strconv"
	"strings"
)

// A route is what may be asked for, and of whom.
type route struct {
	method, path string // behind /api/; {name} stands for one segment
	need         need
	reach        reach // to the virtual host that the path calls {vhost}
	handle       func(*call) error
	how          how
}

// how is a set of what is unusual about a route.
type how uint8

const (
	local      how = 1 << iota // a standby answers, too
	large                      // it carries much
	oneMessage                 // that is a message
)

// table is every route there is. A path of words comes before one with a name in the
// same place.
var table = [...]route{
	{"GET", "overview", anyone, nowhere, (*call).overview, 0},
	{"GET", "whoami", anyone, nowhere, (*call).whoami, local},
	{"GET", "version", anyone, nowhere, (*call).version, local},
	{"GET", "cluster-name", anyone, nowhere, (*call).getClusterName, 0},
	{"PUT", "cluster-name", administrator, nowhere, (*call).putClusterName, 0},
	{"GET", "nodes", monitor, nowhere, (*call).listNodes, 0},
	{"GET", "nodes/{node}", monitor, nowhere, (*call).getNode, 0},
	{"GET", "nodes/{node}/memory", monitor, nowhere, (*call).getNodeMemory, 0},
	{"GET", "ferry/nodes", monitor, nowhere, (*call).listPeers, local},
	{"GET", "extensions", anyone, nowhere, (*call).empty, 0},
	{"GET", "feature-flags", administrator, nowhere, (*call).empty, 0},
	{"GET", "deprecated-features", administrator, nowhere, (*call).empty, 0},
	{"GET", "deprecated-features/used", administrator, nowhere, (*call).empty, 0},
	{"GET", "federation-links", monitor, nowhere, (*call).empty, 0},
	{"GET", "federation-links/{vhost}", monitor, visible, (*call).empty, 0},
	{"GET", "shovels", monitor, nowhere, (*call).empty, 0},
	{"GET", "shovels/{vhost}", monitor, visible, (*call).empty, 0},
	{"GET", "auth/attempts/{node}", monitor, nowhere, (*call).authAttempts, 0},
	{"GET", "auth/attempts/{node}/source", monitor, nowhere, (*call).noSources, 0},
	{"DELETE", "auth/attempts/{node}", monitor, nowhere, (*call).resetAuthAttempts, 0},
	{"DELETE", "auth/attempts/{node}/source", monitor, nowhere, (*call).resetAuthAttempts, 0},
	{"POST", "rebalance/queues", administrator, nowhere, (*call).done, 0},

	{"GET", "definitions", administrator, nowhere, (*call).exportDefinitions, 0},
	{"POST", "definitions", administrator, nowhere, (*call).importDefinitions, large},
	{"GET", "definitions/{vhost}", administrator, anywhere, (*call).exportDefinitions, 0},
	{"POST", "definitions/{vhost}", administrator, anywhere, (*call).importDefinitions, large},

	{"GET", "connections", anyone, nowhere, (*call).listConnections, 0},
	{"GET", "connections/username/{user}", anyone, nowhere, (*call).connectionsOfUser, 0},
	{"DELETE", "connections/username/{user}", administrator, nowhere, (*call).deleteConnectionsOfUser, 0},
	{"GET", "connections/{name}", anyone, nowhere, (*call).getConnection, 0},
	{"DELETE", "connections/{name}", anyone, nowhere, (*call).deleteConnection, 0},
	{"GET", "connections/{name}/channels", anyone, nowhere, (*call).channelsOfConnection, 0},
	{"GET", "channels", anyone, nowhere, (*call).listChannels, 0},
	{"GET", "channels/{name}", anyone, nowhere, (*call).getChannel, 0},
	{"GET", "consumers", anyone, nowhere, (*call).listConsumers, 0},
	{"GET", "consumers/{vhost}", anyone, anywhere, (*call).listConsumers, 0},

	{"GET", "exchanges", anyone, nowhere, (*call).listExchanges, 0},
	{"GET", "exchanges/{vhost}", anyone, visible, (*call).listExchanges, 0},
	{"GET", "exchanges/{vhost}/{name}", anyone, visible, (*call).getExchange, 0},
	{"PUT", "exchanges/{vhost}/{name}", anyone, member, (*call).putExchange, 0},
	{"DELETE", "exchanges/{vhost}/{name}", anyone, member, (*call).deleteExchange, 0},
	{"GET", "exchanges/{vhost}/{name}/bindings/source", anyone, visible, (*call).bindingsOfSource, 0},
	{"GET", "exchanges/{vhost}/{name}/bindings/destination", anyone, visible, (*call).bindingsOfDestination, 0},
	{"POST", "exchanges/{vhost}/{name}/publish", anyone, member, (*call).publish, large | oneMessage},

	{"GET", "queues", anyone, nowhere, (*call).listQueues, 0},
	{"GET", "queues/detailed", anyone, nowhere, (*call).listQueues, 0},
	{"GET", "queues/{vhost}", anyone, visible, (*call).listQueues, 0},
	{"GET", "queues/{vhost}/{name}", anyone, visible, (*call).getQueue, 0},
	{"PUT", "queues/{vhost}/{name}", anyone, member, (*call).putQueue, 0},
	{"DELETE", "queues/{vhost}/{name}", anyone, member, (*call).deleteQueue, 0},
	{"GET", "queues/{vhost}/{name}/bindings", anyone, visible, (*call).bindingsOfQueue, 0},
	{"DELETE", "queues/{vhost}/{name}/contents", anyone, member, (*call).purgeQueue, 0},
	{"POST", "queues/{vhost}/{name}/actions", administrator, anywhere, (*call).actOnQueue, 0},
	{"POST", "queues/{vhost}/{name}/get", anyone, member, (*call).getMessages, 0},

	{"GET", "bindings", anyone, nowhere, (*call).listBindings, 0},
	{"GET", "bindings/{vhost}", anyone, visible, (*call).listBindings, 0},
	{"GET", "bindings/{vhost}/e/{source}/q/{destination}", anyone, visible, (*call).bindingsBetween, 0},
	{"POST", "bindings/{vhost}/e/{source}/q/{destination}", anyone, member, (*call).postBinding, 0},
	{"GET", "bindings/{vhost}/e/{source}/q/{destination}/{properties}", anyone, visible, (*call).getBinding, 0},
	{"DELETE", "bindings/{vhost}/e/{source}/q/{destination}/{properties}", anyone, member, (*call).deleteBinding, 0},
	{"GET", "bindings/{vhost}/e/{source}/e/{destination}", anyone, visible, (*call).bindingsBetween, 0},
	{"POST", "bindings/{vhost}/e/{source}/e/{destination}", anyone, member, (*call).postBinding, 0},
	{"GET", "bindings/{vhost}/e/{source}/e/{destination}/{properties}", anyone, visible, (*call).getBinding, 0},
	{"DELETE", "bindings/{vhost}/e/{source}/e/{destination}/{properties}", anyone, member, (*call).deleteBinding, 0},

	{"GET", "vhosts", anyone, nowhere, (*call).listVHosts, 0},
	{"GET", "vhosts/{vhost}", administrator, anywhere, (*call).getVHost, 0},
	{"PUT", "vhosts/{vhost}", administrator, nowhere, (*call).putVHost, 0},
	{"DELETE", "vhosts/{vhost}", administrator, anywhere, (*call).deleteVHost, 0},
	{"GET", "vhosts/{vhost}/permissions", administrator, anywhere, (*call).listPermissions, 0},
	{"GET", "vhosts/{vhost}/topic-permissions", administrator, anywhere, (*call).listTopicPermissions, 0},
	{"GET", "vhosts/{vhost}/connections", anyone, visible, (*call).listConnections, 0},
	{"GET", "vhosts/{vhost}/channels", anyone, visible, (*call).listChannels, 0},
	{"POST", "vhosts/{vhost}/start/{node}", administrator, anywhere, (*call).done, 0},

	{"GET", "users", administrator, nowhere, (*call).listUsers, 0},
	{"GET", "users/without-permissions", administrator, nowhere, (*call).listUsersWithoutPermissions, 0},
	{"POST", "users/bulk-delete", administrator, nowhere, (*call).deleteUsers, 0},
	{"GET", "users/{user}", administrator, nowhere, (*call).getUser, 0},
	{"PUT", "users/{user}", administrator, nowhere, (*call).putUser, 0},
	{"DELETE", "users/{user}", administrator, nowhere, (*call).deleteUser, 0},
	{"GET", "users/{user}/permissions", administrator, nowhere, (*call).permissionsOfUser, 0},
	{"GET", "users/{user}/topic-permissions", administrator, nowhere, (*call).topicPermissionsOfUser, 0},
	{"GET", "user-limits", anyone, nowhere, (*call).listUserLimits, 0},
	{"GET", "user-limits/{user}", anyone, nowhere, (*call).getUserLimits, 0},
	{"PUT", "user-limits/{user}/{name}", administrator, nowhere, (*call).putUserLimit, 0},
	{"DELETE", "user-limits/{user}/{name}", administrator, nowhere, (*call).deleteUserLimit, 0},

	{"GET", "permissions", administrator, nowhere, (*call).listPermissions, 0},
	{"GET", "permissions/{vhost}/{user}", administrator, nowhere, (*call).getPermission, 0},
	{"PUT", "permissions/{vhost}/{user}", administrator, nowhere, (*call).putPermission, 0},
	{"DELETE", "permissions/{vhost}/{user}", administrator, nowhere, (*call).deletePermission, 0},
	{"GET", "topic-permissions", administrator, nowhere, (*call).listTopicPermissions, 0},
	{"GET", "topic-permissions/{vhost}/{user}", administrator, nowhere, (*call).getTopicPermissions, 0},
	{"PUT", "topic-permissions/{vhost}/{user}", administrator, nowhere, (*call).putTopicPermission, 0},
	{"DELETE", "topic-permissions/{vhost}/{user}", administrator, nowhere, (*call).deleteTopicPermissions, 0},
	{"DELETE", "topic-permissions/{vhost}/{user}/{exchange}", administrator, nowhere, (*call).deleteTopicPermissions, 0},

	{"GET", "parameters", policymaker, nowhere, (*call).listParameters, 0},
	{"GET", "parameters/{component}", policymaker, nowhere, (*call).listParameters, 0},
	{"GET", "parameters/{component}/{vhost}", policymaker, visible, (*call).listParameters, 0},
	{"GET", "parameters/{component}/{vhost}/{name}", policymaker, visible, (*call).getParameter, 0},
	{"PUT", "parameters/{component}/{vhost}/{name}", policymaker, visible, (*call).putParameter, 0},
	{"DELETE", "parameters/{component}/{vhost}/{name}", policymaker, visible, (*call).deleteParameter, 0},
	{"GET", "global-parameters", policymaker, nowhere, (*call).listGlobalParameters, 0},
	{"GET", "global-parameters/{name}", policymaker, nowhere, (*call).getGlobalParameter, 0},
	{"PUT", "global-parameters/{name}", policymaker, nowhere, (*call).putGlobalParameter, 0},
	{"DELETE", "global-parameters/{name}", policymaker, nowhere, (*call).deleteGlobalParameter, 0},
	{"GET", "policies", anyone, nowhere, (*call).listPolicies, 0},
	{"GET", "policies/{vhost}", anyone, visible, (*call).listPolicies, 0},
	{"GET", "policies/{vhost}/{name}", policymaker, visible, (*call).getPolicy, 0},
	{"PUT", "policies/{vhost}/{name}", policymaker, visible, (*call).putPolicy, 0},
	{"DELETE", "policies/{vhost}/{name}", policymaker, visible, (*call).deletePolicy, 0},
	{"GET", "operator-policies", anyone, nowhere, (*call).listPolicies, 0},
	{"GET", "operator-policies/{vhost}", anyone, visible, (*call).listPolicies, 0},
	{"GET", "operator-policies/{vhost}/{name}", administrator, anywhere, (*call).getPolicy, 0},
	{"PUT", "operator-policies/{vhost}/{name}", administrator, anywhere, (*call).putPolicy, 0},
	{"DELETE", "operator-policies/{vhost}/{name}", administrator, anywhere, (*call).deletePolicy, 0},
	{"GET", "vhost-limits", anyone, nowhere, (*call).listVHostLimits, 0},
	{"GET", "vhost-limits/{vhost}", anyone, monitored, (*call).listVHostLimits, 0},
	{"PUT", "vhost-limits/{vhost}/{name}", administrator, anywhere, (*call).putVHostLimit, 0},
	{"DELETE", "vhost-limits/{vhost}/{name}", administrator, anywhere, (*call).deleteVHostLimit, 0},

	{"GET", "aliveness-test/{vhost}", anyone, member, (*call).aliveness, 0},
	{"GET", "health/checks/alarms", anyone, nowhere, (*call).checkAlarms, 0},
	{"GET", "health/checks/local-alarms", anyone, nowhere, (*call).checkAlarms, 0},
	{"GET", "health/checks/certificate-expiration/{within}/{unit}", anyone, nowhere, (*call).checkCertificates, local},
	{"GET", "health/checks/port-listener/{port}", anyone, nowhere, (*call).checkPort, local},
	{"GET", "health/checks/protocol-listener/{protocol}", anyone, nowhere, (*call).checkProtocol, local},
	{"GET", "health/checks/virtual-hosts", anyone, nowhere, (*call).healthy, 0},
	{"GET", "health/checks/node-is-mirror-sync-critical", anyone, nowhere, (*call).healthy, 0},
	{"GET", "health/checks/node-is-quorum-critical", anyone, nowhere, (*call).healthy, 0},
	{"GET", "health/checks/is-in-service", anyone, nowhere, (*call).healthy, 0},
	{"GET", "health/checks/ready-to-serve-clients", anyone, nowhere, (*call).healthy, 0},
	{"GET", "health/checks/below-node-connection-limit", anyone, nowhere, (*call).healthy, 0},
	{"GET", "health/checks/metadata-store/initialized", anyone, nowhere, (*call).healthy, 0},
}

func (r *route) segments() []string { return strings.Split(r.path, "/") }

func (r *route) matches(path []string) bool {
	for i, s := range r.segments() {
		if s != path[i] && s[0] != '{' {
			return false
		}
	}
	return true
}

// routeKey is of paths that may be of one route: how many segments they have, and
// the first of them.
func routeKey(segments []string) string { return strconv.Itoa(len(segments)) + segments[0] }
