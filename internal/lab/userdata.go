package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Identity is what cloud-init would have learned of a machine from its cloud.
type Identity struct {
	InstanceID string
	Cloud      string // "aws", "openstack", "nocloud", ...
	Region     string
	Zone       string
}

// FirstBoot is how a machine took its user-data.
type FirstBoot struct {
	Output   []byte   // what the scripts wrote, as in cloud-init-output.log
	Failures []string // one sentence for each script that failed
}

// maxUserData bounds user-data and each file in it, in bytes.
const maxUserData = 1 << 20

// scriptsDir is where cloud-init keeps the scripts of user-data.
const scriptsDir = "/var/lib/cloud/instance/scripts/"

// RunUserData does on inst, which has no cloud-init of its own, what
// cloud-init would do with data at the first boot: bootcmd and write_files,
// then the scripts and runcmd, with instance-data.json in place. It knows
// #! scripts, #cloud-config with these three keys, MIME multipart of both,
// and gzip. Anything else is an error, not something passed over. The
// outputs also go to the machine's console.
func RunUserData(ctx context.Context, inst Instance, data []byte, id Identity) (FirstBoot, error) {
	var boot FirstBoot
	p, err := parseUserData(data)
	if err != nil {
		return boot, fmt.Errorf("read user-data: %w", err)
	}
	if err := p.prepare(ctx, inst, data, id); err != nil {
		return boot, err
	}
	for _, s := range p.order() {
		if s.file != nil {
			if err := s.file.put(ctx, inst); err != nil {
				boot.Failures = append(boot.Failures, err.Error())
			}
			continue
		}
		if err := Put(ctx, inst, scriptsDir+s.name, 0o700, s.script); err != nil {
			return boot, err
		}
		r, err := inst.Exec(ctx, Command{Args: []string{scriptsDir + s.name}, Tee: inst.Console()})
		if err != nil {
			return boot, err
		}
		boot.Output = append(append(boot.Output, r.Stdout...), r.Stderr...)
		if r.Code != 0 {
			boot.Failures = append(boot.Failures, fmt.Sprintf("%s: exit code %d: %s", s.name, r.Code, tail(string(r.Stderr), 500)))
		}
	}
	return boot, p.finish(ctx, inst, boot, id)
}

// plan is user-data, understood.
type plan struct {
	boot, run []shellCommand
	files     []dataFile
	scripts   []dataScript
}

type dataScript struct {
	name   string
	script []byte
	file   *dataFile // instead of a script
}

// order is all that is to be done, in cloud-init's order: its scripts run by
// name, and "part-001" is before "runcmd".
func (p *plan) order() []dataScript {
	var out []dataScript
	if len(p.boot) > 0 {
		out = append(out, dataScript{name: "bootcmd", script: shellScript(p.boot)})
	}
	for i := range p.files {
		out = append(out, dataScript{file: &p.files[i]})
	}
	out = append(out, p.scripts...)
	if len(p.run) > 0 {
		out = append(out, dataScript{name: "runcmd", script: shellScript(p.run)})
	}
	return out
}

func shellScript(cmds []shellCommand) []byte {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, c := range cmds {
		b.WriteString(string(c) + "\n")
	}
	return []byte(b.String())
}

func parseUserData(data []byte) (*plan, error) {
	p := &plan{}
	return p, p.add(data, "", 0)
}

// add takes one part of user-data; kind is its MIME type, if it has one.
func (p *plan) add(data []byte, kind string, depth int) error {
	if len(data) > maxUserData {
		return fmt.Errorf("it is larger than %d bytes", maxUserData)
	}
	if depth > 4 {
		return fmt.Errorf("parts in parts in parts")
	}
	switch {
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		plain, err := gunzip(data)
		if err != nil {
			return err
		}
		return p.add(plain, kind, depth+1)
	case firstLine(data) == "#cloud-config", kind == "text/cloud-config":
		return p.addConfig(data)
	case bytes.HasPrefix(data, []byte("#!")):
		p.scripts = append(p.scripts, dataScript{name: fmt.Sprintf("part-%03d", len(p.scripts)+1), script: data})
		return nil
	case len(bytes.TrimSpace(data)) == 0:
		return nil
	case kind == "":
		return p.addMultipart(data, depth)
	}
	return fmt.Errorf("a part of type %s starts neither with #! nor with #cloud-config", kind)
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(bytes.TrimSpace(line))
}

func (p *plan) addMultipart(data []byte, depth int) error {
	m, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("it is no script, no cloud-config and no MIME message: %w", err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		return fmt.Errorf("it is no script, no cloud-config and no MIME multipart message")
	}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		part, err := r.NextRawPart()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read MIME part: %w", err)
		}
		kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
		body, err := decodePart(part, part.Header)
		if err != nil {
			return fmt.Errorf("read MIME part: %w", err)
		}
		if err := p.add(body, kind, depth+1); err != nil {
			return err
		}
	}
}

func decodePart(r io.Reader, h textproto.MIMEHeader) ([]byte, error) {
	switch strings.ToLower(h.Get("Content-Transfer-Encoding")) {
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	}
	return io.ReadAll(io.LimitReader(r, maxUserData+1))
}

