package metadata_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	google "cloud.google.com/go/compute/metadata"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/bootwell/bootwell/internal/lab"
	"github.com/bootwell/bootwell/internal/lab/metadata"
)

// The clouds' own clients are the second opinion on the service: they know
// nothing of it but the address.

var ec2VM = metadata.Machine{
	ID: "i-0123456789abcdef0", Region: "eu-west-1", Zone: "eu-west-1b", Hostname: "ip-10-0-2-15", MAC: lab.DefaultMAC, IP: lab.DefaultIP,
	Type: "t3.micro", Account: "123456789012", Role: "vm", Tags: map[string]string{"Name": "web1"},
}

// soon is the life of credentials in these tests: it ends in the middle of
// them. Services tell it in whole seconds.
const soon = 4 * time.Second

// until waits for the end of credentials.
func until(t time.Time) { time.Sleep(time.Until(t) + 50*time.Millisecond) }

func ec2Service(m *mint) *metadata.Service {
	s := metadata.NewEC2(ec2VM)
	s.SetUserData([]byte("#!/bin/sh\n"))
	s.SetRole(func(now time.Time) metadata.Credentials {
		name, expires := m.get(now)
		return metadata.Credentials{AccessKeyID: "AKID-" + name, SecretAccessKey: "secret-of-" + name, SessionToken: name, Expires: expires}
	})
	return s
}

func TestAmazonClient(t *testing.T) {
	if inside(t) {
		amazonClient(t)
		return
	}
	t.Parallel()
	n := newNetwork(t)
	s := ec2Service(&mint{life: soon})
	serveAt(t, n, lab.MetadataAddress+":80", s)
	again(t, n)
	if s.Count("PUT", "/latest/api/token", 200) == 0 || s.Count("", "", 401) != 0 {
		t.Errorf("requests: %v", s.Requests())
	}
}

