package chaos

import (
	"fmt"
	"slices"
	"testing"
)

// What is sent to a pair after its live broker has died the backup has, and the live
// one has not. If both are down then, and the live one is started first, it is the
// store that decides what there is afterwards: what a user of Artemis has to know,
// as docs/artemis.md says it.
func TestArtemisStaleCopy(t *testing.T) {
	if !long() {
		t.Skip("it is about Artemis alone: FERRY_LONG=1")
	}
	old, newest := []string{"A1", "A2", "A3"}, []string{"A3", "B1", "B2"}
	for _, test := range []struct {
		name, store string
		copied      bool
		want        []string
	}{
		{name: "one store has it all", store: sharedStore, want: newest},
		{name: "an old copy serves, and replaces the newest", store: replicatedStore, want: old},
		{name: "an operator has copied the newest", store: replicatedStore, copied: true, want: newest},
		{name: "the lock manager keeps the old copy from serving", store: coordinatedStore, want: newest},
	} {
		t.Run(fmt.Sprint(test.store, ", ", test.name), func(t *testing.T) {
			p := startPair(t, test.store)
			const queue = "stale"
			p.connect(live).send(queue, old...)
			p.kill(live)
			p.await(backup, active)
			p.connect(backup).take(queue, 2)
			p.connect(backup).send(queue, "B1", "B2")
			p.kill(backup)

			if test.copied {
				p.copy(backup, live)
			}
			p.up(live)
			if test.store != coordinatedStore {
				p.await(live, active)
			}
			p.up(backup)
			p.awaitPair()
			c := p.connect(live)
			const end = "end"
			c.send(queue, end)
			c.subscribe(queue, "client-individual")
			var got []string
			for {
				m := c.message()
				if m.body == end {
					break
				}
				got = append(got, m.body)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("the queue has %v; want %v", got, test.want)
			}
		})
	}
}
