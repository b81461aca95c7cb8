# bootwell: build, test, check, demo, bench. Needs Go and make; `make test`
# installs the rest on Debian when run as root.

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   = -s -w -X main.version=$(VERSION)
GOBUILD   = CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'
BIN       = bin
# Every VM downloads the agent, and most of it is not worth inlining: only what
# works on content is, and what each start does most (allocation, reflection,
# JSON, files). No bucket needs HTTP/2. Functions start at multiples of 16 bytes,
# as they do on arm64 anyway, instead of 32.
FAST      = crypto/internal/... hash/... github.com/klauspost/compress/... \
            runtime runtime/... internal/... reflect sync sync/... encoding/... \
            unicode/... strconv bytes strings time syscall os bufio io
SMALL     = -tags nethttpomithttp2 -gcflags=all=-l $(FAST:%=-gcflags=%=)
# The agent is built for what VMs are, whatever this machine is.
AGENTS    = $(BIN)/bootwell-agent-linux-amd64 $(BIN)/bootwell-agent-linux-arm64
export GOFLAGS ?= -buildvcs=false

.PHONY: all build test check lint demo bench bench-go fuzz size update clean FORCE
all: build

build: $(BIN)/bootwell $(AGENTS:=.xz) ## the operator's command and the agents for VMs

$(BIN)/bootwell: FORCE
	$(GOBUILD) -o $@ ./cmd/bootwell

$(AGENTS): LDFLAGS += -funcalign=16
$(AGENTS): $(BIN)/bootwell-agent-linux-%: FORCE
	GOOS=linux GOARCH=$* $(GOBUILD) $(SMALL) -o $@ ./cmd/bootwell-agent

# The same binary is compressed once: user-data pins the digest of the .xz.
$(AGENTS:=.xz): %.xz: %
	go run ./contrib/packaging/xzfile $<

test: ## everything; installs what it needs on Debian as root, skips with reasons otherwise
	@contrib/ci/test

check: ## format, vet, staticcheck, tidy
	@contrib/ci/check

lint: check

demo: build ## the main job on this machine, in a throw-away VM of namespaces
	@go run ./examples/demo

bench: build ## beside today's tools → docs/performance.md; BENCH=quick, all or micro
	@contrib/ci/bench $(BENCH)

bench-go: ## Go benchmarks of this tree beside those of BASE=commit (the last tag), by benchstat
	@contrib/ci/benchstat

size: build ## of the agent, stripped and compressed, and what each bucket provider adds to it
	@ls -l $(BIN)
	@contrib/ci/size -ldflags '-s -w -funcalign=16' $(SMALL)

fuzz: ## each fuzz target for a short while
	@contrib/ci/fuzz

update: ## rewrite golden files
	go test ./internal/cli ./internal/project ./internal/userdata -update

clean:
	rm -rf $(BIN) dist
	go clean -testcache

FORCE:
