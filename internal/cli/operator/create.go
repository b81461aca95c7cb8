package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/cli"
)

// createBucket makes the project's bucket, private and with versions as far as
// its provider can, or leaves alone the one that is there, and says how it is.
func (w *workspace) createBucket(ctx context.Context) error {
	admin, ok := bucket.As[bucket.Admin](w.b)
	if !ok {
		return cli.Usage(fmt.Sprintf("bucket %s is not one that can be made from here", w.proj.Bucket), "make it where it is kept, and leave out --create-bucket")
	}
	made := "made"
	err := admin.Create(ctx)
	switch {
	case errors.Is(err, bucket.ErrExists):
		made = "is there already, and was left as it is"
	case err != nil:
		return fmt.Errorf("create bucket %s: %w", w.proj.Bucket, err)
	}
	is, err := admin.Setup(ctx)
	if err != nil {
		return fmt.Errorf("look at bucket %s: %w", w.proj.Bucket, err)
	}
	w.s.Say("  %s %-18s %s: %s", w.s.Glyph("ok"), "bucket", made, setupWords(is))
	if is.Public == bucket.Yes {
		w.s.Say("  %s everybody can read this bucket: block public access before you publish", w.s.Glyph("warning"))
	}
	for _, note := range is.Notes {
		w.s.Say("  %s %s", w.s.Glyph("warning"), note)
	}
	return nil
}

// setupWords says how a bucket is set up.
func setupWords(is bucket.Setup) string {
	var words []string
	if is.Region != "" {
		words = append(words, "in "+is.Region)
	}
	words = append(words,
		map[bucket.Answer]string{bucket.Yes: "public", bucket.No: "private", bucket.Unknown: "public access not known"}[is.Public],
		map[bucket.Answer]string{bucket.Yes: "old versions are kept", bucket.No: "old versions are not kept", bucket.Unknown: "versions not known"}[is.Versions])
	return strings.Join(words, ", ")
}
