# Targets for a fresh machine with git, make and Python 3.11 or newer. Nothing here needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCENES ?= 600
.DEFAULT_GOAL := help
.PHONY: help install weights demo test soak bench lint types clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

$(BIN)/kuleshov: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[demo,dev]'
	@touch $@

install: $(BIN)/kuleshov  ## make .venv with the project in it

weights: install  ## get the weights of the default backbones
	$(BIN)/kuleshov weights fetch

demo: install weights  ## draw the demo data set, run every stage, write report.html
	$(BIN)/kuleshov demo data/demo --scenes $(SCENES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	$(BIN)/kuleshov predict artifacts/models/fused/all_heads data/demo/predict --out artifacts/predict
	@$(BIN)/kuleshov evaluate
	@echo "open $(CURDIR)/artifacts/report.html"

test: install weights  ## the bounded test suite
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not soak"

soak: install weights  ## long counts
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 -m soak -rP

bench: install  ## the store beside np.memmap and np.save
	$(BIN)/python -m benchmarks.store

lint: install  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## pyright
	$(BIN)/pyright

clean:  ## remove what the demo made (not the store, not the weights)
	rm -rf artifacts data dvc.lock
