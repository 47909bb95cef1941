# OutRelay: `make help` lists the targets. Every target makes what it needs in .venv.

.DEFAULT_GOAL := all
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first of these that is new enough; `make PYTHON=...` overrides.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
  $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

# The native engine is built where cargo is, outside of the tree: clones share what was compiled.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/outrelay-native
NATIVE := $(wildcard native/src/*.rs) native/Cargo.toml native/pyproject.toml native/outrelay_native.pyi
NATIVE_STAMP := $(VENV)/.native
HAVE_CRATES := command -v cargo > /dev/null && command -v cc > /dev/null && (cd native && cargo fetch --quiet 2> /dev/null)

##@ Use

.PHONY: demo
demo: $(STAMP) ## run the main job on this machine, and tell what happens
	@$(BIN)/python tools/demo

.PHONY: dev-pki
dev-pki: $(STAMP) ## make certificates for trying things out, in .dev-pki
	@$(BIN)/python tools/dev-pki $(ARGS)

.PHONY: native
native: $(STAMP) ## build the native QUIC engine into .venv; needs cargo and a C compiler
	@for each in cargo:Rust cc:'a C compiler'; do command -v $${each%%:*} > /dev/null || \
	  { echo "the native engine needs $${each#*:} ($${each%%:*} is not on the PATH);" \
	    "without it OutRelay runs on aioquic" >&2; exit 1; }; done
	@$(MAKE) $(NATIVE_STAMP)

##@ Develop

.PHONY: all
all: proto format lint types test ## what bare `make` does: everything before a commit

.PHONY: check
check: lint types check-proto check-docs check-native ## all that can be checked without running tests; fast

.PHONY: format
format: $(STAMP) ## format the code
	@$(BIN)/ruff format --quiet .

.PHONY: lint
lint: $(STAMP) ## check format, lint rules and import directions
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }

.PHONY: types
types: $(STAMP) ## check types
	@$(BIN)/mypy --no-error-summary

##@ Test

# So many at a time; those of one file stay together, they share what is dear to set up.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest --cov --cov-report= \
  --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder
# Rooms without input and output: their tests reach every branch.
PURE := src/outrelay/lib/orp/*,src/outrelay/lib/policy/*,src/outrelay/lib/identity/uri.py
PURE := $(PURE),src/outrelay/lib/resume/*
PURE := $(PURE),src/outrelay/relay/choice.py,src/outrelay/relay/matching.py
PURE := $(PURE),src/outrelay/relay/audit/folding.py,src/outrelay/relay/audit/record.py
PURE := $(PURE),src/outrelay/relay/audit/shares.py
PURE := $(PURE),src/outrelay/lib/transport/tcp/yamux*.py
PURE := $(PURE),src/outrelay/lib/transport/tcp/channel.py,src/outrelay/lib/transport/tcp/pulse.py
PURE := $(PURE),src/outrelay/lib/transport/tcp/endings.py,src/outrelay/lib/transport/tcp/table.py
PURE := $(PURE),src/outrelay/lib/transport/nat64.py

# Quiet when the coverage is there: pytest's summary stays the last line.
define cover
@$(BIN)/coverage report --skip-covered --show-missing --fail-under=$(1) $(2) > $(VENV)/coverage.txt \
  || { cat $(VENV)/coverage.txt; exit 1; }
endef

.PHONY: test
test: $(STAMP) ## test what needs nothing but Python, in minutes
	@$(PYTEST) -m "not root and not netlab and not soak"
	$(call cover,100,--include='$(PURE)')
	$(call cover,90)

.PHONY: test-all
test-all: debian native-where-possible bench-smoke $(STAMP) ## test that and what needs root, Debian packages or cargo
	@$(PYTEST)
	$(call cover,100,--include='$(PURE)')
	$(call cover,90)

# SEED=n makes it another schedule, STAGE=name runs one of its worlds; both are in what it prints.
FAULTS ?= 2000
SEED ?= 1
.PHONY: chaos
chaos: $(STAMP) ## let 2 000 things fail under streams, and compare every byte; an hour
	@$(BIN)/python -m pytest --capture=no tests/integration/test_faults.py \
	  --faults=$(FAULTS) --seed=$(SEED) --stage=$(STAGE)

# On the native engine where it is built, and a fifth as many on aioquic; about 9 minutes.
CONNECTIONS ?= 100000
.PHONY: soak-connections
soak-connections: $(STAMP) ## let 100 000 connections come and go, and look at the memory
	@$(BIN)/python -m pytest --quiet --capture=no tests/lib/transport/quic/test_memory.py --connections=$(CONNECTIONS)

# Finds are kept in .fuzz, as are the inputs that reached new code; QUIC_ENGINE=aioquic for the other one.
FUZZ_SECONDS ?= 300
QUIC_ENGINE ?= auto
.PHONY: fuzz
fuzz: $(STAMP) ## feed damaged datagrams to the QUIC engine, guided by coverage, for five minutes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@mkdir -p .fuzz/$(QUIC_ENGINE)
	@$(BIN)/python -m tests.fuzz.quic --engine=$(QUIC_ENGINE) -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=.fuzz/ .fuzz/$(QUIC_ENGINE)

# What some tests need of the system; they are skipped, and say so, where it cannot be had.
DEBIAN := ip:iproute2 nft:nftables stunnel:stunnel4 haproxy:haproxy systemd-analyze:systemd promtool:prometheus

.PHONY: debian
debian:
	@PATH="$$PATH:/usr/sbin:/sbin"; for each in $(DEBIAN); do command -v $${each%:*} > /dev/null || missing+=" $${each#*:}"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "installing$$missing"; export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get update -q && apt-get install -qy --no-install-recommends $$missing; } > /dev/null || true; \
	fi

.PHONY: bench
bench: debian $(STAMP) ## measure throughput, latency and memory, beside stunnel and direct TCP
	@$(BIN)/python tools/bench $(ARGS)

.PHONY: bench-smoke
bench-smoke: $(STAMP)
	@$(BIN)/python tools/bench --quick

##@ Deploy

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' src/outrelay/__init__.py)
# make push-image IMAGE=registry.example.com/outrelay:1; CONTAINERS=podman does as well.
IMAGE ?= outrelay:$(VERSION)
CONTAINERS ?= docker

.PHONY: build-image
build-image: container-engine ## build the image with all programs
	@BUILDAH_FORMAT=docker $(CONTAINERS) build --file deployments/image/Dockerfile --tag $(IMAGE) .

.PHONY: push-image
push-image: ## push it to where IMAGE=registry/name:tag says
	@case $(IMAGE) in */*) ;; *) echo "make push-image: $(IMAGE) names no registry;" \
	  "give IMAGE=registry.example.com/outrelay:$(VERSION)" >&2; exit 1;; esac
	@$(MAKE) container-engine
	@$(CONTAINERS) push $(IMAGE)

