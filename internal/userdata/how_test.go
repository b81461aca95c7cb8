package userdata

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/dustin/go-humanize"

	"github.com/bootwell/bootwell/internal/needs"
)

var tools = []string{HowCommand, HowTerraform, HowPacker}

// howTexts calls f with each text there is.
func howTexts(t *testing.T, f func(t *testing.T, cloud, tool, text string)) {
	for _, cloud := range Clouds() {
		for _, tool := range tools {
			text, err := How(cloud, tool, "web", " --cloud "+cloud)
			if err != nil {
				if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "has nothing for") {
					t.Errorf("%s, %s: %v", cloud, tool, err)
				}
				continue
			}
			t.Run(cloud+"/"+tool, func(t *testing.T) { f(t, cloud, tool, text) })
		}
	}
}

func TestHow(t *testing.T) {
	all := map[string]int{}
	howTexts(t, func(t *testing.T, cloud, tool, text string) {
		all[tool]++
		first, rest, _ := strings.Cut(text, "\n")
		if want := "bootwell user-data web --cloud " + cloud + " > web.user-data"; strings.TrimPrefix(first, "# ") != want || strings.HasPrefix(first, "#") != (tool != HowCommand) {
			t.Errorf("first line %q", first)
		}
		if !strings.Contains(rest, "web.user-data") || regexp.MustCompile(`\{(role|file)\}`).MatchString(text) || strings.Contains(text, "\t") {
			t.Errorf("text:\n%s", text)
		}
		for line := range strings.Lines(text) {
			if len(line) > 132 {
				t.Errorf("a line of %d bytes", len(line))
			}
		}
	})
	if want := len(Clouds()) - 1; all[HowCommand] != want || all[HowTerraform] != want-1 || all[HowPacker] != want-2 {
		t.Errorf("texts: %v", all)
	}
	for _, bad := range [][3]string{{"awz", HowCommand, "web"}, {"aws", "pulumi", "web"}, {"aws", HowCommand, "we b"}, {"none", HowCommand, "web"}, {"", HowCommand, "web"}} {
		if text, err := How(bad[0], bad[1], bad[2], ""); !errors.Is(err, ErrConfig) || text != "" {
			t.Errorf("How(%q) = %q, %v", bad, text, err)
		}
	}
}

// TestHow_Commands runs each command in a shell, with programs in the place of
// the clouds' own that tell how they were called, and finds the user-data in
// what they were given.
func TestHow_Commands(t *testing.T) {
	howTexts(t, func(t *testing.T, cloud, tool, text string) {
		if tool != HowCommand {
			return
		}
		c := example("")
		c.Cloud = cloud
		u, err := Generate(c)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		write := func(name, content string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		write("text", string(u.Text))
		write("bootwell", "#!/bin/sh\n[ \"$*\" = 'user-data web --cloud "+cloud+"' ] && cat \""+dir+"/text\"\n")
		for _, name := range []string{"aws", "az", "openstack", "gcloud", "hcloud", "doctl", "linode-cli", "oci", "scp", "ssh", "virt-install", "govc", "cloud-localds"} {
			write(name, "#!/bin/sh\nfor a; do printf '%s\\n' \"$a\"; done > \"$0.called\"\n")
		}
		sh := exec.Command("sh", "-eu", "-c", text)
		sh.Dir = dir
		sh.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
		for _, v := range regexp.MustCompile(`\$([A-Z_]+)`).FindAllStringSubmatch(text, -1) {
			sh.Env = append(sh.Env, v[1]+"=a b")
		}
		if out, err := sh.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		checkGiven(t, dir, u)
	})
}

// checkGiven looks for the user-data in the arguments of a program, or in a
// file that they name.
func checkGiven(t *testing.T, dir string, u UserData) {
	t.Helper()
	calls, err := filepath.Glob(filepath.Join(dir, "*.called"))
	if err != nil || len(calls) == 0 {
		t.Fatal("no program was called", err)
	}
	for _, call := range calls {
		args, err := os.ReadFile(call)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(args)) {
			value := strings.TrimSuffix(line, "\n")
			if strings.HasSuffix(value, string(bytes.TrimSpace(u.Text))) && u.Encode == EncodeBase64 {
				return
			}
			name := value[strings.LastIndexAny(value, "=/")+1:]
			if content, err := os.ReadFile(filepath.Join(dir, name)); err == nil && bytes.Equal(content, u.Text) && u.Encode == EncodeNone {
				return
			}
		}
	}
	t.Errorf("no program was given the user-data")
}

