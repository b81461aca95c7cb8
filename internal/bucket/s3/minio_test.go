package s3_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

// roles is a metadata service with a role whose keys the server under test gave.
type roles struct {
	mu   sync.Mutex
	give func() (accessKey, secretKey, token string)
	life time.Duration // of the keys, as they are announced
}

func (m *roles) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		io.WriteString(w, "TOKEN")
	case r.Header.Get("X-aws-ec2-metadata-token") != "TOKEN":
		w.WriteHeader(http.StatusUnauthorized)
	case strings.HasSuffix(r.URL.Path, "/"):
		io.WriteString(w, "vm")
	default:
		key, secret, token := m.give()
		fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
			key, secret, token, time.Now().Add(m.life).UTC().Format(time.RFC3339Nano))
	}
}

var signedWith = regexp.MustCompile(`Credential=([^/]+)/`)

// keysSeen is a transport that notes with which keys requests are signed.
type keysSeen struct {
	mu   sync.Mutex
	keys map[string]bool
	http.Transport
}

func (k *keysSeen) RoundTrip(req *http.Request) (*http.Response, error) {
	if m := signedWith.FindStringSubmatch(req.Header.Get("Authorization")); m != nil && req.Header.Get("X-Amz-Security-Token") != "" {
		k.mu.Lock()
		k.keys[m[1]] = true
		k.mu.Unlock()
	}
	return k.Transport.RoundTrip(req)
}

func (k *keysSeen) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys)
}

func TestMinIO_SessionToken(t *testing.T) {
	srv := buckettest.StartMinIO(t, buckettest.ServerConfig{})
	key, secret, token := srv.AssumeRole("")
	var n atomic.Int64
	buckettest.Test(t, func(t testing.TB) bucket.Bucket {
		name := fmt.Sprintf("fleet-%d", n.Add(1))
		srv.CreateBucket(name)
		return open(t, srv.URL(name, "prod"), s3.Static(key, secret, token))
	}, buckettest.Options{})

	buckettest.Put(t, open(t, srv.URL("fleet-1", "prod"), s3.Static(key, secret, token)), "k", nil)
	with := func(token string) func(testing.TB, buckettest.Via) bucket.Bucket {
		return func(t testing.TB, via buckettest.Via) bucket.Bucket {
			return openVia(t, srv.URL("fleet-1", "prod"), via, s3.Static(key, secret, token))
		}
	}
	buckettest.TestRefused(t, []buckettest.Refusal{
		{Name: "no token", Open: with(""), Want: bucket.ErrCredentials, Secrets: []string{secret, token}},
		{Name: "half a token", Open: with(token[:len(token)/2]), Want: bucket.ErrCredentials, Secrets: []string{secret, token[:len(token)/2]}},
	})
}

// TestMinIO_RoleRotates works on while the instance's keys change under it, and
// says what is wrong when they do not change in time.
func TestMinIO_RoleRotates(t *testing.T) {
	srv := buckettest.StartMinIO(t, buckettest.ServerConfig{})
	srv.CreateBucket("fleet")
	role := &roles{give: func() (string, string, string) { return srv.AssumeRole("") }, life: 1500 * time.Millisecond}
	imds := httptest.NewServer(role)
	defer imds.Close()
	seen := &keysSeen{keys: map[string]bool{}}
	b, err := s3.Open(t.Context(), srv.URL("fleet", ""), s3.Options{Sources: []s3.Source{s3.InstanceRole(imds.URL)}, Transport: seen})
	if err != nil {
		t.Fatal(err)
	}
	s3.ReplaceAtOnce(b)
	for n := 0; seen.count() < 3; n++ {
		want := fmt.Sprint(n)
		buckettest.Put(t, b, "reports/vm1/report.json", []byte(want))
		if got, _ := buckettest.Get(t, b, "reports/vm1/report.json"); string(got) != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}

	// The same keys from now on, which the server forgets.
	key, secret, token := srv.AssumeRole("")
	role.mu.Lock()
	role.give, role.life = func() (string, string, string) { return key, secret, token }, time.Hour
	role.mu.Unlock()
	for n := seen.count(); seen.count() == n; time.Sleep(10 * time.Millisecond) {
		buckettest.Put(t, b, "k", nil)
	}
	srv.Restart("another-secret")
	for op, err := range buckettest.EveryCall(t, b, "reports/vm1/report.json") {
		if !errors.Is(err, bucket.ErrPermission) || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s with keys that ended: %v", op, err)
		}
	}
	role.mu.Lock()
	role.give = func() (string, string, string) { return srv.AssumeRole("") }
	role.mu.Unlock()
	buckettest.Put(t, b, "k", nil)
}
