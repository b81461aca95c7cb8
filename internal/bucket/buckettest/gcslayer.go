package buckettest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ask makes a request past the layer.
func (s *GCS) ask(ctx context.Context, method, path string, body io.Reader) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.backend.String()+path, body)
	if err != nil {
		return 0, nil, err
	}
	resp, err := s.inner.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, data, err
}

// A gcsCall is what a request asks for, in Google's terms.
type gcsCall struct {
	permission     string
	bucket, object string
	media          bool
	mayList        bool
	token          gcsToken
}

type gcsCallKey struct{}

func (s *GCS) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests++
	s.mu.Unlock()
	if r.Method == http.MethodPost && r.URL.Path == "/token" {
		s.serveToken(w, r)
		return
	}
	c, err := s.call(r)
	if err != nil {
		gcsError(w, c, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	if status, reason, message := s.authorize(r, c); status != 0 {
		gcsError(w, c, status, reason, message)
		return
	}
	switch c.permission {
	case "storage.buckets.create":
		s.createBucket(w, r, c)
	case "storage.buckets.get":
		s.getBucket(w, c)
	case "storage.buckets.getIamPolicy":
		s.getPolicy(w, c)
	default:
		s.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), gcsCallKey{}, c)))
	}
}

// call reads from a request what it asks for.
func (s *GCS) call(r *http.Request) (*gcsCall, error) {
	c := &gcsCall{media: r.URL.Query().Get("alt") == "media"}
	path, upload := strings.CutPrefix(r.URL.EscapedPath(), "/upload")
	rest, ok := strings.CutPrefix(path, "/storage/v1/b")
	if !ok {
		return c, fmt.Errorf("no such path: %s", path)
	}
	parts := strings.Split(strings.TrimPrefix(rest, "/"), "/")
	c.bucket = parts[0]
	var err error
	if len(parts) == 3 {
		if c.object, err = url.PathUnescape(parts[2]); err != nil {
			return c, err
		}
	}
	switch last := parts[len(parts)-1]; {
	case upload && r.Method == http.MethodPost:
		c.permission = "storage.objects.create"
		c.object, err = uploadName(r)
	case rest == "" && r.Method == http.MethodPost:
		c.permission = "storage.buckets.create"
	case len(parts) == 1 && r.Method == http.MethodGet:
		c.permission = "storage.buckets.get"
	case len(parts) == 2 && last == "iam" && r.Method == http.MethodGet:
		c.permission = "storage.buckets.getIamPolicy"
	case len(parts) == 2 && last == "o" && r.Method == http.MethodGet:
		c.permission = "storage.objects.list"
	case len(parts) == 3 && r.Method == http.MethodGet:
		c.permission = "storage.objects.get"
	case len(parts) == 3 && r.Method == http.MethodDelete:
		c.permission = "storage.objects.delete"
	default:
		err = fmt.Errorf("not offered here: %s %s", r.Method, path)
	}
	return c, err
}

// uploadName reads an object's name from the first part of an upload.
func uploadName(r *http.Request) (string, error) {
	if name := r.URL.Query().Get("name"); name != "" {
		return name, nil
	}
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return "", err
	}
	var read bytes.Buffer
	part, err := multipart.NewReader(io.TeeReader(r.Body, &read), params["boundary"]).NextRawPart()
	if err != nil {
		return "", err
	}
	var about struct{ Name string }
	err = json.NewDecoder(part).Decode(&about)
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&read, r.Body), r.Body}
	return about.Name, err
}

