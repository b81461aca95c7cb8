package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
	"github.com/bootwell/bootwell/internal/trust"
)

// copyOf returns a bucket in memory with the objects of b.
func copyOf(t testing.TB, b bucket.Bucket) *bucket.Mem {
	t.Helper()
	m := bucket.NewMem()
	for key, data := range content(t, b, "") {
		put(t, m, key, []byte(data))
	}
	return m
}

// Killed before or right after any of its writes, a publish leaves the state
// from before, and the next one works.
func TestPublishKilledAtEachWrite(t *testing.T) {
	base := bucket.NewMem()
	f := newFixture(t, base)
	smallOddTree(t, f.dir)
	f.publish()
	f.write("a/plain", "changed")
	for _, kind := range []bucket.FaultKind{bucket.FaultFail, bucket.FaultLost} {
		for n, done := 0, false; !done; n++ {
			b := copyOf(t, base)
			// All writes from the nth on fail: the publisher is gone.
			faulty := bucket.NewFaults(b,
				bucket.Fault{Kind: kind, Method: "Put", Skip: n, Times: 1, Err: bucket.ErrPermission},
				bucket.Fault{Kind: bucket.FaultFail, Method: "Put", Skip: n, Err: bucket.ErrPermission})
			p, err := f.publishTo(faulty, f.options())
			done = err == nil && faulty.Hits() == 0
			m, merr := f.tryManifest(b)
			if merr != nil {
				t.Fatalf("killed at write %d: %v", n, merr)
			}
			if want := "r1"; err != nil && m.Name() != want && !(kind == bucket.FaultLost && m.Name() == "r2") {
				t.Fatalf("killed at write %d: the channel names %s", n, m.Name())
			}
			if err == nil && (p.Release != "r2" || m.Name() != "r2") {
				t.Fatalf("killed at write %d: %+v and the channel names %s", n, p, m.Name())
			}
			mustStage(t, b, m, StageOptions{Dir: stageDir(t)})
			// The lock of the dead publisher has run out by then.
			later := *f
			later.now = func() time.Time { return time.Now().Add(time.Hour) }
			if _, err = later.publishTo(b, f.options()); err != nil {
				t.Fatalf("after a kill at write %d: %v", n, err)
			}
			if m, err = later.tryManifest(b); err != nil || m.Name() != "r2" {
				t.Fatalf("after a kill at write %d: %v %v", n, m, err)
			}
			dir := stageDir(t)
			mustStage(t, b, m, StageOptions{Dir: dir})
			sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
		}
	}
}

// Another publisher commits while this one is about to: both releases count,
// and nothing is uploaded twice.
func TestConflictIsBuiltAgain(t *testing.T) {
	mem := bucket.NewMem()
	f := newFixture(t, mem)
	f.write("a", "1")
	f.publish()
	other := *f
	other.dir = t.TempDir()
	other.now = func() time.Time { return time.Now().Add(time.Hour) } // the lock has run out for it
	other.write("a", "other")
	var theirs Published
	faulty := bucket.NewFaults(mem, bucket.Fault{Kind: bucket.FaultDelay, Method: "Put", Key: "manifests/", Times: 1, Before: func() { theirs = other.publish() }})
	f.write("a", "mine")
	f.write("large", string(noise(1, 2<<20)))
	mine, err := f.publishTo(faulty, f.options())
	if err != nil {
		t.Fatal(err)
	}
	if theirs.Release != "r2" || mine.Release != "r3" || mine.Previous != "r2" {
		t.Errorf("theirs is %s, mine is %s after %s", theirs.Release, mine.Release, mine.Previous)
	}
	if mine.Bytes > 3<<20 {
		t.Errorf("%d bytes were uploaded: the content went twice", mine.Bytes)
	}
	dir := stageDir(t)
	mustStage(t, mem, f.manifest(), StageOptions{Dir: dir})
	sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
}

