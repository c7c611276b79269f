# Every target makes what it needs: on a fresh machine `make train-small` alone runs the main job.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
RUNS ?= runs
ARGS ?=

# The versions that CI installs; unset it (make setup CONSTRAINTS=) to take what setup.cfg allows.
CONSTRAINTS ?= constraints.txt
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)
# Not on the path: with it, but without torchvision, of which there is no CPU build here, torchmetrics cannot be imported.
FIDELITY := torch-fidelity==0.4.0

.DEFAULT_GOAL := help
.PHONY: help setup dist data train-base train-small train-tiny ablation test test-slow test-slurm test-browser test-wheel lint types imports notebooks same-loss bench bench-data bench-memory bench-prune bench-aptp bench-eval bench-gpu assets clean

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(if $(CONSTRAINTS),$(TORCH),torch)
	$(BIN)/pip install -q --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --target $(VENV)/torch-fidelity $(FIDELITY) \
	    || echo "make setup: no $(FIDELITY), which only tests compare with: they will be skipped" >&2
	touch $@

setup: $(STAMP)  ## Make .venv with everything

dist: $(STAMP)  ## Build the sdist and, from it, the wheel (dist/)
	rm -rf dist bksdm.egg-info
	$(BIN)/python -m build --no-isolation

data/shapes/.done: $(STAMP)
	$(BIN)/bksdm prepare
	touch $@

data: data/shapes/.done  ## Draw the embedded world's shards

train-base train-small train-tiny: train-%: data/shapes/.done  ## Cut a student from the embedded teacher, distil, evaluate
	$(BIN)/bksdm train student=$* runs_dir=$(RUNS) $(ARGS)

ablation: data/shapes/.done  ## Three seeds: init, distillation and size at equal steps (EXPERIMENTS.md)
	$(BIN)/python -m scripts.ablation $(ARGS)

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-slurm: $(STAMP)  ## Start a real Slurm of two nodes on this machine, test training on it, stop it (root)
	@if ! { command -v slurmctld && command -v munged; } >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends slurm-wlm munge; \
	fi
	$(BIN)/python -m pytest tests/slurm -m slurm $(ARGS)

test-browser: $(STAMP)  ## Look at the report's page in a real Chromium, which it installs if missing (root)
	@if ! { command -v chromium && command -v chromedriver; } >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium chromium-driver; \
	fi
	$(BIN)/python -m pytest tests/evaluation/page -m browser $(ARGS)

test-slow: $(STAMP)  ## A training step of SD-1.4 and SD-2.1 at real size: some minutes, 14 GB
	$(BIN)/python -m pytest -m slow --durations=0 $(ARGS)

test-wheel: $(STAMP)  ## Build the wheel, install it in a fresh environment, use it there: 2 minutes
	$(BIN)/python -m pytest tests/packaging -m wheel $(ARGS)

lint: $(STAMP)  ## Check style and format, and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

types: $(STAMP)  ## Check types
	$(BIN)/mypy

imports: $(STAMP)  ## Check that imports run downward
	$(BIN)/lint-imports

notebooks: $(STAMP)  ## Execute the notebooks (some minutes); what they show goes to outputs/notebooks
	$(BIN)/python -m scripts.notebooks $(ARGS)

same-loss: data/shapes/.done  ## Compare 10 steps' losses with the recorded ones: a refactor must not change them
	$(BIN)/python -m scripts.same_loss $(ARGS)

bench-data: data/shapes/.done  ## Reading, encoding, start-up and resume, in ratios (docs/performance.md)
	$(BIN)/python -m bench.data $(ARGS)

bench-eval: $(STAMP)  ## What evaluation adds to its networks, in ratios (docs/evaluation.md)
	$(BIN)/python -m bench.evaluation $(ARGS)

bench-memory: $(STAMP)  ## Memory of a training step, estimated and measured (ARGS=--large: SD-1.4, 16 GB)
	$(BIN)/python -m bench.memory $(ARGS)

bench-aptp: $(STAMP)  ## What gates and routing add, what narrow experts save, in ratios (docs/aptp.md)
	$(BIN)/python -m bench.aptp $(ARGS)

bench-prune: $(STAMP)  ## Magnitude pruning and packing at the size of SD 2: speed, sizes, memory (docs/pruning.md)
	$(BIN)/python -m bench.prune $(ARGS)

bench-gpu: $(STAMP)  ## Everything that only a GPU at real size shows, in 8 minutes (ARGS=--cpu: a dry run)
	PYTHON=$(BIN)/python bench/gpu.sh $(ARGS)

bench: $(STAMP)  ## Training steps in ratios: bare loop, reference recipe, every switch (docs/performance.md)
	$(BIN)/python -m bench.step $(ARGS)

assets: $(STAMP)  ## Train the embedded world's networks anew (hours on two cores; resumable)
	for stage in outline vae text cache; do $(BIN)/python -m scripts.assets $$stage || exit 1; done
	$(BIN)/torchrun --nproc_per_node 2 -m scripts.assets unet
	for stage in pack score; do $(BIN)/python -m scripts.assets $$stage || exit 1; done

clean:  ## Remove the environment, drawn data and caches; runs stay
	rm -rf $(VENV) data/shapes build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
