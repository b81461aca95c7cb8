package doctor

import (
	"context"
	"errors"

	"github.com/bootwell/bootwell/internal/bucket"
)

// nobody is a VM that is in no fleet: its name is none that a cloud gives.
const nobody = "bootwell-doctor-nobody"

// vmRights are those that an agent needs, and those that it must not have.
// Nothing is written: each try is on a condition that cannot hold.
func (p *Probe) vmRights(ctx context.Context, t Target, a *access) Findings {
	fs := Findings{p.read(ctx, t)}
	if t.Bucket.Caps().ReadOnly {
		return append(fs, ok("write report", "a web server is only read: this VM sends no reports, and writing is not probed"))
	}
	own, honest := p.ownReport(ctx, t, a)
	return append(fs, own, p.elsewhere(ctx, t, a, honest))
}

// ownReport tries to write this VM's report. honest is true when the store was
// seen to keep the condition.
func (p *Probe) ownReport(ctx context.Context, t Target, a *access) (f Finding, honest bool) {
	const check = "write report"
	if p.VM == "" || p.Report == nil {
		return unknown(check, "not_asked", "not probed before the first run of this VM has ended"), false
	}
	if why := a.cannotTry(t); why != "" {
		return unknown(check, "not_asked", "not probed: %s; the last run tells", why), false
	}
	key := "reports/" + p.VM + "/report.json"
	err := within(ctx, p, func(ctx context.Context) error {
		_, err := a.try(ctx, t, key, p.Report)
		return err
	})
	switch {
	case kept(err):
		return ok(check, "%s (tried, and nothing was written)", key), true
	case err == nil:
		return bad(check, Warning, "no_conditions", key+": the store ignored the condition of the try, and holds the same report again",
			"publish from one place at a time: compare-and-swap does not hold in this store"), false
	case errors.Is(err, bucket.ErrPermission):
		return bad(check, Problem, "denied", "may not write "+key+": "+said(err), "allow this VM to write below reports/"+p.VM+"/ and logs/"+p.VM+"/: bootwell policy prints the rights"), false
	}
	return failed(check, err), false
}

// elsewhere tries what a VM must not do: write what is signed, or the report of
// another. The other's report would be a new object where a store ignores
// conditions, so that is tried only in one that was honest.
func (p *Probe) elsewhere(ctx context.Context, t Target, a *access, honest bool) Finding {
	const check = "write others"
	if why := a.cannotTry(t); why != "" {
		return unknown(check, "not_asked", "not probed: %s", why)
	}
	places := []struct{ what, key, body string }{{"tuf/", rootKey, string(a.root)}}
	if honest {
		places = append(places, struct{ what, key, body string }{"the reports of other VMs", "reports/" + nobody + "/report.json", "{}"})
	}
	return within(ctx, p, func(ctx context.Context) Finding {
		var may, not []string
		for _, at := range places {
			switch can, err := a.try(ctx, t, at.key, []byte(at.body)); {
			case can:
				may = append(may, at.what)
			case errors.Is(err, bucket.ErrPermission):
				not = append(not, at.what)
			default:
				return failed(check, err)
			}
		}
		if len(may) > 0 {
			return bad(check, Warning, "too_many_rights", "this VM may also write "+join(may)+": who breaks into one VM can hide what others say, or stop all updates (signatures keep it from changing what they run)",
				"give VMs only the rights that bootwell policy prints: read releases, write below reports/<themselves>/ and logs/<themselves>/")
		}
		text := "refused for " + join(not) + ", as it should be"
		if !honest {
			text += "; the reports of other VMs are not probed"
		}
		return ok(check, "%s", text)
	})
}
