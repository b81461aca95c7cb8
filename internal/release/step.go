package release

import (
	"fmt"
	"time"
)

// A Duration is a [time.Duration] that travels as text such as "90s" or "5m0s".
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("parse duration %.40q: %w", b, err)
	}
	*d = Duration(v)
	return nil
}

// Std returns d as a [time.Duration].
func (d Duration) Std() time.Duration { return time.Duration(d) }

// The kinds of a step.
const (
	KindPackages = "packages"
	KindFiles    = "files"
	KindServices = "services"
	KindUsers    = "users"
	KindScript   = "script"
	KindRun      = "run"
)

// Values of [Step.Rerun].
const (
	RerunChanged = "changed" // when the step's inputs differ from its last success on this VM
	RerunAlways  = "always"  // on each run
	RerunNever   = "never"   // until it succeeded once on this VM
)

// Values of [Step.OnError].
const (
	OnErrorStop     = "stop"
	OnErrorContinue = "continue"
)

// Values of [Step.Reboot].
const (
	RebootNever      = "never"
	RebootIfRequired = "if-required" // when the system says so (Debian: /run/reboot-required)
	RebootIfChanged  = "if-changed"
)

// A Step is one resolved piece of work of a role. All defaults are filled in:
// whoever runs it decides nothing. Exactly the field that Kind names is set
// (for [KindScript] also Args).
type Step struct {
	Name string `json:"name"` // unique within the role
	Kind string `json:"kind"`

	Packages []Package  `json:"packages,omitempty"`
	Files    []FileItem `json:"files,omitempty"`
	Services []Service  `json:"services,omitempty"`
	Users    []User     `json:"users,omitempty"`
	Script   string     `json:"script,omitempty"` // path within the release
	Args     []string   `json:"args,omitempty"`
	Run      string     `json:"run,omitempty"` // text for sh -eu

	Only    []string          `json:"only,omitempty"`    // platform globs such as debian-*; empty: all
	Inputs  []string          `json:"inputs,omitempty"`  // globs of release files that count as inputs of a script or run
	Unless  string            `json:"unless,omitempty"`  // shell text: the step is skipped as unchanged when it exits 0
	Creates string            `json:"creates,omitempty"` // absolute path: the step is unchanged when it exists
	Env     map[string]string `json:"env,omitempty"`
	User    string            `json:"user,omitempty"` // "" is root
	Rerun   string            `json:"rerun"`
	Timeout Duration          `json:"timeout"`
	Retries int               `json:"retries,omitempty"`
	OnError string            `json:"on_error"`
	Reboot  string            `json:"reboot"`
	Restart []string          `json:"restart,omitempty"` // services to restart when the step changed something
	Reload  []string          `json:"reload,omitempty"`  // services to reload when the step changed something
}

// A Package is one package and the state it must have.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // exact version; "": any installed one will do
	Absent  bool   `json:"absent,omitempty"`
}

// Values of [FileItem.State].
const (
	StatePresent   = "present"
	StateAbsent    = "absent"
	StateDirectory = "directory"
)

// A FileItem is one file, link or folder of a files step. Of From, Content and
// Link at most one is set; with State directory or absent, none.
type FileItem struct {
	To       string  `json:"to"`                // absolute path on the VM
	From     string  `json:"from,omitempty"`    // file or folder within the release
	Content  *string `json:"content,omitempty"` // literal text
	Link     string  `json:"link,omitempty"`    // To becomes a symbolic link to this
	State    string  `json:"state"`
	Mode     string  `json:"mode,omitempty"` // octal text such as "0644"; "" keeps the release's mode for a folder's files
	Owner    string  `json:"owner"`
	Group    string  `json:"group"`
	Template bool    `json:"template,omitempty"` // From or Content is a Go text/template over vars and facts
	Validate string  `json:"validate,omitempty"` // shell text with %s for the new file's path; must exit 0 before the move
}

// Values of [Service.State].
const (
	ServiceRunning = "running"
	ServiceStopped = "stopped"
)

// A Service is one service of the init system.
type Service struct {
	Name    string `json:"name"`
	State   string `json:"state,omitempty"`   // "": left as it is
	Enabled *bool  `json:"enabled,omitempty"` // nil: left as it is
}

