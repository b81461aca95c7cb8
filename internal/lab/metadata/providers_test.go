package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/lab/metadata"
)

// The providers of buckets find the VM's identity at the same services as the
// clouds' own clients, with no setting.

// storeAddr has a store that gives one object to those whose credentials are
// good now. The providers' own tests hold against real stores; this one is
// about which credentials are used when.
const storeAddr = storeIP + ":9000"

// gate answers what may be read, and counts refusals.
type gate struct {
	credential func(*http.Request) string // the name in a request's credentials
	mint       *mint
	refuse     func(http.ResponseWriter)
}

func (g gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.mint.accepts(g.credential(r)) {
		g.refuse(w)
		return
	}
	w.Header().Set("ETag", `"1"`)
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	_, _ = io.WriteString(w, "content")
}

// throughProxy is an environment whose proxy nobody may use: the metadata
// service is asked directly, whatever the environment says, and the store is
// excepted.
var throughProxy = []string{"HTTP_PROXY=http://192.0.2.99:3128", "http_proxy=http://192.0.2.99:3128", "NO_PROXY=" + storeIP, "no_proxy=" + storeIP}

// readsOn reads the object until the first credentials have ended, and again.
func readsOn(t *testing.T, b bucket.Bucket) {
	t.Helper()
	for _, pause := range []time.Duration{0, time.Second, soon, time.Second} {
		time.Sleep(pause)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		body, _, err := b.Get(ctx, "object", bucket.GetOptions{})
		if err != nil {
			t.Errorf("after another %s: %v", pause, err)
			cancel()
			continue
		}
		if got, err := io.ReadAll(body); err != nil || string(got) != "content" {
			t.Errorf("after another %s: %q, %v", pause, got, err)
		}
		body.Close()
		cancel()
	}
}

func TestAmazonRoleInTheS3Provider(t *testing.T) {
	const url = "s3://fleet?region=eu-west-1&endpoint=http://" + storeAddr
	if inside(t) {
		b, err := s3.Open(t.Context(), url, s3.Options{Sources: s3.VMSources("/nonexistent")})
		if err != nil {
			t.Fatal(err)
		}
		readsOn(t, b)
		return
	}
	t.Parallel()
	m := &mint{life: soon}
	n := newNetwork(t)
	s := ec2Service(m)
	serveAt(t, n, lab.MetadataAddress+":80", s)
	serveAt(t, n, storeAddr, gate{mint: m, credential: func(r *http.Request) string {
		name := r.Header.Get("X-Amz-Security-Token")
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=AKID-"+name+"/") {
			return ""
		}
		return name
	}, refuse: func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")
	}})
	again(t, n, throughProxy...)
	if m.count() < 2 {
		t.Errorf("the credentials did not end in the middle: %d were made", m.count())
	}
	if s.Count("", "", 401) != 0 {
		t.Errorf("requests without a session token: %v", s.Requests())
	}
}

// A VM without an identity is told so, and nothing else is tried for long.
func TestNoIdentity(t *testing.T) {
	if inside(t) {
		b, err := s3.Open(t.Context(), "s3://fleet?region=eu-west-1&endpoint=http://"+storeAddr, s3.Options{Sources: s3.VMSources("/nonexistent")})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Get(t.Context(), "object", bucket.GetOptions{}); !errors.Is(err, bucket.ErrPermission) || !strings.Contains(err.Error(), "status 404") {
			t.Errorf("got %v, want what the service said", err)
		}
		return
	}
	t.Parallel()
	n := newNetwork(t)
	vm := ec2VM
	vm.Role = ""
	serveAt(t, n, lab.MetadataAddress+":80", metadata.NewEC2(vm))
	again(t, n)
}
