package s3

import "testing"

func FuzzParseCaller(f *testing.F) {
	f.Add([]byte(`<GetCallerIdentityResponse><GetCallerIdentityResult><UserId>AROA123:i-0abc</UserId></GetCallerIdentityResult></GetCallerIdentityResponse>`))
	f.Add([]byte(`<x/>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if id, err := parseCaller(text); err == nil && (id == "" || len(id) > 256) {
			t.Errorf("caller %q", id)
		}
	})
}
