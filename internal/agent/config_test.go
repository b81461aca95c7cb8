package agent

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// me and mine are numbers: the VM of a test has no accounts of its own.
func me() string { return strconv.Itoa(os.Getuid()) }

func mine() string { return strconv.Itoa(os.Getgid()) }

const goodConfig = `project: "acme"
bucket: s3://acme-provision/prod?region=eu-west-1
role: web
root: sha256:0000000000000000000000000000000000000000000000000000000000000001
`

func TestConfig(t *testing.T) {
	c, err := ParseConfig("agent.yaml", []byte(goodConfig))
	if err != nil {
		t.Fatal(err)
	}
	if c.Project != "acme" || c.Channel != "stable" || c.Root.IsZero() || c.Bucket != "s3://acme-provision/prod?region=eu-west-1" {
		t.Fatalf("%+v", c)
	}
}

func TestConfig_Mirrors(t *testing.T) {
	for _, text := range []string{"mirrors: [s3://west/prod, 'https://host/x']\n", "mirrors:\n- s3://west/prod\n- https://host/x\n", `mirrors: ["s3://west/prod","https://host/x"]` + "\n"} {
		c, err := ParseConfig("agent.yaml", []byte(goodConfig+text))
		if err != nil || !slices.Equal(c.Mirrors, []string{"s3://west/prod", "https://host/x"}) {
			t.Errorf("%s: %v, %v", text, c.Mirrors, err)
		}
	}
}

func TestConfig_Bad(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":     {"", "agent.yaml:1: the file is empty"},
		"unknown":   {goodConfig + "rol: x\n", `agent.yaml:5: unknown key "rol"; the keys are project, bucket, role`},
		"twice":     {goodConfig + "role: db\n", "agent.yaml:5: role is there twice"},
		"missing":   {strings.Replace(goodConfig, "role: web\n", "", 1), "agent.yaml:1: role is missing"},
		"number":    {strings.Replace(goodConfig, "web", "12", 1), "agent.yaml:3: role must be text"},
		"role name": {strings.Replace(goodConfig, "web", "Web Server", 1), "use lower-case letters"},
		"bucket":    {strings.Replace(goodConfig, "s3://acme-provision/prod?region=eu-west-1", "acme/prod", 1), "agent.yaml:2: bucket"},
		"root":      {strings.Replace(goodConfig, "sha256:", "", 1), "agent.yaml:4: root"},
		"mirrors":   {goodConfig + "mirrors: s3://west\n", "agent.yaml:5: mirrors must be a list of at most 8 URLs"},
		"mirror":    {goodConfig + "mirrors: [west]\n", `agent.yaml:5: mirror "west": write a URL`},
		"many":      {goodConfig + "mirrors: [" + strings.Repeat("s3://x, ", 9) + "]\n", "at most 8"},
		"not text":  {goodConfig + "mirrors: [1, [s3://x]]\n", "agent.yaml:5: mirrors must be a list of URLs"},
		"twice too": {goodConfig + "mirrors: [s3://x]\nmirrors: []\n", "agent.yaml:6: mirrors is there twice"},
		"list":      {"- a\n", "write one `key: value` a line"},
		"no yaml":   {"a: [\n", "agent.yaml:1"},
		"two":       {goodConfig + "---\na: b\n", "more than one document"},
		"all":       {"a: 1\nb: 2\n", "b"},
	} {
		_, err := ParseConfig("agent.yaml", []byte(c.text))
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
}

