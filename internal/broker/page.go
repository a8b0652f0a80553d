package broker

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ferrymq/ferry/internal/pattern"
)

// A Filter says what of a list is wanted, in which order, and how much of it at
// once. The zero value is all of it by virtual host and name.
type Filter struct {
	VHost  string                 // of this one alone; "": of all
	VHosts func(name string) bool // of those it says yes to; nil: of all

	// Name is what names have to contain, in whatever case. With Regexp it is a
	// pattern of package regexp that has to match somewhere, in whatever case.
	Name   string
	Regexp bool

	// Sort is what the list is ordered by: a name that the management API of
	// RabbitMQ has for it, as "messages_ready" or "message_stats.ack_details.rate";
	// each list says which it knows. "", and what it does not know: by virtual host and
	// name, as in RabbitMQ.
	Sort    string
	Reverse bool

	Page int // from 1; 0: the whole list is one page
	Size int // of a page; 0: DefaultPage
}

// Limits of a Filter.
const (
	DefaultPage = 100
	MaxPage     = 500  // as in RabbitMQ
	maxPattern  = 1000 // bytes of Filter.Name
)

// A Page is a part of a list.
type Page[T any] struct {
	Items    []T
	Page     int // the number of this page
	Pages    int // that there are
	Size     int // of a full page
	Filtered int // items on all pages
	Total    int // items before they were filtered by name
}

// A RangeError is the answer to a page that the list does not have.
type RangeError struct{ Page, Size, Len int }

func (e *RangeError) Error() string {
	return fmt.Sprintf("Page out of range, page: %d page size: %d, len: %d", e.Page, e.Size, e.Len)
}

// bounds is which items of a list of n a filter's page has. The error is a
// *RangeError, or Invalid.
func (f *Filter) bounds(n int) (from, to, pages int, err error) {
	switch {
	case f.Page == 0:
		return 0, n, 1, nil
	case f.Page < 0:
		return 0, 0, 0, errorf(Invalid, "page %d is less than 1", f.Page)
	case f.Size < 0 || f.Size > MaxPage:
		return 0, 0, 0, errorf(Invalid, "page size %d is not between 1 and %d", f.Size, MaxPage)
	}
	size := f.size(n)
	pages = max((n+size-1)/size, 1)
	if f.Page > pages {
		return 0, 0, 0, &RangeError{f.Page, size, n}
	}
	from = (f.Page - 1) * size
	return from, min(from+size, n), pages, nil
}

func (f *Filter) size(n int) int {
	if f.Page == 0 {
		return n
	}
	return cmp.Or(f.Size, DefaultPage)
}

// page describes the page of a list of n items, of total before names were
// looked at.
func makePage[T any](f *Filter, items []T, pages, filtered, total int) Page[T] {
	return Page[T]{Items: items, Page: max(f.Page, 1), Pages: pages, Size: f.size(filtered), Filtered: filtered, Total: total}
}

// allows tells whether a filter wants anything of a virtual host.
func (f *Filter) allows(vhost string) bool {
	return (f.VHost == "" || f.VHost == vhost) && (f.VHosts == nil || f.VHosts(vhost))
}

// A matcher tells whether a name is wanted.
type matcher func(name string) bool

// matcher makes one of the filter's name; nil: all are wanted. The error is
// Invalid.
func (f *Filter) matcher() (matcher, error) {
	switch {
	case f.Name == "":
		return nil, nil
	case len(f.Name) > maxPattern:
		return nil, errorf(Invalid, "the name to look for is longer than %d bytes", maxPattern)
	case !f.Regexp || regexp.QuoteMeta(f.Name) == f.Name:
		return containsFold(f.Name), nil
	}
	re, err := pattern.CompileSearch(f.Name)
	if err != nil {
		return nil, errorf(Invalid, "%s", err)
	}
	return re.MatchString, nil
}

// searchMost is how long a list is searched for names, by each goroutine that does.
// A hundred thousand names take a tenth of a second with an expression as people
// write them.
const searchMost = 2 * time.Second

func errSlowSearch() error {
	return errorf(Invalid, "the regular expression takes longer than %v for this list", searchMost)
}

// some are those of a list whose names match; ok is whether there was time for all.
func some[T any](list []T, match matcher, name func(*T) string) (found []T, ok bool) {
	begun := time.Now()
	for i := range list {
		if match(name(&list[i])) {
			found = append(found, list[i])
		}
		if i%64 == 63 && time.Since(begun) > searchMost {
			return nil, false
		}
	}
	return found, true
}

// containsFold matches names that contain a text in whatever case.
func containsFold(part string) matcher {
	for i := range len(part) {
		if part[i] >= utf8.RuneSelf {
			part = strings.ToLower(part)
			return func(name string) bool { return strings.Contains(strings.ToLower(name), part) }
		}
	}
	lower, upper := strings.ToLower(part), strings.ToUpper(part)
	return func(name string) bool {
		for at := 0; at+len(lower) <= len(name); at++ {
			if c := name[at]; c != lower[0] && c != upper[0] {
				continue
			}
			i := 1
			for i < len(lower) && (name[at+i] == lower[i] || name[at+i] == upper[i]) {
				i++
			}
			if i == len(lower) {
				return true
			}
		}
		return false
	}
}

// A sortKey is what an item is ordered by in one column: a number, or a text.
type sortKey struct {
	number float64
	text   string
}

func (k sortKey) compare(o sortKey) int {
	return cmp.Or(cmp.Compare(k.number, o.number), strings.Compare(k.text, o.text))
}

func numberKey[N int | int64 | uint64 | float64](n N) sortKey { return sortKey{number: float64(n)} }

func boolKey(b bool) sortKey {
	if b {
		return sortKey{number: 1}
	}
	return sortKey{}
}

func textKey(s string) sortKey { return sortKey{text: s} }

// columns are what items of one kind can be ordered by.
type columns[T any] map[string]func(*T) sortKey

// paged makes a page of a list that is in its order already; name is what the
// filter looks at.
func paged[T any](f *Filter, list []T, cols columns[T], name func(*T) string) (Page[T], error) {
	total := len(list)
	key := cols[f.Sort]
	match, err := f.matcher()
	if err != nil {
		return Page[T]{}, err
	}
	if match != nil {
		var ok bool
		if list, ok = some(list, match, name); !ok {
			return Page[T]{}, errSlowSearch()
		}
	}
	if key != nil {
		slices.SortStableFunc(list, func(a, b T) int { return key(&a).compare(key(&b)) })
	}
	if f.Reverse {
		slices.Reverse(list)
	}
	from, to, pages, err := f.bounds(len(list))
	if err != nil {
		return Page[T]{}, err
	}
	return makePage(f, list[from:to], pages, len(list), total), nil
}
