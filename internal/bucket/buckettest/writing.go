package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/bootwell/bootwell/internal/bucket"
)

func put(ctx context.Context, b bucket.Bucket, key, data string, c bucket.Condition) (bucket.Object, error) {
	return b.Put(ctx, key, strings.NewReader(data), c)
}

func testReplace(t *testing.T, b bucket.Bucket) {
	seen := map[string]string{}
	for _, data := range []string{"one", "two", "six", "", "a longer one"} {
		obj := Put(t, b, "k", []byte(data))
		got, now := Get(t, b, "k")
		if string(got) != data || now.ETag != obj.ETag || now.Size != int64(len(data)) {
			t.Errorf("wrote %q with ETag %s, read %q: %+v", data, obj.ETag, got, now)
		}
		if before, ok := seen[obj.ETag]; ok {
			t.Errorf("%q has the ETag of %q", data, before)
		}
		seen[obj.ETag] = data
	}
}

func testBodyFromStart(t *testing.T, b bucket.Bucket) {
	body := bytes.NewReader([]byte("0123456789"))
	for range 2 {
		if _, err := body.Seek(7, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Put(t.Context(), "k", body, bucket.Condition{}); err != nil {
			t.Fatal(err)
		}
		if got, _ := Get(t, b, "k"); string(got) != "0123456789" {
			t.Errorf("got %q", got)
		}
	}
}

func testIfAbsent(t *testing.T, b bucket.Bucket) {
	absent := bucket.Condition{IfAbsent: true}
	obj, err := put(t.Context(), b, "locks/publish", "first", absent)
	if err != nil {
		t.Fatal(err)
	}
	_, err = put(t.Context(), b, "locks/publish", "second", absent)
	wantErr(t, "put over an object", err, bucket.ErrExists)
	if got, now := Get(t, b, "locks/publish"); string(got) != "first" || now.ETag != obj.ETag {
		t.Errorf("refused, and yet it holds %q", got)
	}
	if err := b.Delete(t.Context(), "locks/publish"); err != nil {
		t.Fatal(err)
	}
	if _, err = put(t.Context(), b, "locks/publish", "third", absent); err != nil {
		t.Errorf("after delete: %v", err)
	}
	_, err = put(t.Context(), b, "x", "", bucket.Condition{IfAbsent: true, IfMatch: "e"})
	if err == nil {
		t.Error("two conditions at once were accepted")
	}
}

func testIfMatch(t *testing.T, b bucket.Bucket) {
	_, err := put(t.Context(), b, "k", "x", bucket.Condition{IfMatch: "0123456789abcdef0123456789abcdef"})
	wantErr(t, "put if match of a missing object", err, bucket.ErrNotExist)
	for _, n := range []int{3, 200_000} {
		first := Put(t, b, "k", noise(n))
		second, err := b.Put(t.Context(), "k", bytes.NewReader(noise(n+1)), bucket.Condition{IfMatch: first.ETag})
		if err != nil {
			t.Fatal(err)
		}
		_, err = put(t.Context(), b, "k", "stale", bucket.Condition{IfMatch: first.ETag})
		wantErr(t, "put if match of an old ETag", err, bucket.ErrPrecondition)
		if _, now := Get(t, b, "k"); now.ETag != second.ETag || now.Size != int64(n+1) {
			t.Errorf("refused, and yet %+v replaced %+v", now, second)
		}
	}
	if err := b.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	obj := Put(t, b, "other", []byte("x"))
	_, err = put(t.Context(), b, "k", "x", bucket.Condition{IfMatch: obj.ETag})
	wantErr(t, "put if match after delete", err, bucket.ErrNotExist)
}

// race lets 16 writers write at once and returns the winners' contents.
func race(t *testing.T, b bucket.Bucket, key string, c bucket.Condition, lost ...error) []string {
	t.Helper()
	var mu sync.Mutex
	var won []string
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			<-start
			data := fmt.Sprintf("writer %02d", i)
			_, err := put(t.Context(), b, key, data, c)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, data)
			} else if !slices.ContainsFunc(lost, func(l error) bool { return errors.Is(err, l) }) {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
	return won
}

func testRaceAbsent(t *testing.T, b bucket.Bucket) {
	if !b.Caps().IfAbsent {
		t.Skip("not promised")
	}
	for i := range 4 {
		key := fmt.Sprintf("race/%d/absent", i)
		won := race(t, b, key, bucket.Condition{IfAbsent: true}, bucket.ErrExists)
		got, _ := Get(t, b, key)
		if len(won) != 1 || string(got) != won[0] {
			t.Errorf("winners %q, the object holds %q", won, got)
		}
	}
}

func testRaceMatch(t *testing.T, b bucket.Bucket) {
	if !b.Caps().IfMatch {
		t.Skip("not promised")
	}
	obj := Put(t, b, "race", []byte("at first.."))
	for range 4 {
		won := race(t, b, "race", bucket.Condition{IfMatch: obj.ETag}, bucket.ErrPrecondition)
		got, now := Get(t, b, "race")
		if len(won) != 1 || string(got) != won[0] {
			t.Fatalf("winners %q, the object holds %q", won, got)
		}
		Put(t, b, "race", []byte("between..."))
		_, obj = Get(t, b, "race")
		if obj.ETag == now.ETag {
			t.Fatal("the ETag did not change")
		}
	}
}

