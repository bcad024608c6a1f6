# Every target sets up .venv by itself; the second time that takes no time.

PYTHON        ?= python3
VENV          ?= .venv
TORCH_VERSION ?= 2.13.0
GPUS          ?= 1
# PIP_EXTRA_INDEX_URL is pip's own: set it to choose a CPU or CUDA build of torch.

BIN     := $(VENV)/bin
RUNS    := $(VENV)/.runs-$(TORCH_VERSION)
DEVELOPS := $(VENV)/.develops-$(TORCH_VERSION)
PIP     := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo serve deploy test bench check lint types imports fix constraints train-demo

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(RUNS) ## Draw a clip through a local server: clip.mp4 and its receipt
	$(BIN)/anime-studio demo --out clip.mp4 --force

serve: $(RUNS) ## Run the local server: API and pages on http://127.0.0.1:8017
	$(BIN)/anime-studio serve

deploy: $(DEVELOPS) ## Deploy the Modal app, with this shell's ANIME_STUDIO_ settings
	$(BIN)/anime-studio deploy

test: $(DEVELOPS) ## Pass the tests
	$(BIN)/python -m pytest

bench: $(DEVELOPS) ## Time the engine beside plain diffusers: full size on a GPU, a tiny shape on a CPU
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/cold_start.py

check: lint types imports test ## What CI runs

lint: $(DEVELOPS) ## Format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEVELOPS) ## Check the types
	$(BIN)/mypy
	$(BIN)/mypy training

imports: $(DEVELOPS) ## Check the arrows between packages
	$(BIN)/lint-imports

fix: $(DEVELOPS) ## Format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train-demo: $(DEVELOPS) ## Train the demo checkpoint on GPUS=1 or 2 (see training/README.md)
	$(BIN)/python -m torch.distributed.run --nproc_per_node=$(GPUS) -m training.run vae denoiser distil --state .train-state
	$(BIN)/python -m training.run judge evaluate export --state .train-state

constraints: $(DEVELOPS) ## Write the versions installed here into constraints.txt
	$(BIN)/python tools/constraints.py > constraints.new
	mv constraints.new constraints.txt

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(RUNS): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) "torch==$(TORCH_VERSION)"
	$(PIP) -c constraints.txt -e ".[server,engine]"
	@touch $@

$(DEVELOPS): $(RUNS)
	$(PIP) -c constraints.txt -e ".[server,engine,modal,dev]"
	@touch $@
