package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// looks is how often a page and the metrics are asked for; the median counts.
const looks = 21

// objectsReport tells of many queues, each bound to an exchange, that definitions
// make, and of looking at them.
type objectsReport struct {
	Queues      int     `json:"queues"`
	ImportS     float64 `json:"import_half_s"` // the first half of them, and as many bindings
	AgainS      float64 `json:"import_again_s"`
	ResidentMB  float64 `json:"resident_mb"`
	PageMS      float64 `json:"page_ms"` // of 100
	FilteredMS  float64 `json:"page_filtered_ms"`
	SortedMS    float64 `json:"page_sorted_ms"` // by messages
	RegexpMS    float64 `json:"page_regexp_ms"`
	MetricsMS   float64 `json:"metrics_ms"`
	ExportS     float64 `json:"export_s"`
	WorstPageMS float64 `json:"worst_page_ms"`
}

func measureObjects(ctx context.Context, b *broker, queues int) (*objectsReport, error) {
	r := &objectsReport{Queues: queues}
	var err error
	half := definitions(0, queues/2)
	if r.ImportS, err = b.timed(ctx, http.MethodPost, "/api/definitions", half); err != nil {
		return nil, err
	}
	if r.AgainS, err = b.timed(ctx, http.MethodPost, "/api/definitions", half); err != nil {
		return nil, err
	}
	if _, err = b.timed(ctx, http.MethodPost, "/api/definitions", definitions(queues/2, queues)); err != nil {
		return nil, err
	}
	r.ResidentMB = b.resident()
	for _, look := range []struct {
		into *float64
		path string
	}{
		{&r.PageMS, "/api/queues?page=7&page_size=100"},
		{&r.FilteredMS, "/api/queues/%2F?page=1&page_size=100&name=99"},
		{&r.SortedMS, "/api/queues/%2F?page=1&page_size=100&sort=messages&sort_reverse=true"},
		{&r.RegexpMS, "/api/queues/%2F?page=1&page_size=100&use_regex=true&name=%5Eteam-%5B0-9%5D%2B.*9%24"},
		{&r.MetricsMS, "/metrics"},
	} {
		var took []float64
		for range looks {
			s, err := b.timed(ctx, http.MethodGet, look.path, nil)
			if err != nil {
				return nil, err
			}
			took = append(took, s*1000)
		}
		slices.Sort(took)
		*look.into = took[len(took)/2]
		r.WorstPageMS = max(r.WorstPageMS, took[len(took)-1])
	}
	r.ExportS, err = b.timed(ctx, http.MethodGet, "/api/definitions", nil)
	return r, err
}

// definitions describes the queues from..to, a binding of each, and the exchange.
func definitions(from, to int) []byte {
	type object map[string]any
	var queues, bindings []object
	for i := from; i < to; i++ {
		name := fmt.Sprintf("team-%d.queue-%d", i%100, i)
		queues = append(queues, object{"name": name, "vhost": "/", "durable": true, "auto_delete": false, "arguments": object{}})
		bindings = append(bindings, object{
			"source": "events", "vhost": "/", "destination": name, "destination_type": "queue",
			"routing_key": fmt.Sprintf("team.%d.%d", i%100, i), "arguments": object{},
		})
	}
	text, err := json.Marshal(object{
		"queues": queues, "bindings": bindings,
		"exchanges": []object{{"name": "events", "vhost": "/", "type": "topic", "durable": true, "auto_delete": false, "internal": false, "arguments": object{}}},
	})
	if err != nil {
		panic(err) // it is made of texts and truth values
	}
	return text
}

// timed asks for something, and returns after how many seconds all of the answer was
// there.
func (b *broker) timed(ctx context.Context, method, path string, body []byte) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+b.http+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.SetBasicAuth("guest", "guest")
	request.Header.Set("Content-Type", "application/json")
	began := time.Now()
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	took := time.Since(began).Seconds()
	if err == nil && answer.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s: %s %.200s", method, path, answer.Status, text)
	}
	return took, err
}