func testIncrement(t *testing.T, b bucket.Bucket) {
	if !b.Caps().IfMatch {
		t.Skip("not promised")
	}
	Put(t, b, "counter", []byte("0"))
	g, ctx := errgroup.WithContext(t.Context())
	for range 8 {
		g.Go(func() error {
			for range 5 {
				if err := increment(ctx, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, _ := Get(t, b, "counter"); string(got) != "40" {
		t.Errorf("8 writers counted to 5 each: %s", got)
	}
}

func increment(ctx context.Context, b bucket.Bucket) error {
	for {
		data, obj, err := bucket.ReadAll(ctx, b, "counter", bucket.GetOptions{}, 100)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(data))
		if err != nil {
			return err
		}
		_, err = put(ctx, b, "counter", strconv.Itoa(n+1), bucket.Condition{IfMatch: obj.ETag})
		if !errors.Is(err, bucket.ErrPrecondition) {
			return err
		}
	}
}

func testDelete(t *testing.T, b bucket.Bucket) {
	Put(t, b, "d/e/f", []byte("x"))
	Put(t, b, "d/g", []byte("y"))
	for range 2 {
		if err := b.Delete(t.Context(), "d/e/f"); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := b.Get(t.Context(), "d/e/f", bucket.GetOptions{})
	wantErr(t, "get after delete", err, bucket.ErrNotExist)
	if err := b.Delete(t.Context(), "d"); err != nil {
		t.Errorf("delete of what is only a folder: %v", err)
	}
	if got, _ := Get(t, b, "d/g"); string(got) != "y" {
		t.Errorf("the other object holds %q", got)
	}
	Put(t, b, "d/e", []byte("a key where a folder was"))
	if got := Keys(t, b, "", ""); !b.Caps().NoList && !slices.Equal(got, []string{"d/e", "d/g"}) {
		t.Errorf("list: %q", got)
	}
}

func testClash(t *testing.T, b bucket.Bucket) {
	Put(t, b, "a", []byte("object"))
	Put(t, b, "f/o", []byte("object"))
	for _, c := range []struct{ has, key string }{{"a", "a/b"}, {"a", "a/b/c"}, {"f/o", "f"}} {
		for _, cond := range []bucket.Condition{{}, {IfAbsent: true}} {
			_, err := put(t.Context(), b, c.key, "second", cond)
			if err != nil && !errors.Is(err, bucket.ErrUnsupported) && !(errors.Is(err, bucket.ErrExists) && cond.IfAbsent) {
				t.Errorf("put %s beside %s: %v", c.key, c.has, err)
			}
			if got, _ := Get(t, b, c.has); string(got) != "object" {
				t.Errorf("put %s changed %s to %q", c.key, c.has, got)
			}
			if err != nil {
				_, _, err = b.Get(t.Context(), c.key, bucket.GetOptions{})
				if !errors.Is(err, bucket.ErrNotExist) && !cond.IfAbsent {
					t.Errorf("get %s after it was refused: %v", c.key, err)
				}
			}
		}
	}
}

func testBadKeys(t *testing.T, b bucket.Bucket) {
	for _, key := range []string{"", ".", "..", "/a", "a/", "a//b", "../x", "a/../b", "./a", "a\x00b", "a\nb", "a\\b", "a\xffb", strings.Repeat("k", bucket.MaxKey+1)} {
		if _, err := put(t.Context(), b, key, "x", bucket.Condition{}); err == nil {
			t.Errorf("put %.50q was accepted", key)
		}
		if r, _, err := b.Get(t.Context(), key, bucket.GetOptions{}); err == nil {
			r.Close()
			t.Errorf("get %.50q was accepted", key)
		}
		if err := b.Delete(t.Context(), key); err == nil {
			t.Errorf("delete %.50q was accepted", key)
		}
	}
}

func testAtomic(t *testing.T, b bucket.Bucket) {
	const n = 100_000
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, n+i) }
	Put(t, b, "k", content(0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				data, obj, err := bucket.ReadAll(t.Context(), b, "k", bucket.GetOptions{}, 2*n)
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				i := len(data) - n
				if i < 0 || i > 19 || !bytes.Equal(data, content(i)) || obj.Size != int64(len(data)) {
					t.Errorf("a mix: %d bytes from %q to %q", len(data), data[:1], data[len(data)-1:])
					return
				}
			}
		})
	}
	for i := range 20 {
		Put(t, b, "k", content(i))
	}
	cancel()
	wg.Wait()
}

func testDone(t *testing.T, b bucket.Bucket) {
	Put(t, b, "k", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := b.Get(ctx, "k", bucket.GetOptions{})
	wantErr(t, "get", err, context.Canceled)
	_, err = put(ctx, b, "k", "y", bucket.Condition{})
	wantErr(t, "put", err, context.Canceled)
	_, err = put(ctx, b, "new", "y", bucket.Condition{IfAbsent: true})
	wantErr(t, "put if absent", err, context.Canceled)
	wantErr(t, "delete", b.Delete(ctx, "k"), context.Canceled)
	err = nil
	for _, e := range b.List(ctx, "", "") {
		err = e
	}
	wantErr(t, "list", err, context.Canceled)
	if got, _ := Get(t, b, "k"); string(got) != "x" {
		t.Errorf("a cancelled call changed the object to %q", got)
	}
}
