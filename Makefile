# Every target does its own set-up: a virtual environment in .venv with the package and its development tools.
PYTHON ?= python3
BIN := .venv/bin
# One worker a processor, up to four: with one more, all tests together take a fourteenth more processor time.
WORKERS := $(shell n=$$(getconf _NPROCESSORS_ONLN); [ $$n -lt 4 ] && echo $$n || echo 4)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
HOURS ?= 1
# The tests write their many small files to memory where there is room.
ROOM := $(shell df --output=avail /dev/shm 2>/dev/null | tail -n 1)
MEMORY := $(shell [ "$(ROOM)" -gt 8000000 ] 2>/dev/null && echo /dev/shm || echo "$${TMPDIR:-/tmp}")

# Without bytecode, each of the many Python processes of the tests would compile all of PyTorch again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup quickstart gpu test test-fast lint types docs tests bytecode timm-tests timm-tests-of-one campaigns package

help:  ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.installed  ## Create .venv and install everything into it

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip .venv
	scripts/install
	touch $@

quickstart: setup  ## Train, evaluate and predict in a few minutes (DATA=folder or manifest for your own)
	$(BIN)/cvrnet quickstart $(DATA) --output quickstart --overwrite

test: setup  ## Everything that continuous integration runs (a test builds the documentation, strictly)
	$(MAKE) --jobs 2 bytecode timm-tests-of-one types lint
	$(MAKE) tests

test-fast: lint types  ## Style, types and the unit tests: an answer in under two minutes
	$(PYTEST) -q -m "not slow and not realdata" tests/data tests/encoders tests/heads tests/metrics tests/network tests/runs

lint: setup  ## Style, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup  ## Type checker
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

docs: setup  ## The documentation as a site, strictly: docs/_build/html/index.html
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -q -E -W --keep-going -b html docs docs/_build/html

tests: setup  ## Our tests
	base=$$(mktemp -d -p "$(MEMORY)") && $(PYTEST) --basetemp="$$base/tests" && rm -rf "$$base"  # rm is faster than pytest's own clearing

bytecode: setup  # otherwise, every worker compiles all modules that the tests import
	$(PYTEST) -n 0 --quiet --collect-only >.venv/collected || { cat .venv/collected; exit 1; }

timm-tests-of-one: setup  # beside the pass over all tests, which uses one processor
	OMP_NUM_THREADS=1 scripts/timm-tests cvrnet_tiny

timm-tests: setup  ## timm's own test suite, unmodified, for every registered model
	scripts/timm-tests

campaigns: setup  ## Damaged files, interruptions and full disks for HOURS (1): what the tests do for seconds
	PYTHON=$(BIN)/python scripts/campaigns $(HOURS)

gpu: setup  ## What only a GPU can tell, in some minutes: tables, and gpu/gpu.json (about benchmarks/gpu.py)
	$(BIN)/python benchmarks/gpu.py gpu

package: setup  ## Wheel and source distribution in dist/
	$(BIN)/python -m build
