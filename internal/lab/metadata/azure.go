package metadata

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// azureVersions are api-versions of the instance metadata service, oldest
// first. "latest" does not exist there.
var azureVersions = [...]string{
	"2017-03-01", "2017-04-02", "2017-08-01", "2017-10-01", "2017-12-01", "2018-02-01", "2018-04-02", "2018-10-01", "2019-02-01", "2019-03-11",
	"2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01", "2019-08-15", "2019-11-01", "2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01",
	"2020-12-01", "2021-01-01", "2021-02-01", "2021-03-01", "2021-05-01", "2021-08-01", "2021-10-01", "2021-11-01", "2021-11-15", "2021-12-13", "2023-07-01",
}

// azureIdentityFrom is the first api-version with identities, azureTagsList
// and azureUserData the first with those fields.
const (
	azureIdentityFrom = "2018-02-01"
	azureTagsList     = "2019-06-04"
	azureUserData     = "2021-01-01"
)

// NewAzure is the service of an Azure VM: instance metadata and tokens of
// managed identities. SetUserData sets its userData; its customData is on the
// provisioning disk (see [Service.ProvisioningDisk]).
// Source: "Azure Instance Metadata Service" and "How to use managed identities
// for Azure resources on an Azure VM to acquire an access token" in Azure's
// documentation.
func NewAzure(m Machine) *Service {
	s := newService(m)
	mux := http.NewServeMux()
	mux.HandleFunc("/metadata/versions", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusOK, map[string]any{"apiVersions": azureVersions[:]})
	})
	mux.HandleFunc("/metadata/instance", s.azureInstance)
	mux.HandleFunc("/metadata/instance/{path...}", s.azureInstance)
	mux.HandleFunc("/metadata/identity/oauth2/token", s.azureToken)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { azureError(w, http.StatusNotFound, "Not found") })
	s.cloud = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.EqualFold(r.Header.Get("Metadata"), "true"):
			azureError(w, http.StatusBadRequest, "Bad request. Required metadata header not specified")
		case r.Header.Get("X-Forwarded-For") != "":
			azureError(w, http.StatusBadRequest, "Bad request. A request with X-Forwarded-For is refused")
		case r.Method != http.MethodGet:
			azureError(w, http.StatusMethodNotAllowed, "Method not allowed")
		default:
			mux.ServeHTTP(w, r)
		}
	})
	return s
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func azureError(w http.ResponseWriter, status int, text string) {
	answerJSON(w, status, map[string]any{"error": text})
}

// apiVersion returns the version asked for, or answers and returns "".
func apiVersion(w http.ResponseWriter, r *http.Request) string {
	v := r.URL.Query().Get("api-version")
	if slices.Contains(azureVersions[:], v) {
		return v
	}
	text := "Bad request. api-version is invalid or was not specified in the request."
	newest := slices.Clone(azureVersions[len(azureVersions)-3:])
	slices.Reverse(newest)
	answerJSON(w, http.StatusBadRequest, map[string]any{"error": text, "newest-versions": newest})
	return ""
}

// azureInstance answers a folder as JSON and a leaf as text, and neither in
// the other form.
func (s *Service) azureInstance(w http.ResponseWriter, r *http.Request) {
	version := apiVersion(w, r)
	if version == "" {
		return
	}
	var at any = s.machine.azureDocument(version, s.data())
	for name := range strings.SplitSeq(strings.Trim(r.PathValue("path"), "/"), "/") {
		if name != "" {
			at = below(at, name)
		}
	}
	text, leaf := at.(string)
	switch format := r.URL.Query().Get("format"); {
	case at == nil, leaf && format != "text":
		azureError(w, http.StatusNotFound, "Not found")
	case leaf:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(text))
	case format == "" || format == "json":
		answerJSON(w, http.StatusOK, at)
	default:
		azureError(w, http.StatusBadRequest, "Bad request. A folder has no form "+strconv.Quote(format))
	}
}

// below is what a folder or list has under a name, nil for nothing.
func below(at any, name string) any {
	switch v := at.(type) {
	case map[string]any:
		return v[name]
	case []any:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(v) {
			return v[i]
		}
	}
	return nil
}

