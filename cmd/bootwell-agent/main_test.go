package main

import (
	"os/exec"
	"strings"
	"testing"
)

// A poll takes about as long as the program takes to start, and that is what the
// packages in it initialise. These cost half a millisecond and more, each.
func TestStartsLight(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		for _, heavy := range []string{"google.golang.org/protobuf/", "github.com/minio/minio-go/", "github.com/klauspost/cpuid/", "github.com/google/go-containerregistry/", "github.com/aws/aws-sdk-go-v2/service/"} {
			if strings.HasPrefix(pkg, heavy) {
				t.Errorf("the agent starts with %s", pkg)
			}
		}
	}
}
