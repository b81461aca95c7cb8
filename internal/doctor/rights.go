package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// readerRights are those that status, logs and releases need.
func (p *Probe) readerRights(ctx context.Context, t Target) Findings {
	fs := Findings{p.read(ctx, t), p.list(ctx, t, "reports/", Problem, "status needs")}
	return slices.DeleteFunc(fs, func(f Finding) bool { return f.Check == "" })
}

// publisherRights are those that publish and status need, and whether the
// bucket keeps its promises.
func (p *Probe) publisherRights(ctx context.Context, t Target, a *access) Findings {
	fs := Findings{p.read(ctx, t)}
	if t.Bucket.Caps().ReadOnly {
		return append(fs, bad("write", Problem, "read_only", "a web server is only read: listing, writing and deleting are not probed",
			"name the bucket's own address in bucket: (s3://…, az://…, gs://…, swift://…, file://…); give VMs this one with bootwell user-data --bucket"))
	}
	lists := make(chan Findings, 1)
	go func() {
		lists <- Findings{p.list(ctx, t, "packs/", Problem, "publish needs"), p.list(ctx, t, "reports/", Warning, "status needs")}
	}()
	own := p.ownObjects(ctx, t)
	fs = append(fs, <-lists...)
	fs = append(fs, own...)
	if fs.Has("no_conditions") {
		return append(fs, unknown("write tuf/", "not_asked", "not probed: a condition that cannot hold is what protects the try"))
	}
	return append(fs, p.signedPart(ctx, t, a))
}

func (p *Probe) read(ctx context.Context, t Target) Finding {
	return within(ctx, p, func(ctx context.Context) Finding {
		began := time.Now()
		r, _, err := t.Bucket.Get(ctx, timestampKey, bucket.GetOptions{})
		if err == nil {
			r.Close()
		}
		switch {
		case err == nil, errors.Is(err, bucket.ErrNotExist):
			return ok("read", "tuf/, in %d ms", time.Since(began).Milliseconds())
		case errors.Is(err, bucket.ErrPermission) && t.Anchor.IsZero():
			return bad("read", Warning, "denied", "may not read tuf/, or there is nothing yet: "+said(err),
				"run bootwell init; if it fails: "+p.needs(t, reading, "tuf/"))
		case errors.Is(err, bucket.ErrPermission):
			return p.denied(t, "read", Problem, "read tuf/", reading, "tuf/", err)
		}
		return failed("read", err)
	})
}

// list asks for one name below prefix.
func (p *Probe) list(ctx context.Context, t Target, prefix string, bad Status, need string) Finding {
	check := "list " + prefix
	if t.Bucket.Caps().NoList {
		return Finding{}
	}
	return within(ctx, p, func(ctx context.Context) Finding {
		var err error
		for _, err = range t.Bucket.List(ctx, prefix, "") {
			break
		}
		switch {
		case err == nil:
			return ok(check, "allowed")
		case errors.Is(err, bucket.ErrPermission):
			return p.denied(t, check, bad, "list "+prefix+", which "+need, listing, prefix, err)
		}
		return failed(check, err)
	})
}

// failed is a check that could not be made.
func failed(check string, err error) Finding {
	if errors.Is(err, context.Canceled) {
		return unknown(check, "interrupted", "not looked at to the end")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return unknown(check, "timeout", "no answer in time")
	}
	return unknown(check, "failed", "%s", said(err))
}

// ownObjects writes objects of its own below locks/ and takes them away again.
// Without the right to take them away it writes none.
func (p *Probe) ownObjects(ctx context.Context, t Target) Findings {
	o := &own{Probe: p, t: t, b: t.Bucket, key: "locks/doctor-" + rand.Text()}
	del := within(ctx, p, o.delete)
	if del.Status != OK {
		why := "not probed: what is written below locks/ could not be removed again"
		return Findings{unknown("write", "not_asked", "%s", why), del, unknown("conditions", "not_asked", "%s", why)}
	}
	defer o.clear(ctx)
	write := within(ctx, p, o.write)
	if write.Status != OK {
		return Findings{write, del, unknown("conditions", "not_asked", "not probed: nothing can be written")}
	}
	conditions := within(ctx, p, o.conditions)
	if left := o.clear(ctx); left != nil {
		del = bad("delete", Problem, "failed", "what this check wrote is still there: "+said(left), "delete "+o.key+"* in the bucket by hand")
	}
	return Findings{write, del, conditions}
}

