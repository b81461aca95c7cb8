package buckettest

import (
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootwell/bootwell/internal/needs"
)

// What every [Swift] server has.
const (
	SwiftProject  = "fleet"   // the project with the storage
	SwiftUser     = "op"      // may do all in the project
	SwiftPassword = "oppass"  // of SwiftUser
	SwiftRegion   = "R1"      // in the catalog
	swiftService  = "swift"   // user with whom Swift asks Keystone
	swiftSecret   = "swiftpw" // its password
	adminSecret   = "adminpw"
)

// SwiftTokenCache is how long Swift goes on to accept a token that has ended,
// unless SwiftConfig says otherwise.
const SwiftTokenCache = 2 * time.Second

// SwiftConfig says how to start OpenStack. The zero value is on free ports of
// a loopback address, with data in a temporary folder.
type SwiftConfig struct {
	Listen   string        // host:port of Swift; "": on a loopback address
	Keystone string        // host:port of Keystone; "": on a loopback address
	Dir      string        // data; "": a temporary folder. Its file system has extended attributes
	TokenTTL time.Duration // life of Keystone's tokens; 0: an hour

	// TokenCache is how long Swift believes a token before it asks Keystone
	// again, which answers one question after the other; 0: SwiftTokenCache.
	// OpenStack's own default is five minutes.
	TokenCache time.Duration

	Hook   func(*exec.Cmd) // changes each command before it starts, for example to enter a network namespace; may be nil
	Client *http.Client    // reaches both; nil: a plain one
}

// Swift is OpenStack Swift with Keystone, as Debian has them: one replica, no
// service manager, nothing outside of its folder. It enforces roles and the
// access rules of application credentials. It ends with the test.
type Swift struct {
	Addr     string // host:port of Swift
	Keystone string // host:port of Keystone

	cfg     SwiftConfig
	t       testing.TB
	ended   chan string // names of processes that ended by themselves
	host    string      // loopback address of the servers behind the proxy
	cache   string      // host:port of memcached
	user    string      // id of SwiftUser
	project string      // id of SwiftProject
	mu      sync.Mutex
	tokens  map[string]string // by user name
}

//go:embed swift_servers.py
var swiftScript []byte

// swiftPrograms are those of Debian's packages that are started.
var swiftPrograms = []string{"swift-account-server", "swift-container-server", "swift-object-server", "swift-proxy-server"}

// debianPython is the one that sees Debian's packages.
const debianPython = "/usr/bin/python3"

// StartSwift starts Swift and Keystone, in about ten seconds, or skips the
// test where they or the right to mount are missing.
func StartSwift(t testing.TB, cfg SwiftConfig) *Swift {
	t.Helper()
	needs.Root(t)
	needs.Tool(t, "unshare")
	for _, p := range swiftPrograms {
		if _, err := exec.LookPath(p); err != nil {
			needs.Skip(t, "swift", "install Debian's packages swift-proxy, swift-account, swift-container and swift-object")
		}
	}
	if _, err := exec.LookPath("keystone-manage"); err != nil {
		needs.Skip(t, "keystone", "install Debian's package keystone")
	}
	memcached := needs.Tool(t, "memcached")
	s := &Swift{t: t, cfg: cfg, Addr: cfg.Listen, Keystone: cfg.Keystone, ended: make(chan string, 8), tokens: map[string]string{}}
	s.host = ownLoopback()
	s.cache = freeAddressOn(t, s.host)
	if s.cfg.Dir == "" {
		s.cfg.Dir = t.TempDir()
	}
	if s.cfg.Client == nil {
		s.cfg.Client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	}
	if s.Addr == "" {
		s.Addr = freeAddressOn(t, s.host)
	}
	if s.Keystone == "" {
		s.Keystone = freeAddressOn(t, s.host)
	}
	s.checkAttributes()
	ports := s.configure()
	s.start("keystone", debianPython, s.path("swift_servers.py"), "keystone", s.path("keystone.conf"), s.Keystone, adminSecret)
	host, port, _ := net.SplitHostPort(s.cache)
	s.start("memcached", memcached, "-u", "root", "-m", "32", "-l", host, "-p", port)
	s.run("rings", debianPython, append([]string{s.path("swift_servers.py"), "rings", s.path("etc"), s.host}, ports...)...)
	for _, p := range swiftPrograms {
		// Swift reads /etc/swift/swift.conf and no other: it gets a view of
		// the file system where that is ours.
		s.start(p, "unshare", "-m", "sh", "-c", `mount --bind "$1" /etc/swift && exec "$2" "$3"`, "sh",
			s.path("etc"), p, s.path("etc", strings.TrimPrefix(p, "swift-")+".conf"))
	}
	s.ready("http://" + s.Keystone + "/v3")
	s.populate()
	s.ready("http://" + s.Addr + "/healthcheck")
	s.storing()
	return s
}

// ownLoopback returns a loopback address that no other server has: Swift's
// servers share a port that is taken, without a word.
func ownLoopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 16+rand.IntN(200), rand.IntN(256), 1+rand.IntN(250))
}

func (s *Swift) path(names ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, names...)...)
}

// checkAttributes skips where Swift cannot keep an object's metadata.
func (s *Swift) checkAttributes() {
	s.t.Helper()
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	err := unix.Setxattr(s.cfg.Dir, "user.bootwell", []byte("x"), 0)
	if errors.Is(err, unix.ENOTSUP) {
		needs.Skip(s.t, "swift", "the file system of "+s.cfg.Dir+" has no extended attributes")
	} else if err != nil {
		s.t.Fatal(err)
	}
}

