// Package metadata is the metadata service of a cloud, as one VM sees it at
// 169.254.169.254: an http.Handler for tests that must not reach a real one.
// It knows the forms of EC2 (IMDSv2 only), OpenStack, Azure and Google Compute
// Engine, and the disks that OpenStack and Azure give a VM beside it. What an
// identity gets is the caller's to say, so that it is what a store accepts.
package metadata

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Machine is what the service says of its VM.
type Machine struct {
	ID        string // "i-0123456789abcdef0"; on OpenStack and Azure a UUID, on GCE digits
	Region    string // "eu-west-1"
	Zone      string // "eu-west-1a"
	Hostname  string
	MAC       string // of the first interface, lower case with colons
	IP        string // private address
	Type      string // "t3.micro"
	Account   string // account, project or subscription
	Role      string // name of the instance role; "" is a VM without one
	Tags      map[string]string
	PublicKey string // an authorized_keys line, or ""
}

// Credentials are what the instance role gives.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	Expires         time.Time
}

// Request is one request that the service got.
type Request struct {
	At        time.Time
	Method    string
	Path      string
	UserAgent string
	Status    int // what was answered
}

// maxRequests bounds what Requests keeps.
const maxRequests = 100_000

// Service is one VM's metadata service. It is safe for concurrent use.
type Service struct {
	machine Machine
	cloud   http.Handler
	now     func() time.Time

	mu         sync.Mutex
	userData   []byte
	vendorData [2][]byte // OpenStack: static and dynamic
	role       func(now time.Time) Credentials
	identities []Identity
	bearer     TokenFunc
	health     []Health
	tokens     map[string]time.Time // IMDSv2 token to its end
	requests   []Request
	down       bool
}

func newService(m Machine) *Service {
	return &Service{machine: m, now: time.Now, tokens: map[string]time.Time{}, role: func(time.Time) Credentials { return Credentials{} }}
}

// SetUserData sets the user-data, byte for byte. nil is none.
func (s *Service) SetUserData(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.userData = slices.Clone(b)
}

// SetCredentials sets what the instance role gives from now on.
func (s *Service) SetCredentials(c Credentials) {
	s.SetRole(func(time.Time) Credentials { return c })
}

// SetRole sets how the instance role's credentials are made: role is called
// at each request for them, one call at a time, with the time of the request.
// It gives the same until it rotates them, as EC2 does some minutes before
// they expire.
func (s *Service) SetRole(role func(now time.Time) Credentials) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.role = role
}

// SetDown makes every answer 503 until it is set to false.
func (s *Service) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// ForgetTokens makes all session tokens so far invalid.
func (s *Service) ForgetTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = map[string]time.Time{}
}

// Requests returns the requests so far, oldest first.
func (s *Service) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Count is how many requests with this method had a path that contains part
// and were answered with this status. "" and 0 are any.
func (s *Service) Count(method, part string, status int) int {
	n := 0
	for _, r := range s.Requests() {
		if (method == "" || r.Method == method) && strings.Contains(r.Path, part) && (status == 0 || r.Status == status) {
			n++
		}
	}
	return n
}

// ServeHTTP answers as the cloud does. The request is noted before the
// client has its answer.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.serve(s.cloud, w, r)
}

func (s *Service) serve(h http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	noted := &notedWriter{ResponseWriter: w, note: func(status int) { s.note(r, status) }}
	if down {
		http.Error(noted, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	h.ServeHTTP(noted, r)
	if !noted.done {
		noted.WriteHeader(http.StatusOK)
	}
}

func (s *Service) note(r *http.Request, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) < maxRequests {
		s.requests = append(s.requests, Request{At: s.now(), Method: r.Method, Path: r.URL.Path, UserAgent: r.UserAgent(), Status: status})
	}
}

// notedWriter calls note once, with the status, before anything is sent.
type notedWriter struct {
	http.ResponseWriter
	note func(status int)
	done bool
}

func (w *notedWriter) WriteHeader(status int) {
	if !w.done {
		w.done = true
		w.note(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *notedWriter) Write(b []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// data is the user-data that is set now.
func (s *Service) data() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.userData
}

// credentials are those of the instance role, made now.
func (s *Service) credentials() Credentials {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.role(s.now())
}

// tree answers paths of a tree whose leaves are texts, and lists its
// folders as EC2 does: one name a line, folders with a slash at the end.
type tree map[string]string

func (t tree) answer(w http.ResponseWriter, path string) {
	path = strings.Trim(path, "/")
	w.Header().Set("Content-Type", "text/plain")
	if text, ok := t[path]; ok {
		_, _ = w.Write([]byte(text))
		return
	}
	if list := t.list(path); len(list) > 0 {
		_, _ = w.Write([]byte(strings.Join(list, "\n")))
		return
	}
	http.Error(w, "404 - Not Found", http.StatusNotFound)
}

func (t tree) list(dir string) []string {
	if dir != "" {
		dir += "/"
	}
	var names []string
	for path := range t {
		rest, ok := strings.CutPrefix(path, dir)
		if !ok {
			continue
		}
		name, _, folder := strings.Cut(rest, "/")
		if folder {
			name += "/"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