// own is the objects of one look.
type own struct {
	*Probe
	t       Target
	b       bucket.Bucket
	key     string // and those that begin so
	etag    string // of the object key
	clean   sync.Once
	left    error
	written []string
}

func (o *own) put(ctx context.Context, key, text string, c bucket.Condition) (bucket.Object, error) {
	return o.b.Put(ctx, key, bytes.NewReader([]byte(text)), c)
}

// delete tries the right with a name that is not there.
func (o *own) delete(ctx context.Context) Finding {
	err := o.b.Delete(ctx, o.key)
	switch {
	case err == nil:
		return ok("delete", "locks/")
	case errors.Is(err, bucket.ErrPermission):
		return o.denied(o.t, "delete", Problem, "delete below locks/", deleting, "locks/", err)
	}
	return failed("delete", err)
}

func (o *own) write(ctx context.Context) Finding {
	o.written = []string{o.key, o.key + "-race"}
	began := time.Now()
	obj, err := o.put(ctx, o.key, "bootwell doctor\n", bucket.Condition{})
	took := time.Since(began)
	switch {
	case err == nil:
	case errors.Is(err, bucket.ErrPermission):
		return o.denied(o.t, "write", Problem, "write below locks/", writing, "locks/", err)
	default:
		return failed("write", err)
	}
	o.etag = obj.ETag
	if _, _, err := bucket.ReadAll(ctx, o.b, o.key, bucket.GetOptions{}, 1<<10); err != nil {
		if errors.Is(err, bucket.ErrPermission) {
			return o.denied(o.t, "write", Problem, "read what it wrote below locks/", reading, "locks/", err)
		}
		return bad("write", Problem, "not_read_back", "what was written cannot be read back: "+said(err), "the bucket must show a write at once to who reads it next")
	}
	return ok("write", "locks/, in %d ms", took.Milliseconds())
}

// clear removes what was written, also when ctx is done.
func (o *own) clear(ctx context.Context) error {
	o.clean.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.deadline())
		defer cancel()
		for _, key := range o.written {
			o.left = errors.Join(o.left, o.b.Delete(ctx, key))
		}
	})
	return o.left
}

// signedPart tries to write below tuf/ with a condition that cannot hold, and
// the bytes that are there anyway.
func (p *Probe) signedPart(ctx context.Context, t Target, a *access) Finding {
	const check = "write tuf/"
	if why := a.cannotTry(t); why != "" {
		return unknown(check, "not_asked", "not probed: %s", why)
	}
	return within(ctx, p, func(ctx context.Context) Finding {
		switch may, err := a.try(ctx, t, rootKey, a.root); {
		case may:
			return ok(check, "allowed (tried, and nothing was written)")
		case errors.Is(err, bucket.ErrPermission):
			return p.denied(t, check, Problem, "write below tuf/", writing, "tuf/", err)
		default:
			return failed(check, err)
		}
	})
}

// cannotTry says why try can not be used; "": it can.
func (a *access) cannotTry(t Target) string {
	switch {
	case !t.Bucket.Caps().IfMatch:
		return "this kind of bucket has no conditional writes, so trying would be writing"
	case a.root == nil:
		return "there is no " + rootKey + " to try it with"
	case another(a.etag) == "":
		return "the bucket gives objects no ETags"
	}
	return ""
}

// try asks whether this identity may write key, without changing it: it puts
// the bytes that the object has on the condition of an ETag that it has not. A
// server checks rights before conditions. Even one that ignores the condition
// leaves the object as it is.
func (a *access) try(ctx context.Context, t Target, key string, body []byte) (may bool, err error) {
	_, err = t.Bucket.Put(ctx, key, bytes.NewReader(body), bucket.Condition{IfMatch: another(a.etag)})
	return err == nil || kept(err), err
}

// kept reports whether a write was refused because of its condition alone.
func kept(err error) bool {
	return errors.Is(err, bucket.ErrPrecondition) || errors.Is(err, bucket.ErrNotExist)
}

// another returns an ETag in the same form with another last digit. Some
// providers do not ask the server about one that they never gave out. "" if
// there is no digit.
func another(etag string) string {
	b := []byte(etag)
	for i := len(b) - 1; i >= 0; i-- {
		switch c := b[i]; {
		case c >= '0' && c < '9' || c >= 'a' && c < 'f' || c >= 'A' && c < 'F':
			b[i]++
		case c == '9':
			b[i] = '0'
		case c == 'f' || c == 'F':
			b[i] -= 'f' - 'a'
		default:
			continue
		}
		return string(b)
	}
	return ""
}
