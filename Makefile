.DEFAULT_GOAL := help
.PHONY: help setup system demo test check bench-convergence format clean

PYTHON ?= python3
VENV := .venv/bin

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup:  ## .venv with pinned packages, and the demo model; nothing to do when it is there
	@$(PYTHON) scripts/setup.py

system:  ## Debian packages the tests need (as root; otherwise named)
	@sh scripts/system.sh

demo: system setup  ## a real model learns by GRPO and the run stops by itself
	@$(VENV)/grpo train configs/demo.toml

test: system setup  ## the whole test suite
	@$(VENV)/python -m pytest

check: system setup  ## format, lint, types, tests
	@$(VENV)/ruff format --check .
	@$(VENV)/ruff check .
	@$(VENV)/mypy
	@$(VENV)/python -m pytest

bench-convergence: setup  ## the stop rule's errors and delay on 14 families of curves; about ten minutes
	@$(VENV)/python benchmarks/convergence/run.py

format: setup  ## rewrite the sources in the project's format
	@$(VENV)/ruff format .
	@$(VENV)/ruff check --fix .

clean:  ## remove runs and caches, keep the environment
	@rm -rf runs .pytest_cache .mypy_cache .ruff_cache
