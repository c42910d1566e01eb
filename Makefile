# What a developer types. `make` alone lists the targets.

# As environment variables too: PYTHON=python3.12 make setup
PYTHON ?= python3
PYTEST_ARGS ?=
# Processes that run tests, each with servers of its own; 0: only one, which shows what tests print.
# The tests wait more than they compute.
WORKERS ?= $(shell expr $$(nproc) + 1)
# How often the fault matrix is run.
TIMES ?= 1
# How long a soak is, and what it begins with; by chance when it is not given.
MINUTES ?= 5
SEED ?=
# Which systems are measured; all that are installed when it is empty.
SYSTEMS ?=
# A file for the figures of `make bench`, which goes on from what is in it.
KEEP ?=

# What only tests need of Debian: a browser, with letters for it, and certificates.
test_packages := chromium fonts-dejavu-core openssl

venv := .venv
bin := $(venv)/bin
# Newer than pyproject.toml: the environment is the one that file asks for.
stamp := $(venv)/.made-from-pyproject

export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help prepare setup demo lint test test-faults test-versions soak bench bench-triggers bench-growth bench-operation bench-features bench-quick peers screenshot clean
# The targets are steps in an order; with -j the lint would run before its tools are there.
.NOTPARALLEL:

help: ## list the targets
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo 'Arguments for pytest: make test PYTEST_ARGS="-k cluster"; and processes: WORKERS=1'

prepare:
	@.ci/prepare

setup: prepare $(stamp) ## install what is missing (PostgreSQL, .venv)

$(stamp): pyproject.toml
	@echo 'Making $(venv) ...'
	@$(PYTHON) -m venv --clear $(venv)
	@$(bin)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup ## watch a master and a slave on this machine
	@$(bin)/pyreplica demo

lint: setup ## check style, types and layers
	@echo 'ruff check' && $(bin)/ruff check --quiet
	@echo 'ruff format' && $(bin)/ruff format --check --quiet
	@echo 'mypy' && $(bin)/mypy --no-error-summary
	@echo 'lint-imports' && $(bin)/lint-imports > $(venv)/lint-imports.log 2>&1 || { cat $(venv)/lint-imports.log; exit 1; }

test: lint ## lint, then run the tests
	@.ci/prepare $(test_packages)
	@echo 'pytest'
	@$(bin)/pytest --numprocesses=$(WORKERS) --dist=worksteal $(PYTEST_ARGS)

test-faults: setup ## have everything fail at every step, and print the matrix
	@PYREPLICA_FAULTS=$(TIMES) $(bin)/pytest --numprocesses=$(WORKERS) --dist=load --maxschedchunk=1 --tb=short -q tests/faults $(PYTEST_ARGS)

test-versions: setup ## masters and slaves of PostgreSQL 13 to 18, fetched with npm; docs/versions.md
	@command -v npm >/dev/null || .ci/prepare npm
	@$(bin)/python -m tests.versions.fetch .postgresql
	@PYREPLICA_VERSIONS=.postgresql $(bin)/pytest --numprocesses=$(WORKERS) --dist=worksteal --tb=short -q tests/versions $(PYTEST_ARGS)

soak: setup ## mixed load and random faults for MINUTES, with SEED; docs/soak.md
	@$(bin)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

screenshot: setup ## make docs/status-page.png anew
	@.ci/prepare $(test_packages)
	@$(bin)/python -m tests.screenshot docs/status-page.png

bench: setup ## PyReplica beside the peers that are installed: benchmarks.txt, docs/catch-up.svg
	@$(bin)/python -m tests.bench $(if $(SYSTEMS),--systems "$(SYSTEMS)") $(if $(KEEP),--keep "$(KEEP)") --text benchmarks.txt --chart docs/catch-up.svg

bench-triggers: setup ## what capture costs: the benchmark of 2008, a session's first write
	@$(bin)/python -m tests.bench.triggers --text benchmarks.txt

bench-growth: setup ## what a row costs with more rows, tables, columns, slaves
	@$(bin)/python -m tests.bench.growth --text benchmarks.txt

bench-operation: setup ## memory, the log, idling, the initial copy, compare
	@$(bin)/python -m tests.bench.operation --text benchmarks.txt

bench-features: setup ## what merging, filters, forwarding, mapping, transforms cost
	@$(bin)/python -m tests.bench.features --text benchmarks.txt

bench-quick: setup ## the same in some minutes, beside built-in logical replication alone
	@$(bin)/python -m tests.bench --systems "pyreplica builtin" --measures "catch-up latency cost trigger" --rounds 1 --scale 0.25 --commits 60 --seconds 2

peers: setup ## install the other systems from Debian's packages, for make bench
	@.ci/prepare $$($(bin)/python -m tests.bench --packages)

clean: ## remove everything that make and the tools made
	@rm -rf $(venv) build dist .hypothesis .postgresql .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
