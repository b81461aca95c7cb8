package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
)

const (
	rootKey      = "tuf/metadata/1.root.json"
	timestampKey = "tuf/metadata/timestamp.json"
	maxRoot      = 1 << 20
	maxTimestamp = 256 << 10
)

// A Signer is a bucket that tells where the credentials that sign its requests
// come from, such as "environment", without any part of them.
type Signer interface {
	Signer(ctx context.Context) (source string, err error)
}

// A Courier is a bucket whose credentials themselves travel, such as tokens,
// passwords and signed URLs: who reads them on the way can use them. Requests
// that are merely signed give nothing away.
type Courier interface {
	// CredentialsTo returns the URLs where they go, as far as that is known.
	CredentialsTo() []string
}

// access is what the first request with credentials showed.
type access struct {
	usable  bool
	root    []byte // of 1.root.json; nil: not there, or not to be read
	etag    string // of that object
	err     error  // why root is nil
	source  string // of the credentials; "": not known
	inClear string // host where they go in the clear; "": none
	trouble Finding
}

// access reads what every project has and everybody may read.
func (p *Probe) access(ctx context.Context, t Target) *access {
	a := &access{}
	within(ctx, p, func(ctx context.Context) (none struct{}) {
		var obj bucket.Object
		a.root, obj, a.err = bucket.ReadAll(ctx, t.Bucket, rootKey, bucket.GetOptions{}, maxRoot)
		a.etag = obj.ETag
		return
	})
	if s, ok := bucket.As[Signer](t.Bucket); ok {
		within(ctx, p, func(ctx context.Context) (none struct{}) {
			if source, err := s.Signer(ctx); err == nil {
				a.source = source
			}
			return
		})
	}
	if c, ok := bucket.As[Courier](t.Bucket); ok {
		a.inClear = inClear(c.CredentialsTo())
	}
	switch {
	case a.err == nil, errors.Is(a.err, bucket.ErrNotExist):
		a.usable = true
	case ctx.Err() != nil:
		a.trouble = unknown("bucket", "interrupted", "not looked at to the end")
	default:
		a.trouble = trouble(t, a.err)
		a.usable = a.trouble.Cause == "denied"
	}
	return a
}

// settle joins what the way to the endpoint and the first request showed. The
// request counts: an endpoint that answers it is reached.
func (a *access) settle(way Findings, t Target) Findings {
	for i := range way {
		if way[i].Check == "endpoint" && way[i].Status == Problem && a.usable {
			way[i].Status = Warning
			way[i].Message += "; yet the bucket's own requests are answered"
		}
	}
	reached := !slices.ContainsFunc(way, func(f Finding) bool { return f.Check == "endpoint" && f.Status == Problem })
	switch {
	case a.usable:
		way = append(way, a.credentials(t)...)
		return append(way, ok("bucket", "%s", shown(t.URL)))
	case !reached && a.trouble.Check == "endpoint":
		return way
	case a.trouble.Check == "endpoint":
		way = slices.DeleteFunc(way, func(f Finding) bool { return f.Check == "endpoint" })
		return append(Findings{a.trouble}, way...)
	case a.trouble.Cause == "clock":
		return append(slices.DeleteFunc(way, func(f Finding) bool { return f.Check == "clock" }), a.trouble)
	case a.trouble.Check == "bucket" && a.trouble.Status == Problem:
		return append(append(way, a.credentials(t)...), a.trouble)
	}
	return append(way, a.trouble)
}

// credentials are good when the server answered a signed request at all.
func (a *access) credentials(t Target) Findings {
	switch {
	case a.source != "":
		return Findings{ok("credentials", "from %s", a.source)}
	case scheme(t.URL) == "file" || t.Bucket.Caps().ReadOnly:
		return nil
	}
	return Findings{ok("credentials", "accepted")}
}

// inClear returns the first host that is told a secret without TLS, unless it
// is this machine.
func inClear(urls []string) string {
	for _, raw := range urls {
		if u, err := url.Parse(raw); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
			return u.Host
		}
	}
	return ""
}

