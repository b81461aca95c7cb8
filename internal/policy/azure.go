package policy

import (
	"fmt"
	"strings"
)

const blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"

// azure writes a custom role and its assignment with a condition on the blobs'
// paths, as commands of the az tool. Blob.List is a part of the read action and
// has a prefix instead of a path.
// https://learn.microsoft.com/azure/storage/blobs/storage-auth-abac-attributes
func azure(t target, gs []grant) Policy {
	actions := []string{blobs + "/read"}
	conditions := []string{
		when(blobs+"/read", "AND NOT SubOperationMatches{'Blob.List'}", "@Resource["+blobs+":path]", t.paths(gs, read)),
		when(blobs+"/read", "AND SubOperationMatches{'Blob.List'}", "@Request["+blobs+":prefix]", t.paths(gs, list)),
	}
	if ps := t.paths(gs, write); ps != nil {
		actions = append(actions, blobs+"/write", blobs+"/add/action")
		conditions = append(conditions,
			when(blobs+"/write", "", "@Resource["+blobs+":path]", ps),
			when(blobs+"/add/action", "", "@Resource["+blobs+":path]", ps))
	}
	if ps := t.paths(gs, remove); ps != nil {
		actions = append(actions, blobs+"/delete")
		conditions = append(conditions, when(blobs+"/delete", "", "@Resource["+blobs+":path]", ps))
	}
	name := t.Name + "-" + string(t.For)
	var b strings.Builder
	fmt.Fprintf(&b, `# Least rights of a bootwell %s in container %s of storage account %s.
# Written after the description of Azure by Microsoft of conditions; there is no server to try them on but Azure: look at what bootwell doctor says.
# SUBSCRIPTION and GROUP are those of the account; PRINCIPAL is the object ID of the identity that gets them.
SCOPE="/subscriptions/${SUBSCRIPTION:?}/resourceGroups/${GROUP:?}/providers/Microsoft.Storage/storageAccounts/%s/blobServices/default/containers/%s"
az role definition create --role-definition '%s'
az role assignment create --assignee-object-id "${PRINCIPAL:?}" --assignee-principal-type ServicePrincipal --role %s --scope "$SCOPE" \
  --condition-version 2.0 --condition "%s"
`, t.For, t.bucket, t.host, t.host, t.bucket, strings.TrimSuffix(indented(map[string]any{
		"Name": name, "Description": "Least rights of a bootwell " + string(t.For), "AssignableScopes": []string{"/subscriptions/SUBSCRIPTION"},
		"Actions": []string{}, "DataActions": actions,
	}), "\n"), name, strings.Join(conditions, "\n  AND "))
	text := strings.Replace(b.String(), `"/subscriptions/SUBSCRIPTION"`, `"/subscriptions/'"$SUBSCRIPTION"'"`, 1)
	p := Policy{Form: "sh", Text: text}
	p.Apply = []string{"SUBSCRIPTION=… GROUP=… PRINCIPAL=$(az vm identity show -g GROUP -n VM --query principalId -o tsv) sh FILE"}
	if t.For == VM {
		if t.VM == "" {
			p.Notes = append(p.Notes, "Conditions cannot name the VM that asks, so VMs with this role can overwrite each other's reports and logs. One assignment a VM with --vm NAME (its vmId) confines each.")
		}
		p.Notes = append(p.Notes, fmt.Sprintf("Without a managed identity: az storage container generate-sas --account-name %s -n %s --permissions r --https-only --expiry … --as-user --auth-mode login. "+
			"A SAS cannot be confined to a prefix: such a VM reads the whole container and writes no reports.", t.host, t.bucket))
	} else {
		p.Apply = []string{"SUBSCRIPTION=… GROUP=… PRINCIPAL=… sh FILE"}
		p.Notes = append(p.Notes, "For a person, write User instead of ServicePrincipal.")
	}
	return p
}

// paths returns the patterns of what v is granted on.
func (t target) paths(gs []grant, v verb) []string {
	var out []string
	for _, g := range gs {
		if g.verb != v {
			continue
		}
		p := t.at(g.prefix)
		if g.own && t.VM != "" {
			p += t.VM + "/"
		}
		out = append(out, p+"*")
	}
	return out
}

// when is a condition: the action with the qualifier only where the attribute
// is like one of the patterns, and nowhere if there are none.
func when(action, qualifier, attribute string, patterns []string) string {
	guard := fmt.Sprintf("!(%s)", strings.TrimSpace(fmt.Sprintf("ActionMatches{'%s'} %s", action, qualifier)))
	if patterns == nil {
		return "(" + guard + ")"
	}
	var like []string
	for _, p := range patterns {
		like = append(like, fmt.Sprintf("%s StringLike '%s'", attribute, p))
	}
	return fmt.Sprintf("(%s OR (%s))", guard, strings.Join(like, " OR "))
}