func TestAgents(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("a", "1")
	write(t, f.dir, "../agent.xz", []byte("an agent"), 0o644)
	a := Agent{Arch: "amd64", Path: filepath.Join(f.dir, "../agent.xz"), Digest: release.DigestOf([]byte("an agent"))}
	o := f.options()
	o.Agents = []Agent{{Arch: "amd64", Digest: a.Digest}}
	if _, err := f.publishTo(f.b, o); !errors.Is(err, bucket.ErrNotExist) || !strings.Contains(err.Error(), "amd64") {
		t.Errorf("an agent that is nowhere: %v", err)
	}
	wrong := a
	wrong.Digest = release.DigestOf([]byte("another"))
	o.Agents = []Agent{wrong}
	if _, err := f.publishTo(f.b, o); !errors.Is(err, bucket.ErrNotExist) || !strings.Contains(err.Error(), "is another one") {
		t.Errorf("an agent that is not the pinned one: %v", err)
	}
	if len(content(t, f.b, "agents/")) != 0 {
		t.Error("it was uploaded")
	}
	f.publish()
	o.Agents = []Agent{a}
	p, err := f.publishTo(f.b, o)
	if err != nil || p.New || p.Uploaded != 1 {
		t.Errorf("%+v %v", p, err)
	}
	if got := content(t, f.b, "agents/"); got["agents/"+a.Digest.Hex()] != "an agent" {
		t.Errorf("agents: %v", got)
	}
	o.Agents[0].Path = ""
	if p, err = f.publishTo(f.b, o); err != nil || p.Uploaded != 0 || p.Present != 1 {
		t.Errorf("%+v %v", p, err)
	}
}

func TestLostPackIsPublishedAgain(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("a", strings.Repeat("content ", 1000))
	f.publish()
	for key := range content(t, f.b, "packs/") {
		if err := f.b.Delete(context.Background(), key); err != nil {
			t.Fatal(err)
		}
	}
	if p := f.publish(); !p.New {
		t.Errorf("published %+v", p)
	}
	mustStage(t, f.b, f.manifest(), StageOptions{Dir: stageDir(t)})
}

