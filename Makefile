# Every target with a description after ## is listed by `make`.

MODULES := . bench conformance tools
TOOL    := go tool -modfile=$(CURDIR)/tools/go.mod

# How long each fuzz target runs.
FUZZTIME ?= 20s

# The integration suite of the Go client alone takes minutes.
TESTFLAGS ?= -race -timeout 20m

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/ferry
	CGO_ENABLED=0 go build -trimpath -o bin/ferry ./cmd/ferry

.PHONY: setup
setup: ## install what the tests need: RabbitMQ, pika, amqplib
	scripts/setup

.PHONY: fmt
fmt: ## format the code
	$(TOOL) gofumpt -w .

.PHONY: check
check: ## format, tidiness, vet, lint, the shape of the repository
	@echo '== gofumpt'
	@unformatted=$$($(TOOL) gofumpt -l .) && test -z "$$unformatted" || { echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; }
	@for m in $(MODULES); do \
		echo "== $$m: tidy, vet, lint"; \
		(cd $$m && go mod tidy -diff) || exit 1; \
		test $$m != tools || continue; \
		(cd $$m && go vet ./... && $(TOOL) golangci-lint run ./...) || exit 1; \
	done
	@echo '== shape'
	@go test -count=1 ./internal/archtest

.PHONY: test
test: setup ## every test, with the race detector; sets itself up
	go test $(TESTFLAGS) ./...
	cd bench && go test $(TESTFLAGS) ./...
	cd conformance && go test $(TESTFLAGS) ./...

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (20s)
	FUZZTIME=$(FUZZTIME) scripts/fuzz

.PHONY: bench
bench: setup ## measure beside RabbitMQ, and print the table
	cd bench && go run ./run $(BENCHFLAGS)

.PHONY: chaos
chaos: ## the faults of the tests, for much longer
	FERRY_LONG=1 go test -race -count=1 -timeout 3h -v -run 'Crash|Chaos|Kill|Fault|Model|Disk' ./...
