package adminserver

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// healthy is a check of what is so while the broker answers at all: one that is not
// live does not.
func (c *call) healthy() error {
	answer(c.w, http.StatusOK, object{"status": "ok"})
	return nil
}

// unhealthy answers that a check has failed.
func (c *call) unhealthy(reason string, more object) error {
	out := object{"status": "failed", "reason": reason}
	for k, v := range more {
		out[k] = v
	}
	answer(c.w, http.StatusServiceUnavailable, out)
	return nil
}

func isMemory(blocked string) bool { return strings.Contains(blocked, "memory") }
func isDisk(blocked string) bool   { return strings.Contains(blocked, "disk") }

// checkAlarms is GET /api/health/checks/alarms and local-alarms.
func (c *call) checkAlarms() error {
	blocked := c.b.Blocked()
	if blocked == "" {
		return c.healthy()
	}
	alarms := []object{}
	for resource, on := range map[string]bool{"memory": isMemory(blocked), "disk": isDisk(blocked)} {
		if on {
			alarms = append(alarms, object{"node": c.s.cfg.Name, "resource": resource})
		}
	}
	return c.unhealthy("There are alarms in effect in the cluster", object{"alarms": alarms})
}

// checkPort is GET /api/health/checks/port-listener/port.
func (c *call) checkPort() error {
	port, err := strconv.Atoi(c.arg("port"))
	if err != nil {
		return badRequest("Invalid port")
	}
	ports := []int{}
	for _, l := range c.s.cfg.Node().Listeners {
		ports = append(ports, l.Port)
	}
	slices.Sort(ports)
	ports = slices.Compact(ports) // one may serve several protocols
	if !slices.Contains(ports, port) {
		return c.unhealthy("No active listener", object{"missing": port, "ports": ports})
	}
	answer(c.w, http.StatusOK, object{"status": "ok", "port": port})
	return nil
}

// checkProtocol is GET /api/health/checks/protocol-listener/protocol.
func (c *call) checkProtocol() error {
	asked := strings.ToLower(c.arg("protocol"))
	protocol := asked
	switch asked {
	case "amqp091", "amqp0.9.1", "amqp0-9-1":
		protocol = "amqp"
	case "amqps", "amqp/tls":
		protocol = "amqp/ssl"
	case "stomp/tls":
		protocol = "stomp/ssl"
	case "https/web", "management":
		protocol = "http"
	}
	protocols := []string{}
	for _, l := range c.s.cfg.Node().Listeners {
		if !slices.Contains(protocols, l.Protocol) {
			protocols = append(protocols, l.Protocol)
		}
	}
	if !slices.Contains(protocols, protocol) {
		return c.unhealthy("No active listener", object{"missing": cut(asked), "protocols": protocols})
	}
	answer(c.w, http.StatusOK, object{"status": "ok", "protocol": protocol})
	return nil
}

// checkCertificates is GET /api/health/checks/certificate-expiration/within/unit.
func (c *call) checkCertificates() error {
	within, err := strconv.Atoi(c.arg("within"))
	if err != nil || within < 0 || within > 10000 {
		return badRequest("Invalid expiration value.")
	}
	now := time.Now()
	var until time.Time
	switch strings.TrimSuffix(c.arg("unit"), "s") {
	case "day":
		until = now.AddDate(0, 0, within)
	case "week":
		until = now.AddDate(0, 0, 7*within)
	case "month":
		until = now.AddDate(0, within, 0)
	case "year":
		until = now.AddDate(within, 0, 0)
	default:
		return badRequest("Time unit not recognised. Supported units: days, weeks, months, years.")
	}
	expired := []object{}
	for _, end := range c.s.cfg.Node().Certificates {
		if end.Before(until) {
			expired = append(expired, object{"node": c.s.cfg.Name, "cert_expires_on": end.UTC().Format(time.RFC3339)})
		}
	}
	if len(expired) > 0 {
		return c.unhealthy("Certificates expiring", object{"expired": expired})
	}
	return c.healthy()
}
