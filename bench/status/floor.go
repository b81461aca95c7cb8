package main

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/bench/world"
)

const floorGets = 48 // at once, as many as bootwell

// floor lists the reports and, for a first read, gets them all.
func floor(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("floor: want ADDRESS PREFIX READ")
	}
	ctx, read := context.Background(), args[2]
	c, err := minio.NewCore(args[0], &minio.Options{
		Creds: credentials.NewStaticV4(world.Key, world.Secret, ""), Region: world.Region, BucketLookup: minio.BucketLookupPath,
		Transport: &http.Transport{MaxIdleConnsPerHost: floorGets, DisableCompression: true},
	})
	if err != nil {
		return err
	}
	var keys []string
	noOwner := false
	for o := range c.ListObjectsIter(ctx, bucketName, minio.ListObjectsOptions{Prefix: args[1], Recursive: true, FetchOwner: &noOwner}) {
		if o.Err != nil {
			return o.Err
		}
		keys = append(keys, o.Key)
	}
	if read != first {
		return nil
	}
	var g errgroup.Group
	g.SetLimit(floorGets)
	for _, key := range keys {
		g.Go(func() error {
			r, _, _, err := c.GetObject(ctx, bucketName, key, minio.GetObjectOptions{})
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		})
	}
	return g.Wait()
}
