// Command bootwell-agent keeps one VM as its project's bucket says.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/bucket/file"
	"github.com/bootwell/bootwell/internal/bucket/s3"
	"github.com/bootwell/bootwell/internal/bucket/web"
	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/cli/vm"
)

var version = "dev" // set by the linker

func main() {
	s := cli.NewSession("bootwell-agent", version, open)
	os.Exit(s.Run(vm.Root(s), os.Args[1:]))
}
