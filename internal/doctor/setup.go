package doctor

import (
	"context"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
)

// Setup asks the provider how the bucket is set up. It is for operators only.
func Setup(ctx context.Context, t Target) Findings {
	admin, isAdmin := bucket.As[bucket.Admin](t.Bucket)
	if !isAdmin {
		return nil
	}
	s, err := admin.Setup(ctx)
	if err != nil {
		return Findings{failed("public", err), failed("versions", err)}
	}
	fs := Findings{publicity(t, s), versions(t, s)}
	if s.Region != "" {
		fs = append(fs, ok("region", "%s", s.Region))
	}
	return fs
}

func publicity(t Target, s bucket.Setup) Finding {
	switch s.Public {
	case bucket.Yes:
		return bad("public", Warning, "public", "everybody can read the bucket: what VMs run is signed, but no longer your secret", publicFix(t))
	case bucket.No:
		return ok("public", "closed to who has no credentials")
	}
	return unknown("public", "not_told", "%s", notes(s, false))
}

func versions(t Target, s bucket.Setup) Finding {
	switch s.Versions {
	case bucket.Yes:
		return ok("versions", "older versions of objects are kept")
	case bucket.No:
		return bad("versions", Warning, "unversioned", "older versions of objects are not kept: what is overwritten or deleted is gone", versionsFix(t))
	}
	return unknown("versions", "not_told", "%s", notes(s, true))
}

// notes is why something is not known: what the provider notes of versions, or
// of all else.
func notes(s bucket.Setup, versions bool) string {
	var mine []string
	for _, n := range s.Notes {
		if strings.Contains(n, "version") == versions {
			mine = append(mine, strings.TrimSuffix(n, "."))
		}
	}
	if mine == nil {
		return "the provider does not tell"
	}
	return strings.Join(mine, "; ")
}

// place is the bucket's name, as its cloud's own tool takes it.
func place(raw string) (account, name string) {
	_, rest, _ := strings.Cut(shown(raw), "://")
	parts := append(strings.Split(rest, "/"), "")
	if scheme(raw) == "az" {
		return parts[0], parts[1]
	}
	return "", parts[0]
}

// endpointFlag is for the AWS tool with another server than AWS.
func endpointFlag(t Target) string {
	r, remote := bucket.As[bucket.Remote](t.Bucket)
	if !remote {
		return ""
	}
	url, ca := r.Endpoint()
	if strings.Contains(url, ".amazonaws.com") {
		return ""
	}
	flag := " --endpoint-url " + url
	if ca != "" {
		flag += " --ca-bundle " + ca
	}
	return flag
}

func publicFix(t Target) string {
	account, name := place(t.URL)
	switch scheme(t.URL) {
	case "s3":
		return "aws s3api put-public-access-block --bucket " + name + " --public-access-block-configuration BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true" + endpointFlag(t) +
			", or take Principal \"*\" out of its policy"
	case "az":
		return "az storage container set-permission --account-name " + account + " -n " + name + " --public-access off"
	case "gs":
		return "gcloud storage buckets update gs://" + name + " --public-access-prevention"
	case "swift":
		return "openstack container unset --property Read-ACL " + name + " (or: swift post -r '' " + name + ")"
	}
	return "close it to others"
}

func versionsFix(t Target) string {
	account, name := place(t.URL)
	switch scheme(t.URL) {
	case "s3":
		return "aws s3api put-bucket-versioning --bucket " + name + " --versioning-configuration Status=Enabled" + endpointFlag(t)
	case "az":
		return "az storage account blob-service-properties update --account-name " + account + " --enable-versioning true"
	case "gs":
		return "gcloud storage buckets update gs://" + name + " --versioning"
	case "swift":
		return "swift post " + name + " -H 'X-Versions-Enabled: true'"
	}
	return "turn versions on"
}