// authorize returns the status of a refusal, or 0.
func (s *GCS) authorize(r *http.Request, c *gcsCall) (status int, reason, message string) {
	value, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	token, known := s.tokens[value]
	public := s.public[c.bucket]
	s.mu.Unlock()
	switch {
	case !ok && public:
		token = gcsToken{grants: []GCSGrant{{Permissions: []string{"storage.objects.get"}}}}
	case !ok:
		return 401, "required", "Anonymous caller does not have " + c.permission + " access to the Google Cloud Storage object."
	case !known || time.Now().After(token.ends):
		return 401, "authError", "Invalid Credentials"
	}
	c.token, c.mayList = token, token.may("storage.objects.list", "")
	needs := []string{c.permission}
	if c.permission == "storage.objects.create" && !token.may("storage.objects.delete", c.object) {
		path := "/storage/v1/b/" + c.bucket + "/o/" + url.PathEscape(c.object)
		if status, _, err := s.ask(r.Context(), http.MethodGet, path, nil); err == nil && status == http.StatusOK {
			needs = append(needs, "storage.objects.delete") // overwriting is also deleting
		}
	}
	for _, p := range needs {
		if !token.may(p, c.object) {
			return 403, "forbidden", fmt.Sprintf("somebody does not have %s access to the Google Cloud Storage object. Permission '%s' denied on resource (or it may not exist).", p, p)
		}
	}
	return 0, "", ""
}

// may tells whether the grants allow it; object "" is the bucket, whose name no
// condition on objects' names fits.
func (k gcsToken) may(permission, object string) bool {
	return slices.ContainsFunc(k.grants, func(g GCSGrant) bool {
		if g.Permissions != nil && !slices.Contains(g.Permissions, permission) {
			return false
		}
		return g.Below == nil || object != "" && slices.ContainsFunc(g.Below, func(p string) bool { return strings.HasPrefix(object, p) })
	})
}

// gcsError answers as Google does: downloads with plain text, all else in JSON.
func gcsError(w http.ResponseWriter, c *gcsCall, status int, reason, message string) {
	w.Header().Del("Content-Length")
	if c.media {
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(status)
		io.WriteString(w, message)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	w.Write(gcsErrorText(status, reason, message))
}

func gcsErrorText(status int, reason, message string) []byte {
	text, _ := json.Marshal(map[string]any{"error": map[string]any{ // strings always marshal
		"code": status, "message": message, "errors": []map[string]string{{"message": message, "domain": "global", "reason": reason}},
	}})
	return text
}

// modify makes an answer of the server one of Google's.
func (s *GCS) modify(resp *http.Response) error {
	c, _ := resp.Request.Context().Value(gcsCallKey{}).(*gcsCall)
	q := resp.Request.URL.Query()
	if not := q.Get("ifGenerationNotMatch"); not != "" && resp.StatusCode < 300 && resp.Header.Get("X-Goog-Generation") == not {
		replace(resp, http.StatusNotModified, nil)
		return nil
	}
	if resp.StatusCode != http.StatusNotFound {
		return nil
	}
	status, reason, message := http.StatusNotFound, "notFound", "No such object: "+c.bucket+"/"+c.object
	there, _, err := s.ask(resp.Request.Context(), http.MethodGet, "/storage/v1/b/"+c.bucket, nil)
	switch {
	case err != nil:
		return err
	case there != http.StatusOK:
		message = "The specified bucket does not exist."
	case !c.mayList && c.permission == "storage.objects.get":
		status, reason = http.StatusForbidden, "forbidden"
		message = "somebody does not have storage.objects.list access to the Google Cloud Storage bucket. Permission 'storage.objects.list' denied on resource (or it may not exist)."
	}
	if c.media {
		replace(resp, status, []byte(message))
	} else {
		replace(resp, status, gcsErrorText(status, reason, message))
	}
	return nil
}

func replace(resp *http.Response, status int, body []byte) {
	resp.Body.Close()
	resp.StatusCode, resp.Status = status, http.StatusText(status)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Del("Content-Range")
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
}

func (s *GCS) createBucket(w http.ResponseWriter, r *http.Request, c *gcsCall) {
	var settings map[string]json.RawMessage
	data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil {
		err = json.Unmarshal(data, &settings)
	}
	if err != nil || r.URL.Query().Get("project") == "" {
		gcsError(w, c, http.StatusBadRequest, "required", fmt.Sprintf("Required parameter: project (%v)", err))
		return
	}
	status, answer, err := s.ask(r.Context(), http.MethodPost, "/storage/v1/b?project=test", bytes.NewReader(data))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if status == http.StatusOK {
		var name string
		json.Unmarshal(settings["name"], &name) // the server took it
		s.mu.Lock()
		s.buckets[name] = settings
		s.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(answer)
}

// getBucket adds what the bucket was made with to what the server knows.
func (s *GCS) getBucket(w http.ResponseWriter, c *gcsCall) {
	status, data, err := s.ask(context.Background(), http.MethodGet, "/storage/v1/b/"+c.bucket, nil)
	var is map[string]json.RawMessage
	if err == nil && status == http.StatusOK {
		err = json.Unmarshal(data, &is)
	}
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	case status != http.StatusOK:
		gcsError(w, c, http.StatusNotFound, "notFound", "The specified bucket does not exist.")
		return
	}
	s.mu.Lock()
	maps.Copy(is, s.buckets[c.bucket])
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(is)
}

func (s *GCS) getPolicy(w http.ResponseWriter, c *gcsCall) {
	type binding struct {
		Role    string   `json:"role"`
		Members []string `json:"members"`
	}
	policy := struct {
		Bindings []binding `json:"bindings"`
	}{[]binding{{"roles/storage.legacyBucketOwner", []string{"projectOwner:test"}}}}
	s.mu.Lock()
	if s.public[c.bucket] {
		policy.Bindings = append(policy.Bindings, binding{"roles/storage.objectViewer", []string{"allUsers"}})
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(policy)
}

// serveToken exchanges a service account's signed assertion for a token.
func (s *GCS) serveToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	grants, err := s.checkAssertion(r.PostFormValue("grant_type"), r.PostFormValue("assertion"))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant", "error_description": err.Error()})
		return
	}
	json.NewEncoder(w).Encode(map[string]any{
		"access_token": s.issue(s.cfg.TokenTTL, grants), "expires_in": int(s.cfg.TokenTTL.Seconds()), "token_type": "Bearer",
	})
}