func gunzip(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("uncompress: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxUserData+1))
	if err != nil {
		return nil, fmt.Errorf("uncompress: %w", err)
	}
	return plain, nil
}

// addConfig takes a #cloud-config. As in cloud-init, a key of a later part
// replaces the same key of an earlier one.
func (p *plan) addConfig(data []byte) error {
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(data, &keys); err != nil {
		return fmt.Errorf("cloud-config: %w", err)
	}
	for key, node := range keys {
		var err error
		switch key {
		case "bootcmd":
			p.boot = nil
			err = node.Decode(&p.boot)
		case "runcmd":
			p.run = nil
			err = node.Decode(&p.run)
		case "write_files":
			p.files = nil
			err = node.Decode(&p.files)
		default:
			err = fmt.Errorf("a sandbox does not do this; it does bootcmd, write_files and runcmd")
		}
		if err != nil {
			return fmt.Errorf("cloud-config: %s: %w", key, err)
		}
	}
	return nil
}

// shellCommand is one item of runcmd as a line of shell: a string as it is,
// a list with each word quoted.
type shellCommand string

// UnmarshalYAML takes a string or a list of strings.
func (c *shellCommand) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*c = shellCommand(n.Value)
		return nil
	}
	var words []string
	if err := n.Decode(&words); err != nil {
		return fmt.Errorf("line %d: a command is a string or a list of strings", n.Line)
	}
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	*c = shellCommand(strings.Join(words, " "))
	return nil
}

// dataFile is one item of write_files.
type dataFile struct {
	Path        string `yaml:"path"`
	Content     string `yaml:"content"`
	Encoding    string `yaml:"encoding"`
	Permissions string `yaml:"permissions"`
	Owner       string `yaml:"owner"`
	Append      bool   `yaml:"append"`
	Defer       bool   `yaml:"defer"`
}

func (f *dataFile) put(ctx context.Context, inst Instance) error {
	content, err := f.decode()
	if err != nil {
		return fmt.Errorf("write_files: %s: %w", f.Path, err)
	}
	if f.Append {
		old, err := Run(ctx, inst, "sh", "-c", `test ! -e "$0" || cat -- "$0"; echo`, f.Path)
		if err != nil {
			return err
		}
		content = append([]byte(old), content...)
	}
	mode := uint64(0o644)
	if f.Permissions != "" {
		if mode, err = strconv.ParseUint(f.Permissions, 8, 12); err != nil {
			return fmt.Errorf("write_files: %s: permissions %q are no octal number", f.Path, f.Permissions)
		}
	}
	if err := Put(ctx, inst, f.Path, fs.FileMode(mode), content); err != nil {
		return err
	}
	if f.Owner != "" && f.Owner != "root:root" && f.Owner != "root" {
		_, err = Run(ctx, inst, "chown", "--", f.Owner, f.Path)
	}
	return err
}

func (f *dataFile) decode() ([]byte, error) {
	b, err := []byte(f.Content), error(nil)
	e := strings.ToLower(f.Encoding)
	switch e {
	case "", "text/plain":
		return b, nil
	case "b64", "base64", "gz+b64", "gz+base64", "gzip+b64", "gzip+base64":
		if b, err = io.ReadAll(base64.NewDecoder(base64.StdEncoding, strings.NewReader(f.Content))); err != nil {
			return nil, err
		}
	case "gz", "gzip":
	default:
		return nil, fmt.Errorf("unknown encoding %q", f.Encoding)
	}
	if strings.HasPrefix(e, "gz") {
		return gunzip(b)
	}
	return b, nil
}

// prepare writes what cloud-init has written when user-data starts to run.
func (p *plan) prepare(ctx context.Context, inst Instance, data []byte, id Identity) error {
	v1 := map[string]any{
		"instance_id": id.InstanceID, "instance-id": id.InstanceID, "cloud_name": id.Cloud, "cloud-name": id.Cloud,
		"platform": id.Cloud, "region": id.Region, "availability_zone": id.Zone, "availability-zone": id.Zone,
	}
	b, err := json.MarshalIndent(map[string]any{"v1": v1, "ds": map[string]any{}}, "", " ")
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"/run/cloud-init/instance-data.json":    b,
		"/var/lib/cloud/data/instance-id":       []byte(id.InstanceID + "\n"),
		"/var/lib/cloud/instance/user-data.txt": data,
	} {
		if err := Put(ctx, inst, name, 0o644, content); err != nil {
			return err
		}
	}
	return nil
}

// finish writes the log and the result as cloud-init does.
func (p *plan) finish(ctx context.Context, inst Instance, boot FirstBoot, id Identity) error {
	errs := boot.Failures
	if errs == nil {
		errs = []string{}
	}
	b, err := json.MarshalIndent(map[string]any{"v1": map[string]any{"datasource": id.Cloud, "errors": errs}}, "", " ")
	if err != nil {
		return err
	}
	if err := Put(ctx, inst, "/var/log/cloud-init-output.log", 0o640, boot.Output); err != nil {
		return err
	}
	return Put(ctx, inst, "/run/cloud-init/result.json", 0o644, b)
}
