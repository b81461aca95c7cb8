package step

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

// environ returns the environment of c, see [Runner].
func (r *Runner) environ(c command, id string) ([]string, error) {
	u := c.user
	if u == nil {
		u = &account{name: "root", home: "/root", shell: "/bin/sh"}
		if os.Geteuid() != 0 {
			u.name, u.home = os.Getenv("USER"), cmp.Or(os.Getenv("HOME"), "/")
		}
	}
	env := map[string]string{
		"PATH": basePath, "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
		"HOME": u.home, "USER": u.name, "LOGNAME": u.name, "SHELL": cmp.Or(u.shell, "/bin/sh"),
	}
	for _, k := range []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"} {
		for _, k := range []string{k, strings.ToUpper(k)} {
			if v := os.Getenv(k); v != "" {
				env[k] = v
			}
		}
	}
	if c.tool {
		env["LC_ALL"] = "C" // its words are read
		env["APT_LISTCHANGES_FRONTEND"] = "none"
		env["ZYPP_LOCK_TIMEOUT"] = strconv.Itoa(int(lockWait.Seconds()))
	} else if err := r.scriptEnv(env, c); err != nil {
		return nil, err
	}
	for k, v := range c.env {
		env[k] = v
	}
	env[markerName] = id
	if c.output != "" {
		env["BOOTWELL_OUTPUT"] = c.output
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return nil, final(fmt.Errorf("environment variable %q cannot be set", k))
		}
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out, nil
}

func (r *Runner) scriptEnv(env map[string]string, c command) error {
	for k, v := range map[string]string{
		"ROLE": r.Role, "RELEASE": r.Release, "INSTANCE_ID": r.Facts.InstanceID, "CLOUD": r.Facts.Cloud, "REGION": r.Facts.Region,
		"ZONE": r.Facts.Zone, "CHANNEL": r.Channel, "STEP": c.name, "PHASE": cmp.Or(c.phase, r.Phase),
	} {
		env["BOOTWELL_"+k] = v
	}
	for k, v := range r.Vars {
		text, err := varText(v)
		if err != nil {
			return final(fmt.Errorf("variable %s: %w", k, err))
		}
		env["BW_"+varName(k)] = text
	}
	return nil
}

// varName makes k a part of a shell variable's name.
func varName(k string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			return c
		}
		return '_'
	}, k)
}

// varText returns the text of a variable: lists are JSON, since any other
// separator could be a part of an element.
func varText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// templateVars returns vars as templates see them: whole numbers are int64, so
// that they compare with literals.
func templateVars(vars release.Vars) map[string]any {
	m := make(map[string]any, len(vars)+4)
	for k, v := range vars {
		m[k] = templateVar(v)
	}
	return m
}

func templateVar(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case int:
		return int64(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = templateVar(e)
		}
		return out
	}
	return v
}