func TestConfig_File(t *testing.T) {
	p := Paths{Root: t.TempDir()}
	if _, err := LoadConfig(p); !errors.Is(err, ErrConfig) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v", err)
	}
	if err := os.MkdirAll(p.at("/etc/bootwell"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Config(), []byte(strings.Repeat("#", maxConfigBytes+1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig(p); !errors.Is(err, ErrConfig) {
		t.Fatalf("%v", err)
	}
}

func TestName(t *testing.T) {
	machine := strings.Repeat("0f", 16)
	for id, want := range map[string]string{
		"i-0f3a91": "i-0f3a91", "": "machine-0f0f0f0f0f0f0f0f",
		"a b/../c": "vm-a-b-..-c-" + release.DigestOf([]byte("a b/../c")).Short(),
		"é":        "vm--" + release.DigestOf([]byte("é")).Short(),
	} {
		got := vmName(instance{ID: id, Machine: machine}, "")
		if got != want || !release.ValidVM(got) {
			t.Errorf("%q is called %q, want %q", id, got, want)
		}
	}
	long := vmName(instance{ID: strings.Repeat("x", 200)}, "")
	if !release.ValidVM(long) {
		t.Errorf("%q is no name", long)
	}
}

func TestFacts(t *testing.T) {
	w := newWorld(t)
	w.write(w.vm("proc/meminfo"), "MemTotal:       2048000 kB\nMemFree: 1 kB\n")
	f := ReadFacts(w.agent.Paths, "1.0.0")
	if f.InstanceID != "i-0abc" || f.Cloud != "aws" || f.Region != "eu-west-1" || f.Platform != "debian-12" || f.MemoryMB != 2000 || f.Agent != "1.0.0" {
		t.Fatalf("%+v", f)
	}
	w.write(w.vm("run/cloud-init/instance-data.json"), "{torn")
	w.write(w.vm("var/lib/cloud/data/instance-id"), "iid-datasource-none\n")
	w.write(w.vm("sys/class/dmi/id/product_uuid"), "4C4C4544-0031\n")
	if f := ReadFacts(w.agent.Paths, ""); f.InstanceID != "4c4c4544-0031" {
		t.Fatalf("%+v", f)
	}
}

func TestPlatform(t *testing.T) {
	for _, c := range []struct {
		glob, platform string
		want           bool
	}{{"debian-12", "debian-12", true}, {"debian-*", "debian-12", true}, {"rocky-9", "rocky-9.3", true}, {"ubuntu-24.04", "ubuntu-24.04", true}, {"ubuntu-24.04", "ubuntu-24.10", false}, {"debian-12", "debian-13", false}} {
		if onPlatform(c.glob, c.platform) != c.want {
			t.Errorf("%s on %s: %v", c.glob, c.platform, !c.want)
		}
	}
}

func TestUnsuitable_IsSaidAndNotTriedAtEachPoll(t *testing.T) {
	w := newWorld(t)
	w.publish(role(w.put("a", "one")))
	w.good()
	elsewhere := role(w.put("a", "two"))
	elsewhere.Platforms = []string{"rocky-9"}
	w.publish(elsewhere)
	r, err := w.apply()
	if !errors.Is(err, ErrUnsuitable) || r.Release != "r1" || r.State != release.StateFailed || !strings.Contains(r.Reason, "rocky-9") || !strings.HasSuffix(r.Reason, "r1 stays in force") {
		t.Fatalf("%v %+v", err, r)
	}
	w.pass(5 * time.Minute)
	before := w.count.Traffic()
	w.good()
	if d := w.count.Traffic().Sub(before); d.Requests() != 1 {
		t.Fatalf("%+v", d)
	}
	w.publishRoles(map[string]release.Role{"db": role(w.put("a", "three"))})
	r, err = w.apply()
	if !errors.Is(err, ErrUnsuitable) || !strings.Contains(r.Reason, "r3 has no role web (it has db)") {
		t.Fatalf("%v %+v", err, r)
	}
	w.agent.Config.Role = "db"
	w.pass(5 * time.Minute)
	r = w.good()
	w.is(r, release.StateChanged, "r3")
}

func TestBackoff(t *testing.T) {
	const poll = 5 * time.Minute
	for n, want := range map[int]time.Duration{1: poll, 2: 2 * poll, 3: 4 * poll, 4: 8 * poll, 5: time.Hour, 50: time.Hour} {
		got := backoff(poll, n, "vm")
		if got < want || got > want+want/10 {
			t.Errorf("after %d failures %v, want about %v", n, got, want)
		}
	}
	if got := backoff(3*time.Hour, 1, "vm"); got < 3*time.Hour {
		t.Errorf("%v", got)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig("f", b)
		if (err == nil) != (c.Project != "") {
			t.Fatalf("%v %+v", err, c)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"schema":1,"vm":"a","wanted":{"release":"r1","manifest":"sha256:0000000000000000000000000000000000000000000000000000000000000001"},"quarantine":[{"release":"r1"}],"attempts":{"x":1},"next_retry":"2027-01-01T00:00:00Z","failed":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseState(b)
		if err != nil {
			return
		}
		decide(st, nil, Options{}, start)
		st.story()
		st.next(nil, start)
		st.identify(instance{ID: "i", Source: sourceCloudInit}, "h")
		if !release.ValidVM(st.VM) {
			t.Fatalf("VM %q", st.VM)
		}
		st.want(ref{Release: "r9"}, 1, 1)
		st.settle("a", "b", "c")
	})
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"schema":1,"run":"20270301-120000-abcd","point":"applying","step":3,"cuts":{"step":3,"same":9,"total":9}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := parseJournal(b)
		if err != nil {
			return
		}
		if j.Run != "" && strings.ContainsAny(j.Run, "/.") {
			t.Fatalf("run %q", j.Run)
		}
		if c := j.cutOff("b"); j.Cuts.Total >= 0 && j.Cuts.Total < 1<<30 && c.Total < j.Cuts.Total {
			t.Fatalf("cuts %+v after %+v", c, j.Cuts)
		}
		j.sentence()
		j.where()
	})
}

func FuzzInstanceData(f *testing.F) {
	f.Add([]byte(`{"v1":{"instance_id":"i-0abc","cloud_name":"aws"}}`))
	f.Add([]byte(`{"v1":{"instance_id":"n1","cloud_name":"unknown","platform":"nocloud"}}`))
	f.Add([]byte(`{"v1":{"instance_id":"../../x\n"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		facts := parseInstanceData(b)
		if n := vmName(instance{ID: facts.InstanceID}, facts.Hostname); !release.ValidVM(n) {
			t.Fatalf("name %q", n)
		}
		if strings.ContainsAny(facts.Cloud+facts.Region+facts.Hostname, "\n\x1b") {
			t.Fatalf("%+v", facts)
		}
	})
}

func TestFacts_CloudAsCloudInitCallsIt(t *testing.T) {
	for data, want := range map[string]string{
		`{"v1":{"cloud_name":"aws","platform":"ec2"}}`:                 "aws",
		`{"v1":{"cloud_name":"unknown","platform":"nocloud"}}`:         "nocloud",
		`{"v1":{"cloud_name":"configdrive","platform":"configdrive"}}`: "openstack",
		`{"v1":{"cloud_name":"unknown","platform":"configdrive"}}`:     "openstack",
		`{"v1":{"platform":"lxd"}}`:                                    "lxd",
		`{"v1":{}}`:                                                    "",
	} {
		if got := parseInstanceData([]byte(data)).Cloud; got != want {
			t.Errorf("%s: %q, want %q", data, got, want)
		}
	}
}
