package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// movePause is between two messages of a publisher, where all scenes are at once.
const movePause = 3 * time.Millisecond

// logMoves prints what became of the messages of some scenes.
func logMoves(t *testing.T, faults int, scenes []*scene) {
	t.Helper()
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "scene\tfaults\tsent\tsent again\tconfirmed\trefused\tdelivered\tredelivered\tmoved\tacked\trejected\tdropped\tlost\tdoubled\treturned\tearly\todd\t")
	for _, s := range scenes {
		n := s.totals()
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", s.name, faults, n.sent, n.resent, n.confirmed,
			n.refused, n.delivered, n.redelivered, n.moved, n.acked, n.rejected, n.dropped, n.lost, n.doubled, n.returned, n.early, n.odd)
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", &text)
}

// killed has a broker killed so often under the load of some scenes.
func killed(t *testing.T, rounds int, pause time.Duration, scenes ...*scene) {
	t.Helper()
	s := setup{dir: t.TempDir(), watched: !long()}
	p := start(t, s)
	st := newStage(t, pause, scenes, p.addr)
	kills := 0
	for range rounds {
		time.Sleep(100*time.Millisecond + rand.N(pick(700*time.Millisecond, 1500*time.Millisecond)))
		p.kill()
		st.crash()
		kills++
		for rand.IntN(4) == 0 { // while it recovers, or soon after
			p = launch(t, p.addr, s)
			time.Sleep(rand.N(80 * time.Millisecond))
			p.kill()
			st.crash()
			kills++
		}
		p = startAt(t, p.addr, s)
	}
	time.Sleep(200 * time.Millisecond)
	st.conclude()
	p.terminate()
	logMoves(t, kills, scenes)
}

// A broker that is killed at any moment has neither lost nor doubled a message that
// moves from queue to queue, nor one that leaves for another reason; none comes before
// its time, and what it tells of its moves is true.
func TestMovesKilled(t *testing.T) {
	takeTurn(t)
	t.Run("all", func(t *testing.T) { killed(t, pick(4, 25), movePause, moveScenes()...) })
	if !long() {
		return
	}
	for _, s := range moveScenes() {
		t.Run(s.name, func(t *testing.T) { killed(t, 25, 300*time.Microsecond, s) })
	}
}

// The same when a sync fails while messages move.
func TestMovesFailedFsync(t *testing.T) {
	takeTurn(t)
	s := setup{dir: t.TempDir()}
	p := start(t, s)
	st := newStage(t, movePause, moveScenes(), p.addr)
	rounds := pick(1, 10)
	for range rounds {
		time.Sleep(500 * time.Millisecond)
		failSyncs(t, p)
		p.awaitFailed()
		st.crash()
		p = startAt(t, p.addr, s)
	}
	time.Sleep(200 * time.Millisecond)
	st.conclude()
	p.terminate()
	logMoves(t, rounds, st.scenes)
}

// The same when the disk is full while messages move: what cannot be written waits.
func TestMovesFullDisk(t *testing.T) {
	takeTurn(t)
	disk := mountTmpfs(t, "64m")
	s := setup{dir: filepath.Join(disk, "data"), flags: []string{"--disk-free-limit", "4KiB"}}
	p := start(t, s)
	st := newStage(t, movePause, moveScenes(), p.addr)
	rounds := pick(1, 10)
	for i := range rounds {
		time.Sleep(300 * time.Millisecond)
		ballast := filepath.Join(disk, "others")
		fill(t, ballast, max(freeOn(t, disk)-(512<<10), 0))
		before, steady := st.confirmed(), time.Now()
		if !until(20*time.Second, func() bool {
			if n := st.confirmed(); n != before {
				before, steady = n, time.Now()
			}
			return time.Since(steady) > 300*time.Millisecond
		}) {
			t.Errorf("messages are still confirmed, 20 s after %s were left", mib(freeOn(t, disk)))
		}
		full := freeOn(t, disk)
		if i%2 == 0 {
			p.kill()
			st.crash()
			p = startAt(t, p.addr, s)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if !until(20*time.Second, func() bool { return st.confirmed() > before+100 }) {
			t.Errorf("100 messages are not confirmed, 20 s after there was room again; %s were free before", mib(full))
		}
	}
	st.conclude()
	p.terminate()
	logMoves(t, rounds, st.scenes)
}

// The same on a database, when the live broker is killed while messages move, and
// another takes over.
func TestMovesTakeover(t *testing.T) {
	takeTurn(t)
	db := startDatabase(t, postgres, "", "127.0.0.1")
	rounds := pick(1, 5)
	if !long() {
		takenOver(t, db.journal("all"), rounds, movePause, moveScenes()...)
		return
	}
	t.Run("all", func(t *testing.T) { takenOver(t, db.journal("all"), rounds, movePause, moveScenes()...) })
	for i, s := range moveScenes() {
		t.Run(s.name, func(t *testing.T) { takenOver(t, db.journal(fmt.Sprint("scene", i)), rounds, time.Millisecond, s) })
	}
}

func takenOver(t *testing.T, journal string, rounds int, pause time.Duration, scenes ...*scene) {
	t.Helper()
	addrs := []string{freeAddress(t), freeAddress(t)}
	admin := []string{freeAddress(t), freeAddress(t)}
	nodes := [2]*process{}
	up := func(n int) {
		nodes[n] = launchStore(t, journal, addrs[n], "--http", admin[n], "--lease", "1s", "--node", nodeNames[n])
	}
	is := func(n int, role string) bool {
		client := http.Client{Timeout: time.Second}
		answer, err := client.Get("http://" + admin[n] + "/readyz")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		r := readiness{}
		ok := answer.StatusCode == http.StatusOK
		if role == "standby" {
			ok = json.NewDecoder(answer.Body).Decode(&r) == nil && r.Role == role && r.Position > 0
		}
		return ok
	}
	await := func(n int, role string) {
		t.Helper()
		if !until(serveLimit, func() bool { return is(n, role) }) {
			t.Fatalf("broker %s is not %s after %v:\n%s", nodeNames[n], role, serveLimit, strings.TrimSpace(nodes[n].log.tail(logLines)))
		}
	}
	up(0)
	await(0, "live")
	up(1)
	await(1, "standby")
	st := newStage(t, pause, scenes, addrs...)
	for i := range rounds {
		live := i % 2
		time.Sleep(700*time.Millisecond + rand.N(time.Second))
		nodes[live].kill()
		st.crash()
		await(1-live, "live")
		up(live)
		await(live, "standby")
	}
	time.Sleep(500 * time.Millisecond)
	st.conclude()
	for _, p := range nodes {
		p.terminate()
	}
	logMoves(t, rounds, scenes)
}
