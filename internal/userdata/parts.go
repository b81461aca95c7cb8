package userdata

import (
	"embed"
	"slices"
	"strings"
)

// The bootstrap in the folder of that name: main.py, and what buckets need
// beside it.
const (
	partMain     = "main"
	partCA       = "ca"
	partIdentity = "identity"
	partS3       = "s3"
	partAzure    = "az"
	partGoogle   = "gs"
	partVendor   = "vendor"
	partSwift    = "swift"
	partTempURL  = "tempurl"
)

// partOrder is the order in which parts stand in user-data.
var partOrder = []string{partCA, partIdentity, partS3, partAzure, partGoogle, partVendor, partSwift, partTempURL}

//go:embed bootstrap/*.py
var partFiles embed.FS

// bootstrap returns what stands before and after the settings in the
// bootstrap of these parts, not minified. Their imports stand first, each
// module once.
func bootstrap(parts []string) (head, tail string) {
	const begin, end, here = "# Settings:", "# End of the settings.", "# What the buckets need is put here."
	var im imports
	top, rest, _ := strings.Cut(im.cut(readPart(partMain)), begin)
	_, tail, _ = strings.Cut(rest, end)
	before, after, _ := strings.Cut(tail, here)
	for _, p := range partOrder {
		if slices.Contains(parts, p) {
			before += im.cut(readPart(p))
		}
	}
	return top + im.text(), before + after
}

func readPart(name string) string {
	// It is part of the program, so it is there.
	b, _ := partFiles.ReadFile("bootstrap/" + name + ".py")
	return string(b)
}

// imports are the modules that parts need.
type imports struct {
	modules []string
	whole   []string // of which all names are taken
}

// cut takes the import statements out of src.
func (im *imports) cut(src string) string {
	var out strings.Builder
	for line := range strings.Lines(src) {
		if list, ok := strings.CutPrefix(line, "import "); ok {
			im.modules = append(im.modules, strings.Split(strings.TrimSpace(list), ", ")...)
			continue
		}
		if strings.HasPrefix(line, "from ") {
			im.whole = append(im.whole, line)
			continue
		}
		out.WriteString(line)
	}
	return out.String()
}

func (im *imports) text() string {
	slices.Sort(im.modules)
	slices.Sort(im.whole)
	return "import " + strings.Join(slices.Compact(im.modules), ", ") + "\n" + strings.Join(slices.Compact(im.whole), "")
}
