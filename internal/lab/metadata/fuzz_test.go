package metadata

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// FuzzServices lets a VM ask anything of each cloud's service.
func FuzzServices(f *testing.F) {
	for _, target := range []string{
		"/latest/api/token", "/latest/meta-data/iam/security-credentials/vm", "/openstack/latest/meta_data.json", "/2009-04-04/meta-data/",
		"/metadata/instance/network/interface/0/ipv4?api-version=2021-08-01&format=text", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/&client_id=x",
		"/computeMetadata/v1/instance/?recursive=true&alt=json", "/computeMetadata/v1/instance/service-accounts/default/token?scopes=a,b", "/machine/?comp=goalstate",
	} {
		f.Add("GET", target, "")
	}
	f.Add("POST", "/machine?comp=health", "<Health><GoalStateIncarnation>1</GoalStateIncarnation></Health>")
	azure := NewAzure(azureVM)
	services := []*Service{NewEC2(vm), NewOpenStack(vm), azure, NewGCE(gceVM)}
	for _, s := range services {
		s.SetUserData([]byte("data"))
		s.SetIdentities(func(Identity, []string) (Token, error) { return Token{}, errors.New("no") }, system, vmAccount)
		s.tokens["t"] = time.Now().Add(24 * time.Hour)
	}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.NewRequest(method, "http://169.254.169.254/"+strings.TrimPrefix(target, "/"), strings.NewReader(body))
		if err != nil {
			return
		}
		for name, value := range map[string]string{tokenHeader: "t", tokenTTLHeader: "60", "Metadata": "true", flavorHeader: "Google", "X-Ms-Version": "1"} {
			r.Header.Set(name, value)
		}
		for _, h := range []http.Handler{services[0], services[1], services[2], services[3], azure.WireServer()} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code < 200 || w.Code > 599 {
				t.Errorf("%s %s: status %d", method, target, w.Code)
			}
		}
	})
}
