# Everything a newcomer types. Each target does its own set-up: python3 with venv and make are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
NODES  ?= 4
PYTEST_ARGS ?=
# What models the chip; the network interface, paging and the services have tests of their own.
CHIP_TESTS := tests/conformance tests/nodes --ignore=tests/nodes/service \
	$(foreach name,rdma fault paging impair fast_network,--ignore-glob='*/test_$(name)*') \
	$(foreach name,frames kernel memory_transport ni node packets platforms processes topology,--ignore=tests/nodes/test_$(name).py)

.PHONY: help demo test lint format bench compliance coverage proto proto-check clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# pip older than 25.1 knows no dependency groups: bring it up to date first.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "unimem needs Python 3.11 or newer; this is %s. Set PYTHON=/path/to/python3.11." % sys.version.split()[0])'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "python3 has no venv: install the package python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[sim]' --group dev
	@touch $@

demo: $(STAMP) ## four nodes in one process, the thesis' scenarios, a file moved by global address, a report
	$(BIN)/unimem demo --nodes $(NODES)

test: $(STAMP) lint ## the whole test suite; parts whose engine or broker is missing are skipped with the reason
	$(BIN)/python -m pytest $(PYTEST_ARGS)

compliance: $(STAMP) ## docs/compliance.md from the results of the whole suite
	$(BIN)/python -m pytest --compliance write

# Compiled code cannot be traced: the same source runs as Python here.
coverage: $(STAMP) ## branches of mmu, smmu and dma that the tests of the chip cover; fails below 95 %
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -q --cov --cov-report=json:$(VENV)/coverage.json $(CHIP_TESTS)
	$(BIN)/python tests/support/branch_coverage.py $(VENV)/coverage.json

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## every figure beside its yardstick; JSON in bench/results/
	$(BIN)/unimem bench all --output bench/results

# A venv of its own: the pinned generator must not decide which protobuf the product runs on.
$(VENV)/proto/.installed:
	$(PYTHON) -m venv $(VENV)/proto
	$(VENV)/proto/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.76.0' 'setuptools<81'
	@touch $@

proto: $(VENV)/proto/.installed ## regenerate sdk/unimem/v1 from proto/
	$(VENV)/proto/bin/python proto/generate.py

proto-check: $(VENV)/proto/.installed ## fail when the committed code is not what proto/ says
	$(VENV)/proto/bin/python proto/generate.py --check

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis runs bench/results
