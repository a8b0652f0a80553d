package stompws

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Origins are the web sites whose pages may connect, beside those that come from
// the host that they connect to. The zero value has none.
type Origins struct {
	any  bool
	list []string // scheme://host[:port], lower case
}

// ParseOrigins reads a list with commas between: https://app.example,
// http://localhost:3000, or * for every origin there is.
func ParseOrigins(text string) (Origins, error) {
	var o Origins
	if strings.TrimSpace(text) == "" {
		return o, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.ToLower(strings.TrimSpace(part))
		if part == "*" {
			o.any = true
			continue
		}
		u, err := url.Parse(part)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.Scheme+"://"+u.Host != strings.TrimSuffix(part, "/") {
			return Origins{}, fmt.Errorf("%q is not an origin; write scheme://host or scheme://host:port, such as https://app.example.com, or * for all", part)
		}
		if u.Scheme == "http" && u.Port() == "80" || u.Scheme == "https" && u.Port() == "443" {
			u.Host = u.Host[:strings.LastIndexByte(u.Host, ':')] // which browsers leave out
		}
		o.list = append(o.list, u.Scheme+"://"+u.Host)
	}
	return o, nil
}

// check says whether the page that makes this request may connect (RFC 6455 §10.2).
// Only browsers send an Origin, and whoever is not one can write what he likes.
func (o Origins) check(r *http.Request) error {
	values := r.Header.Values("Origin")
	if len(values) == 0 || o.any {
		return nil
	}
	origin := strings.ToLower(values[0])
	if len(values) == 1 {
		u, err := url.Parse(origin)
		if err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) && !mayBeRebound(u.Hostname(), r) {
			return nil
		}
		for _, known := range o.list {
			if known == origin {
				return nil
			}
		}
	}
	return fmt.Errorf("pages of %q may not connect to %q; ferry serve --ws-origins lets them", capped(values[0]), capped(r.Host))
}

// mayBeRebound tells whether a page that comes from the host that it connects to may
// all the same be from elsewhere: who serves a page can let its name point to this
// machine afterwards, whose programs guest may be. There only addresses and localhost
// are names that nobody else can give away.
func mayBeRebound(host string, r *http.Request) bool {
	peer, ok := remoteAddr(r).(*net.TCPAddr)
	if !ok || !peer.IP.IsLoopback() {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err != nil && host != "localhost" && !strings.HasSuffix(host, ".localhost")
}
