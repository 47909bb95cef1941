# OutRelay: `make help` lists the targets. Every target makes what it needs in .venv.

.DEFAULT_GOAL := all
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

PROTOS := outrelay/lib/orp/v1/orp.proto $(addprefix outrelay/lib/control/v1/,registry.proto policy.proto audit.proto)

.PHONY: proto
proto: $(STAMP) ## generate the protobuf code from api/
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc \
	  -Ioutrelay/lib/orp/v1=api/orp/v1 -Ioutrelay/lib/control/v1=api/control/v1 \
	  --python_out=$(or $(OUT),src) --grpc_python_out=$(or $(OUT),src) \
	  --mypy_out=quiet:$(or $(OUT),src) --mypy_grpc_out=quiet:$(or $(OUT),src) $(PROTOS)
	@rm -f $(or $(OUT),src)/outrelay/lib/orp/v1/orp_pb2_grpc.py*

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
