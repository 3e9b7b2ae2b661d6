# Two commands matter: `make train` and `make test`. Both set up what they need, once.
# PYTHON=... picks another interpreter; TORCH_INDEX=... another index for torch (a CUDA build).

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/quickstart.toml
RUN ?= runs/quickstart
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train resume test test-fast lint doctor clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.ready  ## create the environment (done by the others when needed)

# The stamp is written last, so a setup that was cut starts again.
$(VENV)/.ready: pyproject.toml pins.txt
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once; about two minutes, 1.8 GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@date +%s > $(VENV)/.started
	@echo "  torch ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c pins.txt torch
	@echo "  everything else ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c pins.txt \
	    -e '.[local,tasks,hf,quickstart,dev]'
	@touch $@
	@echo "Ready: set-up took $$(( $$(date +%s) - $$(cat $(VENV)/.started) )) s."

train: setup  ## train one small model on four coding tasks, about a quarter of an hour on 2 cores
	@$(BIN)/astor train $(CONFIG) $(ARGS)

resume: setup  ## go on with a run that was stopped
	@$(BIN)/astor train $(CONFIG) --resume $(ARGS)

test: setup  ## every test
	@$(BIN)/python -m pytest $(ARGS)

test-fast: setup  ## the tests that take seconds
	@$(BIN)/python -m pytest -m 'not slow' $(ARGS)

lint: setup  ## formatting, style, types, and which room may import which
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

doctor: setup  ## what this machine can do
	@$(BIN)/astor doctor

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
