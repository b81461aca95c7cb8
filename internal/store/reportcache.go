package store

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
)

const (
	cacheFile  = "reports"
	cacheHead  = "bootwell reports 1\n" // another number when the fields of a Summary change
	maxCache   = 256 << 20
	cacheTrash = time.Hour // age at which a temporary file is one that was left behind
)

// A cachedReport is what one folder below reports/ held when it had an ETag.
type cachedReport struct {
	folder, etag string
	summary      *release.Summary
}

// byKey compares folders by the names of their objects: "a-b/…" comes before "a/…".
func byKey(a, b string) int {
	n := min(len(a), len(b))
	if c := strings.Compare(a[:n], b[:n]); c != 0 || len(a) == len(b) {
		return c
	}
	if len(a) > n {
		return cmp.Or(cmp.Compare(a[n], '/'), 1)
	}
	return cmp.Or(cmp.Compare('/', b[n]), -1)
}

// A reportCache is one file: a head, reports in the order of their keys, each
// string after its length, and the SHA-256 of all that. It is replaced as a whole,
// so that commands at the same time do not mix. Anything wrong with it costs
// GETs and nothing else.
type reportCache struct {
	dir string
	had []cachedReport // by key, no folder twice
}

// loadReports reads the cache in dir; "" or a cache that cannot be read is empty.
func loadReports(dir string) (*reportCache, error) {
	c := &reportCache{dir: dir}
	if dir == "" {
		return c, nil
	}
	f, err := openRegular(filepath.Join(dir, cacheFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return c, err
	}
	if st.Size() > maxCache {
		return c, fmt.Errorf("%s has %d bytes", cacheFile, st.Size())
	}
	var text strings.Builder
	text.Grow(int(st.Size()))
	if _, err := io.Copy(&text, io.LimitReader(f, st.Size())); err != nil {
		return c, err
	}
	c.had, err = decodeReports(text.String())
	return c, err
}

var errTorn = errors.New("the cache of reports is torn")

// decodeReports reads what encodeReports wrote. All strings are parts of text.
func decodeReports(text string) ([]cachedReport, error) {
	end := len(text) - sha256.Size
	if end < len(cacheHead) || text[:len(cacheHead)] != cacheHead {
		return nil, errTorn
	}
	h := sha256.New()
	_, _ = io.WriteString(h, text[:end])
	if string(h.Sum(nil)) != text[end:] {
		return nil, errTorn
	}
	d := decoder{text: text[len(cacheHead):end]}
	n := d.number()
	if n > maxVMs {
		return nil, errTorn
	}
	room := min(n, uint64(len(d.text))/8)
	had, summaries := make([]cachedReport, 0, room), make([]release.Summary, room)
	for i := range room {
		r := d.report(&summaries[i])
		if d.bad || len(had) > 0 && byKey(had[len(had)-1].folder, r.folder) >= 0 {
			return nil, errTorn
		}
		had = append(had, r)
	}
	if room < n || d.text != "" {
		return nil, errTorn
	}
	return had, nil
}

// A decoder takes values off the start of its text until one is bad.
type decoder struct {
	text string
	bad  bool
}

func (d *decoder) number() uint64 {
	var v uint64
	for i := 0; i < len(d.text) && i < binary.MaxVarintLen64; i++ {
		b := d.text[i]
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			d.text = d.text[i+1:]
			return v
		}
	}
	d.bad, d.text = true, ""
	return 0
}

func (d *decoder) str() string {
	n := d.number()
	if n > uint64(len(d.text)) {
		d.bad, d.text = true, ""
		return ""
	}
	s := d.text[:n]
	d.text = d.text[n:]
	return s
}

func (d *decoder) report(s *release.Summary) cachedReport {
	r := cachedReport{d.str(), d.str(), s}
	for _, field := range texts(s) {
		*field = d.str()
	}
	s.Sequence, s.Heartbeat, s.Seconds = int64(d.number()), time.Duration(d.number()), math.Float64frombits(d.number())
	n := d.number()
	if n > release.MaxSummaryWarns {
		d.bad = true
		return r
	}
	for range n {
		s.Warn = append(s.Warn, d.str())
	}
	d.bad = d.bad || s.VM != release.FolderVM(r.folder) || r.etag == ""
	return r
}

