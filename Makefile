# Every target with a description after ## is listed by `make`.

# Every directory with a go.mod is a module: what only tests, measurements and
# tools need is not inherited by who uses the client.
MODULES := . $(patsubst %/go.mod,%,$(wildcard */go.mod))
TESTED  := $(filter-out tools,$(MODULES))
TOOL    := go tool -modfile=$(CURDIR)/tools/go.mod

# How long each fuzz target runs.
FUZZTIME ?= 20s

# The integration suite of the Go client alone takes minutes.
TESTFLAGS ?= -race -timeout 20m

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/ferry, bin/gmqserver, bin/gmqclient
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

.PHONY: setup
setup: ## install what the tests need: brokers, databases, client libraries, strace
	scripts/setup

.PHONY: fmt
fmt: ## format the code
	$(TOOL) gofumpt -w .

.PHONY: check
check: ## format, tidiness, vet, lint, the shape of the repository
	@echo '== gofumpt'
	@unformatted=$$($(TOOL) gofumpt -l .) && test -z "$$unformatted" || { echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; }
	@failed=; for m in $(MODULES); do \
		echo "== $$m: tidy, vet, lint"; \
		(cd $$m && go mod tidy -diff) || failed="$$failed $$m"; \
		test $$m != tools || continue; \
		(cd $$m && go vet ./... && $(TOOL) golangci-lint run ./...) || failed="$$failed $$m"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }
	@echo '== shape'
	@go test -count=1 ./internal/archtest

# The other modules run binaries that they build, which the cache of test
# results knows nothing of. What fails does not keep the rest from running.
#
# A program with the race detector sleeps for a second before it ends, unless told
# otherwise; there is one for each package, and there are those that tests run.
.PHONY: test
test: export GORACE ?= atexit_sleep_ms=10
test: setup ## every test, with the race detector; sets itself up
	@failed=; for m in $(TESTED); do \
		echo "== go test: $$m"; \
		(cd $$m && go test $(TESTFLAGS) $$(test $$m = . || echo -count=1) ./...) || failed="$$failed $$m"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (20s)
	FUZZTIME=$(FUZZTIME) scripts/fuzz

.PHONY: bench
bench: setup ## measure beside RabbitMQ, and on databases; print the tables
	cd bench && go run ./run $(BENCHFLAGS)
	go build -o bin/ferry ./cmd/ferry && cd bench && go run ./features -ferry ../bin/ferry

# Crashes and damage at every place and not at some, random histories for longer,
# more and longer loads. The tables that show it are in the output.
CRASHES    := Crash|PowerCut|Killed|Paused|Lost|Without|Flipped|Damage|Fail|Partial|NoSpace
CHAOSFLAGS ?= -race -count=1 -timeout 3h -v
.PHONY: chaos
chaos: export FERRY_LONG = 1
chaos: setup ## the faults of the tests, and live and standby, for much longer
	go test $(CHAOSFLAGS) -run '$(CRASHES)' ./internal/broker ./internal/journal/...
	cd model && go test $(CHAOSFLAGS) ./... -rapid.checks=5000
	cd chaos && go test $(CHAOSFLAGS) ./...
