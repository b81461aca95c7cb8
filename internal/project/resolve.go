package project

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// Defaults of a role.
const (
	defaultPoll     = release.Duration(5 * time.Minute)
	defaultReapply  = release.Duration(time.Hour)
	defaultAttempts = 3
)

// A lineage is a role and those it extends, the outermost base first.
type lineage []*role

// resolve turns the roles as written into what is shipped, and checks what
// can only be seen across roles and in the project's tree.
func (p *parser) resolve(f *file) map[string]release.Role {
	byName := map[string]*role{}
	for _, r := range f.roles {
		byName[r.name] = r
	}
	extended := p.checkExtends(f.roles, byName)
	p.settleFolders(f.roles)
	resolved := map[string]release.Role{}
	lines := map[string]lineage{}
	for _, r := range f.roles {
		line, ok := trace(r, byName)
		if !ok {
			continue
		}
		lines[r.name] = line
		resolved[r.name] = p.merge(f, line)
		if len(resolved[r.name].Checks) == 0 && !extended[r.name] && !r.hasChecks && (r.hasSteps || r.extends != "") {
			p.warn(r.key, "W104", fmt.Sprintf("role %s has no checks", r.name), "Without one a broken release looks fine. Try: checks: [{ service: ssh }]")
		}
	}
	p.checkNames(f.roles, lines)
	p.checkOnly(f.roles, lines, resolved)
	p.checkWrites(f.roles, lines)
	p.checkRefs(f, lines, resolved)
	return resolved
}

// checkExtends reports bases that are not there and circles, and returns
// which roles are extended.
func (p *parser) checkExtends(roles []*role, byName map[string]*role) map[string]bool {
	extended := map[string]bool{}
	told := map[string]bool{}
	names := slices.Sorted(maps.Keys(byName))
	for _, r := range roles {
		if r.extends == "" {
			continue
		}
		extended[r.extends] = true
		if byName[r.extends] == nil {
			detail := meant(r.extends, names)
			if detail == "" {
				detail = "The roles are " + strings.Join(names, ", ")
			}
			p.fail(r.extendsAt, "E305", fmt.Sprintf("role %s extends %s, which is not there", r.name, r.extends), detail)
			continue
		}
		circle := circleFrom(r, byName)
		if circle == nil || told[circle[0]] {
			continue
		}
		for _, name := range circle {
			told[name] = true
		}
		p.fail(r.extendsAt, "E306", fmt.Sprintf("roles %s extend each other", strings.Join(circle, " → ")), "Remove one of the extends")
	}
	return extended
}

// circleFrom returns the names from r back to r, or nil.
func circleFrom(r *role, byName map[string]*role) []string {
	names := []string{r.name}
	for at := byName[r.extends]; at != nil && len(names) <= len(byName); at = byName[at.extends] {
		names = append(names, at.name)
		if at == r {
			return names
		}
	}
	return nil
}

// trace returns the lineage of r, or false if it has no end.
func trace(r *role, byName map[string]*role) (lineage, bool) {
	var line lineage
	for at := r; ; at = byName[at.extends] {
		if at == nil || slices.Contains(line, at) {
			return nil, false
		}
		line = append(line, at)
		if at.extends == "" {
			slices.Reverse(line)
			return line, true
		}
	}
}

// merge makes one role of its lineage. What a role says itself wins over its
// base, and that over the project; steps and checks of bases come first.
func (p *parser) merge(f *file, line lineage) release.Role {
	poll, reapply := defaultPoll, defaultReapply
	schedules := []schedule{f.schedule}
	out := release.Role{Platforms: f.platforms, Steps: []release.Step{}, Attempts: defaultAttempts, Vars: release.Vars{}}
	maps.Copy(out.Vars, f.vars)
	own := line[len(line)-1]
	out.Description = own.description
	for _, r := range line {
		schedules = append(schedules, r.schedule)
		maps.Copy(out.Vars, r.vars)
		if r.platforms != nil {
			out.Platforms = r.platforms
		}
		if r.attempts != 0 {
			out.Attempts = r.attempts
		}
		for _, g := range r.files {
			if !slices.Contains(out.Files, g) {
				out.Files = append(out.Files, g)
			}
		}
		for _, s := range r.steps {
			out.Steps = append(out.Steps, s.shipped())
		}
		for _, c := range r.checks {
			out.Checks = append(out.Checks, c.Check)
		}
	}
	for _, s := range schedules {
		if s.poll != nil {
			poll = *s.poll
		}
		if s.reapply != nil {
			reapply = *s.reapply
		}
	}
	out.Schedule = release.Schedule{Poll: poll, Reapply: reapply}
	if len(out.Vars) == 0 {
		out.Vars = nil
	}
	uniqueNames(out)
	out.Files = withNamed(out.Files, line)
	return out
}

var majorPlatform = regexp.MustCompile(`-[0-9]+$`)

// shipped is the step with its globs written out for those who only match
// whole names: a folder stands for what is below it, and a platform without a
// minor version for all of its minors.
func (s *step) shipped() release.Step {
	out := s.Step
	out.Inputs, out.Only = nil, nil
	for _, g := range s.Inputs {
		out.Inputs = append(out.Inputs, g)
		if !strings.HasSuffix(g, "**") {
			out.Inputs = append(out.Inputs, g+"/**")
		}
	}
	for _, g := range s.Only {
		out.Only = append(out.Only, g)
		if majorPlatform.MatchString(g) {
			out.Only = append(out.Only, g+".*")
		}
	}
	return out
}

