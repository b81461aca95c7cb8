package trust

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// While garbage is collected nobody gets a state to build on.
func TestCollect_PublishersWait(t *testing.T) {
	w := newWorld(t)
	base := w.publish()
	p := w.publisher()
	if _, err := p.View(t.Context()); err != nil {
		t.Fatal(err)
	}
	marked, err := p.BeginCollect(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Commit(t.Context(), base, releaseChange(7)); !errors.Is(err, ErrConflict) {
		t.Errorf("commit on the state before: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	other := w.publisher()
	if v, err := other.View(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a marked state was handed out: %+v, %v", v, err)
	}
	short, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := other.Resign(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a marked state was signed again: %v", err)
	}
	if got := names(mustRefresh(t, w.client())); got != names(base) {
		t.Errorf("a VM sees %s, before %s", got, names(base))
	}
	seen := make(chan error, 1)
	go func() {
		v, err := other.View(context.WithoutCancel(t.Context()))
		if err == nil {
			_, err = other.Commit(context.WithoutCancel(t.Context()), v, releaseChange(7))
		}
		seen <- err
	}()
	if _, err := p.EndCollect(t.Context(), marked); err != nil {
		t.Fatal(err)
	}
	if err := <-seen; err != nil {
		t.Errorf("after the end: %v", err)
	}
	if _, err := p.EndCollect(t.Context(), marked); !errors.Is(err, ErrConflict) {
		t.Errorf("a second end: %v", err)
	}
}

// The mark of a collector that was killed counts no longer than it would have
// lived, and what comes after it has none.
func TestCollect_MarkRunsOut(t *testing.T) {
	w := newWorld(t)
	p := w.publisher()
	if _, err := p.BeginCollect(t.Context(), w.publish()); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(collectTTL + maxSkew + time.Second)
	v, err := w.publisher().View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err = w.publisher().Commit(t.Context(), v, releaseChange(7))
	if err != nil || !v.collecting().IsZero() {
		t.Errorf("marked until %v, %v", v.collecting(), err)
	}
}

// Each state knows the one that it took the place of, whatever others left
// between them.
func TestView_Kept(t *testing.T) {
	w := newWorld(t)
	mem := bucket.NewMem()
	mem.Now = func() time.Time { return w.now }
	restore(t, mem, copyBucket(t, w.bucket))
	w.bucket = mem
	p := w.publisher()
	var states []*View
	for n := range 12 { // more than are read ahead
		w.now = w.now.Add(time.Hour)
		v, err := p.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// Another loses the race at its last write.
		lost := w.publisher()
		lost.Client.Bucket = bucket.NewFaults(mem, bucket.Fault{Method: "Put", Key: metadataPrefix + timestampFile, Err: bucket.ErrPermission})
		if _, err := lost.Commit(t.Context(), v, releaseChange(50+n)); !errors.Is(err, bucket.ErrPermission) {
			t.Fatal(err)
		}
		if v, err = p.Commit(t.Context(), v, releaseChange(10+n)); err != nil {
			t.Fatal(err)
		}
		states = append(states, v)
	}
	now := states[len(states)-1]
	for behind := range len(states) {
		// The states replaced in the last hours, and not the one before them.
		k, err := now.Kept(t.Context(), w.now.Add(-time.Duration(behind)*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range states {
			all := true
			for key := range v.Own().Objects {
				all = all && k.Objects[key]
			}
			if want := i >= len(states)-1-behind; all != want {
				t.Errorf("%d hours: the state %d is kept: %t, want %t", behind, i, all, want)
			}
		}
		for key := range k.Objects {
			if _, _, err := get(t.Context(), mem, key, bucket.GetOptions{}, 1<<20); err != nil {
				t.Error(err)
			}
		}
	}
}

func FuzzPast(f *testing.F) {
	w := newWorld(f)
	w.publish()
	for _, b := range w.current().files {
		f.Add(b)
	}
	f.Add([]byte(`{"signed":{"x-bootwell-base":"9","meta":{"targets.json":{"version":-1}},"targets":{"releases/../x.json":{"length":1,"hashes":{"sha256":"00"}}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, target := range parsePast(b).targets {
			if !targetName().MatchString(target.Name) || bucket.CheckKey(target.Key()) != nil || target.Size < 0 {
				t.Errorf("%+v", target)
			}
		}
	})
}
