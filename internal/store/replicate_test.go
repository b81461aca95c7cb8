package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// replicate brings to, whose state this operator knows from before, up to date.
func (f *fixture) replicate(to *trust.Client, o ReplicateOptions) (Replicated, error) {
	f.t.Helper()
	ctx := context.Background()
	v, err := f.client(f.b).Refresh(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	return (&Store{Bucket: f.b, Log: slog.New(slog.DiscardHandler)}).Replicate(ctx, v, to, o)
}

func (f *fixture) mustReplicate(to *trust.Client) Replicated {
	f.t.Helper()
	r, err := f.replicate(to, ReplicateOptions{Owner: "test"})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// serves asserts that a VM that has nothing gets the release from b.
func (f *fixture) serves(b bucket.Bucket, name string) {
	f.t.Helper()
	m, err := f.tryManifest(b)
	if err != nil {
		f.t.Fatalf("mirror: %v", err)
	}
	if m.Name() != name {
		f.t.Fatalf("mirror has %s, want %s", m.Name(), name)
	}
	mustStage(f.t, b, m, StageOptions{Dir: stageDir(f.t)})
}

// change makes another tree, with some content that is new.
func (f *fixture) change(i int) {
	f.write("a.txt", fmt.Sprint("text ", i))
	f.write(fmt.Sprintf("blob%d", i), string(noise(uint64(i), 10_000)))
}

// A mirror that had the release before costs what the new one brought.
func TestReplicate_Usual(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	mirror := bucket.Count(bucket.NewMem())
	to := f.client(mirror)
	f.change(0)
	f.publish()
	if r := f.mustReplicate(to); r.Same || r.Before != "" || r.Uploaded == 0 {
		t.Errorf("first: %+v", r)
	}
	f.serves(mirror.Bucket, "r1")
	for i := 1; i < 10; i++ {
		f.change(i)
		f.publish()
		before := mirror.Traffic()
		r := f.mustReplicate(to)
		cost := mirror.Traffic().Sub(before)
		if r.Before != fmt.Sprintf("r%d", i) || cost.Lists != 0 || cost.Puts > 13 || cost.Gets > 5 {
			t.Fatalf("r%d: %+v cost %+v", i+1, r, cost)
		}
	}
	f.serves(mirror.Bucket, "r10")
	before := mirror.Traffic()
	if r := f.mustReplicate(to); !r.Same {
		t.Errorf("nothing new: %+v", r)
	}
	if cost := mirror.Traffic().Sub(before); cost.Requests() > 2 || cost.Puts != 0 {
		t.Errorf("nothing new cost %+v", cost)
	}
}

// What a mirror holds after it was copied is what a VM needs of the bucket,
// release by release.
func TestReplicate_FarBehind(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	mirror := bucket.NewMem()
	f.change(0)
	f.publish()
	f.mustReplicate(f.client(mirror))
	for i := 1; i < 12; i++ {
		f.change(i)
		f.publish()
	}
	r := f.mustReplicate(f.client(mirror)) // another machine, which knows nothing of the mirror
	if r.Before != "r1" {
		t.Errorf("%+v", r)
	}
	f.serves(mirror, "r12")
	want, got := content(t, f.b, ""), content(t, mirror, "")
	const present = "tuf/bundles/full.zst"
	for key, text := range want {
		switch {
		case strings.HasPrefix(key, "manifests/") && strings.Contains(key, "-"):
		case strings.HasPrefix(key, "tuf/metadata/") && key != "tuf/metadata/timestamp.json" && got[key] == "":
		case strings.HasPrefix(key, "tuf/targets/channels/") && got[key] == "": // of releases between
		case strings.HasPrefix(key, "tuf/bundles/") && key != present && got[key] == "":
		case got[key] != text:
			t.Errorf("%s differs", key)
		}
	}
	ctx := t.Context()
	v, err := f.client(mirror).Refresh(ctx)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := (&Store{Bucket: mirror}).Releases(ctx, v)
	if err != nil || len(infos) != 12 {
		t.Errorf("%d releases: %v", len(infos), err)
	}
}

func TestReplicate_Agents(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	mirror := bucket.NewMem()
	to := f.client(mirror)
	f.publish()
	f.mustReplicate(to)
	agent := []byte("an agent")
	d := release.DigestOf(agent)
	put(t, f.b, "agents/"+d.Hex(), agent)
	o := ReplicateOptions{Agents: []release.Digest{d}}
	if r, err := f.replicate(to, o); err != nil || r.Same || r.Uploaded != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := f.replicate(to, o); err != nil || !r.Same {
		t.Errorf("%+v, %v", r, err)
	}
	put(t, f.b, "agents/"+d.Hex(), []byte("another"))
	if _, err := f.replicate(f.client(bucket.NewMem()), o); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("an agent that is not the pinned one was copied: %v", err)
	}
}

// An older state is never written over a newer one.
func TestReplicate_NeverBack(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	mirror := bucket.NewMem()
	f.publish()
	old, err := f.client(f.b).Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.change(1)
	f.publish()
	f.mustReplicate(f.client(mirror))
	before := content(t, mirror, "")
	r, err := (&Store{Bucket: f.b}).Replicate(t.Context(), old, f.client(mirror), ReplicateOptions{})
	if err != nil || !r.Newer || r.Before != "r2" {
		t.Errorf("%+v, %v", r, err)
	}
	sameTree(t, before, content(t, mirror, ""))
}

func TestReplicate_DryRun(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	mirror := bucket.NewMem()
	to := f.client(mirror)
	f.change(0)
	f.publish()
	f.mustReplicate(to)
	f.change(1)
	f.publish()
	before := content(t, mirror, "")
	r, err := f.replicate(to, ReplicateOptions{DryRun: true})
	if err != nil || r.Same || r.Uploaded == 0 || r.Bytes < 10_000 {
		t.Errorf("%+v, %v", r, err)
	}
	sameTree(t, before, content(t, mirror, ""))
	if real := f.mustReplicate(to); real.Uploaded != r.Uploaded || real.Bytes != r.Bytes {
		t.Errorf("told %+v, did %+v", r, real)
	}
}

// A copy that is cut off at any of its writes leaves the old release or the
// new one, each whole, and the next one finishes.
func TestReplicate_CutOffAnywhere(t *testing.T) {
	for _, behind := range []int{0, 2} { // releases that the mirror has before
		f := newFixture(t, bucket.NewMem())
		before := bucket.NewMem()
		for i := range behind {
			f.change(i)
			f.publish()
			f.mustReplicate(f.client(before))
		}
		had := content(t, before, "")
		f.change(behind)
		f.publish()
		f.change(behind + 1)
		f.publish()
		whole := false
		for cut := 0; !whole; cut++ {
			inner := bucket.NewMem()
			for key, text := range had {
				put(t, inner, key, []byte(text))
			}
			faults := bucket.NewFaults(inner, bucket.Fault{Kind: bucket.FaultFail, Method: "Put", Skip: cut})
			_, err := f.replicate(f.client(faults), ReplicateOptions{})
			whole = err == nil
			m, merr := f.tryManifest(inner)
			switch {
			case merr != nil && (behind > 0 || !errors.Is(merr, trust.ErrNotInit)):
				t.Fatalf("cut at %d: %v", cut, merr)
			case merr == nil && m.Name() != fmt.Sprintf("r%d", behind) && m.Name() != fmt.Sprintf("r%d", behind+2):
				t.Fatalf("cut at %d: the mirror has %s", cut, m.Name())
			case merr == nil:
				mustStage(t, inner, m, StageOptions{Dir: stageDir(t)})
			}
			if cut%4 == 0 || whole {
				faults.Set()
				f.mustReplicate(f.client(inner))
				f.serves(inner, fmt.Sprintf("r%d", behind+2))
			}
		}
	}
}

// What somebody did to a mirror is set right, and another project's is left alone.
func TestReplicate_Damaged(t *testing.T) {
	for name, damage := range map[string]func(m *bucket.Mem){
		"timestamp":           func(m *bucket.Mem) { put(t, m, "tuf/metadata/timestamp.json", []byte("{}")) },
		"timestamp too large": func(m *bucket.Mem) { put(t, m, "tuf/metadata/timestamp.json", make([]byte, 1<<20)) },
		"no timestamp":        func(m *bucket.Mem) { _ = m.Delete(t.Context(), "tuf/metadata/timestamp.json") },
		"snapshot": func(m *bucket.Mem) {
			for key := range content(t, m, "tuf/metadata/") {
				if strings.HasSuffix(key, ".snapshot.json") {
					put(t, m, key, []byte("x"))
				}
			}
		},
		"no root": func(m *bucket.Mem) { _ = m.Delete(t.Context(), "tuf/metadata/1.root.json") },
		"packs cut off": func(m *bucket.Mem) {
			for key := range content(t, m, "packs/") {
				put(t, m, key, []byte("x"))
			}
			put(t, m, "tuf/metadata/timestamp.json", []byte("{}"))
		},
		"set back": func(m *bucket.Mem) {},
	} {
		f := newFixture(t, bucket.NewMem())
		mirror := bucket.NewMem()
		to := f.client(mirror)
		f.change(0)
		f.publish()
		f.mustReplicate(to)
		old := content(t, mirror, "tuf/metadata/timestamp.json")
		f.change(1)
		f.publish()
		f.mustReplicate(to)
		damage(mirror)
		if name == "set back" {
			put(t, mirror, "tuf/metadata/timestamp.json", []byte(old["tuf/metadata/timestamp.json"]))
		}
		for _, c := range []*trust.Client{to, f.client(mirror)} { // who knew it before, and who did not
			if r, err := f.replicate(c, ReplicateOptions{}); err != nil {
				t.Errorf("%s: %+v, %v", name, r, err)
			}
		}
		f.serves(mirror, "r2")
	}

	f, other := newFixture(t, bucket.NewMem()), newFixture(t, bucket.NewMem())
	f.publish()
	other.publish()
	before := content(t, other.b, "")
	if _, err := f.replicate(f.client(other.b), ReplicateOptions{}); !errors.Is(err, trust.ErrUntrusted) || !strings.Contains(err.Error(), "another project's") {
		t.Errorf("mirror of another project: %v", err)
	}
	sameTree(t, before, content(t, other.b, ""))
}

// A damaged bucket does not spread to its mirror.
func TestReplicate_DamagedSource(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.change(0)
	f.publish()
	for key := range content(t, f.b, "packs/") {
		put(t, f.b, key, []byte("not what it was"))
	}
	mirror := bucket.NewMem()
	if _, err := f.replicate(f.client(mirror), ReplicateOptions{}); err == nil {
		t.Error("a damaged pack was copied")
	}
	if n := len(content(t, mirror, "packs/")); n != 0 {
		t.Errorf("%d packs in the mirror", n)
	}
}

// Metadata of a mirror that nobody wrote to for long have expired there.
func TestReplicate_Expired(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	mirror := bucket.NewMem()
	f.publish()
	f.mustReplicate(f.client(mirror))
	later := time.Now().Add(trust.DefaultLifetime + 24*time.Hour)
	f.now = func() time.Time { return later }
	if _, err := f.publisher(f.b).Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.tryManifest(mirror); !errors.Is(err, trust.ErrExpired) {
		t.Fatalf("mirror before: %v", err)
	}
	f.mustReplicate(f.client(mirror))
	f.serves(mirror, "r1")
}

// Eight publishers, each of whom brings the mirror up to date after its own
// release: no release is lost, and the mirror ends as the bucket does.
func TestReplicate_EightPublishersAtOnce(t *testing.T) {
	for name, caps := range map[string]bucket.Caps{"conditions": {IfAbsent: true, IfMatch: true}, "no conditions": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, bucket.NewMem())
			mirror := bucket.NewMemWith(caps)
			var wg sync.WaitGroup
			for i := range 8 {
				g := *f
				g.dir = t.TempDir()
				write(t, g.dir, "who.txt", fmt.Append(nil, i), 0o644)
				wg.Go(func() {
					s := &Store{Bucket: g.b, Log: slog.New(slog.DiscardHandler)}
					p := g.publisher(g.b)
					if _, err := s.Publish(t.Context(), p, g.options()); err != nil {
						t.Errorf("publisher %d: %v", i, err)
						return
					}
					v, err := p.Client.Last()
					if err == nil {
						_, err = s.Replicate(t.Context(), v, g.client(mirror), ReplicateOptions{Owner: fmt.Sprint(i)})
					}
					if err != nil {
						t.Errorf("publisher %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			f.serves(f.b, "r8")
			f.serves(mirror, "r8")
			v, err := f.client(mirror).Refresh(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if infos, err := (&Store{Bucket: mirror}).Releases(t.Context(), v); err != nil || len(infos) != 8 {
				t.Errorf("%d releases in the mirror: %v", len(infos), err)
			}
		})
	}
}

func TestCompareMirror(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	mirror := bucket.NewMem()
	to := f.client(mirror)
	s := &Store{Bucket: f.b}
	compare := func() MirrorState {
		t.Helper()
		v, err := f.client(f.b).Refresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.CompareMirror(t.Context(), v, to, "acme", "stable")
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	f.publish()
	if m := compare(); m != (MirrorState{Lags: true}) {
		t.Errorf("empty: %+v", m)
	}
	f.mustReplicate(to)
	if m := compare(); m != (MirrorState{Release: "r1"}) {
		t.Errorf("same: %+v", m)
	}
	made := time.Now().Add(-3 * time.Hour).UTC().Truncate(time.Second)
	for i := range 2 {
		f.change(i)
		o := f.options()
		o.Source.Time = made.Add(time.Duration(i) * time.Hour)
		if _, err := f.publishTo(f.b, o); err != nil {
			t.Fatal(err)
		}
	}
	if m := compare(); m.Release != "r1" || !m.Lags || m.Newer || !m.Since.Equal(made) {
		t.Errorf("two behind: %+v, want since %v", m, made)
	}
	f.mustReplicate(to)
	if _, err := f.publisher(f.b).Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := compare(); m.Release != "r3" || !m.Lags || !m.Since.IsZero() {
		t.Errorf("signatures behind: %+v", m)
	}
}
