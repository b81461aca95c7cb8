package swift

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/wire"
)

const maxToken = 4 << 20 // bytes of Keystone's answer, which has the whole catalog

// errKeystone begins what went wrong after the credentials were found.
var errKeystone = errors.New("ask Keystone")

type document = map[string]any

// loginBody is the request for a token.
// https://docs.openstack.org/api-ref/identity/v3/#authentication-and-token-management
func loginBody(v values) ([]byte, error) {
	user := document{}
	if id := v["os_user_id"]; id != "" {
		user["id"] = id
	} else if name := v["os_username"]; name != "" {
		user["name"], user["domain"] = name, domain(v, "os_user_domain")
	}
	if v.kind() == kindAppCredential {
		cred := document{"secret": v["os_application_credential_secret"]}
		if id := v["os_application_credential_id"]; id != "" {
			cred["id"] = id
		} else {
			cred["name"], cred["user"] = v["os_application_credential_name"], user
		}
		return json.Marshal(document{"auth": document{"identity": document{
			"methods": []string{"application_credential"}, "application_credential": cred,
		}}})
	}
	user["password"] = v["os_password"]
	project := document{}
	if id := v.first("os_project_id", "os_tenant_id"); id != "" {
		project["id"] = id
	} else if name := v.first("os_project_name", "os_tenant_name"); name != "" {
		project["name"], project["domain"] = name, domain(v, "os_project_domain")
	} else {
		return nil, fmt.Errorf("%w: os_username is there without os_project_name or os_project_id", bucket.ErrPermission)
	}
	return json.Marshal(document{"auth": document{
		"identity": document{"methods": []string{"password"}, "password": document{"user": user}},
		"scope":    document{"project": project},
	}})
}

// domain is that of a user or project: its own setting, the general one, or
// the one that each Keystone has.
func domain(v values, prefix string) document {
	if id := v.first(prefix+"_id", "os_domain_id"); id != "" {
		return document{"id": id}
	}
	if name := v.first(prefix+"_name", "os_domain_name"); name != "" {
		return document{"name": name}
	}
	if id := v["os_default_domain"]; id != "" {
		return document{"id": id}
	}
	return document{"id": "default"}
}

// login asks Keystone for a token.
func (s *session) login(ctx context.Context, v values) (*grant, error) {
	auth := s.at.Auth
	if auth == "" {
		if v["os_auth_url"] == "" {
			return nil, fmt.Errorf("%w: it is not said where Keystone is: add auth=URL to the bucket's URL, or os_auth_url to the credentials", bucket.ErrPermission)
		}
		var err error
		if auth, err = keystoneURL(v["os_auth_url"]); err != nil {
			return nil, fmt.Errorf("os_auth_url: %w", err)
		}
	}
	body, err := loginBody(v)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, auth+"/auth/tokens", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}, "User-Agent": {"bootwell"}}
	s.keystone.Store(&auth)
	asked := time.Now()
	resp, err := s.send.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", errKeystone, auth, wire.Classify(ctx, err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", errKeystone, auth, wire.Classify(ctx, err))
	}
	if resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("%w at %s: %w", errKeystone, auth, loginError(resp, answer, v.kind()))
	}
	g := &grant{renewable: true, token: resp.Header.Get("X-Subject-Token")}
	if err := g.catalog(answer, asked, s.choice(v)); err != nil {
		return nil, fmt.Errorf("%w at %s: %w", errKeystone, auth, err)
	}
	return g, nil
}

// A choice says which of the catalog's storages is wanted.
type choice struct{ storage, region, face string }

func (s *session) choice(v values) choice {
	c := choice{s.at.Storage, s.at.Region, s.at.Interface}
	if c.region == "" {
		c.region = v["os_region_name"]
	}
	if c.face == "" {
		c.face, _ = interfaceName(v.first("os_interface", "os_endpoint_type"))
	}
	if c.face == "" {
		c.face = "public"
	}
	return c
}

