package bucket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// several are buckets with the same objects, each with faults of its own.
type several struct {
	*Mirrored
	faults []*Faults
	counts []*Counter
}

func newSeveral(t *testing.T, n int, optional func(string) bool) *several {
	t.Helper()
	s := &several{}
	var list []Mirror
	for i := range n {
		mem := NewMem()
		put(t, mem, "a", "content")
		s.faults = append(s.faults, NewFaults(mem))
		s.counts = append(s.counts, Count(s.faults[i]))
		list = append(list, Mirror{URL: fmt.Sprintf("mem://%d?region=x", i), Bucket: Retry(s.counts[i], RetryPolicy{})})
	}
	s.Mirrored = Mirrors(list, optional)
	return s
}

func put(t *testing.T, b Bucket, key, text string) Object {
	t.Helper()
	o, err := b.Put(t.Context(), key, strings.NewReader(text), Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (s *several) requests() []int64 {
	var n []int64
	for _, c := range s.counts {
		n = append(n, c.Traffic().Requests())
	}
	return n
}

// read returns the object's text, or the error.
func (s *several) read(t *testing.T, key string) (string, error) {
	t.Helper()
	b, _, err := ReadAll(t.Context(), s, key, GetOptions{}, 1000)
	return string(b), err
}

func TestMirrors_OneRequestWhenAllIsWell(t *testing.T) {
	s := newSeveral(t, 3, nil)
	if _, err := s.read(t, "a"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "b", "x")
	if got := s.requests(); !slices.Equal(got, []int64{2, 0, 0}) || len(s.Troubles()) != 0 {
		t.Errorf("requests %v, troubles %v", got, s.Troubles())
	}
}

// A bucket that swallows every packet costs less than ten seconds, and that once.
func TestMirrors_BlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSeveral(t, 2, nil)
		s.faults[0].Set(Fault{Kind: FaultHang})
		began := time.Now()
		for range 5 {
			if text, err := s.read(t, "a"); err != nil || text != "content" {
				t.Fatal(text, err)
			}
			put(t, s, "b", "x")
		}
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("took %v", took)
		}
		troubles := s.Troubles()
		if len(troubles) != 1 || troubles[0].Index != 0 || !errors.Is(troubles[0].Err, ErrUnavailable) {
			t.Errorf("troubles: %v", troubles)
		}
		if n, url := s.Reading(); n != 1 || url != "mem://1?region=x" {
			t.Errorf("reads from %s", url)
		}

		// It comes back, and is asked when the other one goes.
		s.faults[0].Set()
		s.faults[1].Set(Fault{Kind: FaultFail})
		time.Sleep(2 * restTime)
		if _, err := s.read(t, "a"); err != nil {
			t.Fatal(err)
		}
		if n, _ := s.Reading(); n != 0 {
			t.Errorf("reads from %d", n)
		}
	})
}

// When only one is left it gets all the patience.
func TestMirrors_LastOneIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSeveral(t, 2, nil)
		s.faults[0].Set(Fault{Kind: FaultFail})
		s.faults[1].Set(Fault{Kind: FaultDelay, Delay: 20 * time.Second})
		if _, err := s.read(t, "a"); err != nil {
			t.Error(err)
		}
	})
}

// Each bucket is asked once until it answered itself.
func TestMirrors_Cautious(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSeveral(t, 2, nil)
		for _, f := range s.faults {
			f.Set(Fault{Kind: FaultFail})
		}
		get := func(b Bucket) error {
			_, _, err := ReadAll(t.Context(), b, "a", GetOptions{}, 100)
			return err
		}
		const vms = 100
		for range vms {
			if err := get(Cautious(s.Mirrored)); !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(2 * restTime)
		}
		if got := s.requests(); !slices.Equal(got, []int64{vms, vms}) {
			t.Errorf("%d VMs asked %v times", vms, got)
		}
		if len(s.Troubles()) != 2 {
			t.Errorf("what a cautious one found out is known of the buckets: %v", s.Troubles())
		}

		// The mirror answers, which says nothing of the bucket.
		c := Cautious(s.Mirrored)
		s.faults[1].Set()
		if err := get(c); err != nil {
			t.Fatal(err)
		}
		s.faults[1].Set(Fault{Times: 4})
		if err := get(c); err != nil {
			t.Errorf("not patient after an answer: %v", err)
		}
		s.faults[1].Set(Fault{})
		time.Sleep(2 * restTime)
		before := s.requests()
		if err := get(c); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		after := s.requests()
		if n, m := after[0]-before[0], after[1]-before[1]; n != 1 || m != 2 {
			t.Errorf("the bucket was asked %d times and the mirror %d times", n, m)
		}
	})
}

