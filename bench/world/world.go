// Package world is what the benchmarks run in: a real S3 server on the
// loopback address, a git server and a file server, each behind a Proxy that
// stands for the line between a VM and its bucket.
package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bootwell/bootwell/internal/await"
)

// Keys of the server's root user, and its region.
const (
	Key    = "benchkey"
	Secret = "benchsecretbenchsecret"
	Region = "us-east-1"
)

// ErrNoServer says that versitygw is not installed.
var ErrNoServer = errors.New("no versitygw here (go install github.com/versity/versitygw/cmd/versitygw@v1.8.0, or BOOTWELL_VERSITYGW)")

// Options of a World. The zero value is a server without buckets and without delay.
type Options struct {
	RTT     time.Duration // of connections through the proxy
	Buckets []string      // made at once
	Dir     string        // holds everything; "": a temporary folder, removed by Close
}

// A World is one S3 server, versitygw with enforced signatures, and the Proxy
// in front of it.
type World struct {
	Proxy *Proxy // what clients talk to, and its counts

	ctx   context.Context
	end   context.CancelFunc
	dir   string
	made  bool // dir is ours
	addr  string
	ended chan error

	proxies []*Proxy       // of Serve
	more    []func() error // what Close also ends
}

// Start starts the server and its proxy. They end with Close or with ctx.
func Start(ctx context.Context, o Options) (*World, error) {
	binary := Binary("versitygw", "BOOTWELL_VERSITYGW")
	if binary == "" {
		return nil, ErrNoServer
	}
	w := &World{dir: o.Dir}
	w.ctx, w.end = context.WithCancel(ctx)
	if err := w.start(binary, o); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *World) start(binary string, o Options) error {
	if w.dir == "" {
		dir, err := os.MkdirTemp("", "bootwell-bench-")
		if err != nil {
			return err
		}
		w.dir, w.made = dir, true
	}
	for _, d := range append([]string{"iam", "data"}, prefixed("data/", o.Buckets)...) {
		if err := os.MkdirAll(filepath.Join(w.dir, d), 0o755); err != nil {
			return err
		}
	}
	// A port found free can be taken before the server has it.
	var err error
	for range 3 {
		if err = w.serve(binary); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	w.Proxy, err = NewProxy(w.ctx, w.addr, o.RTT)
	return err
}

func prefixed(prefix string, names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = prefix + n
	}
	return out
}

func (w *World) serve(binary string) error {
	addr, err := await.Address("127.0.0.1")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(w.ctx, binary, "--quiet", "--keep-alive", "--health", "/healthz", "--port", addr,
		"--access", Key, "--secret", Secret, "--region", Region, "--iam-dir", filepath.Join(w.dir, "iam"),
		"posix", filepath.Join(w.dir, "data"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "AWS_EC2_METADATA_DISABLED=true"}
	// Ctrl-C is for the benchmark, which then ends the server; where it is killed
	// the server must not outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start versitygw: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := await.Server(w.ctx, "versitygw", ended, await.Answer(client, "http://"+addr+"/healthz", http.StatusOK)); err != nil {
		cmd.Process.Kill()
		<-ended
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	w.addr, w.ended = addr, ended
	return nil
}

// Endpoint returns the URL of the server behind the proxy.
func (w *World) Endpoint() string { return w.Proxy.URL() }

// Direct returns the server's own URL: neither delayed nor counted.
func (w *World) Direct() string { return "http://" + w.addr }

// URL returns the s3: URL, for bootwell, of a prefix in a bucket behind the proxy.
func (w *World) URL(bucket, prefix string) string { return s3URL(w.Endpoint(), bucket, prefix) }

// DirectURL is URL past the proxy.
func (w *World) DirectURL(bucket, prefix string) string { return s3URL(w.Direct(), bucket, prefix) }

func s3URL(endpoint, bucket, prefix string) string {
	return "s3://" + strings.TrimSuffix(bucket+"/"+prefix, "/") + "?endpoint=" + url.QueryEscape(endpoint) + "&region=" + Region
}

// Env returns the variables with which S3 clients find their keys, and no
// metadata service.
func (w *World) Env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + Key, "AWS_SECRET_ACCESS_KEY=" + Secret, "AWS_REGION=" + Region,
		"AWS_DEFAULT_REGION=" + Region, "AWS_EC2_METADATA_DISABLED=true"}
}

// DataDir returns the folder with one folder for each bucket; the object a/b of
// the bucket x is the file x/a/b, with attributes that the server keeps.
func (w *World) DataDir() string { return filepath.Join(w.dir, "data") }

// Dir returns the folder of everything, for more to be put beside it.
func (w *World) Dir() string { return w.dir }

// MakeBucket makes a bucket.
func (w *World) MakeBucket(name string) error {
	return os.MkdirAll(filepath.Join(w.DataDir(), name), 0o755)
}

// Close ends the servers, by their pid, and removes the temporary folder.
func (w *World) Close() error {
	var errs []error
	for _, end := range slices.Backward(w.more) {
		errs = append(errs, end())
	}
	if w.Proxy != nil {
		errs = append(errs, w.Proxy.Close())
	}
	w.end()
	if w.ended != nil {
		<-w.ended
	}
	if w.made {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// Binary finds a program: the path in the variable env, the newest NAME or
// NAME-VERSION where contrib/ci puts what it builds, or PATH. "": it is not here.
func Binary(name, env string) string {
	if p := os.Getenv(env); env != "" && p != "" {
		return p
	}
	found, _ := filepath.Glob(filepath.Join(Cache(), "bin", name+"-v*"))
	found = append(found, filepath.Join(Cache(), "bin", name))
	for _, p := range slices.Backward(slices.Sorted(slices.Values(found))) {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p
		}
	}
	p, _ := exec.LookPath(name)
	return p
}

// Cache returns the folder where contrib/ci keeps what it builds.
func Cache() string {
	if dir := os.Getenv("BOOTWELL_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "bootwell-test")
}