// texts are the fields of s that are one string each, in the order of the file.
func texts(s *release.Summary) [11]*string {
	return [...]*string{&s.VM, &s.Role, &s.State, &s.Release, &s.Wanted, &s.LastGood, &s.Reason, &s.Platform, &s.Zone, &s.Failed, &s.Why}
}

// find returns what folder held, or nil.
func (c *reportCache) find(folder string) *cachedReport {
	i, ok := slices.BinarySearchFunc(c.had, folder, func(r cachedReport, f string) int { return byKey(r.folder, f) })
	if !ok {
		return nil
	}
	return &c.had[i]
}

// bounds are folders between which there are n known reports each.
func (c *reportCache) bounds(n int) []string {
	var ends []string
	for i := n; i < len(c.had); i += n {
		ends = append(ends, c.had[i-1].folder)
	}
	return ends
}

// save replaces the cache. found is all of what was listed; more says that the
// listing broke off, so that what it did not come to is still good. It writes
// without fsync: a torn file is noticed, and read again from the bucket.
func (c *reportCache) save(found []*foundReport, more bool) error {
	if c.dir == "" {
		return nil
	}
	var keep []cachedReport
	fresh := false
	for _, f := range found {
		if f.summary != nil && f.ETag != "" {
			keep, fresh = append(keep, cachedReport{f.folder, f.ETag, f.summary}), fresh || f.fetched
		}
	}
	slices.SortFunc(keep, func(a, b cachedReport) int { return byKey(a.folder, b.folder) })
	if more {
		keep = c.merged(keep)
	}
	if !fresh && len(keep) == len(c.had) {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	c.sweep()
	t, err := os.CreateTemp(c.dir, cacheFile+".*.tmp")
	if err != nil {
		return err
	}
	err = encodeReports(t, keep)
	if err = errors.Join(err, t.Close()); err == nil {
		err = os.Rename(t.Name(), filepath.Join(c.dir, cacheFile))
	}
	if err != nil {
		_ = os.Remove(t.Name())
	}
	return err
}

// merged adds to reports, which are sorted, what was had of other folders.
func (c *reportCache) merged(reports []cachedReport) []cachedReport {
	all := reports
	for _, r := range c.had {
		_, known := slices.BinarySearchFunc(reports, r.folder, func(k cachedReport, f string) int { return byKey(k.folder, f) })
		if !known {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b cachedReport) int { return byKey(a.folder, b.folder) })
	return all
}

// sweep removes what commands left behind that were cut off.
func (c *reportCache) sweep() {
	left, _ := filepath.Glob(filepath.Join(c.dir, cacheFile+".*.tmp"))
	for _, name := range left {
		if st, err := os.Lstat(name); err == nil && time.Since(st.ModTime()) > cacheTrash {
			_ = os.Remove(name)
		}
	}
}

// encodeReports writes as many of the reports as maxCache has room for.
func encodeReports(w io.Writer, reports []cachedReport) error {
	room := maxCache - len(cacheHead) - binary.MaxVarintLen64 - sha256.Size
	var b []byte
	for i := range reports {
		if room -= len(appendReport(b[:0], &reports[i])); room < 0 {
			reports = reports[:i]
			break
		}
	}
	out := newSealer(w)
	_, _ = out.WriteString(cacheHead)
	_, _ = out.Write(binary.AppendUvarint(nil, uint64(len(reports))))
	for i := range reports {
		b = appendReport(b[:0], &reports[i])
		_, _ = out.Write(b)
	}
	return out.seal()
}

// A sealer writes, and then the digest of what it wrote.
type sealer struct {
	*bufio.Writer
	w   io.Writer
	sum hash.Hash
}

func newSealer(w io.Writer) sealer {
	sum := sha256.New()
	return sealer{bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10), w, sum}
}

func (s sealer) seal() error {
	if err := s.Flush(); err != nil {
		return err
	}
	_, err := s.w.Write(s.sum.Sum(nil))
	return err
}

func appendReport(b []byte, r *cachedReport) []byte {
	str := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	str(r.folder)
	str(r.etag)
	s := r.summary
	for _, field := range texts(s) {
		str(*field)
	}
	for _, n := range []uint64{uint64(s.Sequence), uint64(s.Heartbeat), math.Float64bits(s.Seconds), uint64(len(s.Warn))} {
		b = binary.AppendUvarint(b, n)
	}
	for _, w := range s.Warn {
		str(w)
	}
	return b
}
