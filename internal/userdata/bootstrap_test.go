package userdata

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const agentPath, otherPath, configPath = "/usr/local/bin/bootwell-agent", "/var/lib/bootwell/bin/bootwell-agent", "/etc/bootwell/agent.yaml"

var printed = regexp.MustCompile(`^bootwell: (\d+\.\d\ds .|FAILED: .)`)

// checkStarted fails unless the agent was started from path with the settings
// in place.
func checkStarted(t *testing.T, m *machine, c Config, path, out string, code int) {
	t.Helper()
	if code != 0 || !strings.Contains(out, "agent: "+path+" install\n") {
		t.Fatalf("exit code %d, output:\n%s", code, out)
	}
	for line := range strings.Lines(out) {
		if !printed.MatchString(line) && !strings.HasPrefix(line, "agent: ") {
			t.Errorf("line without its beginning: %q", line)
		}
	}
	want := fmt.Sprintf("project: %s\nbucket: %s\nrole: %s\nchannel: %s\nroot: %s\n# agent %s\n",
		c.Project, c.Bucket, c.Role, c.Channel, c.Root, c.Agents["amd64"].Hex())
	if got := m.read(configPath); got != want {
		t.Errorf("agent.yaml is %q, want %q", got, want)
	}
}

// checkRefused fails unless it ended in failure, said all of want and
// installed nothing.
func checkRefused(t *testing.T, m *machine, out string, code int, want ...string) {
	t.Helper()
	if code == 0 || strings.Contains(out, "agent: ") {
		t.Errorf("exit code %d: a failure was not shown", code)
	}
	for _, w := range append(want, "bootwell: ") {
		if !strings.Contains(out, w) {
			t.Errorf("output lacks %q", w)
		}
	}
	if strings.Contains(out, "Traceback") {
		t.Errorf("output has a traceback")
	}
	if m.has(agentPath) || m.has(otherPath) {
		t.Error("an agent was installed")
	}
}

// TestBootstrap_Sources runs each format with each kind of bucket.
func TestBootstrap_Sources(t *testing.T) {
	object := compress(t, testAgent)
	sources := map[string]func(t *testing.T, m *machine) string{
		"s3 with the role of the instance": func(t *testing.T, m *machine) string {
			m.env = append(m.env, "AWS_EC2_METADATA_DISABLED=", "AWS_EC2_METADATA_SERVICE_ENDPOINT="+newMetadataService(t, 0).URL)
			return "s3://acme/prod%20a?region=eu-west-1&endpoint=" + newS3(t, roleIdentity, object).URL
		},
		"s3 with keys of the file": func(t *testing.T, m *machine) string {
			m.write("/etc/bootwell/credentials", "[other]\naws_access_key_id = no\n[default]\naws_access_key_id = FILEKEY\naws_secret_access_key=a%b=/+\n")
			return "s3://acme/prod%20a?endpoint=" + newS3(t, identity{"FILEKEY", "a%b=/+", "", "us-east-1"}, object).URL
		},
		"s3 with keys of the environment": func(t *testing.T, m *machine) string {
			m.env = append(m.env, "AWS_ACCESS_KEY_ID=ENVKEY", "AWS_SECRET_ACCESS_KEY=env", "AWS_SESSION_TOKEN=tok")
			return "s3://acme/prod%20a?endpoint=" + newS3(t, identity{"ENVKEY", "env", "tok", "us-east-1"}, object).URL
		},
		"http": func(t *testing.T, m *machine) string {
			return newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/some dir/agents/"+digestHex(object) || r.Header.Get("Authorization") != "" {
					w.WriteHeader(http.StatusNotFound)
				}
				_, _ = w.Write(object)
			}).URL + "/some%20dir/"
		},
		"file": func(t *testing.T, m *machine) string {
			m.write("/var/buck et/agents/"+digestHex(object), string(object))
			return "file:///var/buck%20et"
		},
	}
	for name, prepare := range sources {
		for _, format := range []string{FormatCloudConfig, FormatScript, FormatMIME} {
			t.Run(name+"/"+format, func(t *testing.T) {
				m := newMachine(t)
				c := configFor(prepare(t, m), object)
				c.Format = format
				out, code := m.run(generate(t, c))
				checkStarted(t, m, c, agentPath, out, code)
				if m.read(agentPath) != testAgent {
					t.Error("another agent was installed")
				}
			})
		}
	}
}

