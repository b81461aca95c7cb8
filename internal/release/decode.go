package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"unicode/utf8"
)

// decodeManifest reads JSON into m, as encoding/json does. Of the canonical
// form it reads the files, nearly all of a manifest, ten times as fast.
func decodeManifest(b []byte, m *Manifest) error {
	files, rest, ok := decodeFiles(b)
	if !ok {
		return decodeSchema(b, m, "manifest")
	}
	var other struct {
		Manifest
		Files json.RawMessage `json:"files"`
	}
	if err := decodeSchema(rest, &other, "manifest"); err != nil {
		return err
	}
	if other.Files != nil {
		return decodeSchema(b, m, "manifest") // there are files twice
	}
	*m = other.Manifest
	m.Files = files
	return nil
}

// decodeFiles reads the list of files at the beginning of a canonical manifest.
// The rest is the manifest without it. Anything out of the ordinary is not ok.
func decodeFiles(b []byte) (files []File, rest []byte, ok bool) {
	d := decoder{b: b, ok: true}
	d.need(`{"files":[`)
	files = make([]File, 0, len(b)/256)
	for more := !d.take(`]`); more && d.ok; {
		files = append(files, d.file())
		if more = d.take(`,`); !more {
			d.need(`]`)
		}
	}
	if !d.ok || len(d.b) == 0 || d.b[0] != ',' {
		return nil, nil, false
	}
	return files, append([]byte{'{'}, d.b[1:]...), true
}

// A decoder takes values from the front of b, as long as they are spelled as
// an [encoder] spells them.
type decoder struct {
	b     []byte
	ok    bool
	blobs []Blob // room for the lists of single blobs
}

// take reports whether b begins with s, and drops it then.
func (d *decoder) take(s string) bool {
	if len(d.b) < len(s) || string(d.b[:len(s)]) != s {
		return false
	}
	d.b = d.b[len(s):]
	return true
}

func (d *decoder) need(s string) { d.ok = d.take(s) && d.ok }

func (d *decoder) file() File {
	var f File
	d.need(`{`)
	if d.take(`"blobs":[`) {
		f.Blobs = d.list()
		d.need(`,`)
	}
	if d.take(`"digest":`) {
		f.Digest = d.digest()
		d.need(`,`)
	}
	f.Dir = d.take(`"dir":true,`)
	if d.take(`"link":`) {
		f.Link = d.text()
		d.need(`,`)
	}
	if d.take(`"mode":`) {
		n := d.number()
		d.ok = d.ok && n <= math.MaxUint32
		f.Mode = uint32(n)
		d.need(`,`)
	}
	d.need(`"path":`)
	f.Path = d.text()
	if d.take(`,"size":`) {
		f.Size = d.number()
	}
	d.need(`}`)
	return f
}

func (d *decoder) list() []Blob {
	if cap(d.blobs) == len(d.blobs) {
		d.blobs = make([]Blob, 0, 512)
	}
	first := len(d.blobs)
	for more := true; more && d.ok; more = d.take(`,`) {
		d.blobs = append(d.blobs, d.blob())
		if len(d.blobs) == cap(d.blobs) {
			// What is begun moves on, so that finished lists stay as they are.
			d.blobs, first = append(make([]Blob, 0, 2*(len(d.blobs)-first)+512), d.blobs[first:]...), 0
		}
	}
	d.need(`]`)
	return d.blobs[first:len(d.blobs):len(d.blobs)]
}

func (d *decoder) blob() Blob {
	var b Blob
	d.need(`{`)
	if d.take(`"digest":`) {
		b.Digest = d.digest()
		d.need(`,`)
	}
	d.need(`"offset":`)
	b.Offset = d.number()
	d.need(`,"pack":`)
	b.Pack = int(d.number())
	if d.take(`,"size":`) {
		b.Size = d.number()
	}
	d.need(`,"stored":`)
	b.Stored = d.number()
	d.need(`}`)
	return b
}

func (d *decoder) digest() (v Digest) {
	d.need(`"sha256:`)
	if len(d.b) <= 2*sha256.Size {
		d.ok = false
		return v
	}
	text := d.b[:2*sha256.Size]
	lower := ^uint64(0) // of hexadecimal digits, capitals alone lack the bit 0x20
	for i := 0; i < len(text); i += 8 {
		lower &= binary.NativeEndian.Uint64(text[i:])
	}
	_, err := hex.Decode(v.sum[:], text)
	d.ok = d.ok && err == nil && lower&0x2020202020202020 == 0x2020202020202020
	if !d.ok {
		return Digest{}
	}
	d.b = d.b[2*sha256.Size:]
	d.need(`"`)
	return v
}

// number reads a whole number of at most 18 digits, without a sign.
func (d *decoder) number() (v int64) {
	n := 0
	for n < len(d.b) && n < 18 && d.b[n] >= '0' && d.b[n] <= '9' {
		v = 10*v + int64(d.b[n]-'0')
		n++
	}
	if n == 0 || n > 1 && d.b[0] == '0' {
		d.ok = false
	}
	d.b = d.b[n:]
	return v
}

// text reads a JSON text. One with escapes is left to encoding/json.
func (d *decoder) text() (s string) {
	d.need(`"`)
	n := bytes.IndexByte(d.b, '"')
	if n < 0 {
		d.ok = false
		return ""
	}
	if bytes.IndexByte(d.b[:n], '\\') >= 0 {
		return d.escaped()
	}
	for _, c := range d.b[:n] {
		d.ok = d.ok && c >= ' '
	}
	d.ok = d.ok && utf8.Valid(d.b[:n])
	s, d.b = string(d.b[:n]), d.b[n+1:]
	return s
}

func (d *decoder) escaped() (s string) {
	for n := 0; n < len(d.b); n++ {
		switch d.b[n] {
		case '\\':
			n++
		case '"':
			literal := append([]byte{'"'}, d.b[:n+1]...)
			d.ok = d.ok && json.Unmarshal(literal, &s) == nil
			d.b = d.b[n+1:]
			return s
		}
	}
	d.ok = false
	return ""
}
