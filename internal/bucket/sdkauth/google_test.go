package sdkauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/gcs"
)

// tokenService is Google's services that give tokens.
type tokenService struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string
	status int // 0: 200
}

func newTokenService(t *testing.T) *tokenService {
	s := &tokenService{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if s.status != 0 {
		w.WriteHeader(s.status)
		fmt.Fprint(w, `{"error":"invalid_grant","error_description":"Token has been expired or revoked."}`)
		return
	}
	if r.URL.Path == "/impersonate" {
		s.asked = append(s.asked, "impersonate with "+r.Header.Get("Authorization"))
		fmt.Fprintf(w, `{"accessToken":"as-another","expireTime":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		return
	}
	s.asked = append(s.asked, r.PostFormValue("grant_type")+" "+r.PostFormValue("refresh_token")+r.PostFormValue("subject_token"))
	fmt.Fprint(w, `{"access_token":"fresh","expires_in":3600,"token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`)
}

func user(s *tokenService) string {
	return fmt.Sprintf(`{"type":"authorized_user","client_id":"c","client_secret":"topsecret","refresh_token":"mine","token_uri":%q}`, s.URL+"/token")
}

func TestGoogle(t *testing.T) {
	const wellKnown = "HOME/.config/gcloud/application_default_credentials.json"
	gcloud := "#!/bin/sh\n" + `[ "$*" = "config config-helper --format=json" ] || exit 9
printf '{"configuration":{},"credential":{"access_token":"of-gcloud","id_token":"x","token_expiry":"2099-01-01T00:00:00Z"}}'`
	for _, c := range []struct {
		name  string
		files map[string]string
		env   map[string]string
		token string
		asked string
	}{
		{"gcloud's login for applications", map[string]string{wellKnown: "USER"}, nil, "fresh", "refresh_token mine"},
		{"a folder of gcloud's", map[string]string{"HOME/cfg/application_default_credentials.json": "USER"}, map[string]string{"CLOUDSDK_CONFIG": "HOME/cfg"}, "fresh", "refresh_token mine"},
		{"a named file", map[string]string{"HOME/f.json": "USER"}, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "HOME/f.json"}, "fresh", "refresh_token mine"},
		{"federated", map[string]string{"HOME/subject": "a-jwt", "HOME/f.json": `{"type":"external_account","audience":"//iam.googleapis.com/x",
			"subject_token_type":"urn:ietf:params:oauth:token-type:jwt","token_url":"URL/token","credential_source":{"file":"HOME/subject"}}`},
			map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "HOME/f.json"}, "fresh", "urn:ietf:params:oauth:grant-type:token-exchange a-jwt"},
		{"impersonation", map[string]string{"HOME/f.json": `{"type":"impersonated_service_account","service_account_impersonation_url":"URL/impersonate","source_credentials":USER}`},
			map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "HOME/f.json"}, "as-another", "refresh_token mine, impersonate with Bearer fresh"},
		{"gcloud's own login", map[string]string{"HOME/bin/gcloud": gcloud, "HOME/.config/gcloud/credentials.db": ""}, nil, "of-gcloud", ""},
		{"gcloud without a login", map[string]string{"HOME/bin/gcloud": gcloud}, nil, "", ""},
		{"gcloud that fails", map[string]string{"HOME/bin/gcloud": "#!/bin/sh\necho no account >&2; exit 1", "HOME/.config/gcloud/credentials.db": ""}, nil, "", ""},
		{"gcloud that talks", map[string]string{"HOME/bin/gcloud": "#!/bin/sh\nexec head -c 3000000 /dev/zero", "HOME/.config/gcloud/credentials.db": ""}, nil, "", ""},
		{"nothing", nil, nil, "", ""},
		{"another type", map[string]string{wellKnown: `{"type":"gdch_service_account"}`}, nil, "", ""},
		{"not JSON", map[string]string{wellKnown: "topsecret"}, nil, "", ""},
		{"a missing file", nil, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "HOME/none"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			home, s := bare(t), newTokenService(t)
			full := func(text string) string {
				return strings.NewReplacer("HOME", home, "URL", s.URL, "USER", user(s)).Replace(text)
			}
			for name, text := range c.files {
				write(t, full(name), full(text))
			}
			for k, v := range c.env {
				t.Setenv(k, full(v))
			}
			token, err := gcsToken(t, googleLogin()...)
			if token != c.token || strings.Join(s.asked, ", ") != c.asked {
				t.Errorf("token %q, asked %q, %v", token, s.asked, err)
			}
			if c.token == "" && (!errors.Is(err, bucket.ErrPermission) || strings.Contains(err.Error(), "topsecret")) {
				t.Errorf("%v, want %v", err, bucket.ErrPermission)
			}
		})
	}
}

func TestGoogle_Refused(t *testing.T) {
	for status, want := range map[int]error{400: bucket.ErrPermission, 503: bucket.ErrUnavailable} {
		home, s := bare(t), newTokenService(t)
		s.status = status
		write(t, home+"/.config/gcloud/application_default_credentials.json", user(s))
		_, err := gcsToken(t, googleLogin()...)
		if !errors.Is(err, want) || strings.Contains(err.Error(), "topsecret") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%d: %v, want %v", status, err, want)
		}
	}
	home, s := bare(t), newTokenService(t)
	write(t, home+"/.config/gcloud/application_default_credentials.json", user(s))
	s.Close()
	if _, err := gcsToken(t, googleLogin()...); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

// TestGoogle_AfterOwn has the provider's own sources first, as the command has.
func TestGoogle_AfterOwn(t *testing.T) {
	home, s := bare(t), newTokenService(t)
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", write(t, home+"/f.json", user(s)))
	if token, err := gcsToken(t, append(gcs.OperatorSources(), googleLogin()...)...); token != "fresh" {
		t.Errorf("%q, %v", token, err)
	}
}

func FuzzParseGcloud(f *testing.F) {
	f.Add([]byte(`{"credential":{"access_token":"a","token_expiry":"2099-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, out []byte) {
		if token, err := parseGcloud(out); (err == nil) != (token.Value != "") {
			t.Errorf("%q gives %+v, %v", out, token, err)
		}
	})
}
