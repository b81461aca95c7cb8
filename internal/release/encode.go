package release

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

// Bytes returns the canonical JSON of m.
func (m *Manifest) Bytes() ([]byte, error) { return m.encode(true) }

// Sealed returns the canonical JSON of m after it has checked that
// [ParseManifest] takes it. Its errors are those of ParseManifest.
func (m *Manifest) Sealed() ([]byte, error) {
	checked := make(chan error, 1)
	go func() { checked <- m.check() }()
	b, err := m.Bytes()
	wrong := <-checked
	switch {
	case err != nil:
		return nil, err
	case len(b) > MaxManifestBytes:
		return nil, errTooLong(len(b))
	case wrong != nil:
		return nil, fmt.Errorf("manifest: %w: %w", wrong, ErrFormat)
	}
	// What the files are written as reads back the same; only what people wrote
	// is worth a second look.
	head := *m
	head.Files = []File{}
	h, err := head.Bytes()
	if err != nil {
		return nil, err
	}
	_, err = ParseManifest(h)
	return b, err
}

// ContentDigest names what a VM would get from m: files and roles, but not
// when, by whom and in which packs. Two publishes of one tree have the same.
func (m *Manifest) ContentDigest() (Digest, error) {
	c := Manifest{Schema: m.Schema, Project: m.Project, Roles: m.Roles, Packs: []Pack{}, Files: m.Files}
	if c.Files == nil {
		c.Files = []File{}
	}
	b, err := c.encode(false)
	if err != nil {
		return Digest{}, err
	}
	return DigestOf(b), nil
}

// encode writes canonical JSON (RFC 8785): the names of an object in the order
// of their UTF-16 code units, no white space, the shortest spelling of each
// text. The files, which are nearly all of it, are written here; the rest goes
// through encoding/json.
func (m *Manifest) encode(blobs bool) ([]byte, error) {
	e := encoder{buf: make([]byte, 0, 4096+320*len(m.Files)), blobs: blobs}
	e.buf = append(e.buf, `{"files":`...)
	list(&e, m.Files, e.file)
	e.number(`,"number":`, int64(m.Number))
	e.buf = append(e.buf, `,"packs":`...)
	list(&e, m.Packs, func(p Pack) {
		e.digest(`{"digest":`, p.Digest)
		e.number(`,"size":`, p.Size)
		e.buf = append(e.buf, '}')
	})
	e.text(`,"project":`, m.Project)
	if err := e.value(`,"roles":`, m.Roles); err != nil {
		return nil, err
	}
	e.number(`,"schema":`, int64(m.Schema))
	if err := e.value(`,"source":`, m.Source); err != nil {
		return nil, err
	}
	if e.inexact {
		return m.encodeSlowly(blobs)
	}
	return append(e.buf, '}'), nil
}

func (m *Manifest) encodeSlowly(blobs bool) ([]byte, error) {
	c := *m
	c.Files = slices.Clone(m.Files)
	for i := range c.Files {
		switch f := &c.Files[i]; {
		case !blobs:
			f.Blobs = nil
		case f.whole():
			f.Blobs = []Blob{f.Blobs[0].place()}
		}
	}
	return canonical(&c)
}

// whole reports whether f is stored in one piece. What is said of the piece is
// then said of the file.
func (f *File) whole() bool {
	return len(f.Blobs) == 1 && f.Blobs[0].Digest == f.Digest && f.Blobs[0].Size == f.Size
}

// place returns b with only the place of its content.
func (b Blob) place() Blob {
	b.Digest, b.Size = Digest{}, 0
	return b
}

// complete fills in what [File.whole] left out.
func (m *Manifest) complete() {
	for i := range m.Files {
		if f := &m.Files[i]; len(f.Blobs) == 1 && f.Blobs[0] == f.Blobs[0].place() {
			f.Blobs[0].Digest, f.Blobs[0].Size = f.Digest, f.Size
		}
	}
}

// An encoder appends canonical JSON to buf.
type encoder struct {
	buf     []byte
	blobs   bool // of files are written
	inexact bool // a number was met that JSON's readers may round
}