// A publish that remembers what the bucket held sees that it does not hold it any
// more, and puts it back though there is nothing new.
func TestLostObjectsArePutBack(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	o := f.options()
	o.Cache = t.TempDir()
	publish := func() Published {
		t.Helper()
		p, err := f.publishTo(f.b, o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	f.write("a", "1")
	publish()
	f.write("a", "2")
	publish()
	o.Channel = "beta"
	f.write("a", "3")
	publish()
	o.Channel = "stable"
	f.write("a", "2")
	if p := publish(); p.New || p.Uploaded != 0 {
		t.Fatalf("published %+v", p)
	}
	whole := content(t, f.b, "")
	lose := func() int {
		n := 0
		for key := range whole {
			if strings.HasPrefix(key, "tuf/targets/") || strings.HasPrefix(key, "manifests/") && !strings.Contains(key, "-") {
				if err := f.b.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				n++
			}
		}
		return n
	}
	if n := lose(); n != 2+3+1 { // one of the channels' is of the state before
		t.Fatalf("%d objects were deleted", n)
	}
	o.DryRun = true
	if p := publish(); p.New || p.Uploaded != 5 || len(content(t, f.b, "")) != len(whole)-6 {
		t.Errorf("dry run: %+v", p)
	}
	o.DryRun = false
	if p := publish(); p.New || p.Uploaded != 5 {
		t.Errorf("published %+v", p)
	}
	now := content(t, f.b, "")
	for key, text := range whole {
		if now[key] == "" && !strings.HasPrefix(key, "tuf/targets/") || now[key] != "" && now[key] != text {
			t.Errorf("%s is %.40q", key, now[key])
		}
	}
	// What nobody has any more is no reason to fail.
	lose()
	if err := os.RemoveAll(filepath.Join(o.Cache, "signed")); err != nil {
		t.Fatal(err)
	}
	if err := f.b.Delete(t.Context(), "tuf/bundles/full.zst"); err != nil {
		t.Fatal(err)
	}
	if p, err := f.publishTo(f.b, o); err == nil {
		t.Errorf("without the channel: %+v", p)
	}
}

func TestPacksAreRewritten(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("keep", string(noise(1, 100_000)))
	for i := range 10 {
		f.write(fmt.Sprint("drop", i), string(noise(uint64(10+i), 200_000)))
	}
	f.publish()
	old := f.manifest().Packs
	for i := range 10 {
		if err := os.Remove(filepath.Join(f.dir, fmt.Sprint("drop", i))); err != nil {
			t.Fatal(err)
		}
	}
	f.publish()
	m := f.manifest()
	if len(m.Packs) != 1 || m.Packs[0] == old[0] || m.Packs[0].Size > 110_000 {
		t.Errorf("a mostly dead pack stayed: %+v, was %+v", m.Packs, old)
	}
	// Many small publishes do not make many packs to read.
	for i := range 3 * maxSmallPacks {
		f.write(fmt.Sprint("small", i), fmt.Sprint("content ", i))
		f.publish()
		if n := len(f.manifest().Packs); n > maxSmallPacks+2 {
			t.Fatalf("%d packs after %d publishes", n, i)
		}
	}
	mustStage(t, f.b, f.manifest(), StageOptions{Dir: stageDir(t)})
}

func TestOldReleasesGo(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	f.write("a", "pinned")
	o := f.options()
	o.Channel = "pinned"
	if _, err := f.publishTo(f.b, o); err != nil {
		t.Fatal(err)
	}
	for i := range maxReleases + 5 {
		f.write("a", fmt.Sprint(i))
		f.publish()
	}
	v, err := f.client(f.b).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	list, err := (&Store{Bucket: f.b}).Releases(context.Background(), v)
	if err != nil {
		t.Fatal(err)
	}
	first, last := list[0], list[len(list)-1]
	if len(list) != maxReleases+1 || first.Name != release.Name(maxReleases+6) || last.Name != "r1" {
		t.Errorf("%d releases from %s to %s", len(list), first.Name, last.Name)
	}
	if !slices.Equal(first.Channels, []string{"stable"}) || !slices.Equal(last.Channels, []string{"pinned"}) || first.Files != 1 || !slices.Equal(first.Roles, []string{"web"}) {
		t.Errorf("first %+v, last %+v", first, last)
	}
}

// S3 answers a reader who may not list with 403 for what is missing: a VM must
// then take the manifest whole, and think nothing of it.
func TestManifestForbidden(t *testing.T) {
	mem := bucket.NewMem()
	f := newFixture(t, mem)
	f.write("a", "1")
	f.publish()
	m1 := f.manifest()
	f.write("a", "2")
	f.publish()
	want, err := f.manifest().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b := bucket.NewFaults(mem, bucket.Fault{Method: "Get", Key: "manifests/*-*", Err: bucket.ErrPermission})
	v, err := f.client(b).Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	s := &Store{Bucket: b, Log: slog.New(slog.NewTextHandler(&logged, nil))}
	m, err := s.Manifest(t.Context(), v, "r2", m1)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := m.Bytes(); !bytes.Equal(got, want) {
		t.Error("another manifest")
	}
	if b.Hits() == 0 {
		t.Error("nothing was forbidden")
	}
	if logged.Len() > 0 {
		t.Errorf("logged %s", &logged)
	}
	// A bucket that is away is no reason for a second try.
	b.Set(bucket.Fault{Method: "Get", Key: "manifests/"})
	if _, err := s.Manifest(t.Context(), v, "r2", nil); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("away: %v", err)
	}
}

func TestManifestWays(t *testing.T) {
	mem := bucket.NewMem()
	f := newFixture(t, mem)
	for i := range 400 {
		f.write(fmt.Sprintf("d%d/f%d", i%10, i), fmt.Sprint(i))
	}
	f.publish()
	m1 := f.manifest()
	f.write("d0/f0", "changed")
	f.publish()
	want := f.manifest()
	wantBytes, _ := want.Bytes()
	v, err := f.client(mem).Refresh(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t1, _ := v.Target("releases/r1.json")
	t2, _ := v.Target("releases/r2.json")
	del, zst := deltaManifest(t1.Digest, t2.Digest), packedManifest(t2.Digest)
	get := func(have *release.Manifest) bucket.Traffic {
		t.Helper()
		c := bucket.Count(mem)
		m, err := (&Store{Bucket: c}).Manifest(context.Background(), v, "r2", have)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := m.Bytes(); !bytes.Equal(b, wantBytes) {
			t.Error("another manifest")
		}
		return c.Traffic()
	}
	if tr := get(m1); tr.Gets != 1 || tr.Down > 1000 {
		t.Errorf("as delta: %+v", tr)
	}
	if tr := get(want); tr.Gets != 0 {
		t.Errorf("the same: %+v", tr)
	}
	if tr := get(nil); tr.Gets != 1 || tr.Down < 1000 || tr.Down > int64(len(wantBytes))/2 {
		t.Errorf("compressed: %+v", tr)
	}
	// Whatever is wrong with the short way, and with the copy of the whole one
	// that came along, the object remains; nothing else is taken for it.
	good := []byte(content(t, mem, zst)[zst])
	other := []byte(content(t, mem, packedManifest(t1.Digest))[packedManifest(t1.Digest)])
	for _, bad := range [][]byte{nil, []byte("garbage"), bytes.Repeat([]byte{0}, 100), good[:50], bytes.Repeat(good, 9), other} {
		put(t, mem, del, bad)
		get(m1)
		s := &Store{Bucket: bucket.Overlay(mem, map[string][]byte{zst: bad})}
		if m, err := s.Manifest(context.Background(), v, "r2", nil); err != nil || m.Name() != "r2" {
			t.Errorf("copy of %d bytes: %v, %v", len(bad), m, err)
		}
		put(t, mem, zst, bad)
		if m, err := (&Store{Bucket: mem}).Manifest(context.Background(), v, "r2", m1); err == nil {
			t.Errorf("%d bytes were taken for %s", len(bad), m.Name())
		}
		put(t, mem, zst, good)
	}
	if _, err := (&Store{Bucket: mem}).Manifest(context.Background(), v, "r9", nil); !errors.Is(err, trust.ErrNoRelease) {
		t.Errorf("unknown release: %v", err)
	}
	s := &Store{Bucket: mem}
	if _, err := s.Channel(context.Background(), v, "acme", "beta"); !errors.Is(err, trust.ErrNoRelease) {
		t.Errorf("unknown channel: %v", err)
	}
	if _, err := s.Channel(context.Background(), v, "other", "stable"); !errors.Is(err, release.ErrWrongFleet) {
		t.Errorf("another project: %v", err)
	}
	o := f.options()
	o.Project = "other"
	if _, err := f.publishTo(mem, o); !errors.Is(err, release.ErrWrongFleet) {
		t.Errorf("publish of another project: %v", err)
	}
	o = f.options()
	o.Channel = "../x"
	if _, err := f.publishTo(mem, o); err == nil {
		t.Error("a channel called ../x was published")
	}
}

func TestRoleFilesAndChanges(t *testing.T) {
	f := newFixture(t, bucket.NewMem())
	for _, n := range []string{"web/run.sh", "web/conf/a", "web/conf/b", "db/run.sh", "lib/x.sh", "lib/y.sh", "tests/check.sh", "in/one", "README"} {
		f.write(n, n)
	}
	for _, l := range [][2]string{{"../lib/x.sh", "web/helper"}, {"lib", "alias"}} {
		if err := os.Symlink(l[0], filepath.Join(f.dir, l[1])); err != nil {
			t.Fatal(err)
		}
	}
	step := func(s release.Step) release.Step {
		s.Rerun, s.OnError, s.Reboot = release.RerunChanged, release.OnErrorStop, release.RebootNever
		return s
	}
	f.roles = map[string]release.Role{
		"web": {Files: []string{"web/h*"}, Steps: []release.Step{
			step(release.Step{Name: "conf", Kind: release.KindFiles, Files: []release.FileItem{{To: "/etc/x", From: "web/conf", State: release.StatePresent}}}),
			step(release.Step{Name: "script", Kind: release.KindScript, Script: "web/run.sh", Inputs: []string{"in/*"}}),
			step(release.Step{Name: "aliased", Kind: release.KindScript, Script: "alias/y.sh"}),
		}, Checks: []release.Check{{Name: "c", Kind: release.CheckRun, Target: "tests/check.sh"}}},
		"db":  {Steps: []release.Step{step(release.Step{Name: "script", Kind: release.KindScript, Script: "db/run.sh"})}},
		"old": {Steps: []release.Step{}},
	}
	f.publish()
	m := f.manifest()
	paths := func(files []release.File) string {
		var out []string
		for _, f := range files {
			out = append(out, f.Path)
		}
		return strings.Join(out, " ")
	}
	if got, want := paths(RoleFiles(m, "web")), "alias in/one lib/x.sh lib/y.sh tests/check.sh web/conf/a web/conf/b web/helper web/run.sh"; got != want {
		t.Errorf("web needs %s\nwant %s", got, want)
	}
	if n := len(RoleFiles(m, "db")); n != len(m.Files) {
		t.Errorf("db, without globs, needs %d of %d files", n, len(m.Files))
	}
	if n := len(RoleFiles(m, "none")); n != 0 {
		t.Errorf("an unknown role needs %d files", n)
	}
	dir := stageDir(t)
	mustStage(t, f.b, m, StageOptions{Dir: dir, Role: "web"})
	if _, err := os.Lstat(filepath.Join(dir, "README")); err == nil {
		t.Error("README was staged for web")
	}
	f.write("web/conf/b", "changed")
	f.write("in/one", "changed")
	f.write("README", "changed")
	delete(f.roles, "old")
	f.roles["new"] = release.Role{Steps: []release.Step{}}
	p := f.publish()
	var got []string
	for _, c := range p.Roles {
		got = append(got, fmt.Sprint(c.Role, " ", c.Change, " ", c.Changed))
	}
	if want := "db same []; new new []; old removed []; web changed [conf script]"; strings.Join(got, "; ") != want {
		t.Errorf("changes %s\nwant %s", strings.Join(got, "; "), want)
	}
}

// The lock of a publisher who was killed stands in nobody's way, but of those
// who have lost a race: they wait for it in the open, and not for ever.
func TestPublishWaitsForTheLock(t *testing.T) {
	for name, race := range map[string]bool{"alone": false, "raced": true} {
		t.Run(name, func(t *testing.T) { publishBesideLock(t, race) })
	}
}

func publishBesideLock(t *testing.T, race bool) {
	mem := bucket.NewMem()
	f := newFixture(t, mem)
	f.write("a", "1")
	f.publish()
	other := *f
	other.dir = t.TempDir()
	other.write("a", "other")
	f.write("a", "2")
	start := time.Now()
	synctest.Test(t, func(t *testing.T) {
		zero := time.Now()
		f.now = func() time.Time { return start.Add(time.Since(zero)) }
		other.now = f.now
		if _, err := f.publisher(mem).Lock(t.Context(), "killed@laptop", lockTTL); err != nil {
			t.Fatal(err)
		}
		var told []string
		o := f.options()
		o.Progress = func(p Progress) {
			if (p.Phase == PhaseWait) != (p.Text != "") {
				t.Errorf("progress %+v", p)
			}
			if p.Text != "" {
				told = append(told, p.Text)
			}
		}
		b, want, release := bucket.Bucket(mem), []string(nil), "r2"
		if race {
			b = bucket.NewFaults(mem, bucket.Fault{Kind: bucket.FaultDelay, Method: "Put", Key: "manifests/", Times: 1, Before: func() { other.publish() }})
			ends := start.Add(lockTTL).UTC().Format(time.DateTime)
			want, release = []string{
				`"killed@laptop" is publishing, or was cut off: its lock locks/publish ends ` + ends + " UTC; waiting for it, 20s at most",
				"going on without the lock: this bucket keeps publishers apart by itself",
			}, "r3"
		}
		var logged bytes.Buffer
		s := &Store{Bucket: b, Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))}
		p, err := s.Publish(t.Context(), f.publisher(b), o)
		if err != nil || p.Release != release {
			t.Fatalf("%+v, %v", p, err)
		}
		if waited := time.Since(zero); race && (waited < lockPatience || waited > lockPatience+2*time.Second) || !race && waited > 0 {
			t.Errorf("waited %v", waited)
		}
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		if logged.Len() > 0 {
			t.Errorf("logged %s", &logged)
		}
	})
}

