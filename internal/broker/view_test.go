package broker

import (
	"errors"
	"fmt"
	"testing"
)

func names(list []QueueView) (all []string) {
	for _, q := range list {
		all = append(all, q.VHost+q.Name)
	}
	return all
}

func TestQueuesAreListedInPages(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	defer c.Close()
	for _, name := range []string{"orders.b", "Orders.a", "c", "bills"} {
		c.queue(name, false)
	}
	for range 3 {
		c.publish("", "c", "body", false)
	}
	c.publish("", "orders.b", "body", false)
	list := func(f Filter) string {
		t.Helper()
		p, err := w.b.Queues(f)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(names(p.Items), p.Page, p.Pages, p.Filtered, p.Total)
	}
	for _, row := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "[/Orders.a /bills /c /orders.b] 1 1 4 4"},
		{Filter{Reverse: true}, "[/orders.b /c /bills /Orders.a] 1 1 4 4"},
		{Filter{Page: 2, Size: 3}, "[/orders.b] 2 2 4 4"},
		{Filter{Page: 3, Size: 3}, "Page out of range, page: 3 page size: 3, len: 4"},
		{Filter{Name: "ORDERS"}, "[/Orders.a /orders.b] 1 1 2 4"},
		{Filter{Name: "^[b-c]", Regexp: true}, "[/bills /c] 1 1 2 4"},
		{Filter{Name: "[", Regexp: true}, "the name to look for is no regular expression: error parsing regexp: missing closing ]: `[`"},
		{Filter{Sort: "messages", Reverse: true}, "[/c /orders.b /bills /Orders.a] 1 1 4 4"},
		{Filter{Sort: "message_stats.publish", Page: 1, Size: 1, Reverse: true}, "[/c] 1 4 4 4"},
		{Filter{Sort: "beauty"}, "[/Orders.a /bills /c /orders.b] 1 1 4 4"},
		{Filter{VHost: "elsewhere"}, "[] 1 1 0 0"},
		{Filter{VHosts: func(string) bool { return false }}, "[] 1 1 0 0"},
	} {
		if got := list(row.f); got != row.want {
			t.Errorf("%+v: %s, want %s", row.f, got, row.want)
		}
	}
	if _, err := w.b.Queues(Filter{Page: 9}); !errors.As(err, new(*RangeError)) {
		t.Errorf("a page that is not there: %v", err)
	}
	if _, err := c.DeleteQueue("c", false, false); err != nil {
		t.Fatal(err)
	}
	c.queue("b", false)
	if got, want := list(Filter{}), "[/Orders.a /b /bills /orders.b] 1 1 4 4"; got != want {
		t.Errorf("after a change: %s, want %s", got, want)
	}
}