func TestMirrors_ReadsGoOn(t *testing.T) {
	optional := func(key string) bool { return key == "maybe" }
	for name, tt := range map[string]struct {
		key   string
		fault Fault
		want  error // of the read; nil: the mirror answers
	}{
		"away":              {"a", Fault{Kind: FaultFail}, nil},
		"no bucket":         {"a", Fault{Kind: FaultFail, Err: ErrNoBucket}, nil},
		"refused":           {"a", Fault{Kind: FaultFail, Err: ErrPermission}, nil},
		"lacks it":          {"a", Fault{Kind: FaultFail, Err: ErrNotExist}, nil},
		"may lack it":       {"maybe", Fault{Kind: FaultFail, Err: ErrNotExist}, ErrNotExist},
		"may lack, refused": {"maybe", Fault{Kind: FaultFail, Err: ErrPermission}, ErrPermission},
		"may lack, away":    {"maybe", Fault{Kind: FaultFail}, nil},
		"too large":         {"a", Fault{Kind: FaultFail, Err: ErrTooLarge}, ErrTooLarge},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSeveral(t, 2, optional)
			put(t, s.counts[1], "maybe", "content")
			before := s.counts[1].Traffic()
			s.faults[0].Set(tt.fault)
			text, err := s.read(t, tt.key)
			if !errors.Is(err, tt.want) || tt.want == nil && (err != nil || text != "content") {
				t.Errorf("%s: %q, %v", name, text, err)
			}
			asked := s.counts[1].Traffic().Sub(before).Gets
			if (tt.want == nil) != (asked == 1) || (tt.want == nil) != (len(s.Troubles()) == 1) {
				t.Errorf("%s: the mirror was asked %d times, troubles %v", name, asked, s.Troubles())
			}
		})
	}
}

// What none of them has is the first one's to say.
func TestMirrors_ErrorIsOfTheFirst(t *testing.T) {
	synctest.Test(t, testErrorIsOfTheFirst)
}

func testErrorIsOfTheFirst(t *testing.T) {
	for _, tt := range []struct{ first, second, want, not error }{
		{ErrUnavailable, ErrNotExist, ErrUnavailable, ErrNotExist},
		{ErrNotExist, ErrUnavailable, ErrNotExist, ErrUnavailable},
		{ErrPermission, ErrNoBucket, ErrPermission, ErrNoBucket},
	} {
		s := newSeveral(t, 2, nil)
		s.faults[0].Set(Fault{Kind: FaultFail, Err: tt.first})
		s.faults[1].Set(Fault{Kind: FaultFail, Err: tt.second})
		_, err := s.read(t, "a")
		if !errors.Is(err, tt.want) || errors.Is(err, tt.not) || !strings.Contains(err.Error(), tt.second.Error()) || strings.Contains(err.Error(), "region") {
			t.Errorf("%v then %v: %v", tt.first, tt.second, err)
		}
	}
}

func TestMirrors_ConditionsNeverCrossBuckets(t *testing.T) {
	synctest.Test(t, testConditionsNeverCrossBuckets)
}

func testConditionsNeverCrossBuckets(t *testing.T) {
	s := newSeveral(t, 2, nil)
	// One and the same ETag for other content: what a copy by hand can lead to.
	put(t, s.counts[0], "k", "one")
	put(t, s.counts[1], "k", "two")
	get := func(etag string) (Object, error) {
		r, o, err := s.Get(t.Context(), "k", GetOptions{IfNoneMatch: etag})
		if err == nil {
			r.Close()
		}
		return o, err
	}
	o, err := get("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(o.ETag); !errors.Is(err, ErrNotModified) {
		t.Errorf("same bucket: %v", err)
	}
	raw, _ := s.sources[0].untagged(o.ETag)
	if _, err := get(raw); err != nil {
		t.Errorf("an ETag without a bucket: %v", err)
	}
	s.faults[0].Set(Fault{Kind: FaultFail})
	if _, err := get(s.sources[0].tagged("1")); err != nil {
		t.Errorf("the other bucket's ETag: %v", err)
	}
	if _, err := s.Put(t.Context(), "k", strings.NewReader("x"), Condition{IfMatch: o.ETag}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("write on a condition of the bucket that is away: %v", err)
	}
	if _, err := s.Put(t.Context(), "k", strings.NewReader("x"), Condition{IfMatch: "stranger"}); !errors.Is(err, ErrPrecondition) {
		t.Errorf("write on a condition of no bucket: %v", err)
	}
}

func TestMirrors_WritesGoToTheFirstThatTakesThem(t *testing.T) {
	synctest.Test(t, testWritesGoToTheFirstThatTakesThem)
}

func testWritesGoToTheFirstThatTakesThem(t *testing.T) {
	s := newSeveral(t, 3, nil)
	s.sources[1].caps.ReadOnly = true
	s.faults[0].Set(Fault{Kind: FaultFail, Method: "Put", Err: ErrPermission})
	if _, err := s.Put(t.Context(), "report", strings.NewReader("x"), Condition{}); !errors.Is(err, ErrPermission) || s.requests()[2] != 0 {
		t.Errorf("refused for the first time: %v", err)
	}
	put(t, s, "report", "x")
	if n := s.requests(); n[1] != 0 || n[2] != 1 {
		t.Errorf("requests %v", n)
	}
	s.faults[2].Set(Fault{Kind: FaultFail})
	if _, err := s.Put(t.Context(), "report", strings.NewReader("x"), Condition{}); !errors.Is(err, ErrPermission) {
		t.Errorf("refused by the first, away the other: %v", err)
	}
	for i := range s.sources {
		s.sources[i].caps.ReadOnly = true
	}
	if _, err := s.Put(t.Context(), "report", strings.NewReader("x"), Condition{}); !errors.Is(err, ErrUnsupported) || !s.Caps().ReadOnly {
		t.Errorf("all read only: %v, %+v", err, s.Caps())
	}
}

