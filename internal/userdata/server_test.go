package userdata

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// A site is a web server that counts what it is asked.
type site struct {
	*httptest.Server
	mu    sync.Mutex
	paths []string
}

// newSite serves reply, which gets the number of the request from 1.
func newSite(t testing.TB, reply func(n int, w http.ResponseWriter, r *http.Request)) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.paths = append(s.paths, r.URL.Path)
		n := len(s.paths)
		s.mu.Unlock()
		reply(n, w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.paths)
}

// hangUp ends the connection without an answer.
func hangUp(w http.ResponseWriter) {
	if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
		c.Close()
	}
}

func s3Error(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message><RequestId>1</RequestId></Error>", code, message)
}

// A metadataService is the part of AWS's that has credentials.
type metadataService struct {
	*site
	absent int // so many requests for the role are answered 404 first
}

func newMetadataService(t testing.TB, absent int) *metadataService {
	t.Helper()
	m := &metadataService{absent: absent}
	asked := 0
	m.site = newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		const roles = "/latest/meta-data/iam/security-credentials/"
		switch {
		case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "":
			fmt.Fprint(w, "session")
		case r.Header.Get("X-aws-ec2-metadata-token") != "session":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == roles && asked < m.absent:
			asked++
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Path == roles:
			fmt.Fprint(w, "vm-role")
		case r.URL.Path == roles+"vm-role":
			fmt.Fprint(w, `{"Code":"Success","AccessKeyId":"ROLEKEY","SecretAccessKey":"role/secret+","Token":"role==token"}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	return m
}

// An identity is what a request must be signed with.
type identity struct{ key, secret, token, region string }

var roleIdentity = identity{"ROLEKEY", "role/secret+", "role==token", "eu-west-1"}

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request,SignedHeaders=([a-z0-9;-]+),Signature=([0-9a-f]{64})$`)

// check verifies a request as
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
// says. It shares nothing with the bootstrap.
func (id identity) check(r *http.Request) error {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return fmt.Errorf("authorization %q", r.Header.Get("Authorization"))
	}
	key, day, region, names, signature := m[1], m[2], m[3], m[4], m[5]
	date := r.Header.Get("X-Amz-Date")
	if key != id.key || region != id.region || r.Header.Get("X-Amz-Security-Token") != id.token || !strings.HasPrefix(date, day) {
		return fmt.Errorf("key %s, region %s, token %q, day %s of %s", key, region, r.Header.Get("X-Amz-Security-Token"), day, date)
	}
	if (id.token != "") != strings.Contains(names, "x-amz-security-token") || !strings.HasPrefix(names, "host;") {
		return fmt.Errorf("signed headers %s", names)
	}
	canonical := "GET\n" + r.URL.EscapedPath() + "\n\n"
	for _, n := range strings.Split(names, ";") {
		v := r.Header.Get(n)
		if n == "host" {
			v = r.Host
		}
		canonical += n + ":" + v + "\n"
	}
	canonical += "\n" + names + "\n" + r.Header.Get("X-Amz-Content-Sha256")
	sum := sha256.Sum256([]byte(canonical))
	text := "AWS4-HMAC-SHA256\n" + date + "\n" + day + "/" + region + "/s3/aws4_request\n" + hex.EncodeToString(sum[:])
	mac := []byte("AWS4" + id.secret)
	for _, s := range []string{day, region, "s3", "aws4_request", text} {
		h := hmac.New(sha256.New, mac)
		h.Write([]byte(s))
		mac = h.Sum(nil)
	}
	if want := hex.EncodeToString(mac); want != signature {
		return fmt.Errorf("signature %s, want %s", signature, want)
	}
	return nil
}

// newS3 serves the object to those who sign as id, at /acme/prod/agents/<hex>.
func newS3(t testing.TB, id identity, object []byte) *site {
	t.Helper()
	want := "/acme/prod%20a/agents/" + digestHex(object)
	return newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if err := id.check(r); err != nil {
			s3Error(w, http.StatusForbidden, "SignatureDoesNotMatch", err.Error())
			return
		}
		if r.URL.EscapedPath() != want {
			s3Error(w, http.StatusNotFound, "NoSuchKey", r.URL.EscapedPath())
			return
		}
		_, _ = w.Write(object)
	})
}

func digestHex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// mimeScript returns the one shell part of a multi-part text.
func mimeScript(t testing.TB, text []byte) string {
	t.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatal(kind, err)
	}
	r := multipart.NewReader(msg.Body, params["boundary"])
	p, err := r.NextPart()
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err = mime.ParseMediaType(p.Header.Get("Content-Type"))
	if err != nil || kind != "text/x-shellscript" || params["name"] != "bootwell" {
		t.Fatal(kind, params, err)
	}
	b, err := io.ReadAll(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.NextPart(); err != io.EOF {
		t.Fatalf("a second part: %v", err)
	}
	if !bytes.HasSuffix(b, []byte("\nE\n")) {
		t.Fatalf("the part ends in %q", b[max(0, len(b)-9):])
	}
	return string(b)
}
