package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// QEMU is the driver of virtual machines of a stock image, in emulation. The
// image's disk is never written; each machine has its changes in a folder of
// its own. Commands are run by a service that the machine's first program
// leaves in /run; nothing is added to the disk.
type QEMU struct {
	Image    Image
	Platform Platform
	Network  *Network  // the guest's whole world; nil is no network card
	NoCloud  *NoCloud  // a seed disk; nil is none
	CD       *CD       // a disc; nil is none
	MAC      string    // "" is 52:54:00:12:34:56
	Memory   int       // MiB; 0 is 768
	Append   string    // more kernel command line
	Console  io.Writer // also gets the console; may be nil
}

// DefaultMAC is the address of a guest's network card, DefaultIP what it gets
// by DHCP.
const (
	DefaultMAC = "52:54:00:12:34:56"
	DefaultIP  = "10.0.2.15"
)

// Name returns "qemu".
func (QEMU) Name() string { return "qemu" }

// Create starts a machine. The instance is a *VM. The error is ErrMissing
// when QEMU is not installed.
func (d QEMU) Create(ctx context.Context) (Instance, error) {
	vm, err := d.create(ctx)
	if err != nil {
		return nil, fmt.Errorf("create virtual machine: %w", err)
	}
	return vm, nil
}

func (d QEMU) create(ctx context.Context) (*VM, error) {
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s: %w", tool, ErrMissing)
		}
	}
	dir, err := os.MkdirTemp("", "bootwell-vm-")
	if err != nil {
		return nil, err
	}
	vm := &VM{driver: d, dir: dir, console: newConsole(d.Console)}
	if err := vm.prepare(ctx); err != nil {
		return nil, errors.Join(err, vm.Destroy())
	}
	if err := vm.PowerOn(ctx); err != nil {
		return nil, errors.Join(err, vm.Destroy())
	}
	return vm, nil
}

// VM is a virtual machine of the QEMU driver.
type VM struct {
	driver  QEMU
	dir     string
	console *Console

	power sync.Mutex // held while it is switched on or off
	mu    sync.Mutex // guards what follows
	run   *qemuRun   // nil while it is off
}

// qemuRun is one QEMU process.
type qemuRun struct {
	cmd     *exec.Cmd
	conn    *conn
	monitor *monitor
	stderr  bytes.Buffer
	ended   chan struct{}
}

func (v *VM) disk() string { return filepath.Join(v.dir, "disk.qcow2") }
func (v *VM) seed() string { return filepath.Join(v.dir, "seed.iso") }
func (v *VM) disc() string { return filepath.Join(v.dir, "disc.iso") }

func (v *VM) prepare(ctx context.Context) error {
	base, err := filepath.Abs(v.driver.Image.Disk)
	if err != nil {
		return err
	}
	if _, err := command(ctx, v.dir, nil, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", v.disk()); err != nil {
		return err
	}
	if n := v.driver.NoCloud; n != nil {
		if err := writeISO(v.seed(), "CIDATA", map[string][]byte{
			"meta-data": []byte(fmt.Sprintf("instance-id: %s\nlocal-hostname: %s\n", n.InstanceID, n.Hostname)),
			"user-data": n.UserData,
		}); err != nil {
			return err
		}
	}
	if cd := v.driver.CD; cd != nil {
		return writeISO(v.disc(), cd.Label, cd.Files)
	}
	return nil
}

// commandLine is the kernel's. It is for speed in emulation, and to see the
// machine; it changes nothing of what cloud-init does.
const commandLine = "console=ttyS0 quiet loglevel=3 mitigations=off no_timer_check tsc=reliable random.trust_cpu=on audit=0 panic=5"

func (v *VM) args() []string {
	d := v.driver
	memory := d.Memory
	if memory == 0 {
		memory = 768
	}
	a := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-machine", "pc", "-cpu", "qemu64",
		"-accel", "tcg,thread=multi,tb-size=512", "-smp", "2", "-m", strconv.Itoa(memory),
		"-kernel", d.Image.Kernel, "-initrd", d.Image.Initrd, "-append", strings.TrimSpace(commandLine + " " + d.Append),
		"-drive", "file=" + v.disk() + ",if=virtio,format=qcow2,cache=writeback,discard=unmap",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=agent,fd=3", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=bootwell.lab",
		"-chardev", "socket,id=monitor,fd=4", "-mon", "chardev=monitor,mode=control",
		"-rtc", "base=utc",
	}
	if d.NoCloud != nil {
		a = append(a, "-drive", "file="+v.seed()+",if=virtio,format=raw,readonly=on")
	}
	if d.CD != nil && !d.CD.Drive {
		a = append(a, "-drive", "file="+v.disc()+",if=virtio,format=raw,readonly=on")
	}
	if d.CD != nil && d.CD.Drive {
		a = append(a, "-device", "virtio-scsi-pci,id=scsi", "-drive", "file="+v.disc()+",if=none,id=disc,format=raw,media=cdrom,readonly=on",
			"-device", "scsi-cd,bus=scsi.0,drive=disc")
	}
	if d.Network != nil {
		mac := d.MAC
		if mac == "" {
			mac = DefaultMAC
		}
		a = append(a, "-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile=,mac="+mac)
	}
	return append(a, d.Platform.args()...)
}

