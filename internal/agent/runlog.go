package agent

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	maxLogHead = 3 << 20
	maxLogTail = 1 << 20
	keepRuns   = 20
)

// newRunID names a run so that names sort by time.
func newRunID(now time.Time) string {
	var b [2]byte
	_, _ = rand.Read(b[:])
	return now.UTC().Format("20060102-150405-") + hex.EncodeToString(b[:])
}

// validRunID reports whether s is a name as newRunID makes them.
func validRunID(s string) bool {
	const form = "00000000-000000-ffff"
	if len(s) != len(form) {
		return false
	}
	for i := range len(s) {
		c, digit := s[i], '0' <= s[i] && s[i] <= '9'
		switch form[i] {
		case '0':
			if !digit {
				return false
			}
		case 'f':
			if !digit && (c < 'a' || c > 'f') {
				return false
			}
		case '-':
			if c != '-' {
				return false
			}
		}
	}
	return true
}

// A runLog is the bounded log of one run: its first 3 MiB as they come, its
// last 1 MiB when it is closed, and a line about what is missing between. A
// log that cannot be written does not stop the run; Err tells of it.
type runLog struct {
	f    *os.File
	size int64
	tail []byte // ring once it is full
	next int
	lost int64 // bytes that left the ring
	err  error
}

// openLog opens the log of a run, at its end when the run is resumed.
func openLog(name string) *runLog {
	l := &runLog{}
	l.f, l.err = os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if l.err == nil {
		if i, err := l.f.Stat(); err == nil {
			l.size = i.Size()
		}
	}
	return l
}

// Write never fails: a full disk must not make a step fail.
func (l *runLog) Write(b []byte) (int, error) {
	n := len(b)
	if room := maxLogHead - l.size; room > 0 {
		head := b[:min(int64(len(b)), room)]
		l.put(head)
		l.size += int64(len(head))
		b = b[len(head):]
	}
	for len(b) > 0 {
		if len(l.tail) < maxLogTail {
			c := min(maxLogTail-len(l.tail), len(b))
			l.tail = append(l.tail, b[:c]...)
			b = b[c:]
			continue
		}
		c := copy(l.tail[l.next:], b)
		l.next, l.lost, b = (l.next+c)%maxLogTail, l.lost+int64(c), b[c:]
	}
	return n, nil
}

func (l *runLog) put(b []byte) {
	if l.f == nil || l.err != nil {
		return
	}
	if _, err := l.f.Write(b); err != nil {
		l.err = diskError(err)
	}
}

// Close writes the end of a long log.
func (l *runLog) Close() error {
	if l.f == nil {
		return l.err
	}
	if l.lost > 0 {
		l.put(fmt.Appendf(nil, "\n--- %d bytes are left out here\n", l.lost))
	}
	l.put(slices.Concat(l.tail[l.next:], l.tail[:l.next]))
	if err := l.f.Close(); l.err == nil {
		l.err = err
	}
	return l.err
}

// stepMark is the line before a step's output.
func stepMark(index, total int, name string) string {
	return fmt.Sprintf("--- step %d/%d %s\n", index+1, total, oneLine(name, 200))
}

// sectionOf returns the part of a log that a step called name wrote.
func sectionOf(log, name string) (string, bool) {
	var out strings.Builder
	found, in := false, false
	for line := range strings.Lines(log) {
		if rest, ok := strings.CutPrefix(line, "--- step "); ok {
			_, title, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
			in = title == oneLine(name, 200)
			found = found || in
		} else if strings.HasPrefix(line, "--- checks") {
			in = name == "checks"
			found = found || in
		}
		if in {
			out.WriteString(line)
		}
	}
	return out.String(), found
}

// runIDs returns the runs on the disk, newest first.
func runIDs(p Paths) []string {
	entries, err := os.ReadDir(p.Runs())
	if err != nil {
		return nil
	}
	var ids []string
	for _, e := range entries {
		id := strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".log"), ".json")
		if validRunID(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	slices.Reverse(ids)
	return ids
}

// pruneRuns keeps the newest runs, and of what is no run nothing.
func pruneRuns(p Paths) {
	ids := runIDs(p)
	for _, id := range ids[min(keepRuns, len(ids)):] {
		dropRun(p, id)
	}
	entries, _ := os.ReadDir(p.Runs())
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			_ = os.Remove(filepath.Join(p.Runs(), e.Name()))
		}
	}
}

func dropRun(p Paths, id string) {
	_ = os.Remove(p.RunLog(id))
	_ = os.Remove(p.RunResult(id))
}
