# Two commands do everything on a fresh machine: `make demo` and `make test`.
# `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
PARITY ?= parity or long
UV_ARGS ?=# for example --torch-backend=cpu where the index of CPU builds of torch is reachable
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export CLIPCTL_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/clipctl
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo demo-emoji test lint format parity e2e chaos cluster-up cluster-down cluster-status images manifests reference surface clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# --- installation. uv keeps downloads and unpacked wheels in its own cache, outside the tree and keyed by version. ---
$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.demo: pyproject.toml | $(UV)
	$(UV) pip install --quiet $(UV_ARGS) --editable '.[trainer]' --group demo
	@touch $@

$(VENV)/.dev: pyproject.toml | $(UV)
	$(UV) pip install --quiet $(UV_ARGS) --editable '.[all]' --group demo --group test --group oracle
	@touch $@ $(VENV)/.demo

# --- the main job, on real data, on this machine ---
DATA := data
demo: $(VENV)/.demo $(DATA)/digits/train/index.json ## train on real handwritten digits, 2 elastic workers, about 2 minutes
	$(BIN)/clipctl submit examples/quickstart/run.yaml --local

$(DATA)/digits/train/index.json: scripts/make_digits.py | $(VENV)/.demo
	$(BIN)/python scripts/make_digits.py $(DATA)/digits/raw
	$(BIN)/clipctl data pack $(DATA)/digits/raw/manifest.jsonl $(DATA)/digits/train --split train --samples-per-shard 180
	$(BIN)/clipctl data pack $(DATA)/digits/raw/manifest.jsonl $(DATA)/digits/test --split test --samples-per-shard 180

demo-emoji: $(VENV)/.demo $(DATA)/emoji/train/index.json ## train on several thousand emoji pictures and their names
	$(BIN)/clipctl submit examples/emoji/run.yaml --local

$(DATA)/emoji/train/index.json: scripts/make_emoji.py | $(VENV)/.demo
	$(BIN)/python scripts/make_emoji.py $(DATA)/emoji/raw
	$(BIN)/clipctl data pack $(DATA)/emoji/raw/manifest.jsonl $(DATA)/emoji/train --split train --samples-per-shard 250
	$(BIN)/clipctl data pack $(DATA)/emoji/raw/manifest.jsonl $(DATA)/emoji/val --split val --samples-per-shard 250

# --- checks ---
test: $(VENV)/.dev ## unit, contract, golden and architecture tests (no root, no Go)
	$(PYTEST) -m "not e2e and not long and not chaos" -n 2 --dist worksteal

lint: $(VENV)/.dev ## ruff, mypy --strict, import contracts, helm lint, drift of generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/render_dashboards.py --check
	$(BIN)/python scripts/render_manifests.py --check
	scripts/helm_lint.sh

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

parity: $(VENV)/.dev ## everything against open_clip_torch 3.3.0, the long comparisons too
	$(PYTEST) -m "$(PARITY)" -n 2 --dist worksteal

manifests: $(VENV)/.dev ## render manifests/ and the charts' generated files again
	$(BIN)/clipctl schema --values >charts/clip-run/values.schema.json
	$(BIN)/python scripts/render_dashboards.py
	$(BIN)/python scripts/render_manifests.py

reference: $(VENV)/.dev ## write the generated pages of docs/ again
	$(BIN)/python scripts/make_reference.py

surface: $(VENV)/.dev ## accept a change of the public surface (flags, labels, metrics, schema)
	$(BIN)/python tests/arch/surface.py --update

# --- the real cluster (root, Go, Debian packages; everything stays in a network namespace of its own) ---
cluster-up: $(VENV)/.dev ## build and start a one-node Kubernetes with training-operator and S3
	$(BIN)/python -m clip_testkit.cluster up

cluster-down: $(VENV)/.dev ## stop it and clean up
	$(BIN)/python -m clip_testkit.cluster down

cluster-status: $(VENV)/.dev ## what is running
	$(BIN)/python -m clip_testkit.cluster status

images: $(VENV)/.dev ## build the image and load it into the cluster
	$(BIN)/python -m clip_testkit.cluster images

e2e: $(VENV)/.dev ## end-to-end tests on the real cluster
	$(PYTEST) -m e2e tests/e2e

CHAOS_MINUTES ?= 10
chaos: $(VENV)/.dev ## real agents and workers under random faults (root; CHAOS_MINUTES=10 in all)
	CHAOS_MINUTES=$(CHAOS_MINUTES) $(PYTEST) -m chaos tests/chaos

clean: ## remove everything that was built or trained here
	rm -rf $(VENV) $(DATA) runs dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
