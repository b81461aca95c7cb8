package metadata

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Headers of IMDSv2.
const (
	tokenHeader    = "X-aws-ec2-metadata-token"
	tokenTTLHeader = "X-aws-ec2-metadata-token-ttl-seconds"
	maxTokenTTL    = 21600
)

// ec2Version is what may stand for "latest".
var ec2Version = regexp.MustCompile(`^(latest|1\.0|20\d\d-\d\d-\d\d)$`)

// NewEC2 is the service of an EC2 instance that demands IMDSv2 session
// tokens. Source: "Work with instance metadata" in the EC2 user guide.
func NewEC2(m Machine) *Service {
	s := newService(m)
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", s.ec2Token)
	mux.HandleFunc("GET /{version}/{path...}", func(w http.ResponseWriter, r *http.Request) {
		if !s.validToken(r.Header.Get(tokenHeader)) {
			http.Error(w, "401 - Unauthorized", http.StatusUnauthorized)
			return
		}
		s.ec2Get(w, r, s.machine.ec2Tree)
	})
	s.cloud = mux
	return s
}

func (s *Service) ec2Token(w http.ResponseWriter, r *http.Request) {
	ttl, err := strconv.Atoi(r.Header.Get(tokenTTLHeader))
	switch {
	case r.Header.Get("X-Forwarded-For") != "":
		http.Error(w, "403 - Forbidden", http.StatusForbidden)
		return
	case err != nil || ttl < 1 || ttl > maxTokenTTL:
		http.Error(w, "400 - Bad Request", http.StatusBadRequest)
		return
	}
	token := rand.Text() + rand.Text() + "=="
	s.mu.Lock()
	s.tokens[token] = s.now().Add(time.Duration(ttl) * time.Second)
	s.mu.Unlock()
	w.Header().Set(tokenTTLHeader, strconv.Itoa(ttl))
	_, _ = w.Write([]byte(token))
}

func (s *Service) validToken(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, ok := s.tokens[token]
	return ok && s.now().Before(end)
}

// ec2Get answers below /<version>/ from a tree.
func (s *Service) ec2Get(w http.ResponseWriter, r *http.Request, all func(Credentials) tree) {
	if !ec2Version.MatchString(r.PathValue("version")) {
		http.Error(w, "404 - Not Found", http.StatusNotFound)
		return
	}
	userData := s.data()
	path := strings.Trim(r.PathValue("path"), "/")
	if path == "user-data" && userData != nil {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(userData)
		return
	}
	var creds Credentials
	if strings.HasPrefix(path, "meta-data/iam/security-credentials/") {
		creds = s.credentials()
	}
	t := all(creds)
	if userData != nil && path == "" {
		t["user-data"] = ""
	}
	t.answer(w, path)
}

func (m Machine) ec2Tree(c Credentials) tree {
	t := tree{
		"meta-data/ami-id": "ami-0abcdef1234567890", "meta-data/ami-launch-index": "0", "meta-data/ami-manifest-path": "(unknown)",
		"meta-data/block-device-mapping/ami": "vda", "meta-data/block-device-mapping/root": "/dev/vda",
		"meta-data/hostname": m.Hostname, "meta-data/local-hostname": m.Hostname, "meta-data/instance-action": "none",
		"meta-data/instance-id": m.ID, "meta-data/instance-life-cycle": "on-demand", "meta-data/instance-type": m.Type,
		"meta-data/local-ipv4": m.IP, "meta-data/mac": m.MAC, "meta-data/profile": "default-hvm", "meta-data/security-groups": "default",
		"meta-data/placement/availability-zone": m.Zone, "meta-data/placement/region": m.Region,
		"meta-data/services/domain": "amazonaws.com", "meta-data/services/partition": "aws",
		"dynamic/instance-identity/document": m.identityDocument(),
	}
	for name, v := range map[string]string{"device-number": "0", "interface-id": "eni-0abcdef1234567890", "local-ipv4s": m.IP, "mac": m.MAC,
		"owner-id": m.Account, "subnet-id": "subnet-0abcdef1234567890", "vpc-id": "vpc-0abcdef1234567890"} {
		t["meta-data/network/interfaces/macs/"+m.MAC+"/"+name] = v
	}
	for k, v := range m.Tags {
		t["meta-data/tags/instance/"+k] = v
	}
	if m.Role != "" {
		arn := fmt.Sprintf("arn:aws:iam::%s:instance-profile/%s", m.Account, m.Role)
		t["meta-data/iam/info"] = asJSON(map[string]string{"Code": "Success", "LastUpdated": "2024-01-01T00:00:00Z", "InstanceProfileArn": arn, "InstanceProfileId": "AIPAEXAMPLE"})
		t["meta-data/iam/security-credentials/"+m.Role] = asJSON(map[string]string{
			"Code": "Success", "LastUpdated": "2024-01-01T00:00:00Z", "Type": "AWS-HMAC",
			"AccessKeyId": c.AccessKeyID, "SecretAccessKey": c.SecretAccessKey, "Token": c.SessionToken,
			"Expiration": c.Expires.UTC().Format(time.RFC3339),
		})
	}
	return t
}

func (m Machine) identityDocument() string {
	return asJSON(map[string]any{
		"accountId": m.Account, "architecture": "x86_64", "availabilityZone": m.Zone, "imageId": "ami-0abcdef1234567890",
		"instanceId": m.ID, "instanceType": m.Type, "pendingTime": "2024-01-01T00:00:00Z", "privateIp": m.IP, "region": m.Region,
		"version": "2017-09-30", "billingProducts": nil,
	})
}

func asJSON(v any) string {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "{}" // maps of strings cannot fail
	}
	return string(b)
}
