package userdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
)

// Values of [Config.Encode].
const (
	EncodeNone   = "none"        // the text itself
	EncodeBase64 = "base64"      // one line of base64
	EncodeGzip   = "gzip+base64" // compressed, then one line of base64; cloud-init knows it by itself
)

// encode returns a text in the encoding, and how many bytes of it a cloud
// counts. Its error wraps [ErrConfig].
func encode(how string, text []byte) (encoded []byte, size int, err error) {
	switch how {
	case EncodeNone:
		return text, len(text), nil
	case EncodeBase64:
		return base64Line(text), len(text), nil
	case EncodeGzip:
		var b bytes.Buffer
		// Without a time in it, the same text gives the same bytes.
		w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			return nil, 0, fmt.Errorf("compress user-data: %w", err)
		}
		if _, err := w.Write(text); err != nil {
			return nil, 0, fmt.Errorf("compress user-data: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, 0, fmt.Errorf("compress user-data: %w", err)
		}
		return base64Line(b.Bytes()), b.Len(), nil
	}
	return nil, 0, fmt.Errorf("encoding %.40q: write %s, %s or %s: %w", how, EncodeBase64, EncodeGzip, EncodeNone, ErrConfig)
}

func base64Line(b []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(nil, b), '\n')
}
