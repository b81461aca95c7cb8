package buckettest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/bootwell/bootwell/internal/await"
)

// An IAM is an S3 server whose users have policies in the language of AWS,
// kept by an IAM service of its own: two processes of versitygw.
type IAM struct {
	*Server
	addr string
}

// VersityIAM starts both, or skips the test where there is no versitygw.
func VersityIAM(t testing.TB) *IAM {
	t.Helper()
	dir, err := os.MkdirTemp("", "iam") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	users := filepath.Join(dir, "users")
	if err := os.Mkdir(users, 0o755); err != nil {
		t.Fatal(err)
	}
	addr, socket := freeAddress(t), filepath.Join(dir, "s")
	cmd := exec.Command(versityBinary(t), "--quiet", "--health", "/healthz", "--port", addr, "--access", RootKey, "--secret", RootSecret,
		"iam", "--dir", users, "--private-ports", socket)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "AWS_EC2_METADATA_DISABLED=true"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ready := func(context.Context) error {
		_, err := os.Stat(socket)
		return err
	}
	if err := await.Server(t.Context(), "versitygw iam", ended, ready); err != nil {
		cmd.Process.Kill()
		<-ended
		t.Fatalf("%v; it said:\n%s", err, out.String())
	}
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	return &IAM{Server: StartVersityGW(t, ServerConfig{iam: socket}), addr: addr}
}

// User makes a user with one policy, a document, and returns its keys.
func (s *IAM) User(name, policy string) (key, secret string) {
	s.t.Helper()
	s.call("CreateUser", url.Values{"UserName": {name}})
	s.call("PutUserPolicy", url.Values{"UserName": {name}, "PolicyName": {"bootwell"}, "PolicyDocument": {policy}})
	var answer struct {
		Key    string `xml:"CreateAccessKeyResult>AccessKey>AccessKeyId"`
		Secret string `xml:"CreateAccessKeyResult>AccessKey>SecretAccessKey"`
	}
	if err := xml.Unmarshal(s.call("CreateAccessKey", url.Values{"UserName": {name}}), &answer); err != nil || answer.Key == "" {
		s.t.Fatalf("access key of %s: %+v, %v", name, answer, err)
	}
	return answer.Key, answer.Secret
}

// STS returns the URL of the service that knows who a caller is.
func (s *IAM) STS() string { return "http://" + s.addr }

// call is a request of the IAM query API, signed.
func (s *IAM) call(action string, form url.Values) []byte {
	s.t.Helper()
	form.Set("Action", action)
	form.Set("Version", "2010-05-08")
	body := form.Encode()
	req, err := http.NewRequestWithContext(s.context(), http.MethodPost, "http://"+s.addr+"/", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(body))
	creds := aws.Credentials{AccessKeyID: RootKey, SecretAccessKey: RootSecret}
	if err := v4.NewSigner().SignHTTP(s.context(), creds, req, hex.EncodeToString(sum[:]), "iam", "us-east-1", time.Now()); err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.cfg.Client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	if err != nil {
		s.t.Fatalf("%s: %v: %s", action, err, answer)
	}
	return answer
}
