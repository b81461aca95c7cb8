package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/bootwell/bootwell/internal/bucket"
	"github.com/bootwell/bootwell/internal/release"
)

const (
	maxAgent  = 256 << 20
	maxListed = 1 << 20 // objects below packs/
)

// errLostPack reports that the bucket lacks a pack which a signed release
// refers to.
var errLostPack = errors.New("bucket has lost it")

// A stock is what the bucket really holds of packs and agents. It is taken
// while a publish goes on, after the state that it builds on was read, and
// waited for before it commits: content that somebody has deleted is uploaded
// again.
type stock struct {
	done chan struct{}
	have map[string]int64 // sizes by key
	err  error
}

// take starts to list the packs and agents, and to upload the agents that are
// missing.
func (u *publication) take(ctx context.Context) *stock {
	s := &stock{done: make(chan struct{}), have: map[string]int64{}}
	go func() {
		defer close(s.done)
		agents := make(chan error, 1)
		go func() { agents <- u.agents(ctx) }()
		s.err = s.list(ctx, u.s.Bucket, "packs/")
		s.err = errors.Join(s.err, <-agents)
	}()
	return s
}

// wait returns when the stock is known.
func (s *stock) wait() error {
	<-s.done
	return s.err
}

// taken reports whether the stock is known already.
func (s *stock) taken() bool {
	select {
	case <-s.done:
		return s.err == nil
	default:
		return false
	}
}

func (s *stock) list(ctx context.Context, b bucket.Bucket, prefix string) error {
	for o, err := range b.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if len(s.have) < maxListed {
			s.have[o.Key] = o.Size
		}
	}
	return nil
}

// holds is to be asked once the stock is known.
func (s *stock) holds(p release.Pack) bool {
	n, ok := s.have[packKey(p.Digest)]
	return ok && n == p.Size
}

// agents uploads the agent binaries that the bucket lacks.
func (u *publication) agents(ctx context.Context) error {
	if len(u.o.Agents) == 0 {
		return nil
	}
	s := stock{have: map[string]int64{}}
	if err := s.list(ctx, u.s.Bucket, "agents/"); err != nil {
		return err
	}
	for _, a := range u.o.Agents {
		key := "agents/" + a.Digest.Hex()
		if _, ok := s.have[key]; ok {
			u.out.note(key)
			continue
		}
		if a.Path == "" {
			return fmt.Errorf("agent for %s: the bucket has no %s: %w", a.Arch, key, bucket.ErrNotExist)
		}
		data, err := readAgent(a)
		if err != nil {
			return err
		}
		if err := u.out.send(key, data, nil); err != nil {
			return err
		}
	}
	return nil
}

// readAgent returns the bytes of an agent, which must be the pinned ones.
func readAgent(a Agent) ([]byte, error) {
	f, err := os.Open(a.Path)
	if err != nil {
		return nil, fmt.Errorf("agent for %s: %w", a.Arch, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAgent+1))
	if err != nil {
		return nil, fmt.Errorf("agent for %s: %w", a.Arch, err)
	}
	if release.DigestFromSum(sha256.Sum256(data)) != a.Digest {
		return nil, fmt.Errorf("agent for %s: the bucket has no agents/%s, and %s is another one: %w", a.Arch, a.Digest.Hex(), a.Path, bucket.ErrNotExist)
	}
	return data, nil
}