// TestBootstrap_Waits goes through what passes by itself during a first boot.
func TestBootstrap_Waits(t *testing.T) {
	object := compress(t, testAgent)
	tests := map[string]func(w http.ResponseWriter){
		"connection closed":  hangUp,
		"server busy":        func(w http.ResponseWriter) { s3Error(w, http.StatusServiceUnavailable, "SlowDown", "slow down") },
		"too many requests":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) },
		"role not known yet": func(w http.ResponseWriter) { s3Error(w, http.StatusForbidden, "AccessDenied", "not yet") },
		"answer cut off":     func(w http.ResponseWriter) { w.Header().Set("Content-Length", "9999"); _, _ = w.Write(object) },
		"error without a body": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "500")
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	for name, trouble := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			s := newSite(t, func(n int, w http.ResponseWriter, _ *http.Request) {
				if n <= 3 {
					trouble(w)
					return
				}
				_, _ = w.Write(object)
			})
			c := configFor(s.URL, object)
			out, code := m.run(generate(t, c))
			checkStarted(t, m, c, agentPath, out, code)
			if s.count() != 4 {
				t.Errorf("%d requests", s.count())
			}
		})
	}
	t.Run("role attached late", func(t *testing.T) {
		m := newMachine(t)
		imds := newMetadataService(t, 4)
		m.env = append(m.env, "AWS_EC2_METADATA_DISABLED=", "AWS_EC2_METADATA_SERVICE_ENDPOINT="+imds.URL)
		c := configFor("s3://acme/prod%20a?region=eu-west-1&endpoint="+newS3(t, roleIdentity, object).URL, object)
		out, code := m.run(generate(t, c))
		checkStarted(t, m, c, agentPath, out, code)
		if n := strings.Count(out, "no credentials; instance role: HTTP Error 404"); n != 4 {
			t.Errorf("%d lines about the missing role", n)
		}
	})
}

// TestBootstrap_GivesUp has what no waiting mends. Each failure must say what
// is wrong, leave no agent behind and be seen by cloud-init.
func TestBootstrap_GivesUp(t *testing.T) {
	object := compress(t, testAgent)
	tests := map[string]struct {
		reply    func(w http.ResponseWriter)
		requests [2]int // least and most
		want     []string
	}{
		"tampered":       {func(w http.ResponseWriter) { _, _ = w.Write(append([]byte("x"), object[1:]...)) }, [2]int{1, 1}, []string{"FAILED: REFUSED: not the pinned agent"}},
		"no such key":    {func(w http.ResponseWriter) { s3Error(w, 404, "NoSuchKey", "no key") }, [2]int{1, 1}, []string{"FAILED: HTTP Error 404", "NoSuchKey"}},
		"no such bucket": {func(w http.ResponseWriter) { s3Error(w, 404, "NoSuchBucket", "no bucket") }, [2]int{1, 1}, []string{"NoSuchBucket", "check network, clock, bucket"}},
		"wrong region": {func(w http.ResponseWriter) {
			s3Error(w, 400, "AuthorizationHeaderMalformed", "expecting 'eu-west-1'")
		}, [2]int{1, 1}, []string{"FAILED: HTTP Error 400", "AuthorizationHeaderMalformed", "eu-west-1"}},
		"not allowed":   {func(w http.ResponseWriter) { s3Error(w, 403, "AccessDenied", "Access Denied") }, [2]int{5, 12}, []string{"FAILED: HTTP Error 403", "AccessDenied", "right to read agents/*"}},
		"wrong clock":   {func(w http.ResponseWriter) { s3Error(w, 403, "RequestTimeTooSkewed", "the difference is too large") }, [2]int{5, 12}, []string{"RequestTimeTooSkewed"}},
		"server broken": {func(w http.ResponseWriter) { w.WriteHeader(500) }, [2]int{10, 20}, []string{"FAILED: HTTP Error 500"}},
		"always cut off": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "9999")
			_, _ = w.Write(object)
		}, [2]int{10, 20}, []string{"FAILED: answer cut off"}},
		"no network": {hangUp, [2]int{10, 20}, []string{"FAILED: ", "check network"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			s := newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { test.reply(w) })
			out, code := m.run(generate(t, configFor(s.URL, object)))
			checkRefused(t, m, out, code, test.want...)
			if n := s.count(); n < test.requests[0] || n > test.requests[1] {
				t.Errorf("%d requests, want %d to %d", n, test.requests[0], test.requests[1])
			}
		})
	}
}

