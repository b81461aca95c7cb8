package s3_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/buckettest"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

func TestCallerID(t *testing.T) {
	srv := buckettest.VersityIAM(t)
	srv.CreateBucket("fleet")
	key, secret := srv.User("vm1", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::fleet/reports/${aws:userid}/*"]}]}`)
	vm := open(t, srv.URL("fleet", ""), s3.Static(key, secret, ""))
	if _, err := vm.CallerID(t.Context()); !errors.Is(err, bucket.ErrUnsupported) {
		t.Errorf("without a token service: %v", err)
	}
	t.Setenv("AWS_ENDPOINT_URL_STS", srv.STS())
	id, err := vm.CallerID(t.Context())
	if err != nil || id == "" {
		t.Fatalf("caller %q, %v", id, err)
	}
	if _, err := vm.Put(t.Context(), "reports/"+id+"/report.json", strings.NewReader("mine"), bucket.Condition{}); err != nil {
		t.Errorf("put below its own name %s: %v", id, err)
	}
	_, err = vm.Put(t.Context(), "reports/vm1/report.json", strings.NewReader("x"), bucket.Condition{})
	denied(t, "put below another name", err)
	for _, wrong := range []s3.Source{s3.Static(key, "wrong", ""), s3.Static("nobody", secret, "")} {
		if id, err := open(t, srv.URL("fleet", ""), wrong).CallerID(t.Context()); !errors.Is(err, bucket.ErrPermission) {
			t.Errorf("with wrong credentials: %q, %v", id, err)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
	if _, err := vm.CallerID(t.Context()); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("no token service there: %v", err)
	}
}
