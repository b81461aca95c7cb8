package guest

import "embed"

// Source is the source of this package, and in boot/ of the program that it
// becomes in a virtual machine.
//
//go:embed protocol.go serve.go boot/main.go
var Source embed.FS
