package world

import (
	"bytes"
	"strconv"
	"strings"
	"sync"
)

// A meter finds the requests in the HTTP/1.1 stream of one connection
// (RFC 9112): what is a head, and how long the body after it is.
type meter struct {
	found func(method string)

	mu       sync.Mutex
	line     []byte // the current line of a head or of chunked framing, bounded
	where    int
	rest     int64 // bytes left of a body or chunk
	method   string
	length   int64
	chunked  bool
	expect   bool // 100-continue was asked for
	waiting  bool // … and no byte of the body has come
	rejected bool // … and the server has given its last word
}

const (
	atStart   = iota // of a head
	inHead           // after the request line
	inBody           // with Content-Length
	atChunk          // where a chunk's length stands
	inChunk          // in its bytes
	afterData        // at the line end after them
	inTrailer
	lost // not HTTP/1: nothing is counted
)

const maxLine = 64 << 10

// up sees bytes from the client.
func (m *meter) up(data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(data) > 0 && m.where != lost {
		if m.where == inBody || m.where == inChunk {
			data = m.skip(data)
			continue
		}
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			m.keep(data)
			return
		}
		m.keep(data[:end])
		data = data[end+1:]
		line := strings.TrimSuffix(string(m.line), "\r")
		m.line = m.line[:0]
		m.endLine(line)
	}
}

// down sees bytes from the server: only what it says to Expect matters.
func (m *meter) down(data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting && bytes.HasPrefix(data, []byte("HTTP/1.")) && !bytes.HasPrefix(data[8:], []byte(" 100")) {
		m.rejected = true
	}
}

func (m *meter) keep(part []byte) {
	if len(m.line)+len(part) > maxLine {
		m.where = lost
		return
	}
	m.line = append(m.line, part...)
}

func (m *meter) skip(data []byte) []byte {
	if m.waiting && m.rejected && requestLine(data) {
		m.where, m.waiting, m.rejected = atStart, false, false
		return data
	}
	m.waiting = false
	n := min(int64(len(data)), m.rest)
	m.rest -= n
	if m.rest == 0 {
		if m.where == inBody {
			m.where = atStart
		} else {
			m.where = afterData
		}
	}
	return data[n:]
}

// requestLine tells a new head from a body that a client sends although it was
// rejected.
func requestLine(data []byte) bool {
	line, _, _ := bytes.Cut(data, []byte("\r\n"))
	return bytes.HasSuffix(line, []byte(" HTTP/1.1"))
}

func (m *meter) endLine(line string) {
	switch m.where {
	case atStart:
		m.startLine(line)
	case inHead:
		m.headLine(line)
	case atChunk:
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseInt(strings.TrimSpace(size), 16, 64)
		switch {
		case err != nil || n < 0:
			m.where = lost
		case n == 0:
			m.where = inTrailer
		default:
			m.where, m.rest = inChunk, n
		}
	case afterData:
		m.where = atChunk
	case inTrailer:
		if line == "" {
			m.where = atStart
		}
	}
}

func (m *meter) startLine(line string) {
	if line == "" {
		return
	}
	method, _, _ := strings.Cut(line, " ")
	if !strings.Contains(line, " HTTP/1.") {
		m.where = lost
		return
	}
	m.method, m.length, m.chunked, m.expect = method, 0, false, false
	m.where = inHead
}

func (m *meter) headLine(line string) {
	if line != "" {
		name, value, _ := strings.Cut(line, ":")
		value = strings.ToLower(strings.TrimSpace(value))
		switch strings.ToLower(name) {
		case "content-length":
			m.length, _ = strconv.ParseInt(value, 10, 64)
		case "transfer-encoding":
			m.chunked = strings.HasSuffix(value, "chunked")
		case "expect":
			m.expect = value == "100-continue"
		}
		return
	}
	m.found(m.method)
	switch {
	case m.chunked:
		m.where = atChunk
	case m.length > 0:
		m.where, m.rest = inBody, m.length
		m.waiting, m.rejected = m.expect, false
	default:
		m.where = atStart
	}
}