func amazonClient(t *testing.T) {
	ctx, c := t.Context(), imds.New(imds.Options{})
	doc, err := c.GetInstanceIdentityDocument(ctx, nil)
	if err != nil || doc.InstanceID != ec2VM.ID || doc.Region != ec2VM.Region || doc.PrivateIP != ec2VM.IP {
		t.Errorf("identity document %+v: %v", doc, err)
	}
	if region, err := c.GetRegion(ctx, nil); err != nil || region.Region != ec2VM.Region {
		t.Errorf("region %+v: %v", region, err)
	}
	if info, err := c.GetIAMInfo(ctx, nil); err != nil || !strings.HasSuffix(info.InstanceProfileArn, ":instance-profile/vm") {
		t.Errorf("role %+v: %v", info, err)
	}
	for path, want := range map[string]string{"tags/instance/Name": "web1", "instance-id": ec2VM.ID} {
		if got := readAll(t, func() (io.ReadCloser, error) {
			r, err := c.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
			if err != nil {
				return nil, err
			}
			return r.Content, nil
		}); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	data, err := c.GetUserData(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, func() (io.ReadCloser, error) { return data.Content, nil }); got != "#!/bin/sh\n" {
		t.Errorf("user-data %q", got)
	}
	creds := aws.NewCredentialsCache(ec2rolecreds.New())
	one, err := creds.Retrieve(ctx)
	if err != nil || !one.CanExpire || one.AccessKeyID != "AKID-"+one.SessionToken {
		t.Fatalf("credentials %+v: %v", one, err)
	}
	until(one.Expires)
	two, err := creds.Retrieve(ctx)
	if err != nil || two.SessionToken == one.SessionToken || !two.Expires.After(time.Now()) {
		t.Errorf("after the first ones ended: %+v, %v", two, err)
	}
}

func readAll(t *testing.T, open func() (io.ReadCloser, error)) string {
	t.Helper()
	r, err := open()
	if err != nil {
		t.Error(err)
		return ""
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

var (
	azureVM = metadata.Machine{
		ID: "02aab8a4-74ef-476e-8182-f6d2ba4166a6", Region: "westeurope", Zone: "2", Hostname: "web1", MAC: lab.DefaultMAC, IP: lab.DefaultIP,
		Type: "Standard_B1s", Account: "8d10da13-8125-4ba9-a717-bf7490507b3d",
	}
	azureSystem = metadata.Identity{System: true, ClientID: "11111111-0000-4000-8000-000000000001", ObjectID: "22222222-0000-4000-8000-000000000001"}
	azureUser   = metadata.Identity{
		ClientID: "11111111-0000-4000-8000-000000000002", ObjectID: "22222222-0000-4000-8000-000000000002",
		ResourceID: "/subscriptions/8d10da13-8125-4ba9-a717-bf7490507b3d/resourceGroups/lab/providers/Microsoft.ManagedIdentity/userAssignedIdentities/vm",
	}
)

// azureService gives tokens that tell their identity.
func azureService(m *mint) *metadata.Service {
	s := metadata.NewAzure(azureVM)
	s.SetIdentities(func(id metadata.Identity, audience []string) (metadata.Token, error) {
		name, expires := m.get(time.Now())
		return metadata.Token{Value: id.ClientID + "|" + audience[0] + "|" + name, Expires: expires}, nil
	}, azureSystem, azureUser)
	return s
}

func TestAzureClient(t *testing.T) {
	if inside(t) {
		azureClient(t)
		return
	}
	t.Parallel()
	n := newNetwork(t)
	serveAt(t, n, lab.MetadataAddress+":80", azureService(&mint{life: soon}))
	again(t, n)
}

func azureClient(t *testing.T) {
	// It asks once for a machine's identity and shares the token in its process.
	for _, c := range []struct {
		id    azidentity.ManagedIDKind
		whose string // "" is an error
	}{
		{nil, azureSystem.ClientID},
		{azidentity.ClientID(azureUser.ClientID), azureUser.ClientID},
		{azidentity.ObjectID(azureUser.ObjectID), azureUser.ClientID},
		{azidentity.ResourceID(azureUser.ResourceID), azureUser.ClientID},
		{azidentity.ClientID("33333333-0000-4000-8000-000000000003"), ""},
	} {
		one, err := azureToken(t, c.id)
		if c.whose == "" {
			if err == nil {
				t.Errorf("identity %v, which the VM does not have: a token", c.id)
			}
			continue
		}
		if err != nil || !strings.HasPrefix(one, c.whose+"|https://storage.azure.com|") {
			t.Errorf("identity %v: %q, %v; want a token of %s", c.id, one, err, c.whose)
		}
	}
}

func azureToken(t *testing.T, id azidentity.ManagedIDKind) (string, error) {
	t.Helper()
	c, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	get := func() (string, time.Time, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		token, err := c.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://storage.azure.com/.default"}})
		return token.Token, token.ExpiresOn, err
	}
	one, expires, err := get()
	if err != nil || id != nil {
		return one, err
	}
	until(expires)
	two, expires, err := get()
	if err != nil || two == one || !expires.After(time.Now()) {
		t.Errorf("after the first token ended: %q until %s, %v", two, expires, err)
	}
	return two, err
}

var (
	gceVM = metadata.Machine{
		ID: "5731628402198420531", Region: "europe-west1", Zone: "europe-west1-b", Hostname: "web1", MAC: lab.DefaultMAC, IP: lab.DefaultIP, Type: "e2-micro",
		Account: "acme-prod",
	}
	gceAccount = metadata.Identity{Email: "vm@acme-prod.iam.gserviceaccount.com", Scopes: []string{"https://www.googleapis.com/auth/devstorage.read_write"}}
)

func gceService(m *mint) *metadata.Service {
	s := metadata.NewGCE(gceVM)
	s.SetUserData([]byte("#!/bin/sh\n"))
	s.SetIdentities(func(id metadata.Identity, scopes []string) (metadata.Token, error) {
		name, expires := m.get(time.Now())
		return metadata.Token{Value: name, Expires: expires}, nil
	}, gceAccount)
	return s
}

func TestGoogleClient(t *testing.T) {
	if inside(t) {
		googleClient(t)
		return
	}
	t.Parallel()
	n := newNetwork(t)
	if err := n.ServeNames(map[string]string{metadata.GoogleHost: lab.MetadataAddress}); err != nil {
		t.Fatal(err)
	}
	serveAt(t, n, lab.MetadataAddress+":80", gceService(&mint{life: soon}))
	again(t, n)
}

func googleClient(t *testing.T) {
	ctx, c := t.Context(), google.NewClient(nil)
	if !c.OnGCEWithContext(ctx) {
		t.Error("it does not know that it is on GCE")
	}
	for what, c := range map[string]struct {
		get  func(context.Context) (string, error)
		want string
	}{
		"project": {c.ProjectIDWithContext, gceVM.Account}, "instance": {c.InstanceIDWithContext, gceVM.ID}, "zone": {c.ZoneWithContext, gceVM.Zone},
		"name": {c.InstanceNameWithContext, "web1"}, "address": {c.InternalIPWithContext, gceVM.IP},
		"account": {func(ctx context.Context) (string, error) { return c.EmailWithContext(ctx, "") }, gceAccount.Email},
		"user-data": {func(ctx context.Context) (string, error) {
			return c.InstanceAttributeValueWithContext(ctx, "user-data")
		}, "#!/bin/sh\n"},
		"tags": {func(ctx context.Context) (string, error) {
			tags, err := c.InstanceTagsWithContext(ctx)
			return strings.Join(tags, ","), err
		}, ""},
	} {
		if got, err := c.get(ctx); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", what, got, err, c.want)
		}
	}
	if scopes, err := c.ScopesWithContext(ctx, "default"); err != nil || len(scopes) != 1 || scopes[0] != gceAccount.Scopes[0] {
		t.Errorf("scopes %q: %v", scopes, err)
	}
	token, err := c.GetWithContext(ctx, "instance/service-accounts/default/token?scopes="+gceAccount.Scopes[0])
	if err != nil || !strings.Contains(token, `"access_token":"made-`) {
		t.Errorf("token %s: %v", token, err)
	}
	if _, err := c.EmailWithContext(ctx, "nobody@example.com"); err == nil {
		t.Error("an account that the VM does not have has an address")
	}
}
