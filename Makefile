# What one types. The environment in .venv is made by itself, by the first target that needs it.
PYTHON ?= python3
BIN := .venv/bin
export BUF_CACHE_DIR := .venv/buf

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 12

demo: .venv/.server  ## a burst becomes one batch, before your eyes
	@$(BIN)/tidegate demo

run: .venv/.server  ## serve on 127.0.0.1:7460 with the store of its own
	@$(BIN)/tidegate serve

test: .venv/.dev  ## all tests
	@$(BIN)/pytest

agreement: .venv/.dev  ## a million random steps, scripts against the reference store (half an hour)
	@STEPS=1000000 $(BIN)/pytest --timeout 0 tests/store/test_agreement.py

torture: .venv/.dev  ## kill, hang and cut everything under load, and write docs/reliability.md (an hour)
	@$(BIN)/python -m tests.torture

fuzz: .venv/.dev  ## strange bytes for the parts that read bytes (ten minutes; better with atheris)
	@$(BIN)/python -m tests.fuzz

check: .venv/.dev  ## format, lint, types, layers, contract
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf breaking proto --against proto/baseline.binpb
	PYTHON=$(BIN)/python proto/generate .venv/generated
	diff -r -x __pycache__ .venv/generated/tidegate/v1 client/tidegate/v1

proto:  ## generate client/tidegate/v1 from proto/
	@PYTHON=$(PYTHON) proto/generate client

bench: .venv/.dev  ## measure, and print the table
	@$(BIN)/python -m bench

# $(call install,extra) makes .venv unless it is there, and installs the project with an extra.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Tidegate needs Python 3.11 or later: make PYTHON=python3.12 ...'; exit 1; }
	@echo 'Setting up .venv with tidegate[$(1)]; this takes about half a minute, once.'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]'
	@touch $@
endef

.venv/.server: pyproject.toml constraints.txt
	$(call install,server)

.venv/.dev: pyproject.toml constraints.txt
	$(call install,dev)
	@touch .venv/.server

.PHONY: help demo run test agreement torture fuzz check proto bench
