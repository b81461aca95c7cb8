package azblob

import (
	"context"
	"errors"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/bootwell/bootwell/internal/bucket"
)

// Create implements [bucket.Admin]: a private container. Whether old versions
// are kept is a property of the storage account, which the service of blobs
// cannot set; Setup says how.
func (b *Bucket) Create(ctx context.Context) error {
	c, cred, err := b.client(ctx)
	if err == nil {
		_, err = c.Create(ctx, nil)
	}
	if err == nil {
		return nil
	}
	// A container that exists is the conflict that a condition would meet.
	return b.fail(ctx, call{op: "create", cred: cred, cond: bucket.Condition{IfAbsent: true}}, err)
}

// Setup implements [bucket.Admin]. The region is not told.
func (b *Bucket) Setup(ctx context.Context) (bucket.Setup, error) {
	var s bucket.Setup
	c, cred, err := b.client(ctx)
	in := call{op: "ask about", cred: cred}
	if err != nil {
		return s, b.fail(ctx, in, err)
	}
	note := func(what string, err error) { s.Notes = append(s.Notes, what+": "+err.Error()+".") }
	level := ""
	props, err := c.GetProperties(ctx, nil)
	if err != nil {
		if err = b.fail(ctx, in, err); !errors.Is(err, bucket.ErrPermission) {
			return s, err
		}
		note("The container's properties may not be read", err)
	} else if props.BlobPublicAccess != nil {
		level = string(*props.BlobPublicAccess)
	}
	switch open, anonErr := b.anonymous(ctx); {
	case anonErr != nil:
		note("Whether anybody can list the container could not be asked", anonErr)
	case open || level != "":
		s.Public = bucket.Yes
	case err == nil:
		s.Public = bucket.No
	}
	if err := b.versions(ctx, c, in, &s); err != nil {
		return s, err
	}
	if info, err := c.GetAccountInfo(ctx, nil); err == nil && info.IsHierarchicalNamespaceEnabled != nil && *info.IsHierarchicalNamespaceEnabled {
		s.Notes = append(s.Notes, "The storage account has a hierarchical namespace, whose lists are in another order: use an account without one.")
	}
	return s, nil
}

// anonymous reports whether the container can be listed without credentials.
func (b *Bucket) anonymous(ctx context.Context) (bool, error) {
	c, err := credential{}.client(b.at.base()+"/"+b.at.Container, b.wire, nil)
	if err != nil {
		return false, err
	}
	one := int32(1)
	_, err = c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{MaxResults: &one}).NextPage(ctx)
	if err == nil {
		return true, nil
	}
	err = b.fail(ctx, call{op: "list"}, err)
	if errors.Is(err, bucket.ErrPermission) || errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, bucket.ErrNotExist) {
		return false, nil
	}
	return false, err
}

// versions looks whether the blobs that are there have versions: the setting
// itself is shown only by the account's own API.
func (b *Bucket) versions(ctx context.Context, c *container.Client, in call, s *bucket.Setup) error {
	remedy := fmt.Sprintf("turn it on with: az storage account blob-service-properties update --account-name %s --enable-versioning true", b.at.Account)
	n := int32(100)
	page, err := c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{
		Prefix: &b.prefix, MaxResults: &n, Include: container.ListBlobsInclude{Versions: true},
	}).NextPage(ctx)
	if err != nil {
		if err = b.fail(ctx, in, err); errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, bucket.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		s.Notes = append(s.Notes, "Whether old versions are kept could not be seen: "+err.Error()+".")
		return nil
	}
	seen := 0
	if page.Segment != nil {
		for _, item := range page.Segment.BlobItems {
			seen++
			if item != nil && deref(item.VersionID) != "" {
				s.Versions = bucket.Yes
				return nil
			}
		}
	}
	if seen == 0 {
		s.Notes = append(s.Notes, "Whether old versions are kept is seen only when there are blobs; "+remedy+".")
		return nil
	}
	s.Versions = bucket.No
	s.Notes = append(s.Notes, fmt.Sprintf("None of the first %d blobs has a version; ", seen)+remedy+".")
	return nil
}
