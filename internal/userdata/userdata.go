// Package userdata makes the text that a cloud hands to a new VM: a short
// shell script that finds Python and runs the bootstrap in bootstrap/, which
// gets the pinned agent from the bucket and starts it. The package knows
// neither releases nor keys, so the text stays the same whatever is published.
//
//   - The settings are what one project and role need: they become agent.yaml.
//   - The bootstrap is the Python, the launcher the shell around it.
//   - The frame is what a format puts around the script.
package userdata

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/bootwell/bootwell/internal/release"
)

// Values of [Config.Format].
const (
	FormatCloudConfig = "cloud-config" // a runcmd of cloud-config; the default
	FormatScript      = "script"       // a shell script
	FormatMIME        = "mime"         // the script as the one part of a MIME multi-part text
)

// Errors of [Generate].
var (
	ErrConfig   = errors.New("cannot be put into user-data")
	ErrTooLarge = errors.New("user-data is larger than the cloud allows")
)

// A Config is all that user-data depends on.
type Config struct {
	Project string
	Bucket  string   // URL as VMs reach it: s3, az, gs, swift, https, http or file, without credentials
	Mirrors []string // further URLs of the same, which VMs try in order after Bucket; at most 8
	Role    string
	Channel string
	Root    release.Digest            // anchor: of 1.root.json
	Agents  map[string]release.Digest // by Go's name of the CPU, amd64 or arm64: of the object agents/<hex>
	Cloud   string                    // one of [Clouds]; "" is the strictest limit
	Format  string                    // "" is [FormatCloudConfig]
	Encode  string                    // "" is what the cloud takes
}

// UserData is a text for a cloud.
type UserData struct {
	Text   []byte // encoded
	Encode string // how Text is encoded
	Bytes  int    // size that the cloud counts: before base64
	Limit  int    // bytes that the cloud allows; 0: it states none
	Parts  []Part // what the text is made of, before it is encoded
}

// A Part is a piece of user-data by size.
type Part struct {
	Name  string
	Bytes int
}

// Made with care not to name a version, so that an upgrade changes no bytes.
const notice = "# Made by bootwell user-data. Holds no secret.\n"

//go:embed launch.sh
var launcherSource string

// Generate returns the user-data of one role. Equal Configs give equal bytes.
// Its error wraps [ErrConfig], or [ErrTooLarge] with the cloud, its limit, the
// size and the biggest part.
func Generate(c Config) (UserData, error) {
	to, err := findCloud(c.Cloud)
	if err != nil {
		return UserData{}, err
	}
	settings, parts, err := settingsOf(c)
	if err != nil {
		return UserData{}, err
	}
	head, tail := bootstrap(parts)
	head, tail = minify(head, shortNames), minify(tail, shortNames)
	launcher := launch()
	script := launcher + head + settings + tail + endOfBootstrap
	text, err := frame(c.Format, script)
	if err != nil {
		return UserData{}, err
	}
	u := UserData{Encode: c.Encode, Limit: to.bytes, Parts: []Part{
		{"bootstrap", len(head) + len(tail) + len(endOfBootstrap)},
		{"settings", len(settings)},
		{"launcher", len(launcher)},
		{"frame", len(text) - len(script)},
	}}
	if u.Encode == "" {
		u.Encode = to.encode
	}
	if u.Text, u.Bytes, err = encode(u.Encode, []byte(text)); err != nil {
		return UserData{}, err
	}
	if err := u.fits(to.title); err != nil {
		return UserData{}, err
	}
	return u, nil
}

func (u UserData) fits(cloud string) error {
	if u.Limit == 0 || u.Bytes <= u.Limit {
		return nil
	}
	big := u.Parts[0]
	for _, p := range u.Parts {
		if p.Bytes > big.Bytes {
			big = p
		}
	}
	return fmt.Errorf("%w: %d bytes, %s takes %d; the biggest part is the %s with %d",
		ErrTooLarge, u.Bytes, cloud, u.Limit, big.Name, big.Bytes)
}

// endOfBootstrap ends the here-document that launch.sh opens.
const endOfBootstrap = "E\n"

// launch returns launch.sh without its comments and indentation.
func launch() string {
	var out strings.Builder
	for line := range strings.Lines(launcherSource) {
		if !strings.HasPrefix(line, "#") {
			out.WriteString(strings.TrimLeft(line, " "))
		}
	}
	return out.String()
}

// frame puts a script into the format.
func frame(format, script string) (string, error) {
	switch format {
	case "", FormatCloudConfig:
		// One space is the least indentation that YAML takes for a block of text.
		block := strings.TrimSuffix(strings.ReplaceAll(" "+script, "\n", "\n "), " ")
		return "#cloud-config\n" + notice + "runcmd:\n- |\n" + block, nil
	case FormatScript:
		return "#!/bin/sh\n" + notice + script, nil
	case FormatMIME:
		// cloud-init names the script's file, and so its messages, after the part.
		return "Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n" +
			"--b\nContent-Type: text/x-shellscript; name=bootwell\n\n" +
			"#!/bin/sh\n" + notice + script + "\n--b--\n", nil
	}
	return "", fmt.Errorf("format %.40q: write cloud-config, script or mime: %w", format, ErrConfig)
}