// PowerOn switches the machine on. It returns when the emulator runs.
func (v *VM) PowerOn(ctx context.Context) error { return v.start(ctx) }

func (v *VM) start(ctx context.Context, more ...string) error {
	v.power.Lock()
	defer v.power.Unlock()
	if v.current() != nil {
		return errors.New("switch on: the machine is on")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	ourMon, theirMon, err := socketPair()
	if err != nil {
		return errors.Join(err, ours.Close())
	}
	defer theirMon.Close()
	r := &qemuRun{cmd: exec.Command("qemu-system-x86_64", append(v.args(), more...)...), ended: make(chan struct{})}
	r.cmd.ExtraFiles = []*os.File{theirs, theirMon}
	r.cmd.Stdout, r.cmd.Stderr = v.console, &r.stderr
	r.cmd.Dir = v.dir
	started := make(chan error)
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		if err := r.begin(v.driver.Network); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = r.cmd.Wait()
	}()
	if err := <-started; err != nil {
		return errors.Join(err, ours.Close(), ourMon.Close())
	}
	r.conn = newConn(ours, v.console)
	r.monitor = newMonitor(ourMon)
	v.mu.Lock()
	v.run = r
	v.mu.Unlock()
	go v.clear(r, exited)
	return r.greet()
}

// begin starts the process so that it does not outlive this one. The kernel
// ties it to the thread that starts it, so the calling goroutine keeps its
// thread and has to wait for the process.
func (r *qemuRun) begin(n *Network) error {
	if n != nil {
		return n.Start(r.cmd)
	}
	runtime.LockOSThread()
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return r.cmd.Start()
}

// greet makes both ends of the process speak.
func (r *qemuRun) greet() error {
	_, err := r.monitor.do("qmp_capabilities", nil)
	if err == nil {
		err = r.conn.greet()
	}
	if err != nil {
		select {
		case <-r.ended:
			err = fmt.Errorf("%w: %s", err, tail(r.stderr.String(), 1000))
		case <-time.After(time.Second):
		}
	}
	return err
}

// clear tidies up after the process, whoever ended it.
func (v *VM) clear(r *qemuRun, exited <-chan struct{}) {
	<-exited
	r.conn.close()
	_ = r.monitor.stream.Close()
	v.mu.Lock()
	if v.run == r {
		v.run = nil
	}
	v.mu.Unlock()
	close(r.ended)
}

func (v *VM) current() *qemuRun {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.run
}

// Off is closed when the machine is off, as it is after "poweroff" in it.
func (v *VM) Off() <-chan struct{} {
	if r := v.current(); r != nil {
		return r.ended
	}
	off := make(chan struct{})
	close(off)
	return off
}

// PowerOff cuts the power: what the machine has not yet written to its disk
// is lost. It may be called when it is off.
func (v *VM) PowerOff() {
	v.power.Lock()
	defer v.power.Unlock()
	if r := v.current(); r != nil {
		_ = r.cmd.Process.Kill()
		<-r.ended
	}
}

// Save keeps the machine's memory and disk under a name, in a second or two.
// The machine goes on.
func (v *VM) Save(name string) error {
	r := v.current()
	if r == nil {
		return fmt.Errorf("save %s: %w", name, ErrGone)
	}
	return r.monitor.human("savevm " + name)
}

// Resume puts the machine back to what Save kept, whatever happened since,
// and sets its clock.
func (v *VM) Resume(ctx context.Context, name string) error {
	v.PowerOff()
	if err := v.start(ctx, "-loadvm", name); err != nil {
		return fmt.Errorf("resume %s: %w", name, err)
	}
	return v.SetClock(ctx, time.Now())
}

// SetClock sets the machine's clock.
func (v *VM) SetClock(ctx context.Context, t time.Time) error {
	_, err := Run(ctx, v, "date", "-u", "-s", t.UTC().Format("2006-01-02 15:04:05.000"))
	return err
}

// Exec runs a command in the machine; it waits for the machine to be far
// enough in its boot, which is when systemd has just started.
func (v *VM) Exec(ctx context.Context, c Command) (Result, error) {
	r := v.current()
	if r == nil {
		return Result{}, fmt.Errorf("run %q: %w", c.Args, ErrGone)
	}
	return r.conn.exec(ctx, c)
}

// FirstBoot waits until cloud-init has finished, well or not, and returns
// what "cloud-init status --long" says. It listens on the console, because
// asking in the machine meanwhile would make the boot slower.
func (v *VM) FirstBoot(ctx context.Context) (string, error) {
	for from := 0; ; {
		l, err := v.console.Wait(ctx, from, "Cloud-init v.")
		if err != nil {
			return "", err
		}
		if strings.Contains(l.Text, "finished at") {
			break
		}
		from = l.Number + 1
	}
	r, err := v.Exec(ctx, Command{Args: []string{"cloud-init", "status", "--wait", "--long"}})
	return strings.TrimLeft(string(r.Stdout), ".\n"), err
}

// Console is the machine's first serial port.
func (v *VM) Console() *Console { return v.console }

// Destroy cuts the power and removes the machine's disk.
func (v *VM) Destroy() error {
	v.PowerOff()
	return os.RemoveAll(v.dir)
}
