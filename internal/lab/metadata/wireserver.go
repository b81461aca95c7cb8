package metadata

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// WireServerAddress is where Azure has its second service.
const WireServerAddress = "168.63.129.16"

// Health is what a VM told Azure of its provisioning.
type Health struct {
	State       string // "Ready" or "NotReady"
	Substatus   string
	Description string
}

// Names that the goal state and the reports of health have in common.
const (
	azureContainer   = "4a3c5b20-8e5b-4d30-9d3e-0f3c1a7f2b11"
	azureIncarnation = "1"
)

// WireServer is Azure's service at [WireServerAddress], as far as cloud-init
// needs it: the goal state, and the VM's report that it is provisioned. It
// has no certificates and no extensions. Requests are noted with the others.
// Source: cloudinit/sources/helpers/azure.py.
func (s *Service) WireServer() http.Handler {
	mux := http.NewServeMux()
	machine := func(w http.ResponseWriter, r *http.Request) {
		comp := r.URL.Query().Get("comp")
		switch {
		case r.Header.Get("X-Ms-Version") == "":
			http.Error(w, "x-ms-version is missing", http.StatusBadRequest)
		case r.Method == http.MethodGet && comp == "goalstate":
			s.goalState(w)
		case r.Method == http.MethodPost && comp == "health":
			s.takeHealth(w, r)
		default:
			http.NotFound(w, r)
		}
	}
	mux.HandleFunc("/machine", machine)
	mux.HandleFunc("/machine/{$}", machine)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(mux, w, r) })
}

func (s *Service) goalState(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?>
<GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="goalstate10.xsd">
  <Version>2012-11-30</Version>
  <Incarnation>%s</Incarnation>
  <Machine><ExpectedState>Started</ExpectedState></Machine>
  <Container>
    <ContainerId>%s</ContainerId>
    <RoleInstanceList><RoleInstance><InstanceId>%s</InstanceId><State>Started</State><Configuration/></RoleInstance></RoleInstanceList>
  </Container>
</GoalState>
`, azureIncarnation, azureContainer, escapeXML(s.azureRole()))
}

// azureRole is the name of the VM in the goal state.
func (s *Service) azureRole() string { return s.machine.ID + "." + s.machine.Hostname }

func escapeXML(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}

func (s *Service) takeHealth(w http.ResponseWriter, r *http.Request) {
	var report struct {
		Incarnation string `xml:"GoalStateIncarnation"`
		Container   struct {
			ID   string `xml:"ContainerId"`
			Role struct {
				ID     string `xml:"InstanceId"`
				Health struct {
					State   string
					Details struct{ SubStatus, Description string }
				}
			} `xml:"RoleInstanceList>Role"`
		}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil {
		err = xml.Unmarshal(body, &report)
	}
	role := report.Container.Role
	if err != nil || report.Incarnation != azureIncarnation || report.Container.ID != azureContainer || role.ID != s.azureRole() {
		http.Error(w, "this is not the report of this VM", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	if len(s.health) < maxRequests {
		s.health = append(s.health, Health{State: role.Health.State, Substatus: role.Health.Details.SubStatus, Description: role.Health.Details.Description})
	}
	s.mu.Unlock()
}

// Health returns what the VM told the wire server so far, oldest first.
func (s *Service) Health() []Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Health(nil), s.health...)
}

// ProvisioningDisk is what Azure has on the disk that it attaches for the
// first boot: ovf-env.xml, with customData byte for byte.
func (s *Service) ProvisioningDisk(customData []byte) map[string][]byte {
	const form = `<?xml version="1.0" encoding="utf-8"?>
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:oe="http://schemas.dmtf.org/ovf/environment/1" xmlns:wa="http://schemas.microsoft.com/windowsazure">
  <wa:ProvisioningSection>
    <wa:Version>1.0</wa:Version>
    <wa:LinuxProvisioningConfigurationSet>
      <wa:ConfigurationSetType>LinuxProvisioningConfiguration</wa:ConfigurationSetType>
      <wa:HostName>%s</wa:HostName>
      <wa:UserName>azureuser</wa:UserName>
      <wa:DisableSshPasswordAuthentication>true</wa:DisableSshPasswordAuthentication>
      <wa:CustomData>%s</wa:CustomData>
    </wa:LinuxProvisioningConfigurationSet>
  </wa:ProvisioningSection>
  <wa:PlatformSettingsSection>
    <wa:Version>1.0</wa:Version>
    <wa:PlatformSettings>
      <wa:KmsServerHostname>azkms.core.windows.net</wa:KmsServerHostname>
      <wa:ProvisionGuestAgent>true</wa:ProvisionGuestAgent>
      <wa:PreprovisionedVm>false</wa:PreprovisionedVm>
    </wa:PlatformSettings>
  </wa:PlatformSettingsSection>
</Environment>
`
	return map[string][]byte{"ovf-env.xml": []byte(fmt.Sprintf(form, escapeXML(s.machine.Hostname), base64.StdEncoding.EncodeToString(customData)))}
}
