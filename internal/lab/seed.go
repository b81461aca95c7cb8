package lab

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// sector is the unit of an ISO 9660 volume, in bytes.
const sector = 2048

// nocloudSeed is a CD image that cloud-init's NoCloud datasource takes: an
// ISO 9660 volume named CIDATA with files in its root folder. It has what
// Linux needs to mount it, and no more (ECMA-119 8.4, 9.1).
func nocloudSeed(files map[string][]byte) ([]byte, error) {
	const rootAt = 19 // after the system area, the two descriptors and a path table
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	root := append(isoRecord("\x00", rootAt, sector, true), isoRecord("\x01", rootAt, sector, true)...)
	var data []byte
	for _, n := range names {
		at := uint32(rootAt + 1 + len(data)/sector)
		root = append(root, isoRecord(strings.ToUpper(n)+".;1", at, uint32(len(files[n])), false)...)
		data = append(data, files[n]...)
		data = append(data, make([]byte, -len(data)&(sector-1))...)
	}
	if len(root) > sector {
		return nil, fmt.Errorf("make seed: %d files are too many", len(files))
	}
	img := make([]byte, (rootAt+1)*sector)
	copy(img[16*sector:], isoDescriptor(rootAt, uint32(rootAt+1+len(data)/sector)))
	copy(img[17*sector:], "\xffCD001\x01")
	copy(img[18*sector:], []byte{1, 0, rootAt, 0, 0, 0, 1, 0, 0, 0}) // path table: the root
	copy(img[rootAt*sector:], root)
	return append(img, data...), nil
}

func isoDescriptor(rootAt, sectors uint32) []byte {
	d := make([]byte, sector)
	copy(d, "\x01CD001\x01")
	copy(d[8:], fmt.Sprintf("%-32s%-32s", "", "CIDATA"))
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