// A User is one account of the system.
type User struct {
	Name    string   `json:"name"`
	Absent  bool     `json:"absent,omitempty"`
	UID     *int     `json:"uid,omitempty"`
	Group   string   `json:"group,omitempty"`  // primary group; "": one named as the user
	Groups  []string `json:"groups,omitempty"` // further groups, added to those the user has
	Home    string   `json:"home,omitempty"`
	Shell   string   `json:"shell,omitempty"`
	Comment string   `json:"comment,omitempty"`
	System  bool     `json:"system,omitempty"`
	SSHKeys []string `json:"ssh_keys,omitempty"` // the whole content of authorized_keys; nil: left as it is
}

// The kinds of a check.
const (
	CheckHTTP    = "http"
	CheckPort    = "port"
	CheckService = "service"
	CheckFile    = "file"
	CheckPackage = "package"
	CheckCommand = "command"
	CheckRun     = "run"
)

// A Check is one thing that must hold after the steps. Target is what Kind
// looks at: a URL, "tcp:80", a service, an absolute path, a package, shell
// text, or (for run) a script within the release. The words of the
// expectations are those of goss.
type Check struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Target string `json:"target"`

	Status        int      `json:"status,omitempty"`         // http; 200 if not given
	Body          []string `json:"body,omitempty"`           // http: each text, or /regexp/, must occur
	Headers       []string `json:"headers,omitempty"`        // http: request headers "Name: value"
	AllowInsecure bool     `json:"allow_insecure,omitempty"` // http: do not verify the certificate
	Listening     *bool    `json:"listening,omitempty"`      // port; nil: true
	Running       *bool    `json:"running,omitempty"`        // service; nil: true
	Enabled       *bool    `json:"enabled,omitempty"`        // service; nil: not looked at
	Exists        *bool    `json:"exists,omitempty"`         // file; nil: true
	Mode          string   `json:"mode,omitempty"`           // file
	Owner         string   `json:"owner,omitempty"`          // file
	Group         string   `json:"group,omitempty"`          // file
	Contents      []string `json:"contents,omitempty"`       // file: each text, or /regexp/, must occur
	Installed     *bool    `json:"installed,omitempty"`      // package; nil: true
	Versions      []string `json:"versions,omitempty"`       // package: one of these
	ExitStatus    int      `json:"exit_status,omitempty"`    // command, run
	Stdout        []string `json:"stdout,omitempty"`         // command, run: each text, or /regexp/, must occur
	Stderr        []string `json:"stderr,omitempty"`         // command, run

	Timeout  Duration `json:"timeout"`            // of one attempt
	Retries  int      `json:"retries,omitempty"`  // further attempts
	Interval Duration `json:"interval,omitempty"` // between attempts
}

// A Role is what one kind of VM gets: the steps in their order (those of the
// roles it extends first), the checks after them, and the variables they see.
type Role struct {
	Description string   `json:"description,omitempty"`
	Platforms   []string `json:"platforms,omitempty"` // such as debian-12; empty: any
	Vars        Vars     `json:"vars,omitempty"`
	Files       []string `json:"files,omitempty"` // globs (doublestar) of the release files this role needs; empty: all
	Steps       []Step   `json:"steps"`
	Checks      []Check  `json:"checks,omitempty"`
	Schedule    Schedule `json:"schedule"`
	Attempts    int      `json:"attempts"` // runs of a failing release before it is quarantined on the VM
}

// Vars are a role's variables: text, whole numbers (json.Number once decoded),
// true and false, and lists of these.
type Vars map[string]any

// UnmarshalJSON implements [json.Unmarshaler]; numbers stay [json.Number], so
// that 12345678901 is not turned into a float.
func (v *Vars) UnmarshalJSON(b []byte) error {
	m, err := decodeNumbers(b)
	*v = m
	return err
}

// A Schedule says how often a VM looks for a new release and how often it
// applies again the one it has.
type Schedule struct {
	Poll    Duration `json:"poll"`
	Reapply Duration `json:"reapply"`
}
