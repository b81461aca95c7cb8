package gcs

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// An upload is the body of a request that carries an object and what is to be
// known of it (RFC 2387). It can be read again from its start.
// https://cloud.google.com/storage/docs/uploading-objects#multipart
type upload struct {
	head, tail string
	body       io.ReadSeeker
	length     int64 // of body
	boundary   string
	parts      io.Reader
}

// newUpload reads body once, for its checksum.
func newUpload(name string, body io.ReadSeeker, length int64) (*upload, error) {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if n, err := io.Copy(sum, body); err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	} else if n != length {
		return nil, fmt.Errorf("read body: it has %d bytes, not %d", n, length)
	}
	about, err := json.Marshal(map[string]string{
		"name":         name,
		"crc32c":       base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum.Sum32())),
		"contentType":  "application/octet-stream",
		"cacheControl": "no-cache, no-transform",
	})
	if err != nil {
		return nil, err
	}
	u := &upload{body: body, length: length, boundary: rand.Text()} // nobody can put that into content
	u.head = "--" + u.boundary + "\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n" + string(about) +
		"\r\n--" + u.boundary + "\r\nContent-Type: application/octet-stream\r\n\r\n"
	u.tail = "\r\n--" + u.boundary + "--\r\n"
	return u, nil
}

func (u *upload) contentType() string { return "multipart/related; boundary=" + u.boundary }

func (u *upload) size() int64 { return int64(len(u.head)) + u.length + int64(len(u.tail)) }

// Read reads on, from the start unless Seek has been called.
func (u *upload) Read(p []byte) (int, error) {
	if u.parts == nil {
		if _, err := u.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
	}
	return u.parts.Read(p)
}

// Seek goes to the start, and nowhere else.
func (u *upload) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekStart {
		return 0, errors.New("an upload is read from its start")
	}
	if _, err := u.body.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	u.parts = io.MultiReader(strings.NewReader(u.head), io.LimitReader(u.body, u.length), strings.NewReader(u.tail))
	return 0, nil
}