// secrecy tells of credentials that others can read on the way.
func (a *access) secrecy(t Target) Findings {
	if a.inClear == "" {
		return nil
	}
	where := "endpoint=https://… in the bucket's URL"
	if scheme(t.URL) == "swift" {
		where = "auth=https://… and storage=https://… in the bucket's URL (or OS_AUTH_URL), and a catalog of the cloud with https:// addresses"
	}
	return Findings{bad("secrecy", Warning, "plain_http", "the credentials go to "+a.inClear+" over plain http: who reads them on the way can use them",
		"use "+where+", then make new credentials: these may be known to others")}
}

// openTrouble is why a bucket could not even be opened.
func openTrouble(t Target) Finding {
	if f := trouble(t, t.Err); f.Cause != "failed" {
		return f
	}
	return bad("bucket", Problem, "bad_url", t.Err.Error(), "correct bucket: "+shown(t.URL))
}

// trouble says what an error of a bucket means for the reader.
func trouble(t Target, err error) Finding {
	text := said(err)
	switch {
	case errors.Is(err, bucket.ErrRegion):
		return otherRegion(t, err)
	case errors.Is(err, bucket.ErrNoCredentials):
		return bad("credentials", Problem, "credentials_missing", text, missingFix(t.URL))
	case errors.Is(err, bucket.ErrNoBucket):
		return noBucket(t, text)
	case errors.Is(err, bucket.ErrPermission):
		return refusal(t, err, text)
	case errors.Is(err, bucket.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		fix := "try again; if it stays so, look at the server's own state"
		if scheme(t.URL) == "file" {
			fix = "check that the folder is mounted"
		}
		return bad("endpoint", Problem, "unavailable", shown(t.URL)+" does not answer as a bucket: "+text, fix)
	case errors.Is(err, fs.ErrPermission):
		return bad("bucket", Problem, "denied", text, "check the owner and mode of the folder")
	}
	return bad("bucket", Problem, "failed", text, "compare the endpoint with the kind of bucket that "+scheme(t.URL)+": is")
}

func otherRegion(t Target, err error) Finding {
	fix := "name the region of the bucket: region=NAME in its URL"
	if at := (*bucket.RegionError)(nil); errors.As(err, &at) {
		fix = "write region=" + at.Region + " in the bucket's URL, as in " + shown(t.URL) + "?region=" + at.Region
	}
	return bad("bucket", Problem, "wrong_region", shown(t.URL)+" is in another region", fix)
}

func noBucket(t Target, text string) Finding {
	if scheme(t.URL) == "file" {
		fix := "bootwell init makes the folder"
		if near := sibling(t.URL); near != "" {
			fix = "did you mean " + near + "? Else: " + fix
		}
		return bad("bucket", Problem, "no_bucket", shown(t.URL)+" is not there", fix)
	}
	return bad("bucket", Problem, "no_bucket", shown(t.URL)+" does not exist there ("+text+")",
		"check its name and endpoint=, or make it: bootwell init --create-bucket")
}

// sibling returns a folder beside a missing one whose name is much alike.
func sibling(raw string) string {
	path := strings.TrimPrefix(shown(raw), "file://")
	found, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || !filepath.IsAbs(path) {
		return ""
	}
	want := strings.ToLower(filepath.Base(path))
	for _, f := range found {
		have := strings.ToLower(filepath.Base(f))
		if strings.HasPrefix(have, want) || strings.HasPrefix(want, have) && len(have) > 2 {
			return f
		}
	}
	return ""
}

// refusal tells credentials that are of no use from a missing right.
func refusal(t Target, err error, text string) Finding {
	switch {
	case errors.Is(err, bucket.ErrClock):
		return bad("clock", Problem, "clock", "the server refuses requests because of this machine's clock: "+text, clockFix)
	case errors.Is(err, bucket.ErrExpired):
		return bad("credentials", Problem, "credentials_expired", "they have expired: "+text, renewFix(t.URL))
	case errors.Is(err, bucket.ErrCredentials):
		return bad("credentials", Problem, "credentials_refused", "the server does not accept them: "+text, refusedFix(t.URL))
	}
	return bad("read", Problem, "denied", "may not read tuf/: "+text, "")
}

const clockFix = "set this machine's clock: timedatectl set-ntp true, or chronyc makestep"

func renewFix(url string) string {
	switch scheme(url) {
	case "s3":
		return "renew them (aws sso login, or new AWS_SESSION_TOKEN), then try again"
	case "az":
		return "az login, or make a new SAS token (az storage container generate-sas) and write it where the old one is"
	case "swift":
		return "sign a new temporary URL and write it where the old one is, or use an application credential"
	}
	return "renew them, then try again"
}

func refusedFix(url string) string {
	switch scheme(url) {
	case "s3":
		return "compare both halves of the key with those that the console of this server and account shows, or make a new pair; a session token is renewed together with its key"
	case "az":
		return "compare the account's name and key, or the SAS token, with what az storage account keys list shows, or make a new one"
	case "gs":
		return "get a new token, as they last an hour (gcloud auth print-access-token), or log in again: gcloud auth application-default login"
	case "swift":
		return "compare the ID and secret with openstack application credential list, which tells also when one expires, or make a new one"
	}
	return "check them against what the cloud's own tool uses"
}

func missingFix(url string) string {
	switch scheme(url) {
	case "s3":
		return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for a profile of ~/.aws; on a VM give it an instance role"
	case "az":
		return "az login, or set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN; on a VM give it a managed identity"
	case "gs":
		return "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS; on a VM give it a service account"
	case "swift":
		return "set OS_AUTH_URL, OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET; on a VM write them to /etc/bootwell/credentials"
	}
	return "the server wants credentials that this kind of bucket does not send"
}

// said is what an error says behind the word of our own vocabulary.
func said(err error) string {
	text := err.Error()
	for _, s := range []error{
		bucket.ErrPermission, bucket.ErrUnavailable, bucket.ErrNoBucket, bucket.ErrUnsupported, bucket.ErrNotExist,
	} {
		if !errors.Is(err, s) {
			continue
		}
		if _, after, ok := strings.Cut(text, s.Error()+": "); ok {
			return strings.TrimSuffix(after, " (attempt 2)")
		}
	}
	return strings.TrimSuffix(text, " (attempt 2)")
}

// A verb is a kind of right.
type verb int

const (
	reading verb = iota
	listing
	writing
	deleting
)

// needs is the remedy for a missing right: what to allow in the cloud's own
// words, and what prints all of it.
func (p *Probe) needs(t Target, v verb, prefix string) string {
	who := p.For
	if who == "" {
		who = Publisher
	}
	all := "bootwell policy --for " + string(who) + " prints all it needs"
	account, name := place(t.URL)
	_, path, _ := strings.Cut(strings.TrimPrefix(shown(t.URL), scheme(t.URL)+"://"), name)
	path = strings.Trim(path, "/")
	if path != "" {
		path += "/"
	}
	at := path + prefix + "*"
	switch scheme(t.URL) {
	case "s3":
		if v == listing {
			return fmt.Sprintf("allow s3:ListBucket on arn:aws:s3:::%s for the prefix %s; %s", name, at, all)
		}
		return fmt.Sprintf("allow %s on arn:aws:s3:::%s/%s; %s", [...]string{"s3:GetObject", "", "s3:PutObject", "s3:DeleteObject"}[v], name, at, all)
	case "az":
		return fmt.Sprintf("allow …/blobs/%s on %s in %s/%s; %s", [...]string{"read", "read", "write", "delete"}[v], at, account, name, all)
	case "gs":
		return fmt.Sprintf("allow storage.objects.%s on %s in gs://%s; %s", [...]string{"get", "list", "create and storage.objects.delete", "delete"}[v], at, name, all)
	case "swift":
		below := "/" + strings.TrimSuffix(at, "*") + "**"
		if v == listing {
			below = "" // a list is a GET of the container
		}
		return fmt.Sprintf("allow %s on /v1/*/%s%s in an access rule of the application credential; %s", [...]string{"GET", "GET", "PUT", "DELETE"}[v], name, below, all)
	case "file":
		return "give this user the rights on the folder"
	}
	return all
}

// denied is a finding for one right that an identity lacks.
func (p *Probe) denied(t Target, check string, s Status, what string, v verb, prefix string, err error) Finding {
	return bad(check, s, "denied", fmt.Sprintf("may not %s: %s", what, said(err)), p.needs(t, v, prefix))
}