// list appends a list of what each writes.
func list[T any](e *encoder, all []T, each func(T)) {
	if all == nil {
		e.buf = append(e.buf, "null"...)
		return
	}
	e.buf = append(e.buf, '[')
	for i, v := range all {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		each(v)
	}
	e.buf = append(e.buf, ']')
}

// file appends f. What is zero is left out, as the tags of [File] say.
func (e *encoder) file(f File) {
	e.buf = append(e.buf, '{')
	if e.blobs && len(f.Blobs) > 0 {
		e.buf = append(e.buf, `"blobs":`...)
		blobs := f.Blobs
		if f.whole() {
			blobs = []Blob{f.Blobs[0].place()}
		}
		list(e, blobs, e.blob)
		e.buf = append(e.buf, ',')
	}
	if !f.Digest.IsZero() {
		e.digest(`"digest":`, f.Digest)
		e.buf = append(e.buf, ',')
	}
	if f.Dir {
		e.buf = append(e.buf, `"dir":true,`...)
	}
	if f.Link != "" {
		e.text(`"link":`, f.Link)
		e.buf = append(e.buf, ',')
	}
	if f.Mode != 0 {
		e.number(`"mode":`, int64(f.Mode))
		e.buf = append(e.buf, ',')
	}
	e.text(`"path":`, f.Path)
	if f.Size != 0 {
		e.number(`,"size":`, f.Size)
	}
	e.buf = append(e.buf, '}')
}

func (e *encoder) blob(b Blob) {
	e.buf = append(e.buf, '{')
	if !b.Digest.IsZero() {
		e.digest(`"digest":`, b.Digest)
		e.buf = append(e.buf, ',')
	}
	e.number(`"offset":`, b.Offset)
	e.number(`,"pack":`, int64(b.Pack))
	if b.Size != 0 {
		e.number(`,"size":`, b.Size)
	}
	e.number(`,"stored":`, b.Stored)
	e.buf = append(e.buf, '}')
}

func (e *encoder) digest(name string, d Digest) {
	e.buf = append(append(e.buf, name...), '"')
	if !d.IsZero() {
		e.buf = append(e.buf, "sha256:"...)
		e.buf = hex.AppendEncode(e.buf, d.sum[:])
	}
	e.buf = append(e.buf, '"')
}

// maxExact is the largest whole number that JSON carries without loss
// (RFC 8785, 3.2.2.3).
const maxExact = 1 << 53

func (e *encoder) number(name string, n int64) {
	e.inexact = e.inexact || n > maxExact || n < -maxExact
	e.buf = strconv.AppendInt(append(e.buf, name...), n, 10)
}

// text appends s as RFC 8785, 3.2.2.2 says. What is not UTF-8 becomes U+FFFD.
func (e *encoder) text(name, s string) {
	e.buf = append(append(e.buf, name...), '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				e.buf = append(append(e.buf, s[from:i]...), string(utf8.RuneError)...)
				from = i + 1
			}
			i += n
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			e.buf = append(append(e.buf, s[from:i]...), escape(c)...)
			from = i + 1
		}
		i++
	}
	e.buf = append(append(e.buf, s[from:]...), '"')
}

// escape spells a character that JSON texts cannot hold.
func escape(c byte) string {
	switch c {
	case '"', '\\':
		return string([]byte{'\\', c})
	case '\b':
		return `\b`
	case '\t':
		return `\t`
	case '\n':
		return `\n`
	case '\f':
		return `\f`
	case '\r':
		return `\r`
	}
	return fmt.Sprintf(`\u%04x`, c)
}

func (e *encoder) value(name string, v any) error {
	b, err := canonical(v)
	e.buf = append(append(e.buf, name...), b...)
	return err
}

func canonical(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if string(b) == "null" {
		return b, nil
	}
	b, err = jcs.Transform(b)
	if err != nil {
		return nil, fmt.Errorf("encode canonical JSON: %w", err)
	}
	return b, nil
}