func TestMirrors_List(t *testing.T) {
	synctest.Test(t, testList)
}

func testList(t *testing.T) {
	s := newSeveral(t, 2, nil)
	s.faults[0].Set(Fault{Kind: FaultFail, Method: "List"})
	n := 0
	for o, err := range s.List(t.Context(), "", "") {
		if err != nil || o.Key != "a" {
			t.Fatal(o, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d objects", n)
	}
}

// A body that breaks off sends the next read elsewhere.
func TestMirrors_BrokenBody(t *testing.T) {
	synctest.Test(t, testBrokenBody)
}

func testBrokenBody(t *testing.T) {
	s := newSeveral(t, 2, nil)
	s.faults[0].Set(Fault{Kind: FaultCut, Bytes: 3, Err: ErrUnavailable})
	if _, err := s.read(t, "a"); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if !s.Leave(errors.New("broken")) {
		t.Fatal("no other bucket")
	}
	if text, err := s.read(t, "a"); err != nil || text != "content" {
		t.Errorf("%q %v", text, err)
	}
	if n, _ := s.Reading(); n != 1 {
		t.Errorf("reads from %d", n)
	}
}

func TestMirrors_Leave(t *testing.T) {
	synctest.Test(t, testLeave)
}

func testLeave(t *testing.T) {
	s := newSeveral(t, 3, nil)
	lies := errors.New("lies")
	for i := range 2 {
		if _, err := s.read(t, "a"); err != nil {
			t.Fatal(err)
		}
		if n, _ := s.Reading(); n != i || !s.Leave(lies) {
			t.Errorf("reads from %d, want %d and others", n, i)
		}
	}
	if s.Leave(lies) {
		t.Error("there is no other one")
	}
	if got := s.Troubles(); len(got) != 3 || got[2].Err != lies || s.First(errors.New("x")) != lies {
		t.Errorf("troubles %v", got)
	}
	if _, err := s.read(t, "a"); !errors.Is(err, lies) {
		t.Errorf("read of buckets that all were left: %v", err)
	}
	put(t, s, "report", "x") // what lies or lags may still hear
}

func TestMirrors_CannotBeOpened(t *testing.T) {
	mem := NewMem()
	put(t, mem, "a", "content")
	m := Mirrors([]Mirror{{URL: "s3://x", Err: errors.New("no such region")}, {URL: "mem:", Bucket: mem}}, nil)
	b, _, err := ReadAll(t.Context(), m, "a", GetOptions{}, 100)
	if err != nil || string(b) != "content" {
		t.Errorf("%q %v", b, err)
	}
	if got := m.Troubles(); len(got) != 1 || !strings.Contains(got[0].Err.Error(), "no such region") || m.Unwrap() != Bucket(mem) {
		t.Errorf("%v", got)
	}
}

func TestMirrors_EndOfContext(t *testing.T) {
	s := newSeveral(t, 2, nil)
	ctx, cancel := context.WithCancel(t.Context())
	s.faults[0].Set(Fault{Kind: FaultHang, Before: cancel})
	if _, _, err := s.Get(ctx, "a", GetOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if got := s.Troubles(); len(got) != 0 || s.requests()[1] != 0 {
		t.Errorf("the end of the caller was held against the bucket: %v", got)
	}
}

func FuzzMirrorETag(f *testing.F) {
	for _, e := range []string{"", "abc", `"abc"`, `W/"abc"`, `"`, `""`, "0123abcd.x", `"deadbeef.x"`} {
		f.Add(e)
	}
	m := Mirrors([]Mirror{{URL: "a", Bucket: NewMem()}, {URL: "b", Bucket: NewMem()}}, nil)
	a, b := m.sources[0], m.sources[1]
	f.Fuzz(func(t *testing.T, etag string) {
		tagged := a.tagged(etag)
		if etag == "" {
			if tagged != "" {
				t.Fatal("no ETag became one")
			}
			return
		}
		if back, ok := a.untagged(tagged); !ok || back != etag {
			t.Fatalf("%q became %q and then %q", etag, tagged, back)
		}
		if _, ok := b.untagged(tagged); ok {
			t.Fatalf("%q is taken for the other bucket's", tagged)
		}
		if strings.Count(tagged, `"`) != strings.Count(etag, `"`) {
			t.Fatalf("%q has other quotes than %q", tagged, etag)
		}
	})
}
