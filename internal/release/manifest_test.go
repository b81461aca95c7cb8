package release

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

// sample is a manifest with one of everything.
func sample() *Manifest {
	content := "setting = <é> & \u2028\n"
	d, e := DigestOf([]byte("content")), DigestOf([]byte("other"))
	yes := true
	return &Manifest{
		Schema: 1, Project: "acme", Number: 43,
		Source: Source{Time: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), By: "ada", Commit: "abc", Branch: "main", Dirty: true, Note: "line\nbreak", Tool: "1.0"},
		Files: []File{
			{Path: "a\nb", Mode: 0o644, Size: 7, Digest: d, Blobs: []Blob{{Digest: d, Size: 7, Pack: 0, Offset: 5, Stored: 16}}},
			{Path: "dir/link", Link: "../a\nb"},
			{Path: "empty", Mode: 0o600, Digest: DigestOf(nil)},
			{Path: "void", Dir: true, Mode: 0o755},
		},
		Packs: []Pack{{Digest: e, Size: 21}},
		Roles: map[string]Role{"web": {
			Vars: Vars{"port": json.Number("12345678901"), "name": "x", "on": true, "list": []any{"a", json.Number("1")}},
			Steps: []Step{{Name: "conf", Kind: KindFiles, Files: []FileItem{{To: "/etc/x", Content: &content, State: StatePresent, Owner: "root", Group: "root"}},
				Rerun: RerunChanged, Timeout: Duration(90 * time.Second), OnError: OnErrorStop, Reboot: RebootNever}},
			Checks:   []Check{{Name: "up", Kind: CheckPort, Target: "tcp:80", Listening: &yes, Timeout: Duration(time.Second)}},
			Schedule: Schedule{Poll: Duration(5 * time.Minute), Reapply: Duration(time.Hour)}, Attempts: 2,
		}},
	}
}

// The canonical bytes are what is signed: they may never change.
func TestManifestBytesAreStable(t *testing.T) {
	b, err := sample().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "manifest.golden.json")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != string(want) {
		t.Errorf("bytes changed:\n%s\nwere\n%s", b, want)
	}
	m, err := ParseManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Bytes()
	if err != nil || string(again) != string(b) {
		t.Errorf("parsed and written again: %v\n%s", err, again)
	}
	if n := m.Roles["web"].Vars["port"]; n != json.Number("12345678901") {
		t.Errorf("a large number became %v (%T)", n, n)
	}
}

