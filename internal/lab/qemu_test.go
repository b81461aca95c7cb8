package lab

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bootwell/bootwell/internal/lab/metadata"
	"github.com/bootwell/bootwell/internal/needs"
)

// stock is the image, built now if it has to be.
func stock(t *testing.T) Image {
	t.Helper()
	if testing.Short() {
		t.Skip("virtual machines take minutes")
	}
	needs.Root(t)
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", "mmdebstrap", "mke2fs", "lz4"} {
		needs.Tool(t, tool)
	}
	start := time.Now()
	img, err := StockDebian(deadline(t, 20*time.Minute), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("image after %.1f s", time.Since(start).Seconds())
	return img
}

func newVM(t *testing.T, d QEMU) *VM {
	t.Helper()
	inst, err := d.Create(deadline(t, 10*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	vm := inst.(*VM)
	t.Cleanup(func() {
		if err := vm.Destroy(); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		if t.Failed() {
			t.Logf("console:\n%s", tail(vm.Console().String(), 8000))
		}
	})
	return vm
}

// cloudInitDone waits for the end of the first boot, which must have found
// its data at source: cloud-init is also done when it found none.
func cloudInitDone(t *testing.T, vm *VM, source string) {
	t.Helper()
	out, err := vm.FirstBoot(deadline(t, 10*time.Minute))
	if err != nil || !strings.Contains(out, "status: done") || !strings.Contains(out, source) {
		t.Fatalf("cloud-init: %v\n%s", err, out)
	}
	t.Logf("cloud-init done after %.1f s: %s", time.Since(vm.console.start).Seconds(), strings.ReplaceAll(out, "\n", " "))
}

const userData = "#!/bin/sh\necho user-data ran | tee /root/ran\n"

func TestQEMUNoCloud(t *testing.T) {
	vm := newVM(t, QEMU{Image: stock(t), NoCloud: &NoCloud{InstanceID: "i-nocloud", Hostname: "web1", UserData: []byte(userData)}})
	ctx := deadline(t, 10*time.Minute)
	cloudInitDone(t, vm, "DataSourceNoCloud")
	if out, err := Run(ctx, vm, "sh", "-c", "cat /root/ran; hostname; cat /run/cloud-init/cloud-id; systemctl is-system-running"); err != nil || out != "user-data ran\nweb1\nnocloud\nrunning" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := vm.Console().Wait(ctx, 0, "user-data ran"); err != nil {
		t.Error(err)
	}
	t.Run("snapshot", func(t *testing.T) { snapshot(t, vm) })
	t.Run("power", func(t *testing.T) { powerCut(t, vm) })
}

func snapshot(t *testing.T, vm *VM) {
	ctx := deadline(t, 5*time.Minute)
	if err := vm.Save("ready"); err != nil {
		t.Fatal(err)
	}
	run(t, vm, "touch /root/later; sync")
	start := time.Now()
	if err := vm.Resume(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	t.Logf("resumed in %.1f s", time.Since(start).Seconds())
	if got := run(t, vm, "test -e /root/later || echo gone; cat /root/ran"); got != "gone\nuser-data ran" {
		t.Errorf("got %q", got)
	}
	if err := vm.SetClock(ctx, time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	if got := run(t, vm, "date -u +%Y-%m-%d"); got != "2040-01-02" {
		t.Errorf("the clock says %q", got)
	}
	if err := vm.Resume(ctx, "no-such"); err == nil {
		t.Error("resumed from a snapshot that does not exist")
	}
	if err := vm.Resume(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
}

func powerCut(t *testing.T, vm *VM) {
	ctx := deadline(t, 5*time.Minute)
	run(t, vm, "echo kept >/root/kept; sync")
	ended := make(chan error)
	go func() {
		_, err := vm.Exec(ctx, Command{Args: []string{"sh", "-c", "touch /run/up; sleep 1000"}})
		ended <- err
	}()
	run(t, vm, "until test -e /run/up; do sleep 0.1; done")
	vm.PowerOff()
	if err := <-ended; !errors.Is(err, ErrGone) {
		t.Errorf("Exec during a power cut: %v, want ErrGone", err)
	}
	if _, err := vm.Exec(ctx, Command{Args: []string{"true"}}); !errors.Is(err, ErrGone) {
		t.Errorf("Exec without power: %v, want ErrGone", err)
	}
	start := time.Now()
	if err := vm.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if got := run(t, vm, "cat /root/kept"); got != "kept" {
		t.Errorf("got %q", got)
	}
	t.Logf("a command after a power cut: %.1f s", time.Since(start).Seconds())
}

func TestQEMUEC2(t *testing.T) {
	img := stock(t)
	n := newNetwork(t, MetadataAddress)
	svc := metadata.NewEC2(metadata.Machine{
		ID: "i-0123456789abcdef0", Region: "eu-west-1", Zone: "eu-west-1b", Hostname: "ip-10-0-2-15", MAC: DefaultMAC, IP: DefaultIP,
		Type: "t3.micro", Account: "123456789012", Role: "vm",
	})
	svc.SetUserData([]byte(userData))
	if _, err := n.Serve(MetadataAddress+":80", svc); err != nil {
		t.Fatal(err)
	}
	vm := newVM(t, QEMU{Image: img, Network: n, Platform: EC2Platform("ec2e1916-9099-7caf-fd21-012345abcdef")})
	cloudInitDone(t, vm, "DataSourceEc2Local")
	var data struct {
		V1 struct {
			Cloud  string `json:"cloud_name"`
			Region string `json:"region"`
			ID     string `json:"instance_id"`
		} `json:"v1"`
	}
	if err := json.Unmarshal([]byte(run(t, vm, "cat /run/cloud-init/instance-data.json")), &data); err != nil {
		t.Fatal(err)
	}
	if data.V1.Cloud != "aws" || data.V1.Region != "eu-west-1" || data.V1.ID != "i-0123456789abcdef0" {
		t.Errorf("cloud-init learned %+v", data.V1)
	}
	if got := run(t, vm, "cat /root/ran"); got != "user-data ran" {
		t.Errorf("got %q", got)
	}
	if svc.Count("PUT", "/api/token", 200) == 0 || svc.Count("GET", "user-data", 200) == 0 || svc.Count("GET", "", 401) != 0 {
		t.Errorf("requests: %v", svc.Requests())
	}
	// The real network is not there for it.
	if r, err := vm.Exec(context.Background(), Command{Args: []string{"python3", "-c", "import socket; socket.create_connection(('198.51.100.1', 80), 5)"}}); err != nil || r.Code == 0 {
		t.Errorf("the guest reached out: code %d, %v", r.Code, err)
	}
}
