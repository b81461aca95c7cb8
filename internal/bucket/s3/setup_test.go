package s3

import (
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/bucket"
)

func TestPublicPolicy(t *testing.T) {
	for text, want := range map[string]bucket.Answer{
		`{"Statement":[]}`: bucket.No,
		`{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject"}}`:                                                              bucket.Yes,
		`{"Statement":[{"Effect":"Deny","Principal":"*"},{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::1:user/vm"}}]}`:                     bucket.No,
		`{"Statement":[{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::1:root","*"]}}]}`:                                                    bucket.Yes,
		`{"Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-1"}}}]}`:                  bucket.Unknown,
		`{"Statement":[{"Effect":"Allow","Principal":"*","Condition":{"Bool":{"x":"y"}}},{"Effect":"Allow","Principal":"*","Condition":null}]}`: bucket.Yes,
		`not JSON`: bucket.Unknown,
		``:         bucket.Unknown,
	} {
		if got := publicPolicy([]byte(text)); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}

// FuzzAdminAnswers reads what a server says of a bucket.
func FuzzAdminAnswers(f *testing.F) {
	for _, s := range []string{
		`{"Statement":[{"Effect":"Allow","Principal":{"AWS":["*"]},"Condition":{}}]}`, `{"Statement":{}}`,
		`<LocationConstraint>EU</LocationConstraint>`, `<AccessControlPolicy><AccessControlList><Grant><Grantee><ID>x</ID></Grantee></Grant></AccessControlList></AccessControlPolicy>`,
		`<Error><Code>AccessDenied</Code><Region>eu-west-1</Region></Error>`, `<PublicAccessBlockConfiguration><IgnorePublicAcls>true</IgnorePublicAcls></PublicAccessBlockConfiguration>`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		publicPolicy(data)
		publicACL(data)
		blocked(data)
		if r := parseLocation(data); !utf8.ValidString(r) || strings.ContainsAny(r, "\n\x00") || len(r) > 400 {
			t.Errorf("region %q", r)
		}
		if e := refused(&http.Response{StatusCode: 403, Header: http.Header{}}, false, data); e.Status != 403 || e.Code == "" {
			t.Errorf("error %+v", e)
		}
	})
}