// Content that somebody deletes while a publish goes on is there again when it
// commits.
func TestPackLostMeanwhile(t *testing.T) {
	mem := bucket.NewMem()
	f := newFixture(t, mem)
	f.write("a", "1")
	f.publish()
	f.write("b", "2")
	lose := func() {
		for key := range content(t, mem, "packs/") {
			if err := mem.Delete(context.Background(), key); err != nil {
				t.Error(err)
			}
		}
	}
	b := bucket.NewFaults(mem, bucket.Fault{Kind: bucket.FaultDelay, Method: "List", Key: "packs/", Times: 1, Before: lose})
	if _, err := f.publishTo(b, f.options()); err != nil {
		t.Fatal(err)
	}
	dir := stageDir(t)
	mustStage(t, mem, f.manifest(), StageOptions{Dir: dir})
	sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
}

// With a folder of its own, a publish asks for nothing that it has seen.
func TestPublishRemembers(t *testing.T) {
	mem := bucket.NewMem()
	f := newFixture(t, mem)
	for i := range 300 {
		f.write(fmt.Sprint("f", i), strings.Repeat(fmt.Sprint("text ", i), 100))
	}
	o := f.options()
	o.Cache = t.TempDir()
	p := f.publisher(mem) // keeps the verified metadata
	publish := func() (Published, bucket.Traffic) {
		t.Helper()
		c := bucket.Count(mem)
		p.Client.Bucket = c
		out, err := (&Store{Bucket: c}).Publish(context.Background(), p, o)
		if err != nil {
			t.Fatal(err)
		}
		return out, c.Traffic()
	}
	publish()
	f.write("f7", "changed")
	out, tr := publish()
	if out.Release != "r2" || tr.Gets > 2 || tr.Puts > 12 || tr.Requests() > 15 {
		t.Errorf("one file: %s with %+v", out.Release, tr)
	}
	// … and whether the channel and both manifests are still there.
	if out, tr = publish(); out.New || tr.Gets > 2+3 || tr.Puts > 0 {
		t.Errorf("nothing: %+v with %+v", out, tr)
	}
	// What is kept is no more than a copy.
	kept, err := filepath.Glob(filepath.Join(o.Cache, "signed", "*"))
	if err != nil || len(kept) != 3 {
		t.Fatalf("kept %d objects: %v", len(kept), err)
	}
	for _, name := range kept {
		if err := os.WriteFile(name, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.write("f8", "changed")
	if out, _ = publish(); out.Release != "r3" {
		t.Errorf("published %+v", out)
	}
	dir := stageDir(t)
	mustStage(t, mem, f.manifest(), StageOptions{Dir: dir})
	sameTree(t, snapshot(t, f.dir), snapshot(t, dir))
}
