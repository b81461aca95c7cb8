package sdkauth

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/bucket"
)

// command writes a tool that notes its arguments and answers.
func command(t *testing.T, home, name, answer string) {
	t.Helper()
	write(t, home+"/bin/"+name, "#!/bin/sh\necho \"$@\" >>"+home+"/"+name+".args\n"+answer)
}

func TestAzure(t *testing.T) {
	ends := time.Now().Add(time.Hour)
	az := fmt.Sprintf(`printf '{"accessToken":"of-az","expiresOn":"%s","expires_on":%d,"subscription":"s","tenant":"t","tokenType":"Bearer"}'`,
		ends.Local().Format("2006-01-02 15:04:05.000000"), ends.Unix())
	azd := fmt.Sprintf(`printf '{"token":"of-azd","expiresOn":"%s"}'`, ends.UTC().Format(time.RFC3339))
	for _, c := range []struct {
		name, az, azd string
		token         string
	}{
		{"az", az, azd, "of-az"},
		{"azd", "", azd, "of-azd"},
		{"az without a login", "echo 'ERROR: Please run az login' >&2; exit 1", azd, "of-azd"},
		{"nothing", "", "", ""},
		{"az that says nonsense", "echo nonsense", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := bare(t)
			for name, answer := range map[string]string{"az": c.az, "azd": c.azd} {
				if answer != "" {
					command(t, home, name, answer)
				}
			}
			token, err := azToken(t, azureLogin())
			if token != c.token {
				t.Errorf("%q, %v", token, err)
			}
			if c.token == "" && (!errors.Is(err, bucket.ErrPermission) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%q, want %v", err, bucket.ErrPermission)
			}
			if c.token == "of-az" {
				if args, _ := os.ReadFile(home + "/az.args"); !strings.Contains(string(args), "https://storage.azure.com") {
					t.Errorf("az was asked %q", args)
				}
			}
		})
	}
}