// uniqueNames numbers the names that were made by default and collide.
// checkNames reports those that people gave.
func uniqueNames(r release.Role) {
	seen := map[string]bool{}
	for i := range r.Steps {
		r.Steps[i].Name = unique(r.Steps[i].Name, seen)
	}
	seen = map[string]bool{}
	for i := range r.Checks {
		r.Checks[i].Name = unique(r.Checks[i].Name, seen)
	}
}

func unique(name string, seen map[string]bool) string {
	n := name
	for i := 2; seen[n]; i++ {
		n = fmt.Sprintf("%s (%d)", name, i)
	}
	seen[n] = true
	return n
}

// withNamed adds to the globs of a role the files its steps and checks name,
// so that a narrow glob cannot leave a script behind.
func withNamed(globs []string, line lineage) []string {
	if len(globs) == 0 {
		return nil
	}
	add := func(g string) {
		if !slices.Contains(globs, g) {
			globs = append(globs, g)
		}
	}
	for _, r := range line {
		for _, rf := range r.refs() {
			switch rf.kind {
			case refScript:
				add(escapeGlob(rf.text))
			case refFile:
				add(escapeGlob(rf.text))
				add(escapeGlob(rf.text) + "/**")
			case refGlob:
				add(rf.text)
			}
		}
	}
	return globs
}

// refs returns what the role's own steps and checks name.
func (r *role) refs() []ref {
	var out []ref
	for _, s := range r.steps {
		out = append(out, s.refs...)
	}
	for _, c := range r.checks {
		out = append(out, c.refs...)
	}
	return out
}

// escapeGlob returns the glob that matches exactly s.
func escapeGlob(s string) string {
	var b strings.Builder
	for _, c := range s {
		if strings.ContainsRune(`*?[]{}\,!`, c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// checkNames reports names that people gave to two steps of one role.
func (p *parser) checkNames(roles []*role, lines map[string]lineage) {
	told := map[*step]bool{}
	for _, r := range roles {
		given := map[string]*step{}
		checks := map[string]bool{}
		for _, base := range lines[r.name] {
			for _, s := range base.steps {
				if s.named == nil {
					continue
				}
				if given[s.Name] != nil && !told[s] {
					told[s] = true
					p.fail(s.named, "E310", fmt.Sprintf("two steps of %s are called %q", r.name, s.Name), "Names are how logs and status find them. Give this one another")
				}
				given[s.Name] = s
			}
			for _, c := range base.checks {
				if c.named != nil && checks[c.Name] && base == r {
					p.fail(c.named, "E310", fmt.Sprintf("two checks of %s are called %q", r.name, c.Name), "Names are how logs and status find them. Give this one another")
				}
				checks[c.Name] = checks[c.Name] || c.named != nil
			}
		}
	}
}

// checkOnly reports globs that match no platform of any role with the step.
func (p *parser) checkOnly(roles []*role, lines map[string]lineage, resolved map[string]release.Role) {
	platforms := map[*role][]string{}
	anywhere := map[*role]bool{}
	for _, r := range roles {
		for _, base := range lines[r.name] {
			ps := resolved[r.name].Platforms
			anywhere[base] = anywhere[base] || len(ps) == 0
			platforms[base] = append(platforms[base], ps...)
		}
	}
	for _, r := range roles {
		if anywhere[r] || len(platforms[r]) == 0 {
			continue
		}
		for _, s := range r.steps {
			if len(s.Only) == 0 || slices.ContainsFunc(s.Only, func(g string) bool { return matchesPlatform(g, platforms[r]) }) {
				continue
			}
			all := slices.Compact(slices.Sorted(slices.Values(platforms[r])))
			p.fail(s.onlyAt, "E311", fmt.Sprintf("only: [%s] matches none of %s", strings.Join(s.Only, ", "), strings.Join(all, ", ")), "Name a platform of the role, or a glob such as debian-*")
		}
	}
}

// matchesPlatform reports whether a glob can match one of the platforms, or a
// minor version of it.
func matchesPlatform(glob string, platforms []string) bool {
	for _, pl := range platforms {
		if ok, _ := path.Match(glob, pl); ok || strings.HasPrefix(glob, pl+".") {
			return true
		}
	}
	return false
}

// checkWrites warns of a path that two unconditional items of a role write
// with different results: each run would undo the other's work.
func (p *parser) checkWrites(roles []*role, lines map[string]lineage) {
	told := map[*step]bool{}
	for _, r := range roles {
		first := map[string]release.FileItem{}
		for _, base := range lines[r.name] {
			for _, s := range base.steps {
				if len(s.Only) > 0 {
					continue
				}
				for _, item := range s.Files {
					before, ok := first[item.To]
					if ok && item.To != "" && !told[s] && !(before.State == release.StateDirectory && item.State == release.StateDirectory) {
						told[s] = true
						p.warn(s.at, "W105", fmt.Sprintf("%s is written twice in role %s", item.To, r.name), "Keep one of them, or tell them apart with only:")
					}
					first[item.To] = item
				}
			}
		}
	}
}
