package doctor

import (
	"bytes"
	"context"
	"errors"

	"github.com/bootwell/bootwell/internal/bucket"
)

// nobody is a VM that is in no fleet: its name is none that a cloud gives.
const nobody = "bootwell-doctor-nobody"

// vmRights are those that an agent needs, and those that it must not have.
// Nothing is written: each try is on a condition that cannot hold.
func (p *Probe) vmRights(ctx context.Context, t Target) Findings {
	fs := Findings{p.read(ctx, t)}
	if t.Bucket.Caps().ReadOnly {
		return append(fs, ok("write report", "a web server is only read: this VM sends no reports, and writing is not probed"))
	}
	own, honest := p.ownReport(ctx, t)
	return append(fs, own, p.elsewhere(ctx, t, honest))
}

// ownReport tries to write this VM's report. honest is true when the store was
// seen to keep the condition.
func (p *Probe) ownReport(ctx context.Context, t Target) (f Finding, honest bool) {
	const check = "write report"
	if p.VM == "" || p.Report == nil {
		return unknown(check, "not_asked", "not probed before the first run of this VM has ended"), false
	}
	if !t.Bucket.Caps().IfMatch {
		return unknown(check, "not_asked", "not probed: this kind of bucket has no conditional writes, so trying would be writing; the last run tells"), false
	}
	key := "reports/" + p.VM + "/report.json"
	err := within(ctx, p, func(ctx context.Context) error { return tryPut(ctx, t.Bucket, key, p.Report) })
	switch {
	case errors.Is(err, bucket.ErrPrecondition), errors.Is(err, bucket.ErrNotExist):
		return ok(check, "%s (tried with a condition that cannot hold)", key), true
	case err == nil:
		return bad(check, Warning, "no_conditions", key+": the store ignored the condition of the try, and holds the same report again",
			"publish from one place at a time: compare-and-swap does not hold in this store"), false
	case errors.Is(err, bucket.ErrPermission):
		return bad(check, Problem, "denied", "may not write "+key+": "+said(err), "allow this VM to write below reports/"+p.VM+"/ and logs/"+p.VM+"/: bootwell policy prints the rights"), false
	}
	return failed(check, err), false
}

// elsewhere tries what a VM must not do: write what is signed, or the report of
// another.
func (p *Probe) elsewhere(ctx context.Context, t Target, honest bool) Finding {
	const check = "write others"
	return within(ctx, p, func(ctx context.Context) Finding {
		var may []string
		asked := 0
		can, why, err := mayOverwrite(ctx, t.Bucket, rootKey, nil)
		if can {
			may = append(may, "tuf/")
		}
		if can || err != nil {
			asked++
		}
		// The other's report would be a new object where a store ignores
		// conditions.
		if honest {
			switch err := tryPut(ctx, t.Bucket, "reports/"+nobody+"/report.json", []byte("{}")); {
			case errors.Is(err, bucket.ErrPrecondition), errors.Is(err, bucket.ErrNotExist), err == nil:
				may, asked = append(may, "the reports of other VMs"), asked+1
			case errors.Is(err, bucket.ErrPermission):
				asked++
			}
		}
		switch {
		case len(may) > 0:
			return bad(check, Warning, "too_many_rights", "this VM may also write "+join(may)+": who breaks into one VM can hide what others say, or stop all updates (signatures keep it from changing what they run)",
				"give VMs only the rights that bootwell policy prints: read releases, write below reports/<themselves>/ and logs/<themselves>/")
		case asked == 2:
			return ok(check, "refused for tuf/ and the reports of other VMs, as it should be")
		case asked == 1 && err != nil:
			return ok(check, "refused for tuf/, as it should be; the reports of other VMs are not probed")
		case asked == 1:
			return ok(check, "refused for the reports of other VMs, as it should be; tuf/ is not probed")
		}
		return unknown(check, "not_asked", "not probed: %s", why)
	})
}

// tryPut puts on a condition that cannot hold.
func tryPut(ctx context.Context, b bucket.Bucket, key string, body []byte) error {
	_, err := b.Put(ctx, key, bytes.NewReader(body), bucket.Condition{IfMatch: never})
	return err
}
