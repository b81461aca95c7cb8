module github.com/sigstore/sigstore

go 1.25.0

require (
	github.com/secure-systems-lab/go-securesystemslib v0.11.0
	github.com/youmark/pkcs8 v0.0.0-20240726163527-a2c0da244d78
	golang.org/x/term v0.45.0
)
