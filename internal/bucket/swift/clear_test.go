package swift

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/bootwell/bootwell/internal/bucket"
)

// cloudAt answers for Keystone, and for the storage that its catalog has.
type cloudAt struct{ storage string }

func (c cloudAt) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody, Request: req}
	if strings.HasSuffix(req.URL.Path, "/auth/tokens") {
		resp.StatusCode = http.StatusCreated
		resp.Header.Set("X-Subject-Token", "token")
		resp.Body = io.NopCloser(strings.NewReader(`{"token":{"catalog":[{"type":"object-store","endpoints":[{"interface":"public","region":"R","url":"` + c.storage + `/v1/AUTH_a"}]}]}}`))
	}
	return resp, nil
}

func TestInTheClear(t *testing.T) {
	app := Values("test", map[string]string{"os_application_credential_id": "id", "os_application_credential_secret": "hunter2"})
	temp := Values("test", map[string]string{"swift_temp_url_key": "hunter2"})
	for _, c := range []struct {
		url, storage string
		source       Source
		warned       int
	}{
		{"swift://c?auth=https://ks.lan/v3", "https://swift.lan", app, 0},
		{"swift://c?auth=http://127.0.0.1:5000/v3", "http://localhost:8080", app, 0},
		{"swift://c?auth=http://ks.lan/v3", "https://swift.lan", app, 1},
		{"swift://c?auth=https://ks.lan/v3", "http://swift.lan", app, 1},
		{"swift://c?auth=http://ks.lan/v3", "http://swift.lan", app, 1},
		{"swift://c?storage=http://swift.lan/v1/AUTH_a", "", temp, 0},
	} {
		var said bytes.Buffer
		b, err := Open(t.Context(), c.url, Options{Sources: []Source{c.source}, Transport: cloudAt{c.storage}, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, _, err := b.Get(t.Context(), "k", bucket.GetOptions{}); err == nil {
				t.Error("there is nothing to get")
			}
		}
		if n := strings.Count(said.String(), "over http, for everybody"); n != c.warned || strings.Contains(said.String(), "hunter2") {
			t.Errorf("%s, storage at %s: %d warnings: %s", c.url, c.storage, n, said.String())
		}
	}
}