// configure writes all configuration and returns the ports of Swift's
// servers for accounts, containers and objects.
func (s *Swift) configure() []string {
	s.t.Helper()
	for _, dir := range []string{"etc", "node/d1", "log", "cache", "fernet", "credential"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	s.write("swift_servers.py", string(swiftScript))
	s.write("keystone.conf", s.keystoneConf())
	s.write("etc/swift.conf", "[swift-hash]\nswift_hash_path_suffix = suffix\nswift_hash_path_prefix = prefix\n[storage-policy:0]\nname = one\ndefault = yes\n")
	s.write("etc/proxy-server.conf", s.proxyConf())
	var ports []string
	for _, name := range []string{"account", "container", "object"} {
		_, port, err := net.SplitHostPort(freeAddressOn(s.t, s.host))
		if err != nil {
			s.t.Fatal(err)
		}
		ports = append(ports, port)
		s.write("etc/"+name+"-server.conf", s.backendConf(name, port))
	}
	return ports
}

func (s *Swift) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// keystoneConf keeps passwords cheap to check.
func (s *Swift) keystoneConf() string {
	ttl := s.cfg.TokenTTL
	if ttl == 0 {
		ttl = time.Hour
	}
	return fmt.Sprintf(`[DEFAULT]
log_file = %[1]s/log/keystone.txt
[database]
connection = sqlite:///%[1]s/keystone.db?timeout=30
[token]
provider = fernet
expiration = %[2]d
[fernet_tokens]
key_repository = %[1]s/fernet
[fernet_receipts]
key_repository = %[1]s/fernet
[credential]
key_repository = %[1]s/credential
[cache]
enabled = false
[identity]
password_hash_rounds = 4
[oslo_policy]
enforce_scope = false
`, s.cfg.Dir, int(ttl.Seconds()))
}

func (s *Swift) backendConf(name, port string) string {
	// An update of a listing that is put off would wait for a daemon that is
	// not there.
	return fmt.Sprintf(`[DEFAULT]
bind_ip = %[4]s
bind_port = %[1]s
user = root
workers = 0
swift_dir = %[2]s/etc
devices = %[2]s/node
mount_check = false
log_level = ERROR
fallocate_reserve = 0
container_update_timeout = 60
[pipeline:main]
pipeline = %[3]s-server
[app:%[3]s-server]
use = egg:swift#%[3]s
recon_cache_path = %[2]s/cache
`, port, s.cfg.Dir, name, s.host)
}

func (s *Swift) proxyConf() string {
	cache := s.cfg.TokenCache
	if cache == 0 {
		cache = SwiftTokenCache
	}
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf(`[DEFAULT]
bind_ip = %s
bind_port = %s
user = root
workers = 0
swift_dir = %s/etc
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats tempurl authtoken keystoneauth copy slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 60
recoverable_node_timeout = 60
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = %[7]s
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:tempurl]
use = egg:swift#tempurl
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = http://%[4]s
auth_url = http://%[4]s/v3
auth_type = password
project_domain_id = default
user_domain_id = default
project_name = service
username = %[5]s
password = %[6]s
delay_auth_decision = True
include_service_catalog = True
service_type = object-store
service_token_roles_required = False
token_cache_time = %[8]d
cache = swift.cache
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, swiftoperator
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
`, host, port, s.cfg.Dir, s.Keystone, swiftService, swiftSecret, s.cache, int(cache.Seconds()))
}

// command has none of the caller's OS_… variables.
func (s *Swift) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "LANG=C.UTF-8", "PYTHONWARNINGS=ignore"}
	if s.cfg.Hook != nil {
		s.cfg.Hook(cmd)
	}
	return cmd
}

func (s *Swift) run(what, name string, args ...string) {
	s.t.Helper()
	if out, err := s.command(name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", what, err, out)
	}
}

// start starts one of the processes, which ends with the test.
func (s *Swift) start(what, name string, args ...string) {
	s.t.Helper()
	out, err := os.Create(s.path("log", what+".log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	cmd := s.command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", what, err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
		s.ended <- what
	}()
	s.t.Cleanup(func() {
		s.cfg.Client.CloseIdleConnections()
		cmd.Process.Kill()
		<-done
	})
}

// ready waits until url is answered.
func (s *Swift) ready(url string) {
	s.t.Helper()
	s.await(url, func() bool {
		resp, err := s.cfg.Client.Get(url)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// storing waits until each of the servers behind the proxy takes part.
func (s *Swift) storing() {
	s.t.Helper()
	token := s.token(SwiftUser, SwiftPassword, SwiftProject)
	container := s.StorageURL() + "/ready"
	for _, r := range [][2]string{
		{http.MethodPut, container}, {http.MethodPut, container + "/object"},
		{http.MethodDelete, container + "/object"}, {http.MethodDelete, container},
	} {
		s.await(r[1], func() bool {
			req, err := http.NewRequest(r[0], r[1], nil)
			if err != nil {
				return false
			}
			req.Header.Set("X-Auth-Token", token)
			resp, err := s.cfg.Client.Do(req)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode/100 == 2 || r[0] == http.MethodDelete && resp.StatusCode == http.StatusNotFound
		})
	}
}

// await calls done until it is true.
func (s *Swift) await(what string, done func() bool) {
	s.t.Helper()
	limit := time.After(2 * time.Minute)
	for !done() {
		select {
		case ended := <-s.ended:
			text, _ := os.ReadFile(s.path("log", ended+".log"))
			s.t.Fatalf("%s ended:\n%s", ended, text)
		case <-limit:
			s.t.Fatalf("%s did not answer in two minutes", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