func TestContentDigest(t *testing.T) {
	digest := func(change func(*Manifest)) Digest {
		m := sample()
		change(m)
		d, err := m.ContentDigest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	base := digest(func(*Manifest) {})
	same := map[string]func(*Manifest){
		"number": func(m *Manifest) { m.Number++ },
		"source": func(m *Manifest) { m.Source = Source{} },
		"packs":  func(m *Manifest) { m.Packs, m.Files[0].Blobs = nil, nil },
	}
	for name, change := range same {
		if digest(change) != base {
			t.Errorf("another %s changes the content", name)
		}
	}
	other := map[string]func(*Manifest){
		"project": func(m *Manifest) { m.Project = "x" },
		"mode":    func(m *Manifest) { m.Files[0].Mode = 0o755 },
		"content": func(m *Manifest) { m.Files[0].Digest = DigestOf([]byte("x")) },
		"link":    func(m *Manifest) { m.Files[1].Link = "x" },
		"file":    func(m *Manifest) { m.Files = m.Files[1:] },
		"role":    func(m *Manifest) { m.Roles["db"] = Role{} },
		"var":     func(m *Manifest) { m.Roles["web"].Vars["on"] = false },
	}
	for name, change := range other {
		if digest(change) == base {
			t.Errorf("another %s does not change the content", name)
		}
	}
}

func TestParseManifestRefuses(t *testing.T) {
	d := DigestOf([]byte("content"))
	file := func(p string) File { return File{Path: p, Mode: 0o644, Digest: DigestOf(nil)} }
	link := func(p, to string) File { return File{Path: p, Link: to} }
	set := func(files ...File) func(*Manifest) { return func(m *Manifest) { m.Files = files } }
	blob := func(change func(*Blob)) func(*Manifest) {
		return func(m *Manifest) { change(&m.Files[0].Blobs[0]) }
	}
	cases := map[string]func(*Manifest){
		"no project":            func(m *Manifest) { m.Project = "" },
		"number 0":              func(m *Manifest) { m.Number = 0 },
		"absolute path":         set(file("/etc/passwd")),
		"path upwards":          set(file("../x")),
		"path up inside":        set(file("a/../../x")),
		"path not clean":        set(file("a//b")),
		"path dot":              set(file(".")),
		"path empty":            set(file("")),
		"path trailing slash":   set(file("a/")),
		"path NUL":              set(file("a\x00b")),
		"path too long":         set(file(strings.Repeat("x", MaxPathBytes+1))),
		"out of order":          set(file("b"), file("a")),
		"twice":                 set(file("a"), file("a")),
		"below a file":          set(file("a"), file("a/b")),
		"below a link":          set(link("a", "b"), file("a/x")),
		"deep below a link":     set(link("a", "b"), file("a/x/y/z")),
		"below, not next to it": set(file("a"), file("a-b"), file("a/b")),
		"link absolute":         set(link("a", "/etc")),
		"link upwards":          set(link("a", "..")),
		"link far upwards":      set(link("a/b/c", "../../../x")),
		"link up after a name":  set(link("a/b/c", "d/../../../../x")),
		"link through a link":   set(link("p/q/d", "../.."), link("p/q/e", "d/../x")),
		"link with content":     set(File{Path: "a", Link: "b", Size: 1}),
		"link and folder":       set(File{Path: "a", Link: "b", Dir: true}),
		"folder with digest":    set(File{Path: "a", Dir: true, Digest: d}),
		"setuid":                set(File{Path: "a", Mode: 0o4755, Digest: d}),
		"no digest":             set(File{Path: "a", Mode: 0o644}),
		"negative size":         set(File{Path: "a", Size: -1, Digest: d}),
		"huge":                  set(File{Path: "a", Size: MaxFileBytes + 1, Digest: d}),
		"size without blobs":    set(File{Path: "a", Size: 1, Digest: d}),
		"blob of no pack":       blob(func(b *Blob) { b.Pack = 1 }),
		"blob of pack -1":       blob(func(b *Blob) { b.Pack = -1 }),
		"blob past the end":     blob(func(b *Blob) { b.Offset = 6 }),
		"blob before the start": blob(func(b *Blob) { b.Offset = -1 }),
		"blob offset overflow":  blob(func(b *Blob) { b.Offset = 1<<63 - 1 }),
		"blob stored overflow":  blob(func(b *Blob) { b.Stored = 1<<63 - 1 }),
		"blob stored nothing":   blob(func(b *Blob) { b.Stored = 0 }),
		"blob size 0":           blob(func(b *Blob) { b.Size = 0 }),
		"blob too large":        blob(func(b *Blob) { b.Size = MaxChunkBytes + 1 }),
		"blob no digest":        blob(func(b *Blob) { b.Digest = Digest{} }),
		"blobs too short":       blob(func(b *Blob) { b.Size = 6 }),
		"pack without size":     func(m *Manifest) { m.Packs[0].Size = 0 },
		"pack without digest":   func(m *Manifest) { m.Packs[0].Digest = Digest{} },
		"too many files": func(m *Manifest) {
			m.Files = nil
			for i := range MaxFiles + 1 {
				m.Files = append(m.Files, file(fmt.Sprintf("%07d", i)))
			}
		},
	}
	for name, change := range cases {
		m := sample()
		change(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseManifest(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
	for text, want := range map[string]error{
		"":                                ErrFormat,
		"{}":                              ErrFormat,
		"[]":                              ErrFormat,
		`{"schema":2}`:                    ErrNewer,
		`{"schema":2,"files":"new form"}`: ErrNewer,
		`{"schema":1,"files":7}`:          ErrFormat,
		`{"schema":1,"files":[{"path":"a","digest":"md5:0"}]}`: ErrFormat,
	} {
		if _, err := ParseManifest([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%s: err = %v", text, err)
		}
	}
	if _, err := ParseManifest(make([]byte, MaxManifestBytes+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("too large: err = %v", err)
	}
}

func TestLinksThatAreFine(t *testing.T) {
	for _, l := range [][2]string{{"a", "b"}, {"a/b", "../c"}, {"a/b", ".."}, {"a/b/c", "../../x/y"}, {"a", "./b"}, {"a/b", "./../c"}, {"a", "..b"}, {"a", "b/"}} {
		if err := CheckLink(l[0], l[1]); err != nil {
			t.Errorf("%s -> %s: %v", l[0], l[1], err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, n := range []int{1, 43, 100000} {
		if got, err := ParseName(Name(n)); got != n || err != nil {
			t.Errorf("%d: %d, %v", n, got, err)
		}
	}
	for _, s := range []string{"", "r", "r0", "r-1", "r01", "43", "r1x", "R1", "r+1", "r99999999999999999999"} {
		if _, err := ParseName(s); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: err = %v", s, err)
		}
	}
}

func TestChannelRoundTrip(t *testing.T) {
	c := Channel{Schema: 1, Project: "acme", Name: "stable", Serial: 7, Release: "r43", Manifest: DigestOf([]byte("m")), Floor: 40, Time: time.Unix(1e9, 0).UTC()}
	b, err := c.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseChannel(b); err != nil || *got != c {
		t.Errorf("%+v, %v", got, err)
	}
	for name, change := range map[string]func(*Channel){
		"project": func(c *Channel) { c.Project = "" }, "name": func(c *Channel) { c.Name = "" }, "serial": func(c *Channel) { c.Serial = 0 },
		"release": func(c *Channel) { c.Release = "43" }, "manifest": func(c *Channel) { c.Manifest = Digest{} }, "schema": func(c *Channel) { c.Schema = 0 },
	} {
		d := c
		change(&d)
		b, _ := d.Bytes()
		if _, err := ParseChannel(b); !errors.Is(err, ErrFormat) {
			t.Errorf("no %s: err = %v", name, err)
		}
	}
	if _, err := ParseChannel(make([]byte, MaxChannelBytes+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("too large: %v", err)
	}
}

func TestDigest(t *testing.T) {
	d := DigestOf([]byte("x"))
	if got, err := ParseDigest(d.String()); got != d || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	var z Digest
	if !z.IsZero() || z.String() != "" || d.IsZero() {
		t.Error("the zero Digest")
	}
	for _, s := range []string{"", d.Hex(), "sha256:" + strings.ToUpper(d.Hex()), "sha256:" + d.Hex()[1:], "sha256:" + d.Hex() + "0", "sha256:" + strings.Repeat("g", 64), "sha1:" + d.Hex()} {
		if _, err := ParseDigest(s); !errors.Is(err, ErrDigest) {
			t.Errorf("%q: err = %v", s, err)
		}
	}
}

// What is parsed can be written again, and keeps its promises.
func FuzzParseManifest(f *testing.F) {
	b, err := sample().Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema":1,"project":"p","number":1,"files":[{"path":"a","dir":true},{"path":"a/b","link":".."}]}`))
	f.Add([]byte(`{"schema":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrNewer) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Path) || file.Link != "" && !filepath.IsLocal(filepath.Join(filepath.Dir(file.Path), file.Link)) {
				t.Fatalf("path %q, link %q", file.Path, file.Link)
			}
		}
		out, err := m.Bytes()
		if err != nil {
			return // text that JSON can hold and canonical JSON cannot
		}
		if _, err := ParseManifest(out); err != nil {
			t.Fatalf("written again it does not parse: %v", err)
		}
	})
}

func FuzzParseChannel(f *testing.F) {
	f.Add([]byte(`{"schema":1,"project":"p","name":"stable","serial":1,"release":"r1","manifest":"` + DigestOf(nil).String() + `","floor":0,"time":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"schema":9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseChannel(b)
		if err != nil {
			return
		}
		if n, err := ParseName(c.Release); err != nil || n < 1 || c.Serial < 1 || c.Manifest.IsZero() {
			t.Fatalf("%+v", c)
		}
	})
}
