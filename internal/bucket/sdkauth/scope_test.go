package sdkauth

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestGoogle_Scope asks for storage alone where the account is one of a service.
func TestGoogle_Scope(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var said string // what the last request says of the scope
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/impersonate" {
			body, _ := io.ReadAll(r.Body)
			said = string(body)
			fmt.Fprintf(w, `{"accessToken":"t","expireTime":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			return
		}
		if parts := strings.Split(r.PostFormValue("assertion"), "."); len(parts) == 3 {
			body, _ := base64.RawURLEncoding.DecodeString(parts[1])
			said = string(body)
		}
		fmt.Fprint(w, `{"access_token":"t","expires_in":3600,"token_type":"Bearer"}`)
	}))
	defer s.Close()
	service, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "a@b", "private_key_id": "1", "token_uri": s.URL + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"service":     string(service),
		"impersonate": `{"type":"impersonated_service_account","service_account_impersonation_url":"` + s.URL + `/impersonate","source_credentials":` + string(service) + `}`,
	} {
		home := bare(t)
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", write(t, home+"/f.json", text))
		said = ""
		if token, err := gcsToken(t, googleLogin()...); token != "t" {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.Contains(said, storageScope) || strings.Contains(said, "cloud-platform") {
			t.Errorf("%s: asked for %s", name, said)
		}
	}
}
