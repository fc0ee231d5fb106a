include scripts/versions.env

# What to build for: amd64, arm64 or armv7.
HOST := $(patsubst armhf,armv7,$(shell dpkg --print-architecture))
ARCH ?= $(HOST)
OUT  ?= bin/edgebox
# fast or best compression.
LEVEL ?= fast

export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false
# GOARCH is set for what is built, not for tools that run here.
TARGET := GOOS=linux GOARCH=$(patsubst armv7,arm,$(ARCH)) $(if $(filter armv7,$(ARCH)),GOARM=7)

BUILD   := bin/build/$(ARCH)
HELPERS := $(addprefix bin/helpers/$(ARCH)/,runc containerd-shim-runc-v2 bridge host-local loopback portmap nft pause)

# Stamps: nothing in them changes from build to build of one commit.
module_version = $(shell go list -m -f '{{.Version}}' $(1))
COMMIT     = $(shell git describe --always --dirty --abbrev=12 --exclude '*')
KUBERNETES = $(call module_version,k8s.io/kubernetes)
CONTAINERD = $(call module_version,github.com/containerd/containerd/v2)
kube_stamp = -X $(1).gitVersion=$(KUBERNETES)+edgebox -X $(1).gitTreeState=clean -X $(1).gitCommit=$(KUBERNETES) \
	-X $(1).gitMajor=$(word 1,$(subst ., ,$(KUBERNETES:v%=%))) -X $(1).gitMinor=$(word 2,$(subst ., ,$(KUBERNETES)))
KUBE_STAMPS = $(call kube_stamp,k8s.io/component-base/version) $(call kube_stamp,k8s.io/client-go/pkg/version)
version := github.com/edgebox/edgebox/pkg/version
STAMPS = -X $(version).Version=$(EDGEBOX_VERSION) -X $(version).Commit=$(COMMIT) -X $(version).Kubernetes=$(KUBERNETES)

.PHONY: help build release test unit e2e lint bench demo generate clean

help: ## this list
	@sed -n 's/^\([a-z0-9%-]*\):.*## /\1\t/p' Makefile | expand -t 10

build: ## bin/edgebox: ARCH=amd64|arm64|armv7, LEVEL=fast|best
	scripts/helpers.sh $(ARCH)
	$(TARGET) go build -o $(BUILD)/edgebox-node -ldflags '-s -w $(STAMPS) $(KUBE_STAMPS) -X github.com/containerd/containerd/v2/version.Version=$(CONTAINERD)' ./cmd/edgebox-node
	$(TARGET) go build -o $(BUILD)/kubectl -ldflags '-s -w $(KUBE_STAMPS)' k8s.io/kubernetes/cmd/kubectl
	$(TARGET) go build -tags urfave_cli_no_docs -o $(BUILD)/edgebox -ldflags '-s -w $(STAMPS)' ./cmd/edgebox
	go run ./scripts/pack -o $(OUT) -level $(LEVEL) -front $(BUILD)/edgebox $(BUILD)/edgebox-node $(BUILD)/kubectl $(HELPERS)
	@ls -l $(OUT)

release: $(addprefix release-,amd64 arm64 armv7) ## bin/release/edgebox-ARCH of every architecture, best compression

release-%:
	mkdir -p bin/release
	$(MAKE) build ARCH=$* OUT=bin/release/edgebox-$* LEVEL=best

test: unit e2e ## vet, unit tests, end-to-end tests

unit:
	go vet ./...
	go test ./cmd/... ./pkg/... ./scripts/...

e2e:
	EDGEBOX_BIN=$(CURDIR)/bin/edgebox go test -p 1 -timeout 40m -v ./tests/...

e2e-%: ## the end-to-end tests of one promise, such as e2e-boot
	EDGEBOX_BIN=$(CURDIR)/bin/edgebox go test -count=1 -timeout 40m -v ./tests/e2e/$*/...

lint: bin/tools/golangci-lint-$(GOLANGCI_LINT_VERSION) ## golangci-lint and shellcheck
	$< run ./...
	shellcheck -x scripts/*.sh .ci/run $(wildcard install.sh)

bin/tools/golangci-lint-%:
	GOBIN=$(CURDIR)/bin/tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$*
	mv bin/tools/golangci-lint $@

bench: release-$(HOST) ## figures of the release build against those of the peers
	EDGEBOX_BIN=$(CURDIR)/bin/release/edgebox-$(HOST) scripts/bench.sh

demo: ## boot a cluster, run a web server on it, remove it again
	scripts/demo.sh

generate: ## what is generated from code
	go generate ./...

clean: ## remove bin
	rm -rf bin