func TestBootstrap_NoCredentials(t *testing.T) {
	s := newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	text := generate(t, configFor("s3://acme?endpoint="+s.URL, compress(t, testAgent)))
	t.Run("metadata service switched off", func(t *testing.T) {
		m := newMachine(t)
		out, code := m.run(text)
		checkRefused(t, m, out, code, "FAILED: no credentials; instance role: disabled")
	})
	t.Run("no metadata service", func(t *testing.T) {
		m := newMachine(t)
		gone := newSite(t, nil)
		gone.Close()
		m.env = []string{"AWS_EC2_METADATA_DISABLED=", "AWS_EC2_METADATA_SERVICE_ENDPOINT=" + gone.URL}
		out, code := m.run(text)
		checkRefused(t, m, out, code, "FAILED: no credentials; instance role: <urlopen error")
	})
	if s.count() > 0 {
		t.Errorf("%d requests without a signature", s.count())
	}
}

// TestBootstrap_EndlessAnswer has a server that is never silent and never done.
func TestBootstrap_EndlessAnswer(t *testing.T) {
	m := newMachine(t)
	m.env = []string{"SHORT_ALARM=1"}
	s := newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		for range 100 {
			if _, err := w.Write([]byte("x")); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	out, code := m.run(generate(t, configFor(s.URL, compress(t, testAgent))))
	checkRefused(t, m, out, code)
	if want := 128 + int(syscall.SIGALRM); code != want || strings.Contains(out, "REFUSED") {
		t.Errorf("exit code %d, want %d of the alarm", code, want)
	}
}

func TestBootstrap_Proxy(t *testing.T) {
	object := compress(t, testAgent)
	m := newMachine(t)
	imds := newMetadataService(t, 0)
	proxy := newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "s3.example.net:81" {
			t.Errorf("proxy was asked for %s", r.URL)
		}
		if err := roleIdentity.check(r); err != nil {
			s3Error(w, http.StatusForbidden, "SignatureDoesNotMatch", err.Error())
			return
		}
		_, _ = w.Write(object)
	})
	m.env = []string{"AWS_EC2_METADATA_DISABLED=", "AWS_EC2_METADATA_SERVICE_ENDPOINT=" + imds.URL, "http_proxy=" + proxy.URL}
	c := configFor("s3://acme/p?region=eu-west-1&endpoint=http://s3.example.net:81", object)
	out, code := m.run(generate(t, c))
	checkStarted(t, m, c, agentPath, out, code)
	if imds.count() != 3 {
		t.Errorf("%d requests to the metadata service", imds.count())
	}
}

func TestBootstrap_Twice(t *testing.T) {
	object := compress(t, testAgent)
	m := newMachine(t)
	s := newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(object) })
	c := configFor(s.URL, object)
	out, code := m.run(generate(t, c))
	checkStarted(t, m, c, agentPath, out, code)

	updated := strings.Replace(testAgent, "echo", "echo updated;echo", 1)
	m.write(agentPath, updated)
	c.Role = "db"
	out, code = m.run(generate(t, c))
	if code != 0 || !strings.Contains(out, "updated\nagent: ") || s.count() != 1 {
		t.Errorf("the second run fetched again (%d requests) or replaced an agent that updated itself", s.count())
	}
	if !strings.Contains(m.read(configPath), "role: db\n") {
		t.Error("the settings of the second run were not written")
	}

	object = compress(t, testAgent+"# next\n")
	c = configFor(s.URL, object)
	out, code = m.run(generate(t, c))
	checkStarted(t, m, c, agentPath, out, code)
	if m.read(agentPath) != testAgent+"# next\n" {
		t.Error("another pinned agent was not installed")
	}
}

func TestBootstrap_AgentFails(t *testing.T) {
	object := compress(t, "#!/bin/sh\nexit 7\n")
	m := newMachine(t)
	m.write("/var/bucket/agents/"+digestHex(object), string(object))
	for _, format := range []string{FormatCloudConfig, FormatScript, FormatMIME} {
		c := configFor("file:///var/bucket", object)
		c.Format = format
		text := generate(t, c)
		if format == FormatCloudConfig {
			// What was merged into the list must not hide the failure.
			text = append(text, "- echo went on\n"...)
		}
		if out, code := m.run(text); code != 7 || strings.Contains(out, "went on") {
			t.Errorf("%s: exit code %d hides the agent's 7", format, code)
		}
	}
}
