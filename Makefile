.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ALL := $(VENV)/.ready-all
DOCS := $(VENV)/.ready-docs
PIP = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt
# Processes that run tests at the same time; 0 runs them in pytest's own, as a debugger needs.
WORKERS ?= 2
PYTEST = PYTEST_ADDOPTS="$$PYTEST_ADDOPTS -n $(WORKERS) --dist worksteal" $(BIN)/python -m pytest

.PHONY: help install train docs browser test test-all test-slow test-slurm test-kills check format wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "finetune needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) with the exact versions of constraints.txt (once, some minutes)"
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@$(PIP) -e '.[dev]'
	@touch $(READY)

$(ALL): $(READY)
	@echo "adding to $(VENV) everything that is optional (once, some minutes)"
	@$(PIP) -e '.[all]'
	@touch $(ALL) $(DOCS)

$(DOCS): $(READY)
	@echo "adding to $(VENV) what builds the documentation (once)"
	@$(PIP) -e '.[docs]'
	@touch $(DOCS)

install: $(READY) ## make .venv and install everything into it

train: $(READY) ## fine-tune MiniLM on the shipped data; more: make train ARGS="trainer.max_epochs=2"
	@$(BIN)/python train.py model=bert data=csv $(ARGS)

docs: $(DOCS) ## build the documentation as a site that opens from disk: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict && echo "built site/index.html"

browser: ## install Debian's chromium, which the tests of pages look with; where that cannot be done they are skipped
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || echo "no chromium, and no way to it"

test: $(READY) ## test every feature in some minutes; a part: make test ARGS="tests/data -x"; WORKERS=8 processes, not 2
	@$(PYTEST) $(ARGS)

test-all: $(ALL) ## install what is optional and run every test but those of SLURM and the slow ones; what CI runs
	@TEST_PROFILE=thorough $(PYTEST) -m "not slow and not slurm" $(ARGS)

test-slow: $(READY) ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-slurm: $(READY) ## jobs on a real SLURM cluster, made on this machine; as root on Debian it installs SLURM
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then scripts/slurm/cluster.sh install; fi
	@$(BIN)/python -m pytest -m slurm -rs tests/executors/test_slurm.py $(ARGS)

test-kills: $(READY) ## kill a run 20 times at random moments; more: make test-kills KILLS=50 SEED=1
	@KILLS=$(or $(KILLS),20) SEED=$(or $(SEED),0) $(BIN)/python -m pytest -m "not slow" tests/runner/test_kills.py

check: $(READY) ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the source into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY) ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## remove what was built; outputs/ stays
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
