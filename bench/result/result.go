// Package result is the form in which the programs below bench/ hand over what
// they measured: one JSON document each, of tables and targets, which
// bench/report turns into docs/performance.md.
package result

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A Document is what one benchmark program found.
type Document struct {
	Name    string   `json:"name"`    // of the program and of its file: bench/results/<name>.json
	Title   string   `json:"title"`   // heading of its section
	Machine Machine  `json:"machine"` // filled in by New
	Date    string   `json:"date"`    // RFC 3339, UTC; filled in by New
	Commit  string   `json:"commit"`  // of the source tree; "-dirty" when it had changes; filled in by New
	Command string   `json:"command"` // what makes it again, for example "go run ./bench/fleet"
	Intro   []string `json:"intro"`   // paragraphs above the tables: the method, what stands for what
	Tables  []Table  `json:"tables"`
	Targets []Target `json:"targets"`
}

// A Table is a heading, the names of the columns and rows of cells as they are
// to be shown.
type Table struct {
	Title   string     `json:"title"`
	Note    string     `json:"note,omitempty"` // below the table
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

// A Target is something that must be true, and what was measured.
type Target struct {
	Text string `json:"text"` // what is compared
	Want string `json:"want"` // for example "≤ 1.0 ×"
	Got  string `json:"got"`  // for example "0.83 × (0.41 s / 0.49 s)"; "not measured"
	Met  bool   `json:"met"`
}

// A Machine is where a benchmark ran.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Disk   string `json:"disk"` // file system of the temporary folder
	OS     string `json:"os"`
	Go     string `json:"go"`
}

// New returns a document with its machine, date and commit filled in.
func New(name, title string) *Document {
	return &Document{Name: name, Title: title, Machine: ThisMachine(), Date: time.Now().UTC().Format(time.RFC3339), Commit: commit()}
}

// Add appends a table and returns it for its rows.
func (d *Document) Add(title string, columns ...string) *Table {
	d.Tables = append(d.Tables, Table{Title: title, Columns: columns})
	return &d.Tables[len(d.Tables)-1]
}

// Row appends a row; each cell is shown as fmt.Sprint shows it.
func (t *Table) Row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.Rows = append(t.Rows, row)
}

// Target appends a target.
func (d *Document) Target(text, want, got string, met bool) {
	d.Targets = append(d.Targets, Target{Text: text, Want: want, Got: got, Met: met})
}

// Write writes the document as JSON to a file, with the folders it needs.
func (d *Document) Write(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(f)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(d); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", file, err)
	}
	return f.Close()
}

// Read reads a document that Write wrote.
func Read(file string) (*Document, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := new(Document)
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return d, nil
}

// Print writes the document as a person reads it on a terminal.
func (d *Document) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s (%s, %s)\n", d.Title, d.Date, d.Commit)
	for _, t := range d.Tables {
		fmt.Fprintf(w, "\n%s\n", t.Title)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, strings.Join(t.Columns, "\t"))
		for _, row := range t.Rows {
			fmt.Fprintln(tw, strings.Join(row, "\t"))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		if t.Note != "" {
			fmt.Fprintln(w, t.Note)
		}
	}
	if len(d.Targets) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nTargets")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, t := range d.Targets {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", t.Verdict(), t.Text, t.Want, t.Got)
	}
	return tw.Flush()
}

// Verdict is "met" or "NOT met".
func (t Target) Verdict() string {
	if t.Met {
		return "met"
	}
	return "NOT met"
}

// ThisMachine looks at the machine it runs on.
func ThisMachine() Machine {
	return Machine{
		CPU: cpu(), Cores: runtime.NumCPU(), Memory: memory(), Kernel: kernel(), Disk: disk(),
		OS: osName(), Go: strings.TrimPrefix(runtime.Version(), "go"),
	}
}

// field returns the value of the first line "name<sep>value" of a file.
func field(file, name, sep string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(line, sep)
		if ok && strings.TrimSpace(key) == name {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

func cpu() string {
	if name := field("/proc/cpuinfo", "model name", ":"); name != "" {
		return name
	}
	return runtime.GOARCH
}

func memory() string {
	var kb int64
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal", ":"), &kb); err != nil {
		return ""
	}
	return fmt.Sprintf("%.1f GB", float64(kb)*1024/1e9)
}

func osName() string { return field("/etc/os-release", "PRETTY_NAME", "=") }

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func disk() string {
	var s unix.Statfs_t
	if unix.Statfs(os.TempDir(), &s) != nil {
		return ""
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.V9FS_MAGIC: "9p",
	}
	if name := names[int64(s.Type)]; name != "" {
		return name
	}
	return fmt.Sprintf("file system %#x", s.Type)
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
