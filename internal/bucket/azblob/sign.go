package azblob

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A sharedKey is the key of a storage account.
type sharedKey struct {
	account string
	secret  []byte
}

// sign puts c into the request, which is complete. What is anonymous stays so.
func (c credential) sign(req *http.Request, now time.Time) {
	switch {
	case c.token != "":
		req.Header.Set("Authorization", "Bearer "+c.token)
	case c.sas != "" && req.URL.RawQuery != "":
		req.URL.RawQuery += "&" + c.sas
	case c.sas != "":
		req.URL.RawQuery = c.sas
	case c.key != nil:
		req.Header.Set("X-Ms-Date", now.UTC().Format(http.TimeFormat))
		mac := hmac.New(sha256.New, c.key.secret)
		mac.Write([]byte(stringToSign(c.key.account, req)))
		req.Header.Set("Authorization", "SharedKey "+c.key.account+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
}

// stringToSign is what an account key signs of a request.
// https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
func stringToSign(account string, req *http.Request) string {
	length := ""
	if req.ContentLength > 0 {
		length = strconv.FormatInt(req.ContentLength, 10)
	}
	h := req.Header
	lines := []string{
		req.Method, h.Get("Content-Encoding"), h.Get("Content-Language"), length, h.Get("Content-MD5"), h.Get("Content-Type"),
		"", // the date is in x-ms-date
		h.Get("If-Modified-Since"), h.Get("If-Match"), h.Get("If-None-Match"), h.Get("If-Unmodified-Since"), h.Get("Range"),
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-ms-") {
			lines = append(lines, lower+":"+h.Get(name))
		}
	}
	lines = append(lines, "/"+account+req.URL.EscapedPath())
	query := req.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		lines = append(lines, strings.ToLower(name)+":"+strings.Join(slices.Sorted(slices.Values(query[name])), ","))
	}
	return strings.Join(lines, "\n")
}
