package main

import (
	"context"
	"net/http"
	"path/filepath"

	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/bootwell/bootwell/bench/workload"
	"github.com/bootwell/bootwell/bench/world"
)

const archive = "tree.tgz"

func floorPeer() *peer {
	return &peer{
		name: "floor", from: "curl-pipe", tree: below("current"), stored: inBucket(""),
		what: "a Go program of ours: one signed conditional GET of one tar.gz, unpacked into a new folder, a link flipped to it; nothing verified",
		fetch: func(s *site) command {
			return command{argv: []string{filepath.Join(s.bin, "floor"), s.url(archive), s.vm}}
		},
	}
}

// signed gives curl a URL that needs no more signing: the signatures that curl
// itself makes differ from version to version.
func (s *site) signed(method, object string) string {
	req, err := http.NewRequest(method, s.url(object), nil)
	if err != nil {
		return s.url(object) // and the server refuses it
	}
	const aDay = 24 * 60 * 60
	return "URL=" + signer.PreSignV4(*req, world.Key, world.Secret, "", world.Region, aDay).URL.String()
}

func pipePeer() *peer {
	return &peer{
		name: "curl-pipe", tools: []string{"curl", "tar", "gzip"}, tree: below("tree"), stored: inBucket(""),
		what: "`tar -cz`, `curl -T`; `curl | tar -xz` into the same folder, each time",
		publish: func(s *site) command {
			return sh(`tar -C "$SRC" -czf "$HOME/`+archive+`" . ; curl -fsS -T "$HOME/`+archive+`" "$URL"`,
				"HOME="+s.pub, "SRC="+s.source, s.signed(http.MethodPut, archive))
		},
		fetch: func(s *site) command {
			return sh(`mkdir -p "$HOME/tree"; curl -fsS "$URL" | tar -xz -C "$HOME/tree"`, "HOME="+s.vm, s.signed(http.MethodGet, archive))
		},
	}
}

const etagScript = `cd "$HOME"
code=$(curl -fsS --etag-compare etag --etag-save etag.new -o ` + archive + ` -w '%{http_code}' "$URL")
[ "$code" != 304 ] || exit 0
new=tree-$(date +%s%N)
mkdir "$new"
tar -xzf ` + archive + ` -C "$new"
` + flipScript + `
rm ` + archive + `
mv etag.new etag`

// flipScript shows the new tree, and keeps the one before it for who reads it.
const flipScript = `last=$(readlink current || true)
ln -s "$new" next
mv -T next current
for t in tree-*; do [ "$t" = "$new" ] || [ "$t" = "$last" ] || rm -rf "$t"; done`

func etagPeer() *peer {
	return &peer{
		name: "curl-etag", tools: []string{"curl", "tar", "gzip"}, from: "curl-pipe", tree: below("current"), stored: inBucket(""),
		what:  "`curl` with the last ETag; if there is another one: `tar -xz` into a new folder, a link flipped to it",
		fetch: func(s *site) command { return sh(etagScript, "HOME="+s.vm, s.signed(http.MethodGet, archive)) },
	}
}

func gitPeer() *peer {
	return &peer{
		name: "git", tools: []string{"git"}, git: true, tree: below("tree"), stored: func(s *site) []string { return []string{filepath.Join(s.shelf(), "objects")} },
		what: "`git commit`, `git push`; `git clone`, later `git pull`, over HTTP",
		setUp: func(ctx context.Context, s *site) error {
			if err := world.MakeRepository(ctx, s.shelf()); err != nil {
				return err
			}
			return s.do(ctx, sh(`git init -q --initial-branch=main "$HOME/work"
mv "$HOME/work/.git" "$HOME/repo"
git config --global user.name bench
git config --global user.email bench@example.org
git config --global gc.auto 0
git --git-dir="$HOME/repo" remote add origin "$URL"`, "HOME="+s.pub, "URL="+s.gitURL()))
		},
		publish: func(s *site) command {
			return sh(`git --git-dir="$HOME/repo" --work-tree="$SRC" add -A
git --git-dir="$HOME/repo" --work-tree="$SRC" commit -q -m change
git --git-dir="$HOME/repo" push -q origin main`, "HOME="+s.pub, "SRC="+s.source)
		},
		fetch: func(s *site) command {
			return sh(`if [ -d "$HOME/tree" ]; then git -C "$HOME/tree" pull -q --ff-only; else git clone -q "$URL" "$HOME/tree"; fi`,
				"HOME="+s.vm, "URL="+s.gitURL())
		},
	}
}

func (s *site) gitURL() string { return s.webLine.URL() + "/git/" + s.bucket }

func ansiblePeer() *peer {
	p := &peer{
		name: "ansible-pull", tools: []string{"ansible-pull", "git"}, slow: true, git: true, from: "git", tree: below("tree"), stored: gitPeer().stored,
		what: "`ansible-pull --only-if-changed` of the same repository, with a playbook without tasks",
		only: func(size *workload.Size, o op) bool { return size.Name == "M" && (o == cold || o == poll || o == one) },
		fetch: func(s *site) command {
			return sh(`ansible-pull -U "$URL" -d "$HOME/tree" -i localhost, --only-if-changed local.yml`, "HOME="+s.vm, "URL="+s.gitURL())
		},
	}
	return p
}

