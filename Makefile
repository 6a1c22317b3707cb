# Every target that people and CI run. `make help` explains itself.
SHELL := /bin/sh
PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
PYTEST_ARGS ?=
STAMP := $(VENV)/.installed

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt operator/taskdeletion/backends/directory/_native.c
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

.PHONY: install
install: $(STAMP) ## Make .venv with everything that development needs

.PHONY: demo
demo: $(STAMP) ## The main job on real services, from kubectl apply to freed storage, checked
	$(PYTHON) -m dev.demo

.PHONY: test
test: $(STAMP) ## All tests, on real services
	$(PYTHON) -m pytest $(PYTEST_ARGS)

.PHONY: up
up: $(STAMP) ## Start the stack and the operator to play with, and keep them running
	$(PYTHON) -m dev.play

.PHONY: down
down: $(STAMP) ## Stop what `make up` started
	$(PYTHON) -m dev down --purge

.PHONY: lint
lint: $(STAMP) ## Linters, formatting, import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

.PHONY: types
types: $(STAMP) ## Type checks
	$(VENV)/bin/mypy operator dev tests bench

.PHONY: format
format: $(STAMP) ## Format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: generate
generate: $(STAMP) ## Write what is generated: CRDs, the chart's copy, the API reference, the tables of metrics
	$(PYTHON) -m taskdeletion crds --write .
	$(PYTHON) -m dev.metrics_docs

.PHONY: verify
verify: generate ## Generate, then fail if that changed anything
	git diff --exit-code -- crds charts docs/api.md docs/metrics.md
	$(PYTHON) -m taskdeletion crds --check .

.PHONY: bench
bench: $(STAMP) ## Measure, and write docs/benchmarks.md; LINES="a b" measures single lines and writes nothing
	$(PYTHON) -m bench $(or $(LINES),--write)

.PHONY: clean
clean: ## Remove what was made here
	rm -rf $(VENV) .stack build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache operator/*.egg-info
