# Commands of a checkout. `make help` lists them.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The stamp says that .venv matches the two files below. While a set-up is under way, `unfinished`
# lies there instead; whoever finds it starts from an empty .venv.
STAMP := $(VENV)/.setup-done
UNFINISHED := $(VENV)/.setup-unfinished
# TensorFlow as pinned by the lock has wheels for these.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

.DEFAULT_GOAL := help
.PHONY: setup train test lint format lock bench clean help

setup: $(STAMP) ## make .venv from requirements.lock (PYTHON=python3.12 picks the interpreter)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c '$(SUPPORTED)' || { \
	  echo "Expected Python 3.11, 3.12 or 3.13. Received: $(PYTHON), $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another interpreter, for example: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock: some minutes and 3 GB of disk the first time."
	@if test -e $(UNFINISHED) || ! $(BIN)/python -m pip --version >/dev/null 2>&1 \
	    || ! $(BIN)/python -c '$(SUPPORTED)'; \
	  then $(PYTHON) -m venv --clear $(VENV); fi
	@rm -f $(STAMP) && touch $(UNFINISHED)
	@# One dependency comes as source only. Built with the setuptools of the lock, it builds the
	@# same way every year.
	@awk '/^[^ #]/ { wanted = /^setuptools==/ } wanted' requirements.lock > $(VENV)/setuptools.lock
	$(PIP) install --require-hashes --requirement $(VENV)/setuptools.lock
	$(PIP) install --require-hashes --no-build-isolation --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm $(UNFINISHED) && touch $(STAMP)

train: setup ## train a sparse LeNet (ARGS="--model lenet300 --dataset mnist ..." to choose)
	$(BIN)/python train.py $(ARGS)

test: setup ## run the tests (ARGS="-k name" to choose)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: setup ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: ## write requirements.lock from pyproject.toml (ARGS=--upgrade for newer versions)
	@# A set-up from a lock that can't be installed would fail, and could not be mended by this.
	@test -x $(BIN)/uv || $(MAKE) setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --extra tune --group dev --custom-compile-command "make lock" \
	  --output-file requirements.lock $(ARGS) pyproject.toml

bench: setup ## time a training step against plain Dense layers
	$(BIN)/python benchmarks/step_time.py $(ARGS)

clean: ## remove build outputs and caches; .venv and runs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F '\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'