func TestHow_Shellcheck(t *testing.T) {
	tool := needs.Tool(t, "shellcheck")
	howTexts(t, func(t *testing.T, _, kind, text string) {
		if kind != HowCommand {
			return
		}
		c := exec.Command(tool, "-s", "sh", "-e", "SC2154", "-")
		c.Stdin = strings.NewReader(text)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// TestHow_HCL has Terraform read what is in its language, which is Packer's
// too, and say whether it is well formed.
func TestHow_HCL(t *testing.T) {
	tool := needs.Tool(t, "terraform")
	howTexts(t, func(t *testing.T, _, kind, text string) {
		if kind == HowCommand {
			return
		}
		c := exec.Command(tool, "fmt", "-check", "-diff", "-")
		c.Stdin = strings.NewReader(text)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// TestHow_Braces holds what can be held without Terraform: strings and blocks
// are closed, and every value is a function, a variable or a literal.
func TestHow_Braces(t *testing.T) {
	line := regexp.MustCompile(`^ *(#.*|\}|[\w-]+( "[\w-]+")* \{|("[\w.-]+"|[\w-]+) += (\{|.+))$`)
	value := regexp.MustCompile(`^("[^"]*"|\d+|true|\{|\[?var\.\w+\]?|\["[\w-]+"\]|[\w.]+\.id|(chomp\()?file(base64)?\("[^"]+"\)\)?|jsonencode\(\{ .* \}\))$`)
	howTexts(t, func(t *testing.T, _, kind, text string) {
		if kind == HowCommand {
			return
		}
		depth := 0
		for l := range strings.Lines(text) {
			l = strings.TrimRight(l, "\n")
			m := line.FindStringSubmatch(l)
			if l != "" && m == nil {
				t.Errorf("line %q", l)
				continue
			}
			if m != nil && m[4] != "" && !value.MatchString(m[4]) {
				t.Errorf("value %q", m[4])
			}
			if strings.HasSuffix(l, "{") {
				depth++
			} else if strings.TrimSpace(l) == "}" {
				depth--
			}
		}
		if depth != 0 || strings.Count(text, `"`)%2 != 0 {
			t.Errorf("depth %d at the end", depth)
		}
	})
}

// TestEncode has the cloud's side, as cloud-init's sources do it.
func TestEncode(t *testing.T) {
	gunzip := needs.Tool(t, "gzip")
	plain := generate(t, example(FormatMIME))
	for _, encoding := range []string{EncodeNone, EncodeBase64, EncodeGzip} {
		c := example(FormatMIME)
		c.Encode = encoding
		u, err := Generate(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Generate(c)
		if err != nil || !bytes.Equal(again.Text, u.Text) || u.Encode != encoding {
			t.Errorf("%s: other bytes the second time, or %s", encoding, u.Encode)
		}
		text := u.Text
		if encoding != EncodeNone {
			if bytes.Count(text, []byte("\n")) != 1 || !bytes.HasSuffix(text, []byte("\n")) {
				t.Errorf("%s is not one line", encoding)
			}
			if text, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(text))); err != nil {
				t.Fatal(err)
			}
		}
		if u.Bytes != len(text) {
			t.Errorf("%s: counts %d bytes, not %d", encoding, u.Bytes, len(text))
		}
		if encoding == EncodeGzip {
			unzip := exec.Command(gunzip, "-d")
			unzip.Stdin = bytes.NewReader(text)
			if text, err = unzip.Output(); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(text, plain) {
			t.Errorf("%s is another text", encoding)
		}
	}
	for _, cloud := range Clouds() {
		c := example("")
		c.Cloud = cloud
		u, err := Generate(c)
		if err != nil {
			t.Fatal(err)
		}
		if only64 := slices.Contains([]string{"linode", "vsphere"}, cloud); (u.Encode == EncodeBase64) != only64 || !only64 && !bytes.HasPrefix(u.Text, []byte("#cloud-config\n")) {
			t.Errorf("%s: encoding %s", cloud, u.Encode)
		}
	}
	c := example("")
	c.Encode = "rot13"
	if _, err := Generate(c); !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), "gzip+base64") {
		t.Errorf("error %v", err)
	}
}

// TestDocs holds the table of limits in the documentation.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/user-data.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, row := range regexp.MustCompile("(?m)^\\| ((?:`[a-z]+`(?:, | \\(default\\))?)+) +\\| ([0-9,]+|none) \\|").FindAllStringSubmatch(string(page), -1) {
		for _, name := range regexp.MustCompile("[a-z]+`").FindAllString(row[1], -1) {
			limit, err := Limit(strings.TrimSuffix(name, "`"))
			if want := humanize.Comma(int64(limit)); err != nil || row[2] != want && (limit != 0 || row[2] != "none") {
				t.Errorf("%s is documented with %s, not %s: %v", name, row[2], want, err)
			}
			found++
		}
	}
	if found != len(Clouds()) {
		t.Errorf("%d of %d clouds are documented", found, len(Clouds()))
	}
}
