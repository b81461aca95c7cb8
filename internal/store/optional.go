package store

import "strings"

// Optional reports whether a bucket with a whole project may lack the object
// called key: the next root, which is looked for in vain most of the time, a
// short cut for a manifest, and what VMs and publishers write for themselves.
func Optional(key string) bool {
	for _, prefix := range []string{"manifests/", reportPrefix, "logs/", "locks/"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	name, metadata := strings.CutPrefix(key, "tuf/metadata/")
	return metadata && strings.HasSuffix(name, ".root.json") && name != "1.root.json"
}