// googleSays is an error in Google's own words.
type googleSays string

func (g googleSays) Error() string { return string(g) }

func (s *GCS) checkAssertion(kind, assertion string) ([]GCSGrant, error) {
	signed, sig, ok := cutLast(assertion, ".")
	head, claims, ok2 := strings.Cut(signed, ".")
	if kind != "urn:ietf:params:oauth:grant-type:jwt-bearer" || !ok || !ok2 {
		return nil, googleSays("Bad Request")
	}
	var h struct{ Alg, Typ, Kid string }
	var c struct {
		Iss, Aud, Scope string
		Iat, Exp        int64
	}
	if decodePart(head, &h) != nil || decodePart(claims, &c) != nil || h.Alg != "RS256" || h.Kid != "key1" {
		return nil, googleSays("Invalid JWT: Failed to parse.")
	}
	s.mu.Lock()
	account, known := s.accounts[c.Iss]
	s.mu.Unlock()
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	sum := sha256.Sum256([]byte(signed))
	now := time.Now().Unix()
	switch {
	case !known:
		return nil, googleSays("Invalid grant: account not found")
	case err != nil || rsa.VerifyPKCS1v15(account.key, crypto.SHA256, sum[:], raw) != nil:
		return nil, googleSays("Invalid JWT Signature.")
	case c.Aud != s.Endpoint()+"/token":
		return nil, googleSays("Invalid JWT: aud")
	case c.Iat > now+300 || c.Exp <= now || c.Exp-c.Iat > 3600:
		return nil, googleSays("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")
	case !strings.HasPrefix(c.Scope, "https://www.googleapis.com/auth/devstorage."):
		return nil, googleSays("Invalid OAuth scope or ID token audience provided.")
	}
	return account.grants, nil
}

func decodePart(part string, v any) error {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
