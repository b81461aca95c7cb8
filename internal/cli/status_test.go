package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

// TestStatus_ManyVMs: what a screen has room for, whatever the fleet.
func TestStatus_ManyVMs(t *testing.T) {
	o := newOperator(t)
	const roles, failed, silent = 25, 130, 30
	old := time.Now().Add(-50 * time.Hour)
	for i := range failed + silent {
		r := failedReport()
		r.VM = fmt.Sprintf("i-%03d", i)
		r.Role = fmt.Sprintf("role%d", i%roles)
		if i < 2*roles {
			r.Role = "web"
		}
		r.Facts.Zone = "b"
		if i%3 == 0 {
			r.Facts.Zone = "a"
		}
		if i >= failed {
			r.State, r.Run, r.Role = release.StateOK, nil, "web"
		}
		o.reportOf(t, r)
		if i >= failed {
			if err := os.Chtimes(filepath.Join(filepath.Dir(o.project), "bucket", "reports", r.VM, "report.json"), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	stdout, stderr, code := o.run(t, "status")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{
		" · 160 VMs · ", "\nweb      80 ", "\n  and 6 more roles\n", "FAILED, grouped\n   50  web     r1  site: exit status 1\n    4  role0   r1  ", "\n  and 6 more groups\n",
		"STALE: 30 VMs without a report for longer than a heartbeat\n   20  web  b  for 2 d\n   10  web  a  for 2 d\n  all of them: ",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is not in\n%s", want, stdout)
		}
	}
	if n := strings.Count(stdout, "\n"); n > 60 {
		t.Errorf("%d lines", n)
	}
	table, _, _ := o.run(t, "status", "--vms")
	plain, _, _ := o.run(t, "status", "--vms", "--plain")
	lines, _, _ := o.run(t, "status", "--vms", "--json")
	rows := strings.Split(strings.TrimSuffix(table, "\n"), "\n")
	if len(rows) != failed+silent+1 || !strings.HasPrefix(rows[0], "VM     ROLE    STATE ") || !strings.HasPrefix(rows[1], "i-000  web     failed ") || strings.HasSuffix(rows[160], " ") {
		t.Errorf("%d lines:\n%s", len(rows), table)
	}
	if n := strings.Count(plain, "\n"); n != failed+silent || !strings.HasPrefix(plain, "i-000\tweb\tfailed\tr1\t") {
		t.Errorf("%d lines:\n%s", n, plain)
	}
	var names []string
	for line := range strings.Lines(lines) {
		var v struct{ VM, Zone string }
		if err := json.Unmarshal([]byte(line), &v); err != nil || v.Zone == "" {
			t.Fatalf("%q: %v", line, err)
		}
		names = append(names, v.VM)
	}
	if len(names) != failed+silent || !slices.IsSorted(names) {
		t.Errorf("%d VMs in JSON", len(names))
	}
}
