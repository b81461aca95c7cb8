package policy

import (
	"fmt"
	"strings"
)

// gcp writes custom roles and their bindings with conditions on the objects'
// names, as commands of the gcloud tool. To overwrite an object takes the right
// to delete it, so writing is both; listing is a right in the bucket, which a
// condition on names cannot confine.
// https://cloud.google.com/storage/docs/access-control/iam-permissions
func gcp(t target, gs []grant) Policy {
	var b strings.Builder
	fmt.Fprintf(&b, `# Least rights of a bootwell %s in gs://%s.
# PROJECT is that of the bucket; MEMBER gets them, such as serviceAccount:web@PROJECT.iam.gserviceaccount.com
`, t.For, t.bucket)
	base := roleID(t.Name) + "_" + string(t.For)
	bind := func(verb, permissions, condition string) {
		role := base + "_" + verb
		fmt.Fprintf(&b, "gcloud iam roles create %s --project=\"${PROJECT:?}\" --permissions=%s\n", role, permissions)
		fmt.Fprintf(&b, "gcloud storage buckets add-iam-policy-binding gs://%s --member=\"${MEMBER:?}\" --role=\"projects/$PROJECT/roles/%s\"", t.bucket, role)
		if condition != "" {
			fmt.Fprintf(&b, " \\\n  --condition='^;^title=%s;expression=%s'\n", role, condition)
			return
		}
		b.WriteString(" --condition=None\n")
	}
	bind("read", "storage.objects.get", t.below(gs, read))
	if c := t.below(gs, write); c != "" {
		bind("write", "storage.objects.create,storage.objects.delete", c)
	}
	if t.For == Collector {
		bind("delete", "storage.objects.delete", t.below(gs, remove))
	}
	if prefixes(gs, list) != nil {
		bind("list", "storage.objects.list", "")
	}
	p := Policy{Form: "sh", Text: b.String(), Apply: []string{"PROJECT=… MEMBER=… sh FILE"}}
	if t.For == VM && t.VM == "" {
		p.Notes = append(p.Notes, "Conditions cannot name the VM that asks, so VMs that share a service account can overwrite each other's reports and logs. One service account a VM, and --vm NAME (its instance ID), confines each.")
	}
	if t.For == Publisher {
		p.Notes = append(p.Notes, "Google Cloud takes overwriting for deleting, so a publisher's identity could delete releases: keep the bucket's versions or soft delete on.")
	}
	return p
}

// below is a condition in CEL: the object is below one of the prefixes.
func (t target) below(gs []grant, v verb) string {
	var is []string
	for _, p := range t.paths(gs, v) {
		is = append(is, fmt.Sprintf(`resource.name.startsWith("projects/_/buckets/%s/objects/%s")`, t.bucket, strings.TrimSuffix(p, "*")))
	}
	return strings.Join(is, " || ")
}

// roleID is name as the ID of a custom role: letters, digits, _ and dots.
func roleID(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '_'
	}, name)
}