// loginError words a refusal. Keystone answers 401 for a wrong secret and 404
// for a credential that was deleted; another server answers 404 as well, but
// not in JSON.
func loginError(resp *http.Response, answer []byte, k kind) error {
	what := "the user or the password"
	if k == kindAppCredential {
		what = "the application credential"
	}
	var said struct{ Error struct{ Message string } }
	known := json.Unmarshal(answer, &said) == nil && said.Error.Message != ""
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound && known:
		return fmt.Errorf("%w: %s was refused: wrong, expired or deleted (status %d)", bucket.ErrCredentials, what, status)
	case status == http.StatusNotFound || status/100 == 3:
		return fmt.Errorf("%w: there is no Keystone v3 at this URL (status %d)", bucket.ErrNoBucket, status)
	case status < 500 && known && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout:
		return fmt.Errorf("%w: status %d: %s", bucket.ErrCredentials, status, printable(said.Error.Message))
	}
	return statusError(resp)
}

// catalog completes g with what Keystone's answer says of the token and where
// the storage is. The token's life is counted on this machine's clock, which
// may be wrong, from when it was asked for.
func (g *grant) catalog(answer []byte, asked time.Time, want choice) error {
	var body struct {
		Token struct {
			Issued  time.Time `json:"issued_at"`
			Expires time.Time `json:"expires_at"`
			Catalog []struct {
				Type      string
				Endpoints []endpoint
			}
		}
	}
	if err := json.Unmarshal(answer, &body); err != nil {
		return fmt.Errorf("%w: the answer cannot be read: %w", bucket.ErrUnavailable, err)
	}
	if g.token == "" || strings.ContainsFunc(g.token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%w: the answer has no token", bucket.ErrUnavailable)
	}
	if life := body.Token.Expires.Sub(body.Token.Issued); !body.Token.Issued.IsZero() && life > 0 {
		g.ends = asked.Add(life)
	}
	var all []endpoint
	for _, service := range body.Token.Catalog {
		if service.Type == "object-store" {
			all = append(all, service.Endpoints...)
		}
	}
	return g.choose(all, want)
}

type endpoint struct {
	Interface string
	Region    string
	RegionID  string `json:"region_id"`
	URL       string
}

func (e endpoint) region() string {
	if e.RegionID != "" {
		return e.RegionID
	}
	return e.Region
}

// choose takes the storage that is wanted.
func (g *grant) choose(all []endpoint, want choice) error {
	g.region = want.region
	if want.storage != "" {
		g.storage = want.storage
		return nil
	}
	var fit []endpoint
	var regions []string
	for _, e := range all {
		if e.Interface != want.face {
			continue
		}
		if r := printable(e.region()); !slices.Contains(regions, r) {
			regions = append(regions, r)
		}
		if want.region == "" || want.region == e.Region || want.region == e.RegionID {
			fit = append(fit, e)
		}
	}
	slices.Sort(regions)
	switch {
	case len(all) == 0:
		return fmt.Errorf("%w: the catalog of this project has no object storage", bucket.ErrNoBucket)
	case len(regions) == 0:
		return fmt.Errorf("%w: the catalog has no object storage with the interface %s", bucket.ErrNoBucket, want.face)
	case len(fit) == 0:
		return fmt.Errorf("%w: there is no object storage in region %s; there is in %s", bucket.ErrNoBucket, want.region, strings.Join(regions, ", "))
	case want.region == "" && len(regions) > 1:
		return fmt.Errorf("%w: there is object storage in several regions: add region=NAME to the bucket's URL, one of %s", bucket.ErrNoBucket, strings.Join(regions, ", "))
	}
	storage, err := accountURL(fit[0].URL)
	if err != nil {
		return errors.Join(bucket.ErrNoBucket, fmt.Errorf("the catalog's object storage: %w", err))
	}
	g.storage, g.region = storage, fit[0].region()
	return nil
}
