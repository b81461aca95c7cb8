package s3

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

// Setup implements [bucket.Admin]. It asks as the caller, and once as somebody
// without credentials.
func (b *Bucket) Setup(ctx context.Context) (bucket.Setup, error) {
	var s bucket.Setup
	_, err := b.ask(ctx, question{method: http.MethodHead})
	var answer *refusal
	switch {
	case err == nil:
	case !errors.As(err, &answer):
		return s, b.fail(ctx, "look at", "bucket", bucket.Condition{}, err)
	case answer.Status == http.StatusNotFound:
		answer.Code = "NoSuchBucket"
		return s, b.fail(ctx, "look at", "bucket", bucket.Condition{}, answer)
	case answer.Status != http.StatusForbidden:
		return s, b.fail(ctx, "look at", "bucket", bucket.Condition{}, err)
	}
	b.setupRegion(ctx, &s)
	b.setupVersions(ctx, &s)
	b.setupPublic(ctx, &s)
	return s, ctx.Err()
}

func note(s *bucket.Setup, what string, err error) {
	why := "it may not be asked with these credentials"
	if lacks(err) {
		why = "the server does not know of it"
	} else if !denied(err) {
		why = wire.Printable(err.Error())
	}
	s.Notes = append(s.Notes, fmt.Sprintf("%s is not known: %s.", what, why))
}

func denied(err error) bool {
	var answer *refusal
	return errors.As(err, &answer) && (answer.Status == http.StatusForbidden || answer.Status == http.StatusUnauthorized)
}

// said reports whether err is an answer with one of these codes.
func said(err error, codes ...string) bool {
	var answer *refusal
	if errors.As(err, &answer) {
		for _, c := range codes {
			if answer.Code == c {
				return true
			}
		}
	}
	return false
}

func (b *Bucket) setupRegion(ctx context.Context, s *bucket.Setup) {
	body, err := b.ask(ctx, question{method: http.MethodGet, query: "location"})
	if err != nil {
		note(s, "Where the bucket is", err)
		return
	}
	s.Region = parseLocation(body)
}

// parseLocation reads the answer to GetBucketLocation, in which "" and "EU" are
// old names.
func parseLocation(body []byte) string {
	var at struct {
		Region string `xml:",chardata"`
	}
	if xml.Unmarshal(body, &at) != nil {
		return ""
	}
	switch r := strings.TrimSpace(at.Region); r {
	case "":
		return "us-east-1"
	case "EU":
		return "eu-west-1"
	default:
		return wire.Printable(r)
	}
}

func (b *Bucket) setupVersions(ctx context.Context, s *bucket.Setup) {
	body, err := b.ask(ctx, question{method: http.MethodGet, query: "versioning"})
	switch {
	case lacks(err):
		s.Versions = bucket.No
		s.Notes = append(s.Notes, "The server keeps no old versions of objects.")
		return
	case err != nil:
		note(s, "Whether old versions of objects are kept", err)
		return
	}
	var v struct{ Status string }
	s.Versions = bucket.No
	if xml.Unmarshal(body, &v) == nil && v.Status == "Enabled" {
		s.Versions = bucket.Yes
	}
}

// setupPublic looks for a way in for everybody: what one finds out by trying,
// then the block, then policy and ACL.
func (b *Bucket) setupPublic(ctx context.Context, s *bucket.Setup) {
	if b.open(ctx) {
		s.Public = bucket.Yes
		return
	}
	if body, err := b.ask(ctx, question{method: http.MethodGet, query: "publicAccessBlock"}); err == nil && blocked(body) {
		s.Public = bucket.No
		return
	}
	policy, err := b.policyPublic(ctx)
	if err != nil {
		note(s, "Whether the bucket's policy lets everybody in", err)
	}
	acl, err := b.aclPublic(ctx)
	if err != nil {
		note(s, "Whether the bucket's access control list lets everybody in", err)
	}
	switch {
	case policy == bucket.Yes || acl == bucket.Yes:
		s.Public = bucket.Yes
	case policy == bucket.No && acl == bucket.No:
		s.Public = bucket.No
	}
}

