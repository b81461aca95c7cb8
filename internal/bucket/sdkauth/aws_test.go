package sdkauth

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/s3"
)

// amazon is the services of AWS that give keys: STS and single sign-on.
type amazon struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string
	status int // of each answer; 0: 200
}

func newAWS(t *testing.T) *amazon {
	a := &amazon{}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

const stsAnswer = `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials>
<AccessKeyId>%[2]s</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>session of %[2]s</SessionToken><Expiration>%[3]s</Expiration>
</Credentials><AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser></%[1]sResult></%[1]sResponse>`

func (a *amazon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.status != 0 {
		w.WriteHeader(a.status)
		fmt.Fprint(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>not for you</Message></Error></ErrorResponse>`)
		return
	}
	if r.URL.Path == "/federation/credentials" {
		q := r.URL.Query()
		a.asked = append(a.asked, fmt.Sprintf("sso %s %s with %s", q.Get("account_id"), q.Get("role_name"), r.Header.Get("X-Amz-Sso_bearer_token")))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"s","sessionToken":"t","expiration":%d}}`, time.Now().Add(time.Hour).UnixMilli())
		return
	}
	action, role := r.PostFormValue("Action"), r.PostFormValue("RoleArn")
	_, by, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	by, _, _ = strings.Cut(by, "/")
	a.asked = append(a.asked, strings.TrimSpace(fmt.Sprint(action, " ", role, " ", by, r.PostFormValue("WebIdentityToken"))))
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, stsAnswer, action, "ASIA"+strings.ToUpper(role[strings.LastIndex(role, "/")+1:]), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

const awsConfigFile = `[default]
region = eu-south-1
[profile keys]
aws_access_key_id = AKPROFILE
aws_secret_access_key = s
region = eu-north-1
[profile base]
aws_access_key_id = AKBASE
aws_secret_access_key = s
[profile one]
role_arn = arn:aws:iam::1:role/one
source_profile = base
[profile two]
role_arn = arn:aws:iam::2:role/two
source_profile = one
[profile env]
role_arn = arn:aws:iam::2:role/env
credential_source = Environment
[profile process]
credential_process = "%[1]s/bin/keys" --for process
[profile broken]
credential_process = false
[profile mfa]
role_arn = arn:aws:iam::1:role/mfa
source_profile = base
mfa_serial = arn:aws:iam::1:mfa/me
[profile sso]
sso_session = acme
sso_account_id = 123456789012
sso_role_name = Publisher
[sso-session acme]
sso_region = eu-west-1
sso_start_url = https://acme.awsapps.com/start
[profile nothing]
region = eu-west-2
`

func TestAWS(t *testing.T) {
	for _, c := range []struct {
		name    string
		env     map[string]string
		key     string
		session string
		asked   string
	}{
		{"environment", map[string]string{"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}, "AKENV", "", ""},
		{"credentials file", nil, "AKFILE", "", ""},
		{"profile", map[string]string{"AWS_PROFILE": "keys"}, "AKPROFILE", "", ""},
		{"role", map[string]string{"AWS_PROFILE": "one"}, "ASIAONE", "session of ASIAONE", "AssumeRole arn:aws:iam::1:role/one AKBASE"},
		{"role of a role", map[string]string{"AWS_PROFILE": "two"}, "ASIATWO", "session of ASIATWO",
			"AssumeRole arn:aws:iam::1:role/one AKBASE, AssumeRole arn:aws:iam::2:role/two ASIAONE"},
		{"role of the environment's keys, which are not there", map[string]string{"AWS_PROFILE": "env"}, "", "", ""},
		{"process", map[string]string{"AWS_PROFILE": "process"}, "AKPROCESS", "for process", ""},
		{"single sign-on", map[string]string{"AWS_PROFILE": "sso"}, "ASIASSO", "t", "sso 123456789012 Publisher with sso-token"},
		{"web identity", map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "HOME/jwt", "AWS_ROLE_ARN": "arn:aws:iam::1:role/ci", "AWS_SHARED_CREDENTIALS_FILE": "HOME/none"},
			"ASIACI", "session of ASIACI", "AssumeRoleWithWebIdentity arn:aws:iam::1:role/ci a-jwt"},
		{"missing profile", map[string]string{"AWS_PROFILE": "nobody"}, "", "", ""},
		{"profile without keys", map[string]string{"AWS_PROFILE": "nothing"}, "", "", ""},
		{"process that fails", map[string]string{"AWS_PROFILE": "broken"}, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			home, a := awsHome(t)
			for k, v := range c.env {
				t.Setenv(k, strings.ReplaceAll(v, "HOME", home))
			}
			key, session, err := s3Key(t, AWS())
			if key != c.key || session != c.session {
				t.Errorf("key %q, session %q, %v", key, session, err)
			}
			if got := strings.Join(a.asked, ", "); got != c.asked {
				t.Errorf("asked %q, want %q", got, c.asked)
			}
			if want := bucket.ErrPermission; c.key == "" && !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
}

func awsHome(t *testing.T) (string, *amazon) {
	t.Helper()
	home, a := bare(t), newAWS(t)
	write(t, home+"/.aws/config", fmt.Sprintf(awsConfigFile, home))
	write(t, home+"/.aws/credentials", "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n")
	write(t, home+"/bin/keys", "#!/bin/sh\n"+`printf '{"Version":1,"AccessKeyId":"AKPROCESS","SecretAccessKey":"s","SessionToken":"for %s","Expiration":"2099-01-01T00:00:00Z"}' "$2"`)
	write(t, home+"/jwt", "a-jwt")
	write(t, fmt.Sprintf("%s/.aws/sso/cache/%x.json", home, sha1.Sum([]byte("acme"))), fmt.Sprintf(
		`{"startUrl":"https://acme.awsapps.com/start","region":"eu-west-1","accessToken":"sso-token","expiresAt":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	// The SDK has seen the home that was there when the program started.
	t.Setenv("AWS_CONFIG_FILE", home+"/.aws/config")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", home+"/.aws/credentials")
	t.Setenv("AWS_ENDPOINT_URL_STS", a.URL)
	t.Setenv("AWS_ENDPOINT_URL_SSO", a.URL)
	return home, a
}

func TestAWS_Refused(t *testing.T) {
	for status, want := range map[int]error{403: bucket.ErrPermission, 503: bucket.ErrUnavailable} {
		_, a := awsHome(t)
		a.status = status
		t.Setenv("AWS_PROFILE", "one")
		if _, _, err := s3Key(t, AWS()); !errors.Is(err, want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%d: %v, want %v", status, err, want)
		}
	}
	_, a := awsHome(t)
	a.Close()
	t.Setenv("AWS_PROFILE", "one")
	if _, _, err := s3Key(t, AWS()); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestAWS_Region(t *testing.T) {
	awsHome(t)
	for profile, want := range map[string]string{"": "eu-south-1", "keys": "eu-north-1", "base": "us-east-1"} {
		t.Setenv("AWS_PROFILE", profile)
		b, err := s3.Open(t.Context(), "s3://bkt", s3.Options{Sources: []s3.Source{s3.Environment(), AWS()}})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Location().Region; got != want {
			t.Errorf("profile %q: region %s, want %s", profile, got, want)
		}
	}
}
