package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// A statement of the IAM policy language.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
type statement struct {
	Sid       string
	Effect    string
	Action    []string
	Resource  []string
	Condition map[string]map[string][]string `json:",omitempty"`
}

// aws writes an identity policy for a role. The session of an instance's role
// is named by its instance ID, and aws:userid is "role ID:instance ID": that is
// the folder a VM may write to when its role is shared.
func aws(t target, gs []grant) Policy {
	p := identityPolicy(t, gs, "${aws:userid}")
	name := t.Name + "-" + string(t.For)
	p.Apply = []string{fmt.Sprintf("aws iam create-policy --policy-name %s --policy-document file://FILE", name)}
	switch t.For {
	case VM:
		p.Apply = append(p.Apply,
			fmt.Sprintf("aws iam attach-role-policy --role-name ROLE --policy-arn arn:%s:iam::ACCOUNT:policy/%s", t.partition(), name),
			"aws ec2 run-instances … --iam-instance-profile Name=PROFILE --metadata-options HttpTokens=required")
		if t.VM == "" {
			p.Notes = append(p.Notes, "Each VM of the role writes below a folder named by aws:userid (role ID:instance ID), which AWS sets; the agent finds its own by asking STS once.")
		}
	default:
		p.Apply = append(p.Apply, fmt.Sprintf("aws iam attach-user-policy --user-name USER --policy-arn arn:%s:iam::ACCOUNT:policy/%s", t.partition(), name))
	}
	return p
}

// s3 writes an identity policy for the users of a server that speaks S3, such
// as MinIO, Ceph or versitygw: a VM's user has the VM's name.
func s3(t target, gs []grant) Policy {
	p := identityPolicy(t, gs, "${aws:username}")
	p.Apply = []string{
		fmt.Sprintf("mc admin policy create ALIAS %s-%s FILE", t.Name, t.For),
		fmt.Sprintf("mc admin policy attach ALIAS %s-%s --user USER", t.Name, t.For),
	}
	if t.For == VM && t.VM == "" {
		p.Notes = append(p.Notes, "A VM's user is named as the VM: it writes below reports/USER/. Where VMs share one user, name the policy's folder with --vm, or let it write reports/* and know that VMs can overwrite each other's reports.")
	}
	return p
}

func identityPolicy(t target, gs []grant, self string) Policy {
	if t.VM != "" {
		self = t.VM
	}
	doc := struct {
		Version   string
		Statement []statement
	}{Version: "2012-10-17"}
	arn := "arn:" + t.partition() + ":s3:::" + t.bucket
	for _, v := range []struct {
		verb   verb
		sid    string
		action string
	}{{read, "Read", "s3:GetObject"}, {write, "Write", "s3:PutObject"}, {remove, "Delete", "s3:DeleteObject"}} {
		var at []string
		for _, g := range gs {
			if g.verb != v.verb {
				continue
			}
			p := g.prefix
			if g.own {
				p += self + "/"
			}
			at = append(at, arn+"/"+t.at(p)+"*")
		}
		if at != nil {
			doc.Statement = append(doc.Statement, statement{Sid: v.sid, Effect: "Allow", Action: []string{v.action}, Resource: at})
		}
	}
	if ps := prefixes(gs, list); ps != nil {
		for i := range ps {
			ps[i] = t.at(ps[i]) + "*"
		}
		doc.Statement = append(doc.Statement, statement{Sid: "List", Effect: "Allow", Action: []string{"s3:ListBucket"}, Resource: []string{arn},
			Condition: map[string]map[string][]string{"StringLike": {"s3:prefix": ps}}})
	}
	return Policy{Form: "json", Text: indented(doc)}
}

// partition is the part of AWS that the bucket's region is in: names of things
// in one mean nothing in another.
func (t target) partition() string {
	switch region := t.query.Get("region"); {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

// indented is doc as JSON without the escapes that are for HTML.
func indented(doc any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return "" // structs of strings always encode
	}
	return strings.TrimSuffix(b.String(), "\n") + "\n"
}
