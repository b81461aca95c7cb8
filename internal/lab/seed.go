package lab

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// sector is the unit of an ISO 9660 volume, in bytes.
const sector = 2048

// isoImage is a CD image: an ISO 9660 volume with a label and files, whose
// names may have folders before them ("openstack/latest/user_data"). It has
// what Linux needs to mount it, and no more (ECMA-119 8.4, 9.1). Linux shows
// the names in lower case, so two that differ in case only cannot be told
// apart.
func isoImage(label string, files map[string][]byte) ([]byte, error) {
	if len(label) > 32 {
		return nil, fmt.Errorf("make disk: label %q is too long", label)
	}
	folders := isoFolders(files)
	// Every folder has one sector; the files follow.
	const rootAt = 19 // after the system area, the two descriptors and a path table
	order := slices.Sorted(maps.Keys(folders))
	at := map[string]uint32{}
	for i, dir := range order {
		at[dir] = rootAt + uint32(i)
	}
	next := rootAt + uint32(len(order))
	var data []byte
	body := make([]byte, len(order)*sector)
	for i, dir := range order {
		records := append(isoRecord("\x00", at[dir], sector, true), isoRecord("\x01", at[parent(dir)], sector, true)...)
		for _, base := range folders[dir] {
			full := strings.TrimPrefix(dir+"/"+base, "/")
			if where, folder := at[full]; folder {
				records = append(records, isoRecord(strings.ToUpper(base), where, sector, true)...)
				continue
			}
			content := files[full]
			records = append(records, isoRecord(strings.ToUpper(base)+".;1", next, uint32(len(content)), false)...)
			data = append(append(data, content...), make([]byte, -len(content)&(sector-1))...)
			next = rootAt + uint32(len(order)+len(data)/sector)
		}
		if len(records) > sector {
			return nil, fmt.Errorf("make disk: %d files in %q are too many", len(folders[dir]), dir)
		}
		copy(body[i*sector:], records)
	}
	img := make([]byte, rootAt*sector)
	copy(img[16*sector:], isoDescriptor(label, rootAt, next))
	copy(img[17*sector:], "\xffCD001\x01")
	copy(img[18*sector:], []byte{1, 0, rootAt, 0, 0, 0, 1, 0, 0, 0}) // path table: the root
	return append(append(img, body...), data...), nil
}

// writeISO writes such an image to a file.
func writeISO(name, label string, files map[string][]byte) error {
	img, err := isoImage(label, files)
	if err != nil {
		return err
	}
	return os.WriteFile(name, img, 0o600)
}

// isoFolders are the folders of files, "" the root, with the names in each.
func isoFolders(files map[string][]byte) map[string][]string {
	folders := map[string][]string{"": nil}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for at := name; at != ""; at = parent(at) {
			dir := parent(at)
			if slices.Contains(folders[dir], path.Base(at)) {
				break
			}
			folders[dir] = append(folders[dir], path.Base(at))
		}
	}
	return folders
}

// parent is the folder of a name, "" for the root.
func parent(dir string) string {
	up := path.Dir(dir)
	if up == "." {
		return ""
	}
	return up
}

func isoDescriptor(label string, rootAt, sectors uint32) []byte {
	d := make([]byte, sector)
	copy(d, "\x01CD001\x01")
	copy(d[8:], fmt.Sprintf("%-32s%-32s", "", label))
	copy(d[80:], bothOrders32(sectors))
	copy(d[120:], bothOrders16(1))
	copy(d[124:], bothOrders16(1))
	copy(d[128:], bothOrders16(sector))
	copy(d[132:], bothOrders32(10)) // length of the path table
	binary.LittleEndian.PutUint32(d[140:], 18)
	copy(d[156:], isoRecord("\x00", rootAt, sector, true))
	for i := 190; i < 813; i++ {
		d[i] = ' '
	}
	d[881] = 1
	return d
}

// isoRecord is one directory record.
func isoRecord(name string, at, size uint32, dir bool) []byte {
	n := 33 + len(name)
	r := make([]byte, n+n&1)
	r[0] = byte(len(r))
	copy(r[2:], bothOrders32(at))
	copy(r[10:], bothOrders32(size))
	copy(r[18:], []byte{124, 1, 1, 0, 0, 0, 0})
	if dir {
		r[25] = 2
	}
	copy(r[28:], bothOrders16(1))
	r[32] = byte(len(name))
	copy(r[33:], name)
	return r
}

func bothOrders32(v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, v), v)
}

func bothOrders16(v uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, v), v)
}
