package store

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// anyRole is a role with something in each of its fields.
func anyRole() release.Role {
	step := func(name, text string) release.Step {
		return release.Step{Name: name, Kind: release.KindRun, Run: text}
	}
	script := release.Step{Name: "script", Kind: release.KindScript, Script: "lib/go.sh", Inputs: []string{"conf/*"}}
	return release.Role{
		Description: "a server",
		Platforms:   []string{"debian-12"},
		Vars:        release.Vars{"workers": json.Number("2"), "name": "x"},
		Files:       []string{"share/**"},
		Steps:       []release.Step{step("one", "true"), step("two", "true"), script},
		Checks:      []release.Check{{Name: "friendly", Kind: release.CheckRun, Target: "tests/check.sh"}, {Name: "open", Kind: release.CheckPort, Target: "tcp:80"}},
		Schedule:    release.Schedule{Poll: release.Duration(time.Minute), Reapply: release.Duration(time.Hour)},
		Attempts:    2,
	}
}

func treeWith(role release.Role, changed string) *release.Manifest {
	m := &release.Manifest{Roles: map[string]release.Role{"web": role}}
	for _, p := range []string{"README", "conf/a", "lib/go.sh", "share/page", "tests/check.sh"} {
		content := p
		if p == changed {
			content = "other"
		}
		m.Files = append(m.Files, release.File{Path: p, Mode: 0o644, Size: 1, Digest: release.DigestOf([]byte(content))})
	}
	return m
}

func TestRoleChanges_Names(t *testing.T) {
	for _, tt := range []struct {
		field  string // of release.Role; "": the files
		change func(*release.Role)
		file   string // that differs
		want   []string
	}{
		{"", nil, "", nil},
		{"", nil, "README", nil},
		{"", nil, "conf/a", []string{"script"}},
		{"", nil, "lib/go.sh", []string{"script"}},
		{"", nil, "tests/check.sh", []string{"check friendly"}},
		{"", nil, "share/page", []string{"files"}},
		{"Description", func(r *release.Role) { r.Description = "" }, "", []string{"description"}},
		{"Platforms", func(r *release.Role) { r.Platforms = nil }, "", []string{"platforms"}},
		{"Vars", func(r *release.Role) { r.Vars["workers"] = json.Number("3") }, "", []string{"vars: workers"}},
		{"Vars", func(r *release.Role) { r.Vars = release.Vars{"port": true} }, "", []string{"vars: port", "vars: name", "vars: workers"}},
		{"Files", func(r *release.Role) { r.Files = []string{"share/*"} }, "", []string{"files"}},
		{"Steps", func(r *release.Role) { r.Steps[1].Run = "false" }, "", []string{"two"}},
		{"Steps", func(r *release.Role) { r.Steps[1].Name = "deux" }, "", []string{"deux", "two"}},
		{"Steps", func(r *release.Role) { slices.Reverse(r.Steps) }, "", []string{"order of steps"}},
		{"Steps", func(r *release.Role) { slices.Reverse(r.Steps); r.Steps[0].User = "x" }, "conf/a", []string{"script", "order of steps"}},
		{"Steps", func(r *release.Role) { r.Steps = nil }, "", []string{"one", "two", "script"}},
		{"Checks", func(r *release.Role) { r.Checks[0].ExitStatus = 1 }, "", []string{"check friendly"}},
		{"Checks", func(r *release.Role) { r.Checks = r.Checks[:1] }, "", []string{"check open"}},
		{"Checks", func(r *release.Role) { slices.Reverse(r.Checks) }, "", []string{"order of checks"}},
		{"Schedule", func(r *release.Role) { r.Schedule.Poll++ }, "", []string{"schedule"}},
		{"Attempts", func(r *release.Role) { r.Attempts++ }, "lib/go.sh", []string{"script", "attempts"}},
	} {
		is := anyRole()
		if tt.change != nil {
			tt.change(&is)
		}
		got, err := roleChanges(treeWith(anyRole(), ""), treeWith(is, tt.file))
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		if !slices.Equal(got[0].Changed, tt.want) || (got[0].Change == ChangeChanged) != (tt.want != nil) {
			t.Errorf("%s %s: %s %q, want %q", tt.field, tt.file, got[0].Change, got[0].Changed, tt.want)
		}
	}
}

// Whatever field of a role differs, the difference has a name.
func TestRoleChanges_EveryField(t *testing.T) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[release.Role]()) {
		is := anyRole()
		v := reflect.ValueOf(&is).Elem().FieldByIndex(f.Index)
		if v.IsZero() {
			t.Fatalf("anyRole lacks %s", f.Name)
		}
		v.SetZero()
		got, err := roleChanges(treeWith(anyRole(), ""), treeWith(is, ""))
		if err != nil || len(got) != 1 || len(got[0].Changed) == 0 || got[0].Change != ChangeChanged {
			t.Errorf("%s: %+v, %v", f.Name, got, err)
		}
	}
}
