package buckettest

import (
	"encoding/json"
	"path"
)

// VMPolicy is a bucket policy under which the users named vms read what a VM
// needs and write their own reports and logs, below prefix. Nothing else is
// allowed: neither to delete, nor to list, nor to read reports.
func VMPolicy(bucket, prefix string, vms ...string) string {
	const read, write = "s3:GetObject", "s3:PutObject"
	at := func(p string) string { return "arn:aws:s3:::" + path.Join(bucket, prefix) + "/" + p }
	type principal struct{ AWS []string }
	type statement struct {
		Effect, Action string
		Principal      principal
		Resource       []string
	}
	doc := struct {
		Version   string
		Statement []statement
	}{Version: "2012-10-17"}
	doc.Statement = append(doc.Statement, statement{"Allow", read, principal{vms}, []string{
		at("tuf/*"), at("packs/*"), at("manifests/*"), at("agents/*"),
	}})
	for _, vm := range vms {
		doc.Statement = append(doc.Statement, statement{"Allow", write, principal{[]string{vm}}, []string{
			at("reports/" + vm + "/*"), at("logs/" + vm + "/*"),
		}})
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return "" // a struct of strings always marshals
	}
	return string(text)
}
