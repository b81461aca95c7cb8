package store

import (
	"bytes"
	"testing"
)

// Also what is smaller than the smallest window of the format comes back, and
// never more than was asked for.
func TestInflate_Sizes(t *testing.T) {
	c, err := sharedCoders()
	if err != nil {
		t.Fatal(err)
	}
	from := bytes.Repeat([]byte("what was there before, "), 20)
	for _, size := range []int{1, 2, 255, 256, 257, 700, 1023, 1024, 1025, 5000, 300_000} {
		for name, body := range map[string][]byte{"text": bytes.Repeat([]byte("some text, "), size/11+1)[:size], "noise": noise(1, size)} {
			got, err := inflate(c.compress(body), int64(size))
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes of %s: %v", size, name, err)
			}
			z, err := delta(from, body)
			if err != nil {
				t.Fatal(err)
			}
			if got, err = patched(z, from, int64(size)); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes of %s as a delta: %v", size, name, err)
			}
			if _, err := inflate(c.compress(body), int64(size)-1); err == nil {
				t.Errorf("%d bytes of %s came where one less was signed", size, name)
			}
		}
	}
}
