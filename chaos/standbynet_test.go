package chaos

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// A wiring is the network of two brokers that share a database: each in a namespace
// of its own, and the hub, where the clients and the database are. Each broker has
// one cable to the clients and another to the database, so that it can lose either.
// The methods end the test when they fail.
type wiring struct {
	t     *testing.T
	hub   space
	nodes [2]space
}

// databaseHost is the address of the database, in the hub.
const databaseHost = "10.78.0.1"

// wire makes a network that ends with the test, or with its process.
func wire(t *testing.T) *wiring {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "root, who makes network namespaces")
	}
	id := fmt.Sprintf("ferry-%06x", rand.Uint32()&0xffffff)
	w := &wiring{t: t, hub: space(id + "-hub"), nodes: [2]space{space(id + "-a"), space(id + "-b")}}
	spaces := []string{string(w.hub), string(w.nodes[0]), string(w.nodes[1])}
	w.removeWhenDone(spaces)
	for _, s := range spaces {
		if _, err := run(t.Context(), "ip", "netns", "add", s); err != nil {
			missing(t, "a machine that makes network namespaces: %v", err)
		}
		w.ip(space(s), "link", "set", "lo", "up")
	}
	w.ip(w.hub, "addr", "add", databaseHost+"/32", "dev", "lo")
	for n, node := range w.nodes {
		for i, cable := range []string{"front", "back"} {
			end := fmt.Sprint(cable, n)
			near, far := fmt.Sprintf("10.78.%d.1", 1+2*n+i), fmt.Sprintf("10.78.%d.2", 1+2*n+i)
			w.ip(w.hub, "link", "add", end, "type", "veth", "peer", "name", cable, "netns", string(node))
			w.ip(w.hub, "addr", "add", near+"/24", "dev", end)
			w.ip(w.hub, "link", "set", end, "up")
			w.ip(node, "addr", "add", far+"/24", "dev", cable)
			w.ip(node, "link", "set", cable, "up")
			if cable == "back" {
				w.ip(node, "route", "add", databaseHost+"/32", "via", near)
			}
		}
	}
	return w
}

// removeWhenDone has a process of its own remove the namespaces when its input ends,
// be it that the test is over or that its process is gone.
func (w *wiring) removeWhenDone(spaces []string) {
	w.t.Helper()
	var script strings.Builder
	script.WriteString("cat >/dev/null")
	for _, s := range spaces {
		fmt.Fprintf(&script, "; ip netns del %s 2>/dev/null", s)
	}
	cmd := exec.Command("sh", "-c", script.String()+"; :")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	in, out, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stdin = in
	err = cmd.Start()
	in.Close()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = io.Closer(out).Close()
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("removing the namespaces: %v", err)
		}
	})
}

func (w *wiring) ip(in space, args ...string) {
	w.t.Helper()
	if _, err := run(w.t.Context(), "ip", append([]string{"-n", string(in)}, args...)...); err != nil {
		w.t.Fatal(err)
	}
}

// host is the address at which the clients reach broker n, 0 or 1.
func (w *wiring) host(n int) string { return fmt.Sprintf("10.78.%d.2", 1+2*n) }

// cut pulls the cable between broker n and the database: neither hears the other,
// and no connection is told. Clients still reach the broker.
func (w *wiring) cut(n int) { w.t.Helper(); w.ip(w.hub, "link", "set", fmt.Sprint("back", n), "down") }

// heal puts it in again.
func (w *wiring) heal(n int) { w.t.Helper(); w.ip(w.hub, "link", "set", fmt.Sprint("back", n), "up") }
