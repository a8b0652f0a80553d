package adminserver

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"github.com/ferrymq/ferry/internal/broker"
)

// TestWritesWhatEncodingJSONWrites compares what is written by hand.
func TestWritesWhatEncodingJSONWrites(t *testing.T) {
	var traffic broker.Traffic
	var rates broker.Rates
	for i := range traffic {
		traffic[i], rates[i] = uint64(i+1), float64(i)+0.5
	}
	for _, v := range []any{
		nil, true, "plain", "\"\\ <b>&</b>\x00\x1b[31m\u2028 ü \xff", 1, int64(-5), uint16(7), uint32(8), uint64(math.MaxUint64),
		json.RawMessage(`{"a":[1]}`),
		object{"z": 1, "a": object{}, "m": []object{{"x": nil}}},
		[]object{},
		[]string{"a"},
		[]any{},
		map[string]int{"b": 1},
		number(0), number(1.25), number(-3), number(1e300), rate(2),
		stats{&traffic, &rates},
	} {
		var got, want any
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		written := appendJSON(nil, v)
		if err := json.Unmarshal(written, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%#v is written %s, want %s (%v)", v, written, text, err)
		}
	}
	if got := string(appendJSON(nil, number(0))) + string(appendJSON(nil, number(math.NaN()))) + string(appendJSON(nil, number(math.Inf(1)))); got != "0.00.00.0" {
		t.Error(got)
	}
	if got := string(appendJSON(nil, object{"a": "<script>\u2028"})); got != `{"a":"\u003cscript\u003e\u2028"}` {
		t.Error(got)
	}
	s := stats{&traffic, &rates}
	var a, b any
	if err := json.Unmarshal(appendJSON(nil, s), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(appendJSON(nil, s.object()), &b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%v is not %v", a, b)
	}
}