.PHONY: build-wheel
build-wheel: $(STAMP) ## build the package that pipx installs, into dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

.PHONY: container-engine
container-engine:
	@command -v $(CONTAINERS) > /dev/null || { echo "$(CONTAINERS) is not installed; install it," \
	  "or give another one: CONTAINERS=podman" >&2; exit 1; }
	@$(CONTAINERS) info > /dev/null 2>&1 || { echo "$(CONTAINERS) does not answer: is its engine" \
	  "running, and may you use it? \`$(CONTAINERS) info\` says more" >&2; exit 1; }

##@ Generate

PROTOS := outrelay/lib/orp/v1/orp.proto $(addprefix outrelay/lib/control/v1/,registry.proto policy.proto audit.proto fleet.proto admin.proto)
OUT ?= src

.PHONY: proto
proto: $(STAMP) ## generate the protobuf code from api/
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc \
	  -Ioutrelay/lib/orp/v1=api/orp/v1 -Ioutrelay/lib/control/v1=api/control/v1 \
	  --python_out=$(OUT) --grpc_python_out=$(OUT) \
	  --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTOS)
	@rm -f $(OUT)/outrelay/lib/orp/v1/orp_pb2_grpc.py*

# It fails on a broken link or anchor and on a page that the navigation in mkdocs.yml lacks.
.PHONY: docs
docs: $(STAMP) ## build the documentation into site/, to be read in a browser
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.PHONY: man
man: $(STAMP) ## write man pages of all commands into build/man
	@$(BIN)/python -m outrelay.tools.man

.PHONY: docs-reference
docs-reference: $(STAMP) ## generate docs/reference from the code
	@$(BIN)/python -m outrelay.tools.reference

.PHONY: check-proto
check-proto: $(STAMP)
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && $(MAKE) proto OUT="$$made" \
	  && digests() { cd "$$1" && find . -name '*_pb2*.py*' -not -path '*/__pycache__/*' | sort | xargs sha256sum; } \
	  && cmp -s <(digests src) <(digests "$$made") \
	  || { echo 'the generated protobuf code is not that of api/: run `make proto`'; exit 1; }

.PHONY: check-docs
check-docs: $(STAMP)
	@$(BIN)/python -m outrelay.tools.reference --check

# Without cargo, or crates, there is nothing to check and nothing to build for the tests: it is said.
.PHONY: check-native
check-native: export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
check-native: $(STAMP)
	@if $(HAVE_CRATES); then cd native && { cargo fmt --check \
	  && cargo clippy --quiet --release --all-targets -- -D warnings && cargo test --quiet --release; } \
	  > $(CURDIR)/$(VENV)/cargo.txt 2>&1 || { cat $(CURDIR)/$(VENV)/cargo.txt; exit 1; }; \
	else echo "native/ was not checked: no cargo, no C compiler, or no crates"; fi

.PHONY: native-where-possible
native-where-possible: $(STAMP)
	@if $(HAVE_CRATES); then $(MAKE) native; \
	else echo "the native engine was not built: no cargo, no C compiler, or no crates"; fi

##@ Rest

.PHONY: clean
clean: ## remove the virtualenv, caches and what was built
	rm -rf $(VENV) build dist site src/*.egg-info .coverage .coverage.* bench-out
	rm -rf .fuzz
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' Makefile

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "OutRelay needs Python 3.11 or newer;" \
	  "python3 is $$(python3 --version 2>&1). Install one, or run: make PYTHON=/path/to/python" >&2; exit 1; fi
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(NATIVE_STAMP): $(STAMP) $(NATIVE)
	@echo "building the native engine"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall ./native
	@touch $@
