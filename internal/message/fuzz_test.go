package message

import (
	"bytes"
	"testing"
)

func FuzzParse(f *testing.F) {
	f.Add(mustDecodeHex(f, golden))
	f.Add(sealed(false, "", "", nil, ""))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, block []byte) {
		v, err := Parse(block)
		if err != nil {
			return
		}
		again := AppendBlockHead(nil, v.Persistent, v.Exchange, v.Key, v.Properties)
		again = append(again, v.Body...)
		if len(again) > len(block) {
			t.Fatalf("%x became longer: %x", block, again)
		}
		Seal(again)
		if err := Check(again); err != nil {
			t.Fatal(err)
		}
		w, err := Parse(again)
		if err != nil || w.Persistent != v.Persistent || !bytes.Equal(w.Exchange, v.Exchange) || !bytes.Equal(w.Key, v.Key) ||
			!bytes.Equal(w.Properties, v.Properties) || !bytes.Equal(w.Body, v.Body) {
			t.Fatalf("%+v became %+v (%v)", v, w, err)
		}
	})
}

func FuzzProperties(f *testing.F) {
	f.Add(goldenProperties())
	f.Add([]byte("\x01\x80\x00\x02\x00"))
	f.Add([]byte("\x05\x01a\x01\x01b"))
	f.Fuzz(func(t *testing.T, list []byte) {
		var again []byte
		first := map[FieldID][]byte{}
		ordered := true
		for last, rest := FieldID(0), list; ; {
			id, v, next, ok := NextField(rest)
			if !ok {
				break
			}
			if len(next) >= len(rest) {
				t.Fatal("nothing was taken")
			}
			ordered = ordered && id > last
			if ordered {
				first[id] = v
			}
			again = AppendField(again, id, v)
			last, rest = id, next
		}
		for id, want := range first {
			if got := Field(list, id); got == nil || !bytes.Equal(got, want) {
				t.Fatalf("field %d of %x is %x, want %x", id, list, got, want)
			}
		}
		if len(again) > len(list) {
			t.Fatalf("%x became longer: %x", list, again)
		}
		for id := range 256 {
			if got, want := Field(again, FieldID(id)), Field(list, FieldID(id)); !bytes.Equal(got, want) {
				t.Fatalf("field %d was %x, became %x", id, want, got)
			}
		}
	})
}

func FuzzHeaders(f *testing.F) {
	list, _ := goldenHeaders()
	f.Add(list)
	f.Add(nested('A', MaxNesting))
	f.Add(nested('F', MaxNesting+1))
	f.Add([]byte{1, 'a', 'S', 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, list []byte) {
		names := map[string]bool{}
		sound := true
		rest := list
		for {
			name, kind, value, next, ok := NextHeader(rest)
			if !ok {
				break
			}
			if taken := 2 + len(name) + len(value); taken+len(next) != len(rest) {
				t.Fatalf("%d of %d bytes taken, and %d are left", taken, len(rest), len(next))
			}
			_, ok = Decode(kind, value, 0)
			if !names[string(name)] {
				if _, found := Header(list, string(name)); found != ok {
					t.Fatalf("header %q: %t, decoded: %t", name, found, ok)
				}
			}
			names[string(name)] = true
			sound = sound && ok
			rest = next
		}
		m, ok := DecodeHeaders(list)
		if want := sound && len(rest) == 0; ok != want {
			t.Fatalf("decoded: %t, want %t; %x is left", ok, want, rest)
		}
		if ok && len(m) != len(names) {
			t.Fatalf("%d names, %d headers", len(names), len(m))
		}
	})
}
