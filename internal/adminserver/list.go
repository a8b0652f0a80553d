package adminserver

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ferrymq/ferry/internal/pattern"
)

// Limits of paging, as in RabbitMQ.
const (
	pageDefault = 100
	pageMost    = 500
	patternMost = 1 << 10 // bytes of a regular expression

	// columnsMost is how many columns may be asked for, columnDepth how deep their
	// paths are looked into. RabbitMQ has no limit.
	columnsMost = 100
	columnDepth = 5
)

// A page is which part of a list is asked for.
type page struct {
	number, size int // number 0: all of it
	name         string
	pattern      *regexp.Regexp // instead of name
	sort         []string       // the path of a member; nil: as the list is
	reverse      bool
	columns      [][]string // paths; nil: all
}

// parsePage reads what a query says of a list. Paging is understood where paged.
func parsePage(q url.Values, paged bool) (page, error) {
	var p page
	for c := range strings.SplitSeq(q.Get("columns"), ",") {
		if c == "" {
			continue
		}
		if len(p.columns) == columnsMost {
			return p, badRequest("there may be %d columns", columnsMost)
		}
		p.columns = append(p.columns, strings.SplitN(c, ".", columnDepth))
	}
	if s := q.Get("sort"); s != "" {
		p.sort = strings.SplitN(s, ".", columnDepth)
	}
	p.reverse = q.Get("sort_reverse") == "true"
	if !paged || !q.Has("page") {
		return p, nil
	}
	number, err := strconv.Atoi(q.Get("page"))
	size, err2 := strconv.Atoi(cmp.Or(q.Get("page_size"), strconv.Itoa(pageDefault)))
	if err != nil || err2 != nil || number < 1 || size < 1 || size > pageMost {
		return p, &fault{http.StatusBadRequest, "invalid_pagination_parameters", fmt.Sprintf(
			"Invalid pagination parameters: page number %s, page size %s",
			cut(q.Get("page")), cut(cmp.Or(q.Get("page_size"), "undefined")))}
	}
	p.number, p.size, p.name = number, size, q.Get("name")
	if len(p.name) > patternMost {
		return p, badRequest("the name to look for is longer than %d bytes", patternMost)
	}
	if q.Get("use_regex") == "true" && p.name != "" {
		if p.pattern, err = pattern.CompileSearch(p.name); err != nil {
			return p, badRequest("%s", cutTo(err.Error(), 4*echoMost))
		}
	}
	return p, nil
}

// matches tells whether something of this name is asked for.
func (p *page) matches(name string) bool {
	switch {
	case p.pattern != nil:
		return p.pattern.MatchString(name)
	case p.name != "":
		return strings.Contains(strings.ToLower(name), strings.ToLower(p.name))
	}
	return true
}

// list answers with what is asked for of a list. It is written as it comes, but
// where it is to be sorted or a page of it is asked for.
func (c *call) list(items iter.Seq[object], paged bool) error {
	p, err := parsePage(c.query, paged)
	if err != nil {
		return err
	}
	if p.number == 0 && p.sort == nil && !p.reverse {
		stream(c.w, p.chosen(items))
		return nil
	}
	total := 0
	var all []object
	for item := range items {
		total++
		if name, _ := item["name"].(string); p.number == 0 || p.matches(name) {
			all = append(all, item)
		}
	}
	if p.sort != nil {
		slices.SortStableFunc(all, func(x, y object) int { return order(memberOf(x, p.sort), memberOf(y, p.sort)) })
	}
	if p.reverse {
		slices.Reverse(all)
	}
	if p.number == 0 {
		stream(c.w, p.chosen(slices.Values(all)))
		return nil
	}
	from, to, err := p.cut(len(all))
	if err != nil {
		return err
	}
	return c.page(&p, all[from:to], len(all), total)
}

// cut is which of n items are on the page.
func (p *page) cut(n int) (from, to int, err error) {
	if pages := p.pages(n); p.number > max(pages, 1) {
		return 0, 0, &fault{http.StatusBadRequest, "page_out_of_range", fmt.Sprintf(
			"Page out of range, page: %d page size: %d, len: %d", p.number, p.size, n)}
	}
	from = (p.number - 1) * p.size
	return from, min(from+p.size, n), nil
}

func (p *page) pages(n int) int { return (n + p.size - 1) / p.size }

// page answers with one, of as many items that match the name, of all.
func (c *call) page(p *page, items []object, matching, total int) error {
	shown := make([]object, len(items))
	for i, item := range items {
		shown[i] = choose(item, p.columns)
	}
	answer(c.w, http.StatusOK, object{
		"page": p.number, "page_size": p.size, "page_count": p.pages(matching),
		"item_count": len(items), "filtered_count": matching, "total_count": total, "items": shown,
	})
	return nil
}

// chosen is items with the columns that are asked for.
func (p *page) chosen(items iter.Seq[object]) iter.Seq[object] {
	return func(yield func(object) bool) {
		for item := range items {
			if !yield(choose(item, p.columns)) {
				return
			}
		}
	}
}

func choose(item object, columns [][]string) object {
	if columns == nil {
		return item
	}
	out := object{}
	for _, path := range columns {
		v := memberOf(item, path)
		if v == nil {
			continue
		}
		at := out
		for _, name := range path[:len(path)-1] {
			inner, ok := at[name].(object)
			if !ok {
				inner = object{}
				at[name] = inner
			}
			at = inner
		}
		at[path[len(path)-1]] = v
	}
	return out
}

// memberOf is what stands in an object under a path, nil if nothing does.
func memberOf(item object, path []string) any {
	var v any = item
	for _, name := range path {
		if e, ok := v.(encoder); ok {
			v = e.object()
		}
		m, ok := v.(object)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// order compares two members of items: what is not there comes first, then
// numbers, then texts, then all else, which is equal.
func order(x, y any) int {
	a, af := asNumber(x)
	b, bf := asNumber(y)
	s, as := x.(string)
	t, bs := y.(string)
	rank := func(v any, number, text bool) int {
		switch {
		case v == nil:
			return 0
		case number:
			return 1
		case text:
			return 2
		}
		return 3
	}
	return cmp.Or(cmp.Compare(rank(x, af, as), rank(y, bf, bs)), cmp.Compare(a, b), cmp.Compare(s, t))
}

func asNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case number:
		return float64(v), true
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	}
	return 0, false
}
