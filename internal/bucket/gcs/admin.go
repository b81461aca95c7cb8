package gcs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
)

const maxAbout = 1 << 20 // bytes of an answer about a bucket or its rights

type enabled struct {
	Enabled bool `json:"enabled"`
}

// about is what the API says of a bucket.
type about struct {
	Name     string `json:"name"`
	Location string `json:"location,omitempty"`
	Access   struct {
		Uniform    enabled `json:"uniformBucketLevelAccess"`
		Prevention string  `json:"publicAccessPrevention"`
	} `json:"iamConfiguration"`
	Versioning enabled `json:"versioning"`
}

// Create implements [bucket.Admin]. The project is that of the URL, else of
// GOOGLE_CLOUD_PROJECT or CLOUDSDK_CORE_PROJECT.
func (b *Bucket) Create(ctx context.Context) error {
	project := b.at.Project
	for _, name := range []string{"GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"} {
		if project == "" {
			project = os.Getenv(name)
		}
	}
	if project == "" {
		return fmt.Errorf("create %s: in which project? set GOOGLE_CLOUD_PROJECT", b.at)
	}
	want := about{Name: b.at.Bucket, Location: b.at.Place, Versioning: enabled{true}}
	want.Access.Uniform.Enabled, want.Access.Prevention = true, "enforced"
	text, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("create %s: %w", b.at, err)
	}
	r := request{
		method: http.MethodPost, path: "/storage/v1/b", query: url.Values{"project": {project}, "fields": {"name"}},
		header: http.Header{"Content-Type": {"application/json"}}, body: bytes.NewReader(text), size: int64(len(text)),
	}
	var made about
	if err := b.ask(ctx, r, maxAbout, &made); err != nil {
		return b.fail(ctx, opCreate, "bucket", bucket.Condition{}, err)
	}
	return nil
}

// Setup implements [bucket.Admin].
func (b *Bucket) Setup(ctx context.Context) (bucket.Setup, error) {
	var s bucket.Setup
	var is about
	path := "/storage/v1/b/" + b.at.Bucket
	err := b.ask(ctx, request{method: http.MethodGet, path: path, query: url.Values{"fields": {"name,location,iamConfiguration,versioning"}}}, maxAbout, &is)
	if err != nil {
		err = b.fail(ctx, opSetup, "of bucket", bucket.Condition{}, err)
		if errors.Is(err, bucket.ErrPermission) {
			s.Notes = append(s.Notes, "The bucket's settings may not be read (storage.buckets.get): "+err.Error())
			return s, nil
		}
		return s, err
	}
	s.Region = strings.ToLower(is.Location)
	s.Versions = bucket.No
	if is.Versioning.Enabled {
		s.Versions = bucket.Yes
	}
	if is.Access.Prevention == "enforced" {
		s.Public = bucket.No
		return s, nil
	}
	s.Public, err = b.granted(ctx, path, is.Access.Uniform.Enabled, &s)
	return s, err
}

// granted tells from the bucket's rights whether everybody has some.
func (b *Bucket) granted(ctx context.Context, path string, uniform bool, s *bucket.Setup) (bucket.Answer, error) {
	var policy struct {
		Bindings []struct {
			Members []string `json:"members"`
		} `json:"bindings"`
	}
	err := b.ask(ctx, request{method: http.MethodGet, path: path + "/iam", query: url.Values{"optionsRequestedPolicyVersion": {"3"}}}, maxAbout, &policy)
	if err != nil {
		err = b.fail(ctx, opSetup, "of bucket", bucket.Condition{}, err)
		if errors.Is(err, bucket.ErrUnavailable) || ctx.Err() != nil {
			return bucket.Unknown, err
		}
		s.Notes = append(s.Notes, "Public access is not prevented, and who has rights may not be read (storage.buckets.getIamPolicy): "+err.Error())
		return bucket.Unknown, nil
	}
	for _, binding := range policy.Bindings {
		if slices.Contains(binding.Members, "allUsers") || slices.Contains(binding.Members, "allAuthenticatedUsers") {
			return bucket.Yes, nil
		}
	}
	if !uniform {
		s.Notes = append(s.Notes, "Objects may have access lists of their own: turn on uniform bucket-level access.")
		return bucket.Unknown, nil
	}
	return bucket.No, nil
}
