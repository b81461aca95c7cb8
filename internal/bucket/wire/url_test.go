package wire

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bootwell/bootwell/internal/bucket"
)

func TestForm(t *testing.T) {
	f := Form{Scheme: "x", Write: "write x://A", Secrets: "use a file", Options: []string{"a", "b"}}
	u, err := f.Parse("x://host/p/q/?a=1&b=true")
	on := false
	if err != nil || u.Host != "host" || u.Path != "p/q" || u.Options.Get("a") != "1" || u.Flag("b", &on) != nil || !on || u.Flag("c", &on) != nil || u.Flag("a", &on) != nil {
		t.Errorf("%+v, %v, %t", u, err, on)
	}
	for url, want := range map[string]string{
		"y://host":         "scheme is not x",
		"x://me:pw@host":   "use a file",
		"x://host:1":       "write x://A",
		"x://host#f":       "write x://A",
		"x:host":           "write x://A",
		"x://host?c=1":     `option "c" is not known; there are a, b`,
		"x://host?a":       "option a needs one value",
		"x://host?a=1&a=2": "option a needs one value",
		"x://host?%zz":     "cannot be read",
		"x://ho st":        "invalid",
	} {
		if _, err := f.Parse(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	if u, _ := f.Parse("x://h?b=perhaps"); u.Flag("b", &on) == nil {
		t.Error("perhaps is neither true nor false")
	}
}

func TestParseEndpoint(t *testing.T) {
	for s, want := range map[string]string{"h:1": "https://h:1", "http://h": "http://h", "https://h/account": "https://h/account"} {
		if u, err := ParseEndpoint(s); err != nil || u.String() != want {
			t.Errorf("%s: %v, %v", s, u, err)
		}
	}
	for _, s := range []string{"", "ftp://h", "http://", "https://:1", "https://u:secret@h", "https://h?q=1", "https://h?", "https://h#f"} {
		if u, err := ParseEndpoint(s); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v", s, u, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for s, want := range map[string]string{
		"s3://b/p":                  "s3://b/p",
		"s3://k:se@cret@b/p":        "s3://…@b/p",
		"az://a/c?sv=1&SIG=abc&x=1": "az://a/c?sv=1&sig=…",
		"me@b":                      "me@b",
	} {
		if got := Redact(s); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

func TestPartial(t *testing.T) {
	for _, c := range []struct {
		o       bucket.GetOptions
		header  string
		size, n int64
		err     error
	}{
		{bucket.GetOptions{Offset: 5, Length: 5}, "bytes 5-9/100", 100, 5, nil},
		{bucket.GetOptions{Offset: 95}, "bytes 95-99/100", 100, 5, nil},
		{bucket.GetOptions{Offset: 5, Length: 5}, "bytes 4-8/100", 0, 0, bucket.ErrUnsupported},
		{bucket.GetOptions{Offset: 5, Length: 5}, "bytes 5-10/100", 0, 0, bucket.ErrUnsupported},
		{bucket.GetOptions{Offset: 5, Length: 5}, "bytes 5-9/*", 0, 0, bucket.ErrUnsupported},
		{bucket.GetOptions{Offset: 5, Length: 5}, "", 0, 0, bucket.ErrUnsupported},
	} {
		if size, n, err := Partial(c.o, c.header); size != c.size || n != c.n || !errors.Is(err, c.err) {
			t.Errorf("%+v of %q: %d, %d, %v", c.o, c.header, size, n, err)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := Printable("a\nb\x1b[1mß"); got != "a b [1mß" {
		t.Errorf("%q", got)
	}
	if got := Printable(strings.Repeat("ß", 400)); len(got) > 310 || !utf8.ValidString(got) {
		t.Errorf("%d bytes", len(got))
	}
}

func FuzzForm(f *testing.F) {
	f.Add("x://host/p?a=1")
	f.Add("x://%41@h?a=%")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Form{Scheme: "x", Write: "w", Secrets: "s", Options: []string{"a"}}.Parse(s)
		if err == nil && (strings.HasPrefix(u.Path, "/") || len(u.Options["a"]) > 1) {
			t.Errorf("%q: %+v", s, u)
		}
		if at := strings.LastIndex(s, "@"); at >= 0 && strings.Contains(s[:at], "://secret:") && strings.Contains(Redact(s), "://secret:") {
			t.Errorf("%q is shown", s)
		}
	})
}