func (m Machine) azureDocument(version string, userData []byte) map[string]any {
	tags := make([]string, 0, len(m.Tags))
	list := []any{}
	for k, v := range m.Tags {
		tags = append(tags, k+":"+v)
	}
	slices.Sort(tags)
	for _, t := range tags {
		name, value, _ := strings.Cut(t, ":")
		list = append(list, map[string]any{"name": name, "value": value})
	}
	compute := map[string]any{
		"azEnvironment": "AzurePublicCloud", "customData": "", "location": m.Region, "name": m.Hostname, "offer": "debian-12", "osType": "Linux",
		"placementGroupId": "", "platformFaultDomain": "0", "platformUpdateDomain": "0", "provider": "Microsoft.Compute", "publisher": "Debian",
		"resourceGroupName": "lab", "sku": "12-gen2", "subscriptionId": m.Account, "tags": strings.Join(tags, ";"), "version": "0.20240102.1614",
		"vmId": m.ID, "vmScaleSetName": "", "vmSize": m.Type, "zone": m.Zone,
		"resourceId": fmt.Sprintf("/subscriptions/%s/resourceGroups/lab/providers/Microsoft.Compute/virtualMachines/%s", m.Account, m.Hostname),
		"osProfile":  map[string]any{"adminUsername": "azureuser", "computerName": m.Hostname, "disablePasswordAuthentication": "true"},
		"publicKeys": m.azureKeys(),
	}
	if version >= azureTagsList {
		compute["tagsList"] = list
	}
	if version >= azureUserData {
		compute["userData"] = base64.StdEncoding.EncodeToString(userData)
	}
	network := map[string]any{"interface": []any{map[string]any{
		"ipv4": map[string]any{
			"ipAddress": []any{map[string]any{"privateIpAddress": m.IP, "publicIpAddress": ""}},
			"subnet":    []any{map[string]any{"address": m.IP, "prefix": "24"}},
		},
		"ipv6":       map[string]any{"ipAddress": []any{}},
		"macAddress": strings.ToUpper(strings.ReplaceAll(m.MAC, ":", "")),
	}}}
	return map[string]any{"compute": compute, "network": network}
}

func (m Machine) azureKeys() []any {
	if m.PublicKey == "" {
		return []any{}
	}
	return []any{map[string]any{"keyData": m.PublicKey, "path": "/home/azureuser/.ssh/authorized_keys"}}
}

// azureToken gives the token of a managed identity.
func (s *Service) azureToken(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if v := q.Get("api-version"); !slices.Contains(azureVersions[:], v) || v < azureIdentityFrom {
		tokenError(w, "invalid_request", "Invalid or missing api-version")
		return
	}
	resource := q.Get("resource")
	if resource == "" {
		tokenError(w, "invalid_request", "Required audience parameter not specified")
		return
	}
	bearer, ids := s.identity()
	id, problem := azureIdentity(ids, q)
	if problem != "" {
		tokenError(w, "invalid_request", problem)
		return
	}
	if !azureResource(resource) {
		tokenError(w, "invalid_resource", "AADSTS500011: The resource principal named "+resource+" was not found in the tenant")
		return
	}
	t, err := bearer(id, []string{resource})
	if err != nil {
		tokenError(w, "invalid_resource", err.Error())
		return
	}
	now := s.now()
	answerJSON(w, http.StatusOK, map[string]string{
		"access_token": t.Value, "client_id": id.ClientID, "resource": resource, "token_type": "Bearer",
		"expires_in": strconv.Itoa(int(t.Expires.Sub(now) / time.Second)), "expires_on": strconv.FormatInt(t.Expires.Unix(), 10),
		"ext_expires_in": strconv.Itoa(int(t.Expires.Sub(now) / time.Second)), "not_before": strconv.FormatInt(now.Unix(), 10),
	})
}

func tokenError(w http.ResponseWriter, code, text string) {
	answerJSON(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": text})
}

// azureResource reports whether a tenant knows the resource.
func azureResource(resource string) bool {
	u, err := url.Parse(resource)
	if err != nil || u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return false
	}
	known := []string{"storage.azure.com", "management.azure.com", "management.core.windows.net", "vault.azure.net"}
	return slices.Contains(known, u.Host) || strings.HasSuffix(u.Host, ".blob.core.windows.net")
}

// azureIdentity finds the identity that a request names. Without a name it
// is the VM's own, or the only one.
func azureIdentity(ids []Identity, q url.Values) (Identity, string) {
	type name struct{ key, value string }
	var names []name
	for _, key := range []string{"client_id", "object_id", "msi_res_id", "mi_res_id"} {
		if v := q.Get(key); v != "" {
			names = append(names, name{key, v})
		}
	}
	if len(names) > 1 {
		return Identity{}, "Only one of client_id, object_id and msi_res_id may be given"
	}
	if len(names) == 0 {
		if i := slices.IndexFunc(ids, func(id Identity) bool { return id.System }); i >= 0 {
			return ids[i], ""
		}
		switch len(ids) {
		case 0:
			return Identity{}, "Identity not found"
		case 1:
			return ids[0], ""
		}
		return Identity{}, "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"
	}
	for _, id := range ids {
		has := map[string]string{"client_id": id.ClientID, "object_id": id.ObjectID, "msi_res_id": id.ResourceID, "mi_res_id": id.ResourceID}[names[0].key]
		if strings.EqualFold(has, names[0].value) {
			return id, ""
		}
	}
	return Identity{}, "Identity not found"
}
