package app

import (
	"crypto/sha256"
	"encoding/base64"

	"github.com/ferrymq/ferry/internal/adminserver"
	"github.com/ferrymq/ferry/internal/metrics"
)

// metrics tells those who watch how the process does. As in RabbitMQ nobody has to
// log in for that: it is on the HTTP listener alone.
func (n *node) metrics() *metrics.Handler {
	cluster := clusterName()
	id := sha256.Sum256([]byte(cluster))
	return metrics.New(metrics.Config{
		Version: n.cfg.Version, Compatible: adminserver.Compatible,
		Node: n.name, Cluster: cluster, ClusterID: "ferry-cluster-id-" + base64.RawURLEncoding.EncodeToString(id[:16]),
		Started: n.started,
		Broker:  n.admin.live.Load,
		Files:   openFiles,
		Logins: func() []metrics.Login {
			var list []metrics.Login
			for _, a := range n.users.Attempts() {
				list = append(list, metrics.Login{Protocol: a.Protocol, Succeeded: a.Succeeded, Failed: a.Failed})
			}
			return list
		},
		Standing: func() metrics.Standing {
			p, s := n.front.health.stand()
			return metrics.Standing{Role: p.role(), Epoch: s.epoch, Lag: s.lag()}
		},
	})
}
