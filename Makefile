# `make` lists the targets; PYTHON=path/to/python chooses the interpreter.
PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help install lint format type test slow ci clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## the package, editable, with everything for development
	$(PYTHON) -m pip install -e '.[dev]'

lint: ## ruff: mistakes, imports, formatting
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: ## mend what ruff can mend, and format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

type: ## mypy
	$(PYTHON) -m mypy

test: ## the quick tests
	$(PYTHON) -m pytest -n auto

slow: ## the tests marked slow
	$(PYTHON) -m pytest -m slow || [ $$? -eq 5 ] # 5: no test is marked slow

ci: ## what CI does, in a fresh environment of its own (.ci-venv)
	bash .ci/run

clean: ## delete caches, build outputs and .ci-venv; runs/ and data/ stay
	rm -rf build dist *.egg-info .ci-venv .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find fusion_det tools tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
