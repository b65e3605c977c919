# Everything a new user needs: `make demo`, `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo model test bench docs install dev check-libraries lint format types unit lock clean

VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
PROOF ?= runs/proof

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: check-libraries install ## Install what is missing, then run the whole path on simulated heads into runs/demo
	@$(BIN)/datagen demo --out "$(OUT)"

model: check-libraries install ## Build 64 simulated people and fit the joint model to them, in about 50 minutes of one core
	@$(BIN)/datagen build manifests/proof.yaml --out "$(PROOF)" --runner serial
	@$(BIN)/python -m benchmarks proof "$(PROOF)" --out "$(PROOF)-model" --set fit.threads=1

test: check-libraries dev ## Install what is missing, then run ruff, mypy and pytest
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j2 types unit

bench: check-libraries install ## Run all benchmarks briefly, in about four minutes
	@$(BIN)/python -m benchmarks.short

docs: check-libraries ## Install what is missing, then build the pages as a site into site/, with the tutorial run
	@scripts/install.sh docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

install: ## Create .venv with the pinned runtime dependencies
	@scripts/install.sh

dev: ## Create .venv with the development tools as well
	@scripts/install.sh dev

check-libraries: ## Check the system libraries Open3D needs, and install them where allowed
	@scripts/system_libraries.sh

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types:
	$(BIN)/mypy

unit:
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lock: dev ## Write requirements.lock anew from what is installed in .venv
	$(BIN)/python scripts/lock.py

clean: ## Remove caches and the environment; runs/ stays
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