// open reports whether somebody without credentials lists the bucket or reads
// the first of its objects.
func (b *Bucket) open(ctx context.Context) bool {
	if _, err := b.ask(ctx, question{method: http.MethodGet, query: "list-type=2&max-keys=1", unsigned: true}); err == nil {
		return true
	}
	first := url.Values{"list-type": {"2"}, "max-keys": {"1"}}
	if b.prefix != "" {
		first.Set("prefix", b.prefix)
	}
	body, err := b.ask(ctx, question{method: http.MethodGet, query: first.Encode()})
	var list struct {
		Contents []struct{ Key string }
	}
	if err != nil || xml.Unmarshal(body, &list) != nil || len(list.Contents) == 0 || bucket.CheckKey(list.Contents[0].Key) != nil {
		return false
	}
	_, err = b.ask(ctx, question{method: http.MethodHead, key: list.Contents[0].Key, unsigned: true})
	return err == nil
}

// blocked reports whether neither ACLs nor policies can let everybody in.
func blocked(body []byte) bool {
	var c struct{ IgnorePublicAcls, RestrictPublicBuckets bool }
	return xml.Unmarshal(body, &c) == nil && c.IgnorePublicAcls && c.RestrictPublicBuckets
}

func (b *Bucket) policyPublic(ctx context.Context) (bucket.Answer, error) {
	body, err := b.ask(ctx, question{method: http.MethodGet, query: "policyStatus"})
	var status struct{ IsPublic string }
	switch {
	case said(err, "NoSuchBucketPolicy"):
		return bucket.No, nil
	case err == nil && xml.Unmarshal(body, &status) == nil && strings.EqualFold(status.IsPublic, "true"):
		return bucket.Yes, nil
	case err == nil && strings.EqualFold(status.IsPublic, "false"):
		return bucket.No, nil
	}
	body, err = b.ask(ctx, question{method: http.MethodGet, query: "policy"})
	switch {
	case said(err, "NoSuchBucketPolicy"):
		return bucket.No, nil
	case err != nil:
		return bucket.Unknown, err
	}
	return publicPolicy(body), nil
}

// oneOrMore is a value or a list of them, as policies have it.
type oneOrMore[T any] []T

func (l *oneOrMore[T]) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		return json.Unmarshal(data, (*[]T)(l))
	}
	var one T
	err := json.Unmarshal(data, &one)
	*l = oneOrMore[T]{one}
	return err
}

// publicPolicy reports whether a bucket policy allows anything to everybody.
// With a condition on that it is not known: it may be as good as none.
func publicPolicy(text []byte) bucket.Answer {
	var doc struct {
		Statement oneOrMore[struct {
			Effect               string
			Principal, Condition json.RawMessage
		}]
	}
	if json.Unmarshal(text, &doc) != nil {
		return bucket.Unknown
	}
	answer := bucket.No
	for _, s := range doc.Statement {
		if s.Effect != "Allow" || !everybody(s.Principal) {
			continue
		}
		if len(s.Condition) == 0 || string(s.Condition) == "null" {
			return bucket.Yes
		}
		answer = bucket.Unknown
	}
	return answer
}

func everybody(principal json.RawMessage) bool {
	var name string
	if json.Unmarshal(principal, &name) == nil {
		return name == "*"
	}
	var of map[string]oneOrMore[string]
	if json.Unmarshal(principal, &of) != nil {
		return false
	}
	for _, names := range of {
		for _, n := range names {
			if n == "*" {
				return true
			}
		}
	}
	return false
}

func (b *Bucket) aclPublic(ctx context.Context) (bucket.Answer, error) {
	body, err := b.ask(ctx, question{method: http.MethodGet, query: "acl"})
	if err != nil {
		if said(err, "AccessControlListNotSupported") {
			return bucket.No, nil
		}
		return bucket.Unknown, err
	}
	return publicACL(body), nil
}

// publicACL reports whether an access control list has a grant to everybody, or
// to everybody with an account.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/acl-overview.html
func publicACL(body []byte) bucket.Answer {
	var acl struct {
		Grants []struct {
			Grantee struct{ URI, ID string }
		} `xml:"AccessControlList>Grant"`
	}
	if xml.Unmarshal(body, &acl) != nil {
		return bucket.Unknown
	}
	for _, g := range acl.Grants {
		who := g.Grantee.URI + " " + g.Grantee.ID
		for _, group := range []string{"/global/AllUsers", "/global/AuthenticatedUsers", "all-users"} {
			if strings.Contains(who, group) {
				return bucket.Yes
			}
		}
	}
	return bucket.No
}
