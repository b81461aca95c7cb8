package doctor

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

// An Audience is whose rights a bucket is looked at with.
type Audience string

// The audiences. They are those of the policies that bootwell prints.
const (
	Publisher Audience = "publisher"
	Reader    Audience = "reader"
	VM        Audience = "vm"
)

// A Target is one bucket.
type Target struct {
	Name   string        // shown with its findings; "": it is the only one
	URL    string        // as the user wrote it
	Bucket bucket.Bucket // nil: it could not be opened
	Err    error         // why not

	Anchor release.Digest            // of the project's 1.root.json; zero: not known
	State  string                    // folder of metadata verified before, which is only read; "": none
	Agents map[string]release.Digest // pinned agents by CPU
	Other  bool                      // the project does not name it: it need not hold the project
}

// A Probe looks at buckets. Its zero value looks as a publisher does.
type Probe struct {
	For    Audience // "": Publisher
	VM     string   // this VM's folder below reports/ and logs/; "": not known yet
	Report []byte   // what reports/<VM>/report.json holds, as far as this VM knows; nil: nothing

	// Setup asks how the bucket is set up; nil: it is not asked. It is [Setup]
	// in the operator's command; the agent, which must stay small, has none.
	Setup func(context.Context, Target) Findings

	Deadline time.Duration                         // of each check; 0: 10 s
	Now      func() time.Time                      // nil: time.Now
	Proxy    func(*http.Request) (*url.URL, error) // nil: that of the environment
}

func (p *Probe) deadline() time.Duration {
	if p.Deadline <= 0 {
		return 10 * time.Second
	}
	return p.Deadline
}

func (p *Probe) now() time.Time {
	if p.Now == nil {
		return time.Now()
	}
	return p.Now()
}

// within runs f with the deadline of one check.
func within[T any](ctx context.Context, p *Probe, f func(context.Context) T) T {
	ctx, cancel := context.WithTimeout(ctx, p.deadline())
	defer cancel()
	return f(ctx)
}

// LookAll looks at the first bucket and its mirrors at once, and compares what
// they have. A VM is content with one of them: what is wrong with the others is
// a warning then.
func (p *Probe) LookAll(ctx context.Context, targets []Target) Findings {
	results := make([]Findings, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		wg.Go(func() { results[i] = p.Look(ctx, t) })
	}
	wg.Wait()
	if len(targets) > 1 {
		for i, f := range p.Lag(ctx, targets[0], targets[1:]) {
			results[i+1] = append(results[i+1], f)
		}
	}
	enough := p.For == VM && slices.ContainsFunc(results, func(fs Findings) bool { return fs.Count(Problem) == 0 })
	var all Findings
	for _, fs := range results {
		for _, f := range fs {
			if enough && f.Status == Problem {
				f.Status = Warning
			}
			all = append(all, f)
		}
	}
	return all
}

// Targets names a project's buckets: the first one, then its mirrors.
func Targets(ctx context.Context, open bucket.Opener, urls []string, as Target) []Target {
	var ts []Target
	for i, url := range urls {
		t := as
		t.URL = url
		switch {
		case len(urls) == 1:
		case i == 0:
			t.Name = "bucket " + shown(url)
		default:
			t.Name = fmt.Sprintf("mirror %d: %s", i, shown(url))
		}
		t.Bucket, t.Err = open(ctx, url)
		ts = append(ts, t)
	}
	return ts
}

// Look makes all checks of one bucket. It takes no longer than a few deadlines,
// and ends soon after ctx is done. When the bucket cannot be used at all, the
// findings say why once.
func (p *Probe) Look(ctx context.Context, t Target) Findings {
	fs := p.look(ctx, t)
	if t.Name != "" {
		for i := range fs {
			fs[i].Bucket = t.Name
		}
	}
	return fs
}

func (p *Probe) look(ctx context.Context, t Target) Findings {
	if t.Err != nil {
		return Findings{openTrouble(t)}
	}
	// No patience: what needs five tries is worth knowing.
	t.Bucket = bucket.Retry(provider(t.Bucket), bucket.RetryPolicy{Tries: 2, Pause: 200 * time.Millisecond, Wait: p.deadline()})
	way := make(chan Findings, 1)
	go func() { way <- p.endpoint(ctx, t) }()
	a := p.access(ctx, t)
	fs := append(a.settle(<-way, t), a.secrecy(t)...)
	if !a.usable {
		return append(fs, unknown("rights", "not_asked", "not asked: the bucket cannot be used"))
	}
	later := make(chan Findings, 1)
	go func() { later <- p.contents(ctx, t, a) }()
	switch {
	case p.For == VM:
		fs = append(fs, p.vmRights(ctx, t, a)...)
	case p.For == Reader:
		fs = append(fs, p.readerRights(ctx, t)...)
	default:
		fs = append(fs, p.publisherRights(ctx, t, a)...)
	}
	if p.Setup != nil {
		fs = append(fs, within(ctx, p, func(ctx context.Context) Findings { return p.Setup(ctx, t) })...)
	}
	return append(fs, <-later...)
}

// provider takes the decorators off.
func provider(b bucket.Bucket) bucket.Bucket {
	for {
		u, ok := b.(interface{ Unwrap() bucket.Bucket })
		if !ok {
			return b
		}
		b = u.Unwrap()
	}
}

// shown is a bucket's URL without what could be a secret and without options.
func shown(raw string) string {
	before, _, _ := strings.Cut(raw, "?")
	if scheme, rest, ok := strings.Cut(before, "://"); ok {
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = rest[at+1:]
		}
		return scheme + "://" + rest
	}
	return before
}

func scheme(raw string) string {
	s, _, _ := strings.Cut(raw, ":")
	return strings.ToLower(s)
}