func awsPeer() *peer {
	const sync = `aws --endpoint-url "$END" s3 sync --only-show-errors --delete `
	return &peer{
		name: "aws-sync", tools: []string{"aws"}, slow: true, plain: true, tree: below("tree"), stored: inBucket(""),
		what: "`aws s3 sync --delete`; the same with `--exact-timestamps`",
		publish: func(s *site) command {
			return sh("PATH=/usr/bin:$PATH; "+sync+`"$SRC" "s3://$B/"`, "HOME="+s.pub, "SRC="+s.source, "B="+s.bucket, "END="+s.world.Endpoint())
		},
		fetch: func(s *site) command {
			return sh("PATH=/usr/bin:$PATH; "+sync+`--exact-timestamps "s3://$B/" "$HOME/tree"`, "HOME="+s.vm, "B="+s.bucket, "END="+s.world.Endpoint())
		},
	}
}

// rcloneTuned asks for no time of each object, for one listing, and for more
// at a time.
const rcloneTuned = "--checksum --fast-list --transfers 32 --checkers 32"

func rclonePeer(name, flags string) *peer {
	env := func(s *site) []string {
		return []string{"RCLONE_CONFIG=/dev/null", "RCLONE_CONFIG_B_TYPE=s3", "RCLONE_CONFIG_B_PROVIDER=Other", "RCLONE_CONFIG_B_ENV_AUTH=true",
			"RCLONE_CONFIG_B_REGION=" + world.Region, "RCLONE_CONFIG_B_ENDPOINT=" + s.world.Endpoint(), "RCLONE_CONFIG_B_NO_CHECK_BUCKET=true",
			"B=b:" + s.bucket, "SRC=" + s.source}
	}
	what := "`rclone sync`, with the defaults"
	if flags != "" {
		what = "`rclone sync " + flags + "`"
	}
	return &peer{
		name: name, tools: []string{"rclone"}, slow: true, plain: true, what: what, tree: below("tree"), stored: inBucket(""),
		publish: func(s *site) command {
			return sh(`rclone -q sync `+flags+` "$SRC" "$B"`, append(env(s), "HOME="+s.pub)...)
		},
		fetch: func(s *site) command {
			return sh(`rclone -q sync `+flags+` "$B" "$HOME/tree"`, append(env(s), "HOME="+s.vm)...)
		},
	}
}

func mcPeer() *peer {
	host := func(s *site) string {
		return "MC_HOST_b=http://" + world.Key + ":" + world.Secret + "@" + s.world.Proxy.Addr()
	}
	return &peer{
		name: "mc-mirror", tools: []string{"mc"}, slow: true, plain: true, tree: below("tree"), stored: inBucket(""),
		what: "`mc mirror --overwrite --remove`",
		publish: func(s *site) command {
			return sh(`"$MC" --config-dir "$HOME/.mc" --quiet mirror --overwrite --remove "$SRC" "b/$B"`, "HOME="+s.pub, host(s), "B="+s.bucket, "SRC="+s.source, "MC="+find("mc"))
		},
		fetch: func(s *site) command {
			return sh(`"$MC" --config-dir "$HOME/.mc" --quiet mirror --overwrite --remove "b/$B" "$HOME/tree"`, "HOME="+s.vm, host(s), "B="+s.bucket, "MC="+find("mc"))
		},
	}
}

func casyncPeer() *peer {
	return &peer{
		name: "casync", tools: []string{"casync"}, slow: true, tree: below("tree"), stored: func(s *site) []string { return []string{filepath.Join(s.shelf(), "store")} },
		what: "`casync make` into the folder of a web server; `casync extract` from it",
		publish: func(s *site) command {
			return sh(`casync make --store="$TO/store" "$TO/tree.caidx" "$SRC" >/dev/null`, "HOME="+s.pub, "TO="+s.shelf(), "SRC="+s.source)
		},
		fetch: func(s *site) command {
			return sh(`mkdir -p "$HOME/tree"; casync extract --delete=yes --store="$URL/store" "$URL/tree.caidx" "$HOME/tree"`, "HOME="+s.vm, "URL="+s.webLine.URL()+"/files/"+s.bucket)
		},
	}
}

func resticPeer() *peer {
	env := func(s *site, home string) []string {
		return []string{"HOME=" + home, "RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY=s3:" + s.world.Endpoint() + "/" + s.bucket}
	}
	return &peer{
		name: "restic", tools: []string{"restic"}, tree: below("current"), stored: inBucket("data"),
		what:  "`restic backup`; `restic restore latest`; encrypted and authenticated by one password",
		setUp: func(ctx context.Context, s *site) error { return s.do(ctx, sh(`restic init -q`, env(s, s.pub)...)) },
		publish: func(s *site) command {
			return sh(`cd "$SRC"; restic backup -q .`, append(env(s, s.pub), "SRC="+s.source)...)
		},
		fetch: func(s *site) command {
			return sh("cd \"$HOME\"\nnew=tree-$(date +%s%N)\nrestic restore -q latest --target \"$new\"\n"+flipScript, env(s, s.vm)...)
		},
	}
}
