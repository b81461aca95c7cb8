package lab

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"strings"
	"testing"
)

func TestRunUserData(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte("#!/bin/sh\necho from gzip\n"))
	_ = z.Close()
	for name, c := range map[string]struct {
		data, output, check, want string
	}{
		"script": {
			data:   "#!/bin/sh\necho hello; cat /run/cloud-init/instance-data.json | grep -c i-123\n",
			output: "hello\n2\n", check: "cat /var/log/cloud-init-output.log", want: "hello\n2",
		},
		"gzip": {data: zipped.String(), output: "from gzip\n", check: "echo", want: ""},
		"cloud-config": {
			data: `#cloud-config
runcmd:
  - [sh, -c, 'cat "$0"; echo "it''s"', /opt/deep/x y]
  - cat /etc/b64 | tr a-z A-Z
write_files:
  - {path: /opt/deep/x y, content: "plain\n", permissions: '0600'}
  - {path: /etc/b64, encoding: b64, content: ` + base64.StdEncoding.EncodeToString([]byte("coded\n")) + `}
  - {path: /etc/b64, append: true, content: "more\n"}
`,
			output: "plain\nit's\nCODED\nMORE\n", check: "stat -c %a '/opt/deep/x y' /etc/b64", want: "600\n644",
		},
		"multipart": {
			data: strings.ReplaceAll(`Content-Type: multipart/mixed; boundary="XX"
MIME-Version: 1.0

--XX
Content-Type: text/cloud-config

#cloud-config
runcmd: [echo last]
--XX
Content-Type: text/x-shellscript
Content-Transfer-Encoding: base64

`+base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho first\n"))+`
--XX--
`, "\n", "\r\n"),
			output: "first\nlast\n", check: "ls /var/lib/cloud/instance/scripts", want: "part-001\nruncmd",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inst := newSandbox(t, Sandbox{})
			boot, err := RunUserData(deadline(t, 60e9), inst, []byte(c.data), Identity{InstanceID: "i-123", Cloud: "aws", Region: "eu-west-1"})
			if err != nil || len(boot.Failures) > 0 {
				t.Fatalf("%v %v", err, boot.Failures)
			}
			if string(boot.Output) != c.output {
				t.Errorf("output %q, want %q", boot.Output, c.output)
			}
			if got := run(t, inst, c.check); got != c.want {
				t.Errorf("%s: %q, want %q", c.check, got, c.want)
			}
		})
	}
}

func TestRunUserDataShowsFailures(t *testing.T) {
	inst := newSandbox(t, Sandbox{})
	boot, err := RunUserData(deadline(t, 60e9), inst, []byte("#!/bin/sh\necho no such bucket >&2\nexit 4\n"), Identity{InstanceID: "i-1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(boot.Failures) != 1 || !strings.Contains(boot.Failures[0], "no such bucket") {
		t.Errorf("failures %q", boot.Failures)
	}
	if got := run(t, inst, "grep -c 'exit code 4' /run/cloud-init/result.json"); got != "1" {
		t.Errorf("result.json does not tell of it")
	}
	if _, err := inst.Console().Wait(deadline(t, 60e9), 0, "no such bucket"); err != nil {
		t.Error(err)
	}
}

func TestUserDataRefused(t *testing.T) {
	for name, data := range map[string]string{
		"text":        "hello world",
		"unknown key": "#cloud-config\npackages: [nginx]\n",
		"bad yaml":    "#cloud-config\nruncmd: [\n",
		"bad command": "#cloud-config\nruncmd: [{a: b}]\n",
		"torn gzip":   "\x1f\x8b\x08",
		"bad part":    "Content-Type: multipart/mixed; boundary=X\r\n\r\n--X\r\nContent-Type: text/plain\r\n\r\nhello\r\n--X--\r\n",
	} {
		if _, err := parseUserData([]byte(data)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParseUserData(f *testing.F) {
	for _, s := range []string{
		"#!/bin/sh\ntrue\n", "#cloud-config\nruncmd: [a, [b, c]]\nwrite_files: [{path: /x, content: y, encoding: gz+b64}]\n",
		"Content-Type: multipart/mixed; boundary=X\r\n\r\n--X\r\nContent-Type: text/cloud-config\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n#cloud-config=0A\r\n--X--\r\n",
		"\x1f\x8b\x08",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseUserData(data)
		if err != nil {
			return
		}
		for _, s := range p.order() {
			if s.file != nil {
				_, _ = s.file.decode()
			} else if !bytes.HasPrefix(s.script, []byte("#!")) {
				t.Errorf("script %q has no interpreter", s.script)
			}
		}
	})
}
