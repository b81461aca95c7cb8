// Package guest runs inside a throw-away machine and executes what the lab
// asks for. The machine's end of the conversation is Serve, the lab's end is
// package lab. It uses nothing but the standard library, because the lab
// also compiles its source by itself into the first program of QEMU guests.
package guest

// MaxData bounds the data of one message, in bytes.
const MaxData = 32 << 10

// MaxLine bounds one encoded message: MaxData in base64, and room for
// arguments and environment.
const MaxLine = 1 << 20

// Request is one line of JSON from the lab to the machine. The first request
// of an ID is Start; the others speak of the command that it started.
type Request struct {
	ID    uint64   `json:"id"`
	Op    Op       `json:"op"`
	Args  []string `json:"args,omitempty"`
	Env   []string `json:"env,omitempty"`
	Dir   string   `json:"dir,omitempty"`
	Stdin []byte   `json:"stdin,omitempty"`
}

// Op says what a Request asks for.
type Op string

// Operations of a Request.
const (
	Start Op = "start" // run Args
	Input Op = "input" // Stdin is the next part of the standard input
	EOF   Op = "eof"   // the standard input ends here
	Kill  Op = "kill"  // kill the process group
	Greet Op = "greet" // say hello once more
)

// Reply is one line of JSON from the machine to the lab.
type Reply struct {
	Hello   string `json:"hello,omitempty"`  // first line, and the answer to Greet: who speaks; another one after a restart
	Failed  string `json:"failed,omitempty"` // instead of Hello: why there is no machine
	Denied  bool   `json:"denied,omitempty"` // with Failed: the kernel did not allow it
	ID      uint64 `json:"id,omitempty"`
	Out     []byte `json:"out,omitempty"`
	Err     []byte `json:"err,omitempty"`
	Console []byte `json:"console,omitempty"`
	Exit    *int   `json:"exit,omitempty"` // the command ended; last reply of the ID
}
